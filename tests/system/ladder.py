"""Whole ladders for the system tests: real processes, real sockets, configurations from dictionaries.

    with Ladder(tmp_path) as ladder:
        edge = ladder.edge(backends=[scripted("device", "edge", "hello there")])
        assert edge.chat("hi").text == "hello there"
"""
import http.client
import json
import os
import signal
import socket
import sqlite3
import subprocess
import threading
import time

import yaml

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
# The sanitized program where it was built: every scenario then checks memory as well.
RUNG = os.environ.get("RUNG_BIN") or next(
    (p for p in (os.path.join(ROOT, d, "rung") for d in ("build-asan", "build")) if os.access(p, os.X_OK)), "rung")
# What the demo models run on: a build with a GPU's library would take a card where there is one.
KERNELS = os.environ.get("RUNG_TEST_KERNELS", "cpu")
LIMIT_S = float(os.environ.get("RUNG_TEST_LIMIT_S", "30"))


def until(condition, what, limit_s=LIMIT_S):
    """Waits for an event, never for a time: the first true value of condition()."""
    deadline = time.monotonic() + limit_s
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {limit_s} s: {what}")
        time.sleep(0.01)


def read_until(response, mark, count):
    """Reads an open stream until `mark` came so often; returns the bytes read."""
    seen = b""
    while seen.count(mark) < count:
        line = response.readline()
        assert line, f"the stream ended early: {seen[-300:]!r}"
        seen += line
    return seen


def scripted(name, tier, text, delay_ms=0, fail_after=-1, **more):
    return {"name": name, "type": "scripted", "tier": tier, "script_text": text, "script_delay_ms": delay_ms,
            "script_fail_after": fail_after, **more}


def model(name):
    return os.path.join(ROOT, "models", name)


class UnixHTTP(http.client.HTTPConnection):
    def __init__(self, path, timeout=LIMIT_S):
        super().__init__("localhost", timeout=timeout)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


class Reply:
    """What a client saw of one request."""

    def __init__(self, response):
        self.status = response.status
        self.headers = {k.lower(): v for k, v in response.getheaders()}
        self.text = self.reasoning = ""
        self.tokens, self.events, self.finish = [], [], None
        self.rung, self.error, self.done, self.cut = {}, None, False, False
        self._read(response)

    def _read(self, response):
        if not self.headers.get("content-type", "").startswith("text/event-stream"):
            body = response.read()
            self.json = json.loads(body) if body else None
            self._whole(self.json if isinstance(self.json, dict) else {})
            return
        try:
            for line in response:
                self._line(line.rstrip(b"\r\n"))
        except (http.client.IncompleteRead, ConnectionError):
            self.cut = True

    def _whole(self, body):
        self.error, self.rung = body.get("error"), body.get("rung") or {}
        for choice in body.get("choices", []):
            message = choice.get("message") or {"content": choice.get("text")}
            self.text += message.get("content") or ""
            self.reasoning += message.get("reasoning_content") or ""
            self.finish = choice.get("finish_reason")

    def _line(self, line):
        if line == b"data: [DONE]":
            self.done = True
        elif line.startswith(b"data: "):
            self._event(json.loads(line[6:]))

    def _event(self, event):
        self.events.append(event)
        self.error = event.get("error") or self.error
        self.rung = event.get("rung") or self.rung
        for choice in event.get("choices", []):
            delta = choice.get("delta") or {"content": choice.get("text")}
            if delta.get("content"):
                self.tokens.append(delta["content"])
                self.text += delta["content"]
            self.reasoning += delta.get("reasoning_content") or ""
            self.finish = choice.get("finish_reason") or self.finish


