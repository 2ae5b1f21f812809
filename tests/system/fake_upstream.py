#!/usr/bin/env python3
"""An OpenAI-compatible service that misbehaves on demand, for tests. Standard library only.

    fake_upstream.py [--port N] [--unix PATH] [--text "what it answers"] [--delay-ms N] [--key KEY] [--cert F --cert-key F]

Prints its base URL (http://127.0.0.1:PORT/v1, https://… or unix:PATH:/v1) as the first line of stdout and serves until it is killed or
its stdin ends. What it does is chosen by the request's `model`; a name it does not know, and "ok", is answered well.
A name may go on after a "/" with a number, such as "slow/50" (milliseconds) or "cut/3" (after that many tokens).

Beside /v1/chat/completions, /v1/completions and /v1/models it has /stats: counts of connections, requests, answers that
the client broke off and when the last was, and the last request as it came (headers and body).
"""
import argparse
import json
import os
import socket
import socketserver
import ssl
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler

FIRST_TOKEN_STALL_S = 3600
MODES = {
    "ok": "a stream with usage and [DONE]",
    "slow": "NUMBER ms (50) before each token",
    "stall": "falls silent after NUMBER tokens (2)",
    "stall-first": "headers, then nothing",
    "mute": "takes the request and never answers, not even headers",
    "ping": "headers, then comments that keep the connection alive, and nothing else",
    "cut": "closes after NUMBER tokens (2), inside the chunked body: a broken transfer",
    "cut-clean": "ends the body properly after NUMBER tokens (2), without finish_reason and [DONE]",
    "cut-once": "as cut for the first request, then as ok",
    "noend": "finish_reason and usage, no [DONE]",
    "open-end": "finish_reason, no [DONE], and the connection stays open",
    "nousage": "no usage, whatever was asked",
    "empty": "[DONE] alone",
    "body": "one JSON body, whatever was asked",
    "reasoning": "reasoning_content before content",
    "tools": "a tool call, its arguments in pieces",
    "logprobs": "logprobs with every token",
    "dribble": "the stream in pieces of one byte",
    "big": "NUMBER tokens (20000) at once",
    "full": "429 with Retry-After: NUMBER (2)",
    "full-ms": "429 with retry-after-ms: NUMBER (1500)",
    "full-date": "429 with Retry-After: an HTTP date 10 s from now",
    "full-silent": "429 without a word on when",
    "quota": "429 insufficient_quota",
    "fail": "HTTP NUMBER (500) with an error object",
    "fail-once": "500 for the first request, then as ok",
    "unauthorized": "401 that repeats the key",
    "context": "400 context_length_exceeded",
    "invalid": "400 for a parameter",
    "redirect": "302 to another host",
    "garbage": "200 text/event-stream, then no event stream",
    "garbage-json": "an event whose data is not JSON",
    "wrong-json": "JSON of the wrong shape",
    "html": "200 and a web page",
    "error-event": "an error object after NUMBER tokens (2)",
    "longline": "one line of 10 MB",
    "close": "closes the connection at once",
    "reset": "resets the connection at once",
}


