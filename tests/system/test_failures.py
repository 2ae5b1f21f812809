"""What the client sees, and what the log holds, when things go wrong."""
import json
import os
import resource
import signal
import socket
import sqlite3
import subprocess
import threading
import time

import pytest

from ladder import Reply, in_background, read_until, scripted, until

WORDS = " ".join(f"w{i}" for i in range(60))
UP = {"policy": {"threshold": {"edge": 1.0, "region": 0.0}}}
STAY = {"policy": {"threshold": {"edge": 0.0}}}


def first_words(response, count):
    """Reads an open stream until so many words came; returns the bytes read."""
    return read_until(response, b'"content":"', count)


def rest_of(seen, response):
    """The whole stream as a Reply, from what was read already and what is still to come."""
    class Joined:
        status = 200

        def getheaders(self):
            return response.getheaders() if response else [("content-type", "text/event-stream")]

        def __iter__(self):
            yield from seen.splitlines(keepends=True)
            yield from response
    return Reply(Joined())


def running_worker(region, workers):
    """The worker whose call is running now, by the region's own figures."""
    for line in region.get("/metrics")[1].decode().splitlines():
        if line.startswith("rung_backend_running{") and line.endswith(" 1"):
            name = line.split('backend="')[1].split('"')[0]
            return next((w for w in workers if w.name == name), None)
    return None


def region_with_two_workers(ladder, name="region", **more):
    region = ladder.region(name, **more)
    workers = [ladder.worker(f"{name}-w{i}", broker=name, backends=[scripted("mid", "region", WORDS, delay_ms=15)])
               for i in (1, 2)]
    until(lambda: (region.ready() or {"tiers": {}})["tiers"].get("region"), "a worker is there")
    return region, workers


def test_a_stream_goes_on_when_its_worker_is_killed(ladder):
    region, workers = region_with_two_workers(ladder)
    edge = ladder.edge(backends=[scripted("small", "edge", "no"), ladder.peer("region")], **UP).until_tiers("region")
    until(lambda: b"rung_backend_up{backend=\"region-w2\",type=\"worker\"} 1" in region.get("/metrics")[1], "the second worker is there")
    connection, response = edge.open_stream()
    seen = first_words(response, 8)
    running_worker(region, workers).kill()
    reply = rest_of(seen, response)
    assert reply.text == WORDS and reply.done and reply.finish == "stop"
    assert len(reply.tokens) == 60  # each once
    row = region.until_rows(1, "SELECT * FROM decisions WHERE node = 'region'")[0]
    assert row["failed_over"] == 1 and row["status"] == "ok"


def test_a_stream_goes_on_through_another_region_when_its_region_is_killed(ladder):
    north, _ = region_with_two_workers(ladder, "north")
    region_with_two_workers(ladder, "south")
    edge = ladder.edge(backends=[scripted("small", "edge", "no"), ladder.peer("north"), ladder.peer("south")], **UP)
    edge.until_tiers("region")
    until(lambda: edge.get("/metrics")[1].count(b'type="peer"} 1') == 2, "both regions are there")
    connection, response = edge.open_stream()
    seen = first_words(response, 8)
    north.kill()
    reply = rest_of(seen, response)
    assert reply.text == WORDS and reply.done
    assert edge.until_rows(1)[0]["failed_over"] == 1


def test_when_nobody_can_go_on_the_stream_ends_with_an_error_event(ladder):
    region = ladder.region(backends=[])
    worker = ladder.worker("only", backends=[scripted("mid", "region", WORDS, delay_ms=15)])
    edge = ladder.edge(backends=[ladder.peer("region")], **UP).until_tiers("region")
    connection, response = edge.open_stream()
    seen = first_words(response, 5)
    worker.kill()
    reply = rest_of(seen, response)
    assert reply.error and reply.error["type"] and not reply.done and reply.finish is None
    assert WORDS.startswith(reply.text) and reply.text
    assert edge.until_rows(1)[0]["status"] != "ok"


def test_a_client_that_leaves_ends_the_work_on_every_hop(ladder):
    region, workers = region_with_two_workers(ladder)
    edge = ladder.edge(backends=[scripted("small", "edge", "no"), ladder.peer("region")], **UP).until_tiers("region")
    connection, response = edge.open_stream()
    first_words(response, 3)
    response.close()
    connection.close()
    left = time.monotonic()
    for node in (edge, region):
        row = node.until_rows(1, f"SELECT * FROM decisions WHERE node = '{node.name}'")[0]
        assert row["status"] == "cancelled"
    assert region.metric("rung_requests_running") == 0
    assert time.monotonic() - left < 5  # the log's batches included
    took = [r["total_ms"] for r in (edge.rows()[0], region.rows("SELECT * FROM decisions WHERE node = 'region'")[0])]
    assert max(took) < 60 * 15  # neither went on to the end


