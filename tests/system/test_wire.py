"""The wire as docs/protocol.md has it, spoken by a program that is not ours."""
import os
import signal
import subprocess
import sys
import time

import pytest
import zmq

from ladder import ROOT, RUNG, in_background, scripted, until

sys.path.insert(0, os.path.join(ROOT, "tests", "proto"))
from speaker import Speaker, encode  # noqa: E402

MODEL = {"name": "mid", "tier": 1, "context_tokens": 4096, "identity": "speaker"}
HI = [{"role": "user", "content": "hi"}]
UP = {"policy": {"threshold": {"edge": 1.0, "region": 0.0}}}


def refused(node):
    return node.metric("rung_wire_refused_total") or 0


def worker_speaker(ladder, region, name="spoken", slots=1):
    worker = Speaker(ladder.endpoint("region"), name)
    worker.hello("worker")
    worker.offer(MODEL, slots=slots)
    region.until_tiers("region")
    return worker


def say(worker, request, words, first=0):
    worker.send("START", id=request, tier=1, backend="spoken", model="mid", identity="speaker")
    for i, word in enumerate(words):
        worker.send("TOKEN", id=request, index=first + i, tokens=[first + i], text=word)


def test_a_client_is_answered_over_ipc(ladder):
    region = ladder.region(backends=[scripted("mid", "region", "one two three")]).until_tiers("region")
    with Speaker(ladder.endpoint("region")) as client:
        client.send("SUBMIT", id="r1", model="region", messages=HI)
        answers = client.answers("r1")
        assert [name for name, _ in answers] == ["START", "TOKEN", "TOKEN", "TOKEN", "DONE"]
        start, done = answers[0][1], answers[-1][1]
        assert (start["tier"], start["model"], start["backend"]) == (1, "mid", "mid")
        assert "".join(t["text"] for _, t in answers[1:-1]) == "one two three"
        assert [t.get("index", 0) for _, t in answers[1:-1]] == [0, 1, 2]
        assert done["finish"] == ["stop"] and done["completion_tokens"] == 3
    assert region.until_rows(1)[0]["request"] == "r1"


def test_a_worker_that_is_not_ours_answers_the_edges_client(ladder):
    region = ladder.region()
    worker = worker_speaker(ladder, region)
    edge = ladder.edge(backends=[ladder.peer("region")], **UP).until_tiers("region")
    reply = in_background(lambda: edge.chat("say it", stream=True))
    _, submit = worker.until("SUBMIT")
    assert submit["messages"][-1]["content"] == "say it" and submit["params"]["seed"] >= 0
    say(worker, submit["id"], ["said ", "by ", "Python"])
    worker.send("DONE", id=submit["id"], finish=["stop"], prompt_tokens=2, completion_tokens=3)
    reply = reply.result()
    assert reply.text == "said by Python" and reply.done and reply.headers["x-rung-backend"] == "spoken"
    worker.close()


def test_a_worker_that_dies_silently_is_given_up_and_another_goes_on(ladder):
    region = ladder.region(health={"heartbeat_ms": 100})
    first = worker_speaker(ladder, region, "first")
    edge = ladder.edge(backends=[ladder.peer("region")], **UP)

    def reached():
        first.send("PING")  # alive, so far
        return (edge.ready() or {"tiers": {}})["tiers"].get("region")
    until(reached, "the edge reaches the region")
    reply = in_background(lambda: edge.chat(stream=True))
    _, submit = first.until("SUBMIT")
    say(first, submit["id"], ["a ", "b "])
    second = Speaker(ladder.endpoint("region"), "second")
    second.hello("worker")
    second.offer(MODEL)

    def submitted():  # the first says nothing from here on; the second keeps its heartbeat
        second.send("PING")
        got = second.receive(0.02)
        return got[1] if got and got[0] == "SUBMIT" else None
    again = until(submitted, "the request comes to the second worker")
    assert again["id"] == submit["id"] and again["prefixes"][0]["tokens"] == [0, 1]
    say(second, again["id"], ["c ", "d"], first=2)
    second.send("DONE", id=again["id"], finish=["stop"], completion_tokens=2)
    reply = reply.result()
    assert reply.text == "a b c d" and reply.done
    say(first, submit["id"], ["late "], first=2)  # it was only asleep: asked to introduce itself, its words unheard
    first.until("HELLO")
    first.close()
    second.close()