class State:
    def __init__(self):
        self.lock = threading.Lock()
        self.counts = {"connections": 0, "requests": 0, "broken": 0}
        self.seen = {}
        self.last = None

    def add(self, name):
        with self.lock:
            self.counts[name] = self.counts.get(name, 0) + 1

    def broken(self):
        with self.lock:
            self.counts["broken"] += 1
            self.counts["broken_ms"] = time.time() * 1000

    def first(self, name):
        with self.lock:
            self.seen[name] = self.seen.get(name, 0) + 1
            return self.seen[name] == 1


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    options = None
    state = State()
    wbufsize = 0

    def setup(self):
        super().setup()
        self.state.add("connections")
        try:
            self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError:
            pass

    def log_message(self, *args):
        pass

    def address_string(self):
        return "client"

    # ---- plain answers ----

    def send_json(self, status, value, headers=()):
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        for name, text in headers:
            self.send_header(name, text)
        self.end_headers()
        self.wfile.write(body)

    def send_error_object(self, status, message, kind="server_error", code=None, headers=()):
        self.send_json(status, {"error": {"message": message, "type": kind, "param": None, "code": code}}, headers)

    def do_GET(self):
        if self.path.endswith("/models"):
            if self.refuses_key():
                return
            self.send_json(200, {"object": "list", "data": [{"id": m, "object": "model"} for m in MODES]})
        elif self.path == "/stats":
            with self.state.lock:
                self.send_json(200, dict(self.state.counts, last=self.state.last))
        else:
            self.send_error_object(404, "no such path", "invalid_request_error")

    def refuses_key(self):
        key = self.options.key
        if not key or self.headers.get("Authorization") == "Bearer " + key:
            return False
        self.send_error_object(401, "Incorrect API key provided: " + str(self.headers.get("Authorization")),
                               "authentication_error", "invalid_api_key")
        return True

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.state.add("requests")
        try:
            self.request_json = json.loads(body)
        except ValueError:
            self.send_error_object(400, "the body is not JSON", "invalid_request_error")
            return
        with self.state.lock:
            self.state.last = {"path": self.path, "headers": dict(self.headers), "body": self.request_json}
        if self.refuses_key():
            return
        self.chat = "/chat/" in self.path
        name, _, number = str(self.request_json.get("model", "ok")).partition("/")
        self.number = int(number) if number.isdigit() else None
        try:
            getattr(self, "mode_" + name.replace("-", "_"), self.mode_ok)()
        except (BrokenPipeError, ConnectionResetError, ssl.SSLError):
            self.state.broken()
            self.close_connection = True

    # ---- streams ----

    def tokens(self):
        """What is left to say, after an assistant prefix where one was sent."""
        text = self.options.text
        messages = self.request_json.get("messages") or []
        said = ""
        if messages and messages[-1].get("role") == "assistant":
            said = messages[-1].get("content") or ""
        if text.startswith(said):
            text = text[len(said):]
        words = text.split(" ")
        words = [w if i == 0 else " " + w for i, w in enumerate(words)]
        limit = self.request_json.get("max_tokens") or self.request_json.get("max_completion_tokens")
        return words[:limit] if limit else words

    def begin(self, kind="text/event-stream"):
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

    def raw(self, data):
        if data:
            self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))

    def end(self):
        self.wfile.write(b"0\r\n\r\n")

    def event(self, value):
        text = value if isinstance(value, str) else json.dumps(value)
        self.raw(b"data: " + text.encode() + b"\n\n")

    def chunk(self, delta=None, finish=None, index=0, **more):
        choice = {"index": index, "finish_reason": finish}
        if self.chat:
            choice["delta"] = delta or {}
        else:
            choice["text"] = (delta or {}).get("content", "")
        choice.update(more)
        return {"id": "cmpl-fake", "object": "chat.completion.chunk", "created": int(time.time()),
                "model": str(self.request_json.get("model")), "choices": [choice]}

    def usage(self, completion, reasoning=0):
        return {"prompt_tokens": 7, "completion_tokens": completion, "total_tokens": 7 + completion,
                "prompt_tokens_details": {"cached_tokens": 3},
                "completion_tokens_details": {"reasoning_tokens": reasoning}}

    def usage_chunk(self, completion, reasoning=0):
        return {"id": "cmpl-fake", "object": "chat.completion.chunk", "model": str(self.request_json.get("model")),
                "choices": [], "usage": self.usage(completion, reasoning)}

    def say(self, count=None, delay_s=None):
        """The role and the first `count` tokens of each choice; returns how many were said."""
        delay_s = self.options.delay_ms / 1000 if delay_s is None else delay_s
        choices = self.request_json.get("n") or 1
        said = 0
        for index in range(choices):
            if self.chat:
                self.event(self.chunk({"role": "assistant", "content": ""}, index=index))
            for token in self.tokens()[:count]:
                if delay_s:
                    time.sleep(delay_s)
                self.event(self.chunk({"content": token}, index=index))
                said += 1
        return said

    def finish(self, said, reasoning=0, done=True, reason="stop"):
        for index in range(self.request_json.get("n") or 1):
            self.event(self.chunk({}, finish=reason, index=index))
        if (self.request_json.get("stream_options") or {}).get("include_usage"):
            self.event(self.usage_chunk(said, reasoning))
        if done:
            self.event("[DONE]")

    def hold(self):
        """Nothing more, until the client goes."""
        self.connection.settimeout(FIRST_TOKEN_STALL_S)
        try:
            gone = self.connection.recv(1) == b""
        except OSError:
            gone = True
        if gone:
            self.state.broken()
        self.close_connection = True

    def drop(self):
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    # ---- modes ----

    def mode_ok(self):
        if not self.request_json.get("stream"):
            self.mode_body()
            return
        self.begin()
        self.finish(self.say())
        self.end()

    def mode_slow(self):
        self.begin()
        self.finish(self.say(delay_s=(self.number or 50) / 1000))
        self.end()

    def mode_stall(self):
        self.begin()
        self.say(2 if self.number is None else self.number)
        self.hold()

    def mode_stall_first(self):
        self.begin()
        self.hold()

    def mode_mute(self):
        self.hold()

    def mode_ping(self):
        self.begin()
        while True:
            self.raw(b": still here\n\n")
            time.sleep(0.02)

    def mode_cut(self):
        self.begin()
        self.say(2 if self.number is None else self.number)
        self.drop()

    def mode_cut_once(self):
        if self.state.first("cut-once"):
            self.mode_cut()
        else:
            self.mode_ok()

    def mode_cut_clean(self):
        self.begin()
        self.say(2 if self.number is None else self.number)
        self.end()

    def mode_noend(self):
        self.begin()
        self.finish(self.say(), done=False)
        self.end()

    def mode_open_end(self):
        self.begin()
        self.finish(self.say(), done=False)
        self.hold()

    def mode_nousage(self):
        self.request_json.pop("stream_options", None)
        self.mode_ok()

    def mode_empty(self):
        self.begin()
        self.event("[DONE]")
        self.end()

    def mode_body(self):
        text = "".join(self.tokens())
        choices = []
        for index in range(self.request_json.get("n") or 1):
            choice = {"index": index, "finish_reason": "stop"}
            if self.chat:
                choice["message"] = {"role": "assistant", "content": text}
            else:
                choice["text"] = text
            choices.append(choice)
        self.send_json(200, {"id": "cmpl-fake", "object": "chat.completion", "created": int(time.time()),
                             "model": str(self.request_json.get("model")), "choices": choices,
                             "usage": self.usage(len(self.tokens()))})

    def mode_reasoning(self):
        self.begin()
        self.event(self.chunk({"role": "assistant", "content": None, "reasoning_content": "Let me"}))
        self.event(self.chunk({"reasoning_content": " think."}))
        said = self.say()
        self.finish(said + 2, reasoning=2)
        self.end()

    def mode_tools(self):
        self.begin()
        call = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "weather", "arguments": ""}}
        self.event(self.chunk({"role": "assistant", "content": None, "tool_calls": [call]}))
        for piece in ('{"city":', '"Ulm"}'):
            self.event(self.chunk({"tool_calls": [{"index": 0, "function": {"arguments": piece}}]}))
        self.finish(3, reason="tool_calls")
        self.end()

    def mode_logprobs(self):
        self.begin()
        for token in self.tokens():
            entry = {"token": token, "logprob": -0.5, "bytes": list(token.encode()),
                     "top_logprobs": [{"token": token, "logprob": -0.5, "bytes": list(token.encode())}]}
            self.event(self.chunk({"content": token}, logprobs={"content": [entry]}))
        self.finish(len(self.tokens()))
        self.end()

    def mode_dribble(self):
        self.begin()
        whole = b""
        for token in self.tokens():
            whole += b"data: " + json.dumps(self.chunk({"content": token}), ensure_ascii=False).encode() + b"\r\n\r\n"
        whole += b"data: " + json.dumps(self.chunk({}, finish="stop")).encode() + b"\r\n\r\ndata: [DONE]\r\n\r\n"
        for i in range(len(whole)):
            self.raw(whole[i:i + 1])
        self.end()

    def mode_big(self):
        self.begin()
        count = self.number or 20000
        one = b"data: " + json.dumps(self.chunk({"content": "x"})).encode() + b"\n\n"
        for _ in range(count // 100):
            self.raw(one * 100)
        self.finish(count)
        self.end()

    def mode_full(self):
        self.send_error_object(429, "slow down", "rate_limit_error", "rate_limit_exceeded",
                               [("Retry-After", str(2 if self.number is None else self.number))])

    def mode_full_ms(self):
        self.send_error_object(429, "slow down", "rate_limit_error", None,
                               [("Retry-After", "60"), ("retry-after-ms", str(self.number or 1500))])

    def mode_full_date(self):
        when = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + 10))
        self.send_error_object(429, "slow down", "rate_limit_error", None, [("Retry-After", when)])

    def mode_full_silent(self):
        self.send_error_object(429, "slow down", "rate_limit_error")

    def mode_quota(self):
        self.send_error_object(429, "You exceeded your current quota", "insufficient_quota", "insufficient_quota")

    def mode_fail(self):
        self.send_error_object(self.number or 500, "it is broken")

    def mode_fail_once(self):
        if self.state.first("fail-once"):
            self.mode_fail()
        else:
            self.mode_ok()

    def mode_unauthorized(self):
        self.send_error_object(401, "Incorrect API key provided: " + str(self.headers.get("Authorization")),
                               "authentication_error", "invalid_api_key")

    def mode_context(self):
        self.send_error_object(400, "This model's maximum context length is 8 tokens.", "invalid_request_error",
                               "context_length_exceeded")

    def mode_invalid(self):
        self.send_error_object(400, "temperature must be at most 2", "invalid_request_error")

    def mode_redirect(self):
        self.send_json(302, {}, [("Location", "http://127.0.0.1:1/elsewhere")])

    def mode_garbage(self):
        self.begin()
        self.raw(os.urandom(64) + b"\xff\x00 no events at all\n\n")
        self.end()

    def mode_garbage_json(self):
        self.begin()
        self.say(1)
        self.event('{"choices": [{"delta": {"content": "half')
        self.event("[DONE]")
        self.end()

    def mode_wrong_json(self):
        self.begin()
        self.event({"choices": {"index": "zero"}, "usage": [1, 2]})
        self.event("[DONE]")
        self.end()

    def mode_html(self):
        self.begin("text/html")
        self.raw(b"<!doctype html><title>Welcome</title><p>It works!</p>\n")
        self.end()

    def mode_error_event(self):
        self.begin()
        self.say(2 if self.number is None else self.number)
        self.event({"error": {"message": "the GPU is gone", "type": "server_error", "code": None}})
        self.end()

    def mode_longline(self):
        self.begin()
        self.raw(b'data: {"choices":[{"delta":{"content":"')
        for _ in range(160):
            self.raw(b"x" * 65536)
        self.raw(b'"}}]}\n\n')
        self.end()

    def mode_close(self):
        self.drop()

    def mode_reset(self):
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.connection.close()