class Node:
    def __init__(self, ladder, name, command, config, wait=True):
        self.ladder, self.name = ladder, name
        self.dir = os.path.join(ladder.dir, name)
        os.makedirs(self.dir, exist_ok=True)
        self.socket = os.path.join(self.dir, "http.sock")
        self.db = os.path.join(self.dir, "log.db")
        self.file = os.path.join(self.dir, "rung.yaml")
        self.command = command
        self.config = config
        self.write_config()
        self.process = None
        self.start(wait)

    def write_config(self):
        with open(self.file, "w") as f:
            yaml.safe_dump(self.config, f)

    def start(self, wait=True):
        log = open(os.path.join(self.dir, "stderr.log"), "ab")
        self.process = subprocess.Popen([RUNG, *self.command, "-c", self.file], cwd=self.dir, stdin=subprocess.DEVNULL,
                                        stdout=log, stderr=log)
        log.close()
        if wait and self.config.get("http"):
            until(self.answers, f"{self.name} answers on its socket")

    def answers(self):
        if self.process.poll() is not None:
            raise AssertionError(f"{self.name} ended at once ({self.process.returncode}):\n{self.stderr()[-3000:]}")
        try:
            return self.get("/health")[0] in (200, 503)
        except OSError:
            return False

    def stderr(self):
        with open(os.path.join(self.dir, "stderr.log"), errors="replace") as f:
            return f.read()

    # -- as a client --
    def connection(self, timeout=LIMIT_S):
        return UnixHTTP(self.socket, timeout)

    def get(self, path):
        connection = self.connection(5)
        connection.request("GET", path)
        response = connection.getresponse()
        body = response.read()
        connection.close()
        return response.status, body

    def ready(self):
        status, body = self.get("/ready")
        return json.loads(body) if status == 200 else None

    def until_tiers(self, *tiers):
        def there():
            ready = self.ready()
            return ready and all(ready["tiers"].get(t) for t in tiers)
        until(there, f"{self.name} reaches {tiers}")
        return self

    def post(self, path, body, headers=None):
        connection = self.connection()
        data = body if isinstance(body, (bytes, str)) else json.dumps(body)
        connection.request("POST", path, data, {"content-type": "application/json", **(headers or {})})
        reply = Reply(connection.getresponse())
        connection.close()
        return reply

    def chat(self, content="What is 17 + 25?", stream=False, headers=None, **body):
        messages = content if isinstance(content, list) else [{"role": "user", "content": content}]
        return self.post("/v1/chat/completions", {"model": "auto", "messages": messages, "stream": stream, **body}, headers)

    def open_stream(self, content="What is 17 + 25?", headers=None, **body):
        """A streamed chat whose reply is read by the caller: (connection, response). Returns once headers came."""
        connection = self.connection()
        messages = content if isinstance(content, list) else [{"role": "user", "content": content}]
        connection.request("POST", "/v1/chat/completions",
                           json.dumps({"model": "auto", "messages": messages, "stream": True, **body}),
                           {"content-type": "application/json", **(headers or {})})
        return connection, connection.getresponse()

    def metric(self, name):
        for line in self.get("/metrics")[1].decode().splitlines():
            if line.startswith(name) and line[len(name)] in " {,}":
                return float(line.rsplit(" ", 1)[1])
        return None

    # -- its log --
    def rows(self, sql="SELECT * FROM decisions ORDER BY at_ms", *arguments):
        database = sqlite3.connect(f"file:{self.db}?mode=ro", uri=True, timeout=5)
        database.row_factory = sqlite3.Row
        try:
            return [dict(row) for row in database.execute(sql, arguments)]
        finally:
            database.close()

    def until_rows(self, count, sql="SELECT * FROM decisions ORDER BY at_ms"):
        def enough():
            try:
                rows = self.rows(sql)
            except sqlite3.OperationalError:
                return None
            return rows if len(rows) >= count else None
        return until(enough, f"{count} rows in {self.name}'s log")

    # -- its life --
    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.terminate()
        try:
            return self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError(f"{self.name} did not stop within 20 s:\n{self.stderr()[-2000:]}")


class Ladder:
    def __init__(self, directory):
        self.dir = str(directory)
        self.nodes = []

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        for node in reversed(self.nodes):
            if node.process.poll() is None:
                node.stop()
        for node in self.nodes:
            text = node.stderr()
            assert "ERROR: AddressSanitizer" not in text and "runtime error:" not in text, f"{node.name}:\n{text[-4000:]}"
            assert kind or "ERROR: LeakSanitizer" not in text, f"{node.name}:\n{text[-4000:]}"

    def endpoint(self, name):
        """Where a region or core of that name listens for nodes below. Short: a socket path holds 107 bytes."""
        return f"ipc://{self.dir}/{name}.ipc"

    def _node(self, name, command, wait=True, http=True, **sections):
        config = {"node": {"id": name, "state_dir": os.path.join(self.dir, name), **sections.pop("node", {})}, **sections}
        config["http"] = {"unix": {"path": "http.sock"}, **(http if isinstance(http, dict) else {})} if http else {"unix": {"path": ""}}
        if not http:
            config.pop("http")
        config.setdefault("log", {"path": "log.db"})
        # Scenarios are about one decision, not about the share that is taken at random.
        config["policy"] = {"explore": 0, **(config.get("policy") or {})}
        os.makedirs(os.path.join(self.dir, name), exist_ok=True)
        node = Node(self, name, command, config, wait)
        self.nodes.append(node)
        return node

    def edge(self, name="edge", **sections):
        return self._node(name, ["edge"], **sections)

    def region(self, name="region", **sections):
        return self._node(name, ["region"], **{"zmq": {"listen": self.endpoint(name)}, **sections})

    def core(self, name="core", **sections):
        return self._node(name, ["core"], **{"zmq": {"listen": self.endpoint(name)}, **sections})

    def worker(self, name, broker="region", tier="region", **sections):
        return self._node(name, ["worker", "--tier", tier], http=False, wait=False,
                          **{"worker": {"connect": self.endpoint(broker)}, "log": {"path": ""}, **sections})

    def peer(self, name):
        return {"name": name, "type": "peer", "connect": self.endpoint(name)}


def in_background(function, *arguments):
    """Runs function in a thread; .result() gives its value or raises what it raised."""
    class Running(threading.Thread):
        def run(self):
            try:
                self.value, self.error = function(*arguments), None
            except BaseException as error:  # handed on to result()
                self.value, self.error = None, error

        def result(self):
            self.join(LIMIT_S)
            assert not self.is_alive(), "still running"
            if self.error:
                raise self.error
            return self.value
    thread = Running(daemon=True)
    thread.start()
    return thread
