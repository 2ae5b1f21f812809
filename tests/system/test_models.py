"""The demo models in whole ladders: real engines in real processes."""
import os

import pytest

from ladder import KERNELS, model, read_until, until
from test_failures import first_words, rest_of, running_worker

needs_models = pytest.mark.skipif(not os.path.exists(model("edge.q8_0.gguf")), reason="models/ is not there")
UP = {"policy": {"threshold": {"edge": 1.0, "region": 0.0}}}
LONG = {"temperature": 1.5, "seed": 11, "max_tokens": 800, "logit_bias": {}}


def engine(name, file, tier, **more):
    return {"name": name, "type": "local", "tier": tier, "model_file": model(file), "threads": 1, "slots": 2,
            "kernels": KERNELS, **more}


def ladder_of_models(ladder):
    region = ladder.region(backends=[])
    workers = [ladder.worker(name, backends=[engine("engine", "region.q8_0.gguf", "region")]) for name in ("w1", "w2")]
    edge = ladder.edge(backends=[engine("device", "edge.q8_0.gguf", "edge"), ladder.peer("region")], **UP)
    edge.until_tiers("edge", "region")
    until(lambda: region.get("/metrics")[1].count(b'type="worker"} 1') == 2, "both workers are there")
    return edge, region, workers


@needs_models
def test_a_killed_worker_changes_not_one_token_at_any_temperature(ladder):
    edge, region, workers = ladder_of_models(ladder)
    ask = {"ignore_eos": True, **LONG}
    undisturbed = edge.chat("Tell me about the weather.", stream=True, **ask)
    assert undisturbed.done and undisturbed.finish == "length"
    connection, response = edge.open_stream("Tell me about the weather.", **ask)
    seen = read_until(response, b"data: ", 20)
    until(lambda: running_worker(region, workers), "a worker is at it").kill()
    reply = rest_of(seen, response)
    assert reply.done and (reply.text, reply.reasoning) == (undisturbed.text, undisturbed.reasoning)
    rows = region.until_rows(2, "SELECT * FROM decisions WHERE node = 'region' ORDER BY at_ms")
    assert rows[-1]["failed_over"] == 1


@needs_models
def test_the_same_seed_gives_the_same_text_and_another_one_another(ladder):
    edge = ladder.edge(backends=[engine("device", "edge.q8_0.gguf", "edge")])
    edge.until_tiers("edge")
    ask = {"temperature": 1.0, "max_tokens": 60, "ignore_eos": True}
    first, again, other = (edge.chat("Hello there", seed=s, **ask).text for s in (5, 5, 6))
    assert first == again != other


@needs_models
def test_a_draft_model_changes_no_answer_and_is_counted(ladder):
    alone = ladder.edge("alone", backends=[engine("device", "edge.q8_0.gguf", "edge")])
    # The same file as its own draft model guesses whatever comes, until that proves not to pay.
    drafted = ladder.edge("drafted", backends=[engine("device", "edge.q8_0.gguf", "edge", draft_model=model("edge.q8_0.gguf"))])
    for edge in (alone, drafted):
        edge.until_tiers("edge")
    for seed in range(3):
        ask = {"temperature": seed / 2, "seed": seed, "max_tokens": 100, "ignore_eos": True}
        assert alone.chat("Hello there", **ask).text == drafted.chat("Hello there", **ask).text
    label = '{backend="device"}'
    assert drafted.metric("rung_engine_draft_steps_total" + label) > 0 == alone.metric("rung_engine_draft_steps_total" + label)
    assert drafted.metric("rung_engine_kept_tokens_total" + label) >= drafted.metric("rung_engine_draft_kept_tokens_total" + label) > 0


@needs_models
def test_a_missing_draft_model_is_told(ladder):
    edge = ladder.edge(backends=[engine("device", "edge.q8_0.gguf", "edge", draft_model="/nonexistent/small.gguf")])
    until(lambda: "draft model /nonexistent/small.gguf" in edge.stderr(), "the node says what is wrong")