class Server(socketserver.ThreadingMixIn, socketserver.TCPServer):
    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 128

    def handle_error(self, request, client_address):
        pass


class UnixServer(Server):
    address_family = socket.AF_UNIX


def watch_stdin():
    """Ends with the process that started it."""
    while sys.stdin.read(1):
        pass
    os._exit(0)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0],
                                     epilog="models: " + "; ".join(f"{k}: {v}" for k, v in MODES.items()))
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--unix")
    parser.add_argument("--text", default="one two three four five")
    parser.add_argument("--delay-ms", type=int, default=0)
    parser.add_argument("--key")
    parser.add_argument("--cert")
    parser.add_argument("--cert-key")
    parser.add_argument("--stay", action="store_true", help="do not end when stdin does")
    Handler.options = parser.parse_args()
    options = Handler.options
    if options.unix:
        server = UnixServer(options.unix, Handler)
        url = f"unix:{options.unix}:/v1"
    else:
        server = Server(("127.0.0.1", options.port), Handler)
        url = f"http{'s' if options.cert else ''}://127.0.0.1:{server.server_address[1]}/v1"
    if options.cert:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(options.cert, options.cert_key)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    print(url, flush=True)
    if not options.stay:
        threading.Thread(target=watch_stdin, daemon=True).start()
    server.serve_forever(poll_interval=0.05)


if __name__ == "__main__":
    main()
