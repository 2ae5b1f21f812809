"""Asking an OpenAI-compatible endpoint over TCP or a Unix socket, with the standard library alone."""
import http.client
import json
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path, timeout):
        super().__init__("localhost", timeout=timeout)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


class Endpoint:
    def __init__(self, url=None, unix=None, key=None, timeout=120, max_tokens=700, lanes=4):
        self.url, self.unix, self.key = urlsplit(url or "http://localhost/v1"), unix, key
        self.timeout, self.max_tokens, self.lanes = timeout, max_tokens, lanes

    def connection(self):
        if self.unix:
            return UnixConnection(self.unix, self.timeout)
        kind = http.client.HTTPSConnection if self.url.scheme == "https" else http.client.HTTPConnection
        return kind(self.url.netloc, timeout=self.timeout)

    def ask(self, model, messages):
        """(text, completion tokens, seconds, tier that answered or None)."""
        headers = {"content-type": "application/json"}
        if self.key:
            headers["authorization"] = f"Bearer {self.key}"
        body = json.dumps({"model": model, "messages": messages, "temperature": 0, "max_tokens": self.max_tokens})
        began, connection = time.monotonic(), self.connection()
        try:
            connection.request("POST", self.url.path.rstrip("/") + "/chat/completions", body.encode(), headers)
            reply = connection.getresponse()
            raw = reply.read()
            if reply.status != 200:
                raise RuntimeError(f"HTTP {reply.status}: {raw[:200]!r}")
            data = json.loads(raw)
        finally:
            connection.close()
        text = data["choices"][0]["message"].get("content") or ""
        return text, data.get("usage", {}).get("completion_tokens", 0), time.monotonic() - began, reply.getheader("x-rung-tier")

    def ask_all(self, model, chats):
        """Replies in order; a failed request counts as a wrong, empty reply."""
        def one(messages):
            try:
                return self.ask(model, messages)
            except (OSError, RuntimeError, ValueError, KeyError, http.client.HTTPException) as error:
                print(f"request failed: {error}", flush=True)
                return "", 0, 0.0, None
        with ThreadPoolExecutor(self.lanes) as pool:
            return list(pool.map(one, chats))