def test_a_half_closed_connection_is_a_cancel_too(ladder):
    edge = ladder.edge(backends=[scripted("small", "edge", WORDS, delay_ms=20)], **STAY)
    client = socket.socket(socket.AF_UNIX)
    client.connect(edge.socket)
    body = json.dumps({"model": "auto", "stream": True, "messages": [{"role": "user", "content": "x"}]}).encode()
    client.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
                   b"content-length: %d\r\n\r\n%s" % (len(body), body))
    assert client.recv(4096)
    client.shutdown(socket.SHUT_WR)
    assert edge.until_rows(1)[0]["status"] == "cancelled"
    client.close()


def test_past_its_limit_a_node_says_429_and_when_to_come_back(ladder):
    edge = ladder.edge(node={"requests_max": 2}, backends=[scripted("small", "edge", WORDS, delay_ms=20, slots=1)], **STAY)
    streams = [edge.open_stream() for _ in range(1)]
    waiting = in_background(edge.chat)
    until(lambda: edge.metric("rung_requests_running") == 2, "two are in")
    begin = time.monotonic()
    reply = edge.chat()
    assert reply.status == 429 and time.monotonic() - begin < 1
    assert float(reply.headers["retry-after"]) >= 0 and int(reply.headers["retry-after-ms"]) > 0
    assert reply.error["type"] == "rate_limit_error"
    for connection, response in streams:
        response.close()
        connection.close()
    assert waiting.result().text == WORDS


@pytest.mark.parametrize("body, status, names", [
    (b"{", 400, None),
    (b"[]", 400, None),
    (b'{"messages": "hello"}', 400, "messages"),
    (b'{"model": "auto", "messages": [{"role": "user", "content": "x"}], "temperature": "warm"}', 400, "temperature"),
    (b'{"model": "auto", "messages": [{"role": "user", "content": "x"}], "n": 10000}', 400, "n"),
    (b'{"model": 5, "messages": [{"role": "user", "content": "x"}]}', 400, "model"),
    (b"[" * 100000, 400, None),
    (b'{"model": "auto", "messages": []}', 400, "messages"),
    (b"\xff\xfe\x00", 400, None),
    (b'{"messages": [{"role": "user", "content": "' + b"x" * (5 << 20) + b'"}]}', 413, None),
], ids=["cut", "array", "messages", "type", "range", "model", "deep", "empty", "bytes", "large"])
def test_a_bad_body_is_refused_by_name_and_the_node_goes_on(ladder, body, status, names):
    edge = ladder.edge(backends=[scripted("small", "edge", "fine")], **STAY)
    try:
        reply = edge.post("/v1/chat/completions", body)
        assert reply.status == status and reply.error["message"] and reply.error["type"] == "invalid_request_error"
        if names:
            assert reply.error["param"] == names
    except (BrokenPipeError, ConnectionResetError):
        assert status == 413  # refused before all of it was sent
    assert edge.chat().text == "fine"


def test_a_missing_or_corrupt_model_sends_requests_up(ladder, tmp_path):
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF\x03\0\0\0" + b"\xff" * 100)
    region, _ = region_with_two_workers(ladder)
    for file in ("/nowhere/model.gguf", str(broken)):
        name = "edge" + str(len(ladder.nodes))
        edge = ladder.edge(name, backends=[{"name": "device", "type": "local", "model_file": file}, ladder.peer("region")], **STAY)
        edge.until_tiers("region")
        reply = edge.chat()
        assert reply.status == 200 and reply.text == WORDS and reply.headers["x-rung-tier"] == "region"
        health = json.loads(edge.get("/health")[1])
        assert health["status"] == "degraded"
        assert next(b for b in health["backends"] if b["name"] == "device")["trouble"]


def test_sigterm_lets_a_running_stream_finish_and_exits_0(ladder):
    edge = ladder.edge(backends=[scripted("small", "edge", WORDS, delay_ms=10)], **STAY)
    connection, response = edge.open_stream()
    seen = first_words(response, 3)
    edge.process.terminate()
    reply = rest_of(seen, response)
    assert reply.text == WORDS and reply.done
    assert edge.process.wait(20) == 0
    assert len(edge.rows()) == 1


def test_a_bad_reload_changes_nothing_and_a_good_one_drops_no_request(ladder):
    edge = ladder.edge(backends=[scripted("small", "edge", WORDS, delay_ms=10), scripted("big", "core", "from core")], **STAY)
    version = edge.metric("rung_policy_version")
    connection, response = edge.open_stream()
    seen = first_words(response, 3)
    good = edge.config["policy"]
    edge.config["policy"] = {"threshold": {"edge": 7}}
    edge.write_config()
    edge.process.send_signal(signal.SIGHUP)
    until(lambda: "reload_refused" in edge.stderr(), "the bad file is refused")
    assert edge.metric("rung_policy_version") == version
    edge.config["policy"] = {**good, "threshold": {"edge": 1.0, "region": 1.0}}
    edge.write_config()
    edge.process.send_signal(signal.SIGHUP)
    until(lambda: edge.metric("rung_policy_version") == version + 1, "the good file is in force")
    assert edge.chat().text == "from core"
    reply = rest_of(seen, response)
    assert reply.text == WORDS and reply.done


