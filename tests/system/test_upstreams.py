"""A node whose core is an OpenAI-compatible service, as users see it when that service misbehaves."""
import json
import os

import pytest

from ladder import scripted, until
from upstream import Upstream

ANSWER = "one two three four five"
PRICE = {"input_usd": 1, "output_usd": 2}


@pytest.fixture
def up():
    with Upstream() as upstream:
        yield upstream


def node(ladder, *backends, **sections):
    edge = ladder.edge(backends=[scripted("device", "edge", "ok", can_prefix=False), *backends], **sections)
    until(lambda: b'"health":"starting"' not in edge.get("/health")[1], "every service was asked whether it is there")
    return edge.until_tiers("core")


def ask(edge, **more):
    return edge.chat(model="core", stream=True, **more)


def test_the_answer_comes_from_the_service_with_its_price(ladder, up):
    edge = node(ladder, up.backend("big", "ok", price=PRICE))
    reply = ask(edge)
    assert (reply.text, reply.finish, reply.done) == (ANSWER, "stop", True)
    assert reply.headers["x-rung-tier"] == "core" and reply.headers["x-rung-backend"] == "big"
    assert reply.rung["price_usd"] == pytest.approx(17e-6)
    assert edge.chat(model="core").text == ANSWER  # not streamed
    assert edge.chat(model="ok").headers["x-rung-backend"] == "big"  # by the model's own name


@pytest.mark.parametrize("mode", ["stall-first", "mute", "ping", "full", "quota", "fail", "fail/503", "fail/404", "unauthorized",
                                  "garbage", "wrong-json", "html", "longline", "close", "reset", "empty", "context",
                                  "redirect"])
def test_a_failure_before_the_first_token_is_not_seen(ladder, up, mode):
    edge = node(ladder, up.backend("bad", mode, order=1), up.backend("good", "ok", order=2))
    reply = ask(edge)
    assert (reply.status, reply.text, reply.done) == (200, ANSWER, True), reply.error
    assert reply.headers["x-rung-backend"] == "good"
    assert [hop["backend"] for hop in reply.rung["hops"]] == ["bad", "good"]


@pytest.mark.parametrize("mode", ["cut/2", "cut-clean/2", "stall/2", "error-event/2", "garbage-json"])
def test_an_answer_broken_off_goes_on_at_another_that_takes_a_prefix(ladder, up, mode):
    edge = node(ladder, up.backend("bad", mode, order=1), up.backend("good", "ok", order=2, can_prefix=True))
    reply = ask(edge)
    assert (reply.text, reply.finish, reply.done, reply.error) == (ANSWER, "stop", True, None)


@pytest.mark.parametrize("mode", ["cut/2", "stall/2", "error-event/2"])
def test_an_answer_that_nobody_can_go_on_with_ends_in_an_error_event(ladder, up, mode):
    edge = node(ladder, up.backend("bad", mode), policy={"degraded_allowed": False})
    reply = ask(edge)
    assert reply.text == "one two" and reply.error["message"]
    assert not reply.done and reply.finish is None


def test_a_service_that_is_full_is_left_alone_for_as_long_as_it_says(ladder, up):
    edge = node(ladder, up.backend("big", "full/20"), policy={"degraded_allowed": False})
    first = ask(edge)
    assert first.status in (429, 503) and first.error
    requests = up.stats()["requests"]
    assert ask(edge).error
    assert up.stats()["requests"] == requests  # still cooling


def test_a_failing_service_is_set_aside_after_some_failures(ladder, up):
    edge = node(ladder, up.backend("bad", "fail", order=1), up.backend("good", "ok", order=2),
                health={"breaker_failures": 3, "breaker_open_ms": 60000})
    for _ in range(8):
        assert ask(edge).text == ANSWER
    assert up.stats()["requests"] == 8 + 3


def test_a_refusal_that_is_the_clients_fault_reaches_it(ladder, up):
    edge = node(ladder, up.backend("big", "invalid"))
    reply = ask(edge)
    assert reply.status == 400 and "temperature must be" in reply.error["message"]
    for _ in range(8):  # and never opens a breaker
        assert ask(edge).status == 400


def test_a_client_that_leaves_cancels_at_the_service(ladder, up):
    edge = node(ladder, up.backend("big", "slow/30", first_token_ms=5000, stall_ms=5000))
    before = up.stats().get("broken", 0)
    connection, response = edge.open_stream(model="core")
    response.readline()
    connection.sock.close()
    response.close()
    until(lambda: up.stats()["broken"] > before, "the service notices")


def test_tools_and_unknown_fields_pass_through(ladder, up):
    edge = node(ladder, up.backend("big", "tools"))
    tool = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
    reply = edge.chat(model="core", tools=[tool], mystery={"a": [1, None]})
    assert reply.status == 200, reply.error
    body = up.stats()["last"]["body"]
    assert body["tools"] == [tool] and body["mystery"] == {"a": [1, None]}
    call = reply.json["choices"][0]["message"]["tool_calls"][0]
    assert call["function"] == {"name": "weather", "arguments": '{"city":"Ulm"}'}


def test_the_key_is_sent_and_never_shown(ladder):
    with Upstream(key="sk-very-secret") as up:
        path = os.path.join(ladder.dir, "key")
        with open(path, "w") as f:
            f.write("sk-very-secret\n")
        os.chmod(path, 0o600)
        edge = node(ladder, up.backend("big", "ok", key_file=path))
        assert ask(edge).text == ANSWER
        edge.config["backends"][1]["model"] = "unauthorized"
        edge.write_config()
        edge.stop()
        edge.start()
        edge.until_tiers("core")
        reply = ask(edge)
        shown = json.dumps(reply.json if hasattr(reply, "json") else reply.events) + edge.stderr() + str(edge.get("/health"))
        assert "refuses our API key" in shown and "sk-very-secret" not in shown


def test_a_service_that_is_gone_is_taken_up_again(ladder, tmp_path):
    path = os.path.join(ladder.dir, "up.sock")
    with Upstream(unix=path):
        edge = node(ladder, {"name": "big", "type": "upstream", "tier": "core", "url": f"unix:{path}:/v1", "model": "ok",
                             "retries_max": 0})
        assert ask(edge).text == ANSWER
    os.unlink(path)
    assert edge.chat(model="core").rung.get("degraded") or edge.chat(model="core").status == 503
    with Upstream(unix=path):
        edge.until_tiers("core")
        assert ask(edge).text == ANSWER
