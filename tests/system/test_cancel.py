"""A client that goes away: the work ends on every hop within 100 ms, by the hops' own logs.

Each hop writes when the request came and how long it took; the sum is when its work ended, on the clock that this test
reads too. One try may be late because the machine runs something else, so each way is gone five times and the middle
one counts."""
import json
import os
import socket
import statistics
import sys
import time

import pytest

from ladder import ROOT, model, scripted, until
from test_failures import first_words
from upstream import Upstream

sys.path.insert(0, os.path.join(ROOT, "tests", "proto"))
from speaker import Speaker  # noqa: E402

LIMIT_MS = 100
TRIES = 5
WORDS = " ".join(f"w{i}" for i in range(2000))
UP = {"policy": {"threshold": {"edge": 1.0, "region": 0.0}}}
TOP = {"policy": {"threshold": {"edge": 1.0, "region": 1.0}}}
LONG = {"messages": [{"role": "user", "content": "Numbers, please."}], "n": 8, "max_tokens": 2000, "response_format": {
    "type": "json_schema", "json_schema": {"name": "numbers", "schema": {
        "type": "array", "items": {"type": "integer"}, "minItems": 500}}}}  # a demo model alone would soon be done


def ended_ms(node, count):
    """When the work of the last request ended at this node, in milliseconds of the wall clock."""
    rows = node.until_rows(count, f"SELECT * FROM decisions WHERE node = '{node.name}' ORDER BY at_ms")
    assert [row["status"] for row in rows] == ["cancelled"] * count
    return rows[-1]["at_ms"] + rows[-1]["total_ms"]


def late_ms(nodes, leave):
    """leave() opens a request, goes away and gives the time at which it did. The middle of the tries, by node."""
    late = {node.name: [] for node in nodes}
    for i in range(TRIES):
        left = leave()
        for node in nodes:
            late[node.name].append(ended_ms(node, i + 1) - left)
    print({name: [round(ms, 1) for ms in all_ms] for name, all_ms in late.items()})
    return {name: statistics.median(all_ms) for name, all_ms in late.items()}


def leave_stream(edge, **body):
    def leave():
        connection, response = edge.open_stream(**body)
        first_words(response, 2)
        left = time.time() * 1000
        response.close()
        connection.close()
        return left
    return leave


def leave_whole(edge, **body):
    body = {"messages": [{"role": "user", "content": "x"}], **body}

    """One that was not streamed: the client leaves while it waits for the whole."""
    def leave():
        text = json.dumps({"model": "auto", **body}).encode()
        client = socket.socket(socket.AF_UNIX)
        client.connect(edge.socket)
        client.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
                       b"content-length: %d\r\n\r\n%s" % (len(text), text))
        until(lambda: edge.metric("rung_requests_running") == 1, "the request runs")
        time.sleep(0.05)  # and has reached the last hop: there is nobody to ask in the middle of an answer
        left = time.time() * 1000
        client.close()
        return left
    return leave


def within(late):
    assert max(late.values()) <= LIMIT_MS, late


def edge_region_worker(ladder, backend):
    region = ladder.region()
    worker = ladder.worker("worker", backends=[backend], log={"path": "log.db"})
    edge = ladder.edge(backends=[scripted("small", "edge", "no"), ladder.peer("region")], **UP).until_tiers("region")
    return edge, region, worker


@pytest.mark.parametrize("leave", [leave_stream, leave_whole])
def test_edge_region_and_worker_stop(ladder, leave):
    nodes = edge_region_worker(ladder, scripted("mid", "region", WORDS, delay_ms=10))
    within(late_ms(nodes, leave(nodes[0])))
    for node in nodes:
        assert node.stderr().count("request_cancelled") == TRIES


def test_an_engine_stops_computing(ladder):
    nodes = edge_region_worker(ladder, {"name": "mid", "type": "local", "tier": "region", "model_file": model("core.q8_0.gguf")})
    within(late_ms(nodes, leave_whole(nodes[0], **LONG)))

    def ticks():
        with open(f"/proc/{nodes[2].process.pid}/stat") as f:
            fields = f.read().rsplit(") ", 1)[1].split()
        return int(fields[11]) + int(fields[12])
    before = ticks()
    time.sleep(0.5)
    assert (ticks() - before) / os.sysconf("SC_CLK_TCK") < 0.1  # of half a second


@pytest.mark.parametrize("leave", [leave_stream, leave_whole])
def test_edge_core_and_upstream_stop(ladder, leave):
    with Upstream(text=WORDS) as upstream:
        core = ladder.core(backends=[upstream.backend("big", "slow/10", first_token_ms=5000)])
        edge = ladder.edge(backends=[scripted("small", "edge", "no"), ladder.peer("core")], **TOP).until_tiers("core")
        behind = []

        def gone():
            left = leave(edge)()
            seen = until(lambda: upstream.stats() if upstream.stats()["broken"] == len(behind) + 1 else None, "it sees us go")
            behind.append(seen["broken_ms"] - left)
            return left
        late = late_ms((edge, core), gone)
        within({**late, "upstream": statistics.median(behind)})


def test_when_an_edge_dies_its_region_and_worker_stop(ladder):
    edge, region, worker = edge_region_worker(ladder, scripted("mid", "region", WORDS, delay_ms=10))

    def die():
        _, response = edge.open_stream()
        first_words(response, 2)
        left = time.time() * 1000
        edge.kill()
        edge.start()
        edge.until_tiers("region")
        return left
    within(late_ms((region, worker), die))


def test_a_zeromq_client_that_closes_its_socket_or_cancels_stops_the_work(ladder):
    node = ladder.region(backends=[scripted("mid", "region", WORDS, delay_ms=10)], zmq={"ipc": {"path": "local.ipc"}})
    node.until_tiers("region")
    count = [0]

    def leave():
        count[0] += 1
        client = Speaker(f"ipc://{node.dir}/local.ipc")
        client.send("SUBMIT", id=f"r{count[0]}", model="region", messages=[{"role": "user", "content": "hi"}])
        client.until("TOKEN")
        left = time.time() * 1000
        if count[0] % 2:
            client.close()
        else:
            client.send("CANCEL", id=f"r{count[0]}")
            client.until("ERROR")
            client.close()
        return left
    within(late_ms((node,), leave))