def start_with_file_limit(edge, size):
    """Writes past this size fail, as on a full disk, until file_limit_lifted()."""
    def limited():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
    edge.stop()
    real = subprocess.Popen
    subprocess.Popen = lambda *a, **k: real(*a, preexec_fn=limited, **k)
    try:
        edge.start()
    finally:
        subprocess.Popen = real


def file_limit_lifted(edge):
    resource.prlimit(edge.process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


def test_a_full_disk_stops_no_request(ladder):
    edge = ladder.edge(backends=[scripted("small", "edge", "still here")], **STAY)
    start_with_file_limit(edge, 400_000)
    for _ in range(1500):
        assert edge.chat().text == "still here"
        if edge.metric("rung_log_write_errors_total"):
            break
    assert edge.metric("rung_log_write_errors_total") > 0
    for _ in range(20):
        assert edge.chat().text == "still here"
    edge.stop()
    assert sqlite3.connect(edge.db).execute("PRAGMA integrity_check").fetchone() == ("ok",)


class Load:
    """Many connections that ask again as soon as all were answered."""
    def __init__(self, edge, connections=64):
        body = json.dumps({"model": "auto", "messages": [{"role": "user", "content": "What is 17 + 25?"}]}).encode()
        self.request = (b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
                        b"content-length: %d\r\n\r\n%s" % (len(body), body))
        self.sockets = []
        for _ in range(connections):
            self.sockets.append(socket.socket(socket.AF_UNIX))
            self.sockets[-1].connect(edge.socket)
            self.sockets[-1].settimeout(20)
        self.answered = 0

    def round(self):
        for s in self.sockets:
            s.sendall(self.request)
        for s in self.sockets:
            assert s.recv(65536).startswith(b"HTTP/1.1 200")
        self.answered += len(self.sockets)

    def close(self):
        for s in self.sockets:
            s.close()


def test_at_full_speed_a_full_disk_loses_only_what_its_queue_does_not_hold_and_says_so_once(ladder):
    edge = ladder.edge(backends=[scripted("small", "edge", "still here")], **STAY)
    start_with_file_limit(edge, 2_000_000)
    load = Load(edge)
    dropped = 0
    while dropped < 500 or edge.metric("rung_log_write_errors_total") == 0:  # a slow writer's queue may be full before the disk is
        for _ in range(20):
            load.round()
        dropped = edge.metric("rung_log_rows_dropped_total")
        assert load.answered < 200_000
    dropped = int(edge.metric("rung_log_rows_dropped_total"))
    assert edge.stderr().count("log.dropping") == 1 and edge.stderr().count("log.write_failed") == 1
    file_limit_lifted(edge)
    until(lambda: "log.write_recovered" in edge.stderr(), "the writer has tried again")
    load.round()  # there is room again
    load.close()
    edge.stop()
    database = sqlite3.connect(edge.db)
    assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert database.execute("SELECT count(*), count(DISTINCT request) FROM decisions").fetchone() == (load.answered - dropped,) * 2
    assert database.execute("SELECT sum(requests) FROM hourly").fetchone() == (load.answered - dropped,)
    assert edge.stderr().count("log.dropping") == 1


def test_kill_9_under_load_loses_no_committed_row(ladder):
    edge = ladder.edge(backends=[scripted("small", "edge", "one two three")], **STAY)
    rounds = int(os.environ.get("RUNG_KILLS", "20"))
    committed = set()
    for _ in range(rounds):
        stop = threading.Event()

        def load():
            while not stop.is_set():
                try:
                    edge.chat()
                except (OSError, json.JSONDecodeError):
                    return
        threads = [threading.Thread(target=load) for _ in range(4)]
        for thread in threads:
            thread.start()
        before = len(committed)
        until(lambda: len(edge.rows("SELECT request FROM decisions")) > before + 10, "some rows are committed")
        committed = {row["request"] for row in edge.rows("SELECT request FROM decisions")}
        edge.kill()
        stop.set()
        for thread in threads:
            thread.join()
        database = sqlite3.connect(edge.db)
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        after = [row[0] for row in database.execute("SELECT request FROM decisions")]
        database.close()
        assert committed <= set(after) and len(after) == len(set(after))
        committed = set(after)
        edge.start()
    assert edge.chat().text == "one two three"
