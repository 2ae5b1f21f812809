"""Who answers, and what the client and the log see of it."""
import json

import pytest

from ladder import scripted, until

HARD = {"policy": {"threshold": {"edge": 1.0, "region": 0.0}}}
HARDEST = {"policy": {"threshold": {"edge": 1.0, "region": 1.0}}}
MID = {"policy": {"threshold": {"region": 0.0}}}
EASY = {"policy": {"threshold": {"edge": 0.0}}}


def three_tiers(ladder, edge_policy=None, region_policy=None, **edge):
    ladder.core(backends=[scripted("big", "core", "said by core")])
    ladder.region(backends=[ladder.peer("core")], **(region_policy or {}))
    ladder.worker("worker-1", backends=[scripted("mid", "region", "said by region")])
    node = ladder.edge(backends=[scripted("small", "edge", "said by edge"), ladder.peer("region")], **(edge_policy or {}), **edge)
    return node.until_tiers("edge", "region", "core")


def test_an_easy_prompt_stays_on_the_device(ladder):
    edge = three_tiers(ladder, EASY)
    reply = edge.chat()
    assert (reply.status, reply.text, reply.finish) == (200, "said by edge", "stop")
    assert reply.headers["x-rung-tier"] == "edge" and reply.headers["x-rung-backend"] == "small"
    assert reply.rung["tier"] == "edge"


def test_a_harder_prompt_is_answered_by_the_region(ladder):
    edge = three_tiers(ladder, HARD, MID)
    reply = edge.chat(stream=True)
    assert reply.text == "said by region" and reply.done
    assert reply.headers["x-rung-tier"] == "region" and reply.headers["x-rung-backend"] == "worker-1"


def test_the_hardest_prompt_reaches_core_through_the_region(ladder):
    edge = three_tiers(ladder, HARDEST, HARDEST)
    reply = edge.chat(stream=True)
    assert reply.text == "said by core"
    assert reply.headers["x-rung-tier"] == "core"


def test_a_tier_can_be_asked_for_by_name(ladder):
    edge = three_tiers(ladder, EASY)
    for tier in ("edge", "region", "core"):
        assert edge.chat(model=tier).text == f"said by {tier}"


def test_private_and_max_tier_bind_whatever_the_scores_say(ladder):
    edge = three_tiers(ladder, HARDEST, HARDEST)
    assert edge.chat(headers={"x-rung-privacy": "device"}).text == "said by edge"
    assert edge.chat(headers={"x-rung-max-tier": "region"}).text in ("said by edge", "said by region")


def test_the_edge_alone_works_without_any_network(ladder):
    edge = ladder.edge(backends=[scripted("small", "edge", "alone"), ladder.peer("never-there")], **HARDEST)
    reply = edge.chat()
    assert (reply.status, reply.text) == (200, "alone")
    assert reply.rung["degraded"] is True and reply.headers["x-rung-reason"] == "degraded"
    row = edge.until_rows(1)[0]
    assert row["degraded"] == 1 and row["tier"] == "edge"


def test_degraded_answers_can_be_forbidden(ladder):
    edge = ladder.edge(backends=[scripted("small", "edge", "alone"), ladder.peer("never-there")],
                       policy={"threshold": {"edge": 1.0, "region": 1.0}, "degraded_allowed": False})
    reply = edge.chat()
    assert reply.status == 503 and reply.error["message"]
    assert edge.until_rows(1)[0]["status"] != "ok"


def test_every_decision_is_in_the_log_with_scores_threshold_and_reason(ladder):
    edge = three_tiers(ladder, HARD, MID)
    for _ in range(5):
        edge.chat()
    rows = edge.until_rows(5)
    assert len(rows) == 5
    for row in rows:
        assert row["tier"] == "region" and row["reason"] == "confident" and row["policy"] >= 1
        assert 0 < row["propensity"] <= 1 and row["threshold"] is not None and row["total_ms"] > 0


def test_the_edges_rows_reach_the_region_once_each(ladder):
    edge = three_tiers(ladder, HARD)
    ids = {edge.chat().rung and None for _ in range(3)}
    edge.until_rows(3)
    region = next(n for n in ladder.nodes if n.name == "region")
    rows = region.until_rows(3, "SELECT * FROM decisions WHERE node = 'edge'")
    assert len(rows) == 3 and ids == {None}
    joined = region.rows("SELECT e.request FROM decisions e JOIN decisions r ON e.request = r.request "
                         "WHERE e.node = 'edge' AND r.node = 'region'")
    assert len(joined) == 3


def test_a_region_that_comes_back_is_used_again_and_gets_the_rows_it_missed(ladder):
    edge = three_tiers(ladder, HARD, MID)
    region = next(n for n in ladder.nodes if n.name == "region")
    region.kill()
    until(lambda: not (edge.ready() or {"tiers": {}})["tiers"].get("region"), "the edge sees that the region is gone")
    assert edge.chat().text == "said by edge"
    region.start()
    edge.until_tiers("region")
    assert edge.chat().text == "said by region"
    region.until_rows(2, "SELECT * FROM decisions WHERE node = 'edge'")


@pytest.mark.parametrize("stream", [False, True])
def test_models_and_usage_look_like_openais(ladder, stream):
    edge = three_tiers(ladder, EASY)
    models = json.loads(edge.get("/v1/models")[1])
    assert models["object"] == "list" and {"auto", "edge", "region", "core"} <= {m["id"] for m in models["data"]}
    reply = edge.chat(stream=stream, stream_options={"include_usage": True} if stream else None)
    usage = reply.events[-1]["usage"] if stream else reply.json["usage"]
    assert usage["completion_tokens"] == 3 and usage["total_tokens"] == usage["prompt_tokens"] + 3