@needs_models
def test_n_answers_stop_strings_and_logprobs(ladder):
    edge = ladder.edge(backends=[engine("device", "edge.q8_0.gguf", "edge")])
    edge.until_tiers("edge")
    reply = edge.chat("Hello there", n=3, temperature=1.0, seed=1, max_tokens=20, logprobs=True, top_logprobs=2)
    choices = reply.json["choices"]
    assert [c["index"] for c in choices] == [0, 1, 2]
    assert all(len(t["top_logprobs"]) == 2 and t["logprob"] <= 0 for c in choices for t in c["logprobs"]["content"])
    text = edge.chat("Hello there", max_tokens=60, ignore_eos=True, temperature=0).text
    if len(text) > 12:
        stop = text[6:9]
        assert edge.chat("Hello there", max_tokens=60, ignore_eos=True, temperature=0, stop=[stop]).text == text[:text.index(stop)]


@needs_models
def test_what_a_local_model_cannot_do_is_refused_by_name(ladder):
    edge = ladder.edge(backends=[engine("device", "edge.q8_0.gguf", "edge")])
    edge.until_tiers("edge")
    tools = [{"type": "function", "function": {"name": "light", "parameters": {"type": "object"}}}]
    reply = edge.chat("Light on", tools=tools)
    assert reply.status == 400 and reply.error["message"]
    long = edge.chat("word " * 200000)
    assert long.status in (400, 413) and long.error["message"]
    assert edge.chat("Hello").status == 200


@needs_models
def test_without_a_seed_each_answer_is_drawn_anew(ladder):
    edge = ladder.edge(backends=[engine("device", "edge.q8_0.gguf", "edge")])
    edge.until_tiers("edge")
    ask = {"temperature": 1.5, "max_tokens": 60, "ignore_eos": True}
    assert len({edge.chat("Hello there", **ask).text for _ in range(3)}) > 1


def test_metrics_tell_how_full_the_engine_is(ladder):
    edge = ladder.edge(backends=[engine("device", "edge.q8_0.gguf", "edge", kv="q8_0")])
    edge.until_tiers("edge")
    label = '{backend="device"}'
    total = edge.metric("rung_engine_pages_free" + label)
    assert total > 0 and edge.metric("rung_engine_pages_cached" + label) == 0
    for _ in range(2):
        assert edge.chat("word " * 100, max_tokens=8, ignore_eos=True).status == 200
    until(lambda: edge.metric("rung_engine_slots_used" + label) == 0, "the slots are free again")
    read, found, made = (edge.metric(f"rung_engine_{what}_tokens_total" + label) for what in ("prompt", "cached", "completion"))
    assert made == 16 and found >= 96 and read >= 2 * found
    assert edge.metric("rung_engine_slots" + label) == 2
    pages = [edge.metric(f"rung_engine_pages_{what}" + label) for what in ("free", "used", "cached")]
    assert pages[1] == 0 and pages[2] >= 3 and sum(pages) == total


@needs_models
def test_another_model_goes_on_from_the_text_so_far(ladder):
    ladder.core(backends=[engine("engine", "core.q8_0.gguf", "core", slots=2)])
    region = ladder.region(backends=[ladder.peer("core")], policy={"threshold": {"region": 0.0}})
    worker = ladder.worker("only", backends=[engine("engine", "region.q8_0.gguf", "region")])
    edge = ladder.edge(backends=[engine("device", "edge.q8_0.gguf", "edge"), ladder.peer("region")], **UP)
    edge.until_tiers("region", "core")
    connection, response = edge.open_stream("What is 48193 * 7261?", max_tokens=800, ignore_eos=True, temperature=1.0, seed=1)
    seen = read_until(response, b"data: ", 20)
    worker.kill()
    reply = rest_of(seen, response)
    shown = rest_of(seen, [])
    assert reply.done and reply.finish in ("stop", "length") and not reply.error
    assert (reply.reasoning + reply.text).startswith(shown.reasoning + shown.text)
    row = region.until_rows(1, "SELECT * FROM decisions WHERE node = 'region'")[0]
    assert row["failed_over"] == 1 and row["model"] == "rung-demo-region"  # the first that answered
    hops = region.rows("SELECT tier, outcome FROM hops WHERE decision = ? ORDER BY hop", row["id"])  # not the edge's, shipped here
    assert [(h["tier"], h["outcome"]) for h in hops] == [("region", "failed"), ("core", "done")]
