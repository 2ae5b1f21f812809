"""What a second try with the same idempotency-key gets."""
import os
import sys

import pytest

from ladder import ROOT, in_background, scripted, until
from test_failures import first_words, rest_of
from upstream import Upstream

sys.path.insert(0, os.path.join(ROOT, "tests", "proto"))
from speaker import Speaker  # noqa: E402

WORDS = " ".join(f"w{i}" for i in range(60))
STAY = {"policy": {"threshold": {"edge": 0.0}}}
KEY = {"idempotency-key": "order-17"}


def one_edge(ladder, delay_ms=0, text=WORDS, node=None, **more):
    return ladder.edge(node=node or {}, backends=[scripted("small", "edge", text, delay_ms=delay_ms, **more)], **STAY)


@pytest.mark.parametrize("stream", [False, True])
def test_after_the_end_a_repeat_gets_the_same_answer_and_nothing_runs(ladder, stream):
    edge = one_edge(ladder)
    first = edge.chat(stream=stream, headers=KEY)
    again = edge.chat(stream=stream, headers=KEY)
    assert first.text == again.text == WORDS
    assert (again.events == first.events) if stream else (again.json == first.json)
    assert "idempotent-replayed" not in first.headers and again.headers["idempotent-replayed"] == "true"
    assert again.headers["x-request-id"] == first.headers["x-request-id"]  # feedback and the log know that one
    assert edge.metric("rung_requests_total") == 1 and edge.metric("rung_requests_repeated_total") == 1
    assert len(edge.until_rows(1)) == 1


@pytest.mark.parametrize("stream", [False, True])
def test_while_the_first_runs_a_repeat_joins_it(ladder, stream):
    edge = one_edge(ladder, delay_ms=10)
    first = in_background(lambda: edge.chat(stream=stream, headers=KEY))
    until(lambda: edge.metric("rung_requests_running") == 1, "the first runs")
    again = edge.chat(stream=stream, headers=KEY)
    first = first.result()
    assert first.text == again.text == WORDS and first.finish == again.finish == "stop"
    assert edge.metric("rung_requests_total") == 1


def test_a_repeat_has_its_own_deadline(ladder):
    edge = one_edge(ladder, delay_ms=20)
    first = in_background(lambda: edge.chat(headers=KEY))
    until(lambda: edge.metric("rung_requests_running") == 1, "the first runs")
    reply = edge.chat(headers={**KEY, "x-rung-deadline-ms": "100"})
    assert reply.status == 504 and reply.error["type"] == "timeout_error"
    assert first.result().text == WORDS


def test_the_work_goes_on_until_the_last_has_left(ladder):
    edge = one_edge(ladder, delay_ms=10)
    streams = [edge.open_stream(headers=KEY) for _ in range(3)]
    seen = [first_words(response, 3) for _, response in streams]
    for connection, response in streams[:2]:  # the first of all among them
        response.close()
        connection.close()
    assert rest_of(seen[2], streams[2][1]).text == WORDS
    assert edge.until_rows(1)[0]["status"] == "ok"
    other = {"idempotency-key": "order-18"}
    streams = [edge.open_stream(headers=other) for _ in range(2)]
    for connection, response in streams:
        first_words(response, 3)
        response.close()
        connection.close()
    assert edge.until_rows(2)[1]["status"] == "cancelled"
    assert edge.chat(stream=True, headers=other).text == WORDS  # and the key is free again
    assert len(edge.until_rows(3)) == 3


def test_another_request_under_the_same_key_is_refused_by_name(ladder):
    edge = one_edge(ladder, delay_ms=5)
    first = in_background(lambda: edge.chat(headers=KEY))
    until(lambda: edge.metric("rung_requests_running") == 1, "the first runs")
    for more in ({"content": "something else"}, {"temperature": 0.5}, {"stream": True}):
        reply = edge.chat(headers=KEY, **more)
        assert reply.status == 422 and reply.error["type"] == "idempotency_error"
        assert reply.error["code"] == "idempotency_key_reused" and reply.error["param"] == "idempotency-key"
    assert first.result().text == WORDS
    assert edge.chat("something else", headers=KEY).status == 422
    assert edge.chat(headers={**KEY, "x-rung-deadline-ms": "20000", "traceparent": ""}).text == WORDS  # these may differ


def test_an_error_is_not_kept(ladder):
    with Upstream() as upstream:
        edge = ladder.edge(backends=[upstream.backend("big", "fail-once")], policy={"threshold": {"edge": 1.0, "region": 1.0}})
        edge.until_tiers("core")
        assert edge.chat(headers=KEY).status >= 500
        assert edge.chat(headers=KEY).status == 200
        assert edge.chat(headers=KEY).headers["idempotent-replayed"] == "true"


def test_keys_are_forgotten_with_time_and_past_the_memory_for_them(ladder):
    edge = one_edge(ladder, node={"idempotency_ms": 200})
    edge.chat(headers=KEY)
    until(lambda: "idempotent-replayed" not in edge.chat(headers=KEY).headers, "the key is forgotten")
    small = ladder.edge("small", node={"idempotency_bytes_max": 65536}, backends=[scripted("s", "edge", WORDS)], **STAY)
    for i in range(40):
        small.chat(headers={"idempotency-key": f"k{i}"})
    assert "idempotent-replayed" not in small.chat(headers={"idempotency-key": "k0"}).headers
    assert "idempotent-replayed" in small.chat(headers={"idempotency-key": "k39"}).headers


def test_an_answer_too_large_to_keep_is_said_to_be(ladder):
    edge = one_edge(ladder, text=" ".join(f"w{i}" for i in range(2000)), node={"idempotency_bytes_max": 65536})
    assert edge.chat(headers=KEY).status == 200
    reply = edge.chat(headers=KEY)
    assert reply.status == 409 and reply.error["code"] == "conflict" and "idempotency_bytes_max" in reply.error["message"]
    assert reply.headers["x-should-retry"] == "false"
    assert edge.chat().status == 200


def test_over_zeromq_too_and_by_tenant(ladder):
    edge = ladder.edge(backends=[scripted("small", "edge", "one two three")], zmq={"ipc": {"path": "edge.ipc"}}, **STAY)
    with Speaker(f"ipc://{edge.dir}/edge.ipc") as client:
        def ask(request, **fields):
            client.send("SUBMIT", id=request, model="auto", messages=[{"role": "user", "content": "hi"}], idempotency="k", **fields)
            return client.answers(request)
        first, again = ask("r1", tenant="a"), ask("r2", tenant="a")
        assert [name for name, _ in again] == [name for name, _ in first]
        assert [f.get("text") for _, f in again] == [f.get("text") for _, f in first]
        assert edge.metric("rung_requests_total") == 1
        assert ask("r3", tenant="a", params={"temperature": 0.5})[-1][1]["code"] == "idempotency_key_reused"
        ask("r4", tenant="b")
        assert edge.metric("rung_requests_total") == 2