BROKEN = {
    "nothing": [b""],
    "cut": [encode("SUBMIT", id="x", messages=HI)[:-3]],
    "garbage": [b"\x03\x01" + bytes(range(200, 250))],
    "no type": [b"\x63\x01\x80"],
    "another version": [encode("PING", wire_version=9)],
    "bytes after": [encode("PING") + b"!"],
    "frames": [encode("PING"), encode("PING")],
    "a delimiter": [b"", encode("PING")],
    "a depth bomb": [b"\x0a\x01\x81\x63" + b"\x91" * 100000],
    "a huge count": [b"\x03\x01\x82\x01\xa1a\x08\xdd\xff\xff\xff\xff"],
    "no id": [encode("SUBMIT", messages=HI)],
    "wrong kind": [encode("SUBMIT", id="x", messages="hi")],
    "no UTF-8": [b"\x08\x01\x81\x01\xa2\xc3\x28"],
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_message_is_counted_and_the_link_unharmed(ladder, what):
    region = ladder.region(backends=[scripted("mid", "region", "ok")]).until_tiers("region")
    before = refused(region)
    with Speaker(ladder.endpoint("region")) as client:
        client.send_raw(*BROKEN[what])
        _, error = client.until("ERROR")
        assert error.get("id", "") == "" and error["message"] and error["code"] in ("syntax", "too_large", "unsupported", "version")
        client.send("SUBMIT", id="after", model="region", messages=HI)
        assert client.answers("after")[-1][0] == "DONE"
    assert refused(region) == before + 1


def test_an_oversize_message_ends_its_own_connection_only(ladder):
    region = ladder.region(backends=[scripted("mid", "region", "ok")]).until_tiers("region")
    with Speaker(ladder.endpoint("region"), "good") as good, Speaker(ladder.endpoint("region"), "large") as large:
        good.hello("client")
        large.send_raw(b"\x03\x01" + b"x" * (17 << 20))
        good.send("SUBMIT", id="r", model="region", messages=HI)
        assert good.answers("r")[-1][0] == "DONE"
    assert region.get("/health")[0] == 200


def test_unknown_keys_and_the_next_version_are_understood(ladder):
    ladder.region(backends=[scripted("mid", "region", "ok")]).until_tiers("region")
    with Speaker(ladder.endpoint("region")) as client:
        later = encode("SUBMIT", wire_version=2, **{"id": "r", "model": "region", "messages": HI})
        client.send_raw(later[:2] + bytes([later[2] + 1]) + later[3:] + b"\x7f\x93\x01\xc0\x81\xa1x\xcb" + bytes(8))
        assert client.answers("r")[-1][0] == "DONE"


def test_a_request_sent_again_while_it_runs_runs_once(ladder):
    region = ladder.region()
    worker = worker_speaker(ladder, region, slots=4)
    with Speaker(ladder.endpoint("region"), "client") as client:
        for _ in range(3):
            client.send("SUBMIT", id="same", model="region", messages=HI)
        worker.until("SUBMIT", id="same")
        say(worker, "same", ["once"])
        worker.send("DONE", id="same", finish=["stop"], completion_tokens=1)
        answers = client.answers("same")
        assert [n for n, _ in answers] == ["START", "TOKEN", "DONE"]
        assert worker.receive(0) is None or worker.receive(0)[0] != "SUBMIT"
    assert len(region.until_rows(1)) == 1
    worker.close()


def test_a_cancel_reaches_the_worker_and_is_answered(ladder):
    region = ladder.region()
    worker = worker_speaker(ladder, region)
    with Speaker(ladder.endpoint("region"), "client") as client:
        client.send("SUBMIT", id="r", model="region", messages=HI)
        worker.until("SUBMIT", id="r")
        say(worker, "r", ["begun "])
        client.until("TOKEN", id="r")
        client.send("CANCEL", id="r")
        assert client.until("ERROR", id="r")[1]["code"] == "cancelled"
        worker.until("CANCEL", id="r")
        worker.send("ERROR", id="r", code="cancelled")
        client.send("CANCEL", id="never-was")
        assert client.until("ERROR", id="never-was")[1]["code"] == "cancelled"
    assert region.until_rows(1)[0]["status"] == "cancelled"
    worker.close()


def test_a_client_that_vanishes_is_a_cancel(ladder):
    region = ladder.region()
    worker = worker_speaker(ladder, region)
    client = Speaker(ladder.endpoint("region"), "client")
    client.send("SUBMIT", id="r", model="region", messages=HI)
    worker.until("SUBMIT", id="r")
    client.close()
    begun = time.monotonic()
    worker.until("CANCEL", id="r")
    assert time.monotonic() - begun < 5
    worker.close()


def test_two_workers_of_one_name_are_told_apart(ladder):
    region = ladder.region()
    first = worker_speaker(ladder, region, "twin")
    with Speaker(ladder.endpoint("region"), "other-id") as second:
        second.send("HELLO", node="twin", role="worker")
        assert "twin" in second.until("ERROR", code="invalid_request")[1]["message"]
    first.close()
    with Speaker(ladder.endpoint("region"), "third-id") as third:  # once the first is gone the name is free
        def taken():
            third.send("HELLO", node="twin", role="worker")
            return third.until("ERROR", "READY", limit_s=5)[0] == "READY"
        until(taken, "the name is free again")


def test_workers_do_not_come_in_through_the_local_socket(ladder):
    edge = ladder.edge(zmq={"ipc": {"path": "local.ipc"}}, backends=[scripted("small", "edge", "ok")])
    endpoint = f"ipc://{edge.dir}/local.ipc"
    assert os.stat(f"{edge.dir}/local.ipc").st_mode & 0o007 == 0
    with Speaker(endpoint, "sneak") as sneak:
        sneak.send("HELLO", node="sneak", role="worker")
        assert sneak.until("ERROR")[1]["code"] == "forbidden"
        sneak.send("SUBMIT", id="r", model="edge", messages=HI)
        assert sneak.answers("r")[-1][0] == "DONE"


def keys(path):
    made = subprocess.run([RUNG, "keys", "make", path], capture_output=True, text=True, check=True)
    with open(path) as f:
        secret = f.read().split("secret=")[1].strip()
    return made.stdout.strip().encode(), secret.encode()


def free_port():
    import socket
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def test_only_known_keys_come_in_over_tcp(ladder, tmp_path):
    server, friend, stranger = (keys(str(tmp_path / name)) for name in ("server", "friend", "stranger"))
    (tmp_path / "peers").write_text(f"# who may in\n{friend[0].decode()} friend\n")
    endpoint = f"tcp://127.0.0.1:{free_port()}"
    region = ladder.region(backends=[scripted("mid", "region", "ok")],
                           zmq={"listen": endpoint, "keys_file": str(tmp_path / "server"), "peers_file": str(tmp_path / "peers")})
    region.until_tiers("region")
    before = refused(region)
    with Speaker(endpoint, "stranger", stranger, server[0]) as out, Speaker(endpoint, "plain") as plain, \
            Speaker(endpoint, "friend", friend, server[0]) as known:
        for speaker in (out, plain):
            speaker.send("SUBMIT", id="r", model="region", messages=HI)
        known.send("SUBMIT", id="k", model="region", messages=HI)
        assert known.answers("k")[-1][0] == "DONE"
        until(lambda: refused(region) >= before + 2, "both refusals are counted")
        assert out.receive(0) is None and plain.receive(0) is None
    assert len(region.until_rows(1)) == 1


def test_an_edge_with_keys_works_over_tcp(ladder, tmp_path):
    server, friend = (keys(str(tmp_path / name)) for name in ("server", "friend"))
    (tmp_path / "peers").write_text(f"{friend[0].decode()} friend\n")
    endpoint = f"tcp://127.0.0.1:{free_port()}"
    ladder.region(backends=[scripted("mid", "region", "over TCP")],
                  zmq={"listen": endpoint, "keys_file": str(tmp_path / "server"), "peers_file": str(tmp_path / "peers")})
    edge = ladder.edge(backends=[{"name": "region", "type": "peer", "connect": endpoint, "server_key": server[0].decode()}],
                       zmq={"keys_file": str(tmp_path / "friend")}, node={"id": "friend"}, **UP).until_tiers("region")
    assert edge.chat().text == "over TCP"


def test_a_key_may_only_be_the_node_that_the_peers_file_names(ladder, tmp_path):
    server, edge_key, worker_key = (keys(str(tmp_path / name)) for name in ("server", "edge-1", "worker-1"))
    (tmp_path / "peers").write_text(f"{edge_key[0].decode()} edge-1\n{worker_key[0].decode()}\n")  # the second: any name
    endpoint = f"tcp://127.0.0.1:{free_port()}"
    region = ladder.region(backends=[scripted("mid", "region", "ok")],
                           zmq={"listen": endpoint, "keys_file": str(tmp_path / "server"), "peers_file": str(tmp_path / "peers")})
    region.until_tiers("region")
    before = refused(region)
    with Speaker(endpoint, "edge-2", edge_key, server[0]) as false:
        false.send("HELLO", node="edge-2", role="edge", version_min=1, version_max=1)
        _, error = false.until("ERROR")
        assert error["code"] == "forbidden" and "edge-1" in error["message"] and "peers_file" in error["message"]
        assert refused(region) == before + 1
        false.send("LOG", node="edge-1", rows=b"", last_id=1)  # nor are its rows taken
        false.send("PING", sequence=7)
        assert false.until("PONG", "LOG_ACK")[0] == "PONG"
    with Speaker(endpoint, "anything", edge_key, server[0]) as true, Speaker(endpoint, "w", worker_key, server[0]) as worker:
        true.node, worker.node = "edge-1", "some-worker"
        true.hello("edge")
        worker.hello("worker")
    ladder.edge(backends=[{"name": "up", "type": "peer", "connect": endpoint, "server_key": server[0].decode()},
                          scripted("small", "edge", "alone")], zmq={"keys_file": str(tmp_path / "edge-1")}, node={"id": "edge-3"})
    edge = ladder.nodes[-1]
    until(lambda: b"edge-1's" in edge.get("/health")[1], "the edge's own health says what is wrong")
    assert edge.chat().text == "alone"


def test_another_key_does_not_take_over_a_routing_id(ladder, tmp_path):
    server, one, two = (keys(str(tmp_path / name)) for name in ("server", "one", "two"))
    (tmp_path / "peers").write_text(f"{one[0].decode()} one\n{two[0].decode()} two\n")
    endpoint = f"tcp://127.0.0.1:{free_port()}"
    region = ladder.region(zmq={"listen": endpoint, "keys_file": str(tmp_path / "server"), "peers_file": str(tmp_path / "peers")})
    with Speaker(endpoint, "one", one, server[0]) as worker:
        worker.hello("worker")
        worker.offer(MODEL)
        region.until_tiers("region")
        thief = Speaker(endpoint, "one", two, server[0])
        thief.offer({**MODEL, "name": "stolen"})  # as if it were the worker
        thief.until("HELLO")  # it is asked who it is
        assert b"stolen" not in region.get("/v1/models")[1]
        thief.close()


def test_a_stopped_region_is_given_up_and_found_again(ladder):
    region = ladder.region(backends=[scripted("mid", "region", "from region")])
    edge = ladder.edge(backends=[scripted("small", "edge", "from edge"), ladder.peer("region")],
                       health={"heartbeat_ms": 100}, **UP).until_tiers("region")
    region.process.send_signal(signal.SIGSTOP)
    until(lambda: not edge.ready()["tiers"].get("region"), "the silence is noticed")
    assert edge.chat().text == "from edge"
    region.process.send_signal(signal.SIGCONT)
    edge.until_tiers("region")
    assert edge.chat().text == "from region"


def test_a_broker_that_restarts_gets_its_workers_back(ladder):
    region = ladder.region()
    ladder.worker("w", backends=[scripted("mid", "region", "still here")])
    region.until_tiers("region")
    region.kill()
    region.start()
    region.until_tiers("region")
    assert region.chat().text == "still here"


def test_a_worker_that_stops_takes_no_new_work_and_ends_what_runs(ladder):
    words = " ".join(f"w{i}" for i in range(40))
    region = ladder.region()
    worker = ladder.worker("w", backends=[scripted("mid", "region", words, delay_ms=20)])
    region.until_tiers("region")
    connection, response = region.open_stream()
    assert response.readline()
    worker.process.terminate()
    until(lambda: b'"health":"draining"' in region.get("/health")[1], "the region knows that it drains")
    assert region.chat().status == 503
    rest = response.read().decode()
    connection.close()
    assert "w39" in rest and "[DONE]" in rest
    assert worker.process.wait(20) == 0


def test_a_reader_slower_than_the_queues_misses_nothing(ladder):
    count = 30000  # more than the queues of both sides hold, before the first is read
    region = ladder.region()
    worker = worker_speaker(ladder, region)
    with Speaker(ladder.endpoint("region"), "slow") as client:
        client.send("SUBMIT", id="r", model="region", messages=HI)
        worker.until("SUBMIT", id="r")
        say(worker, "r", ["x"] * count)
        worker.send("DONE", id="r", finish=["stop"], completion_tokens=count)
        worker.send("PING", sequence=99)
        worker.until("PONG", sequence=99)  # the region has taken it all
        tokens = [fields.get("index", 0) for name, fields in client.answers("r") if name == "TOKEN"]
    assert tokens == list(range(count))
    worker.close()


def test_zmq_without_a_monitor_is_no_trouble(ladder):
    """Connections that come and go at once, with and without a greeting."""
    region = ladder.region(backends=[scripted("mid", "region", "ok")]).until_tiers("region")
    context = zmq.Context()
    for i in range(50):
        s = context.socket(zmq.DEALER)
        s.setsockopt(zmq.LINGER, 0)
        s.connect(ladder.endpoint("region"))
        if i % 2:
            s.send(encode("HELLO", node=f"n{i}", role="edge"))
        s.close(0)
    context.term()
    with Speaker(ladder.endpoint("region")) as client:
        client.send("SUBMIT", id="r", model="region", messages=HI)
        assert client.answers("r")[-1][0] == "DONE"


def test_the_local_socket_lets_in_the_users_on_its_list_only(ladder):
    for name, uids, let_in in (("mine", [str(os.getuid())], True), ("theirs", [str(os.getuid() + 4242)], False)):
        node = ladder.edge(name, backends=[scripted("small", "edge", "ok")], zmq={"ipc": {"path": "local.ipc", "uids": uids}})
        with Speaker(f"ipc://{node.dir}/local.ipc") as client:
            client.send("SUBMIT", id="r", model="edge", messages=HI)
            assert (client.receive(5 if let_in else 0.5) is not None) == let_in
        assert node.stop() == 0 and not os.path.exists(os.path.join(node.dir, "local.ipc"))  # nor is the file left
