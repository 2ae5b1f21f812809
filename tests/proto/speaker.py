"""An independent speaker of the wire: python3-zmq and python3-msgpack, and docs/protocol.md, whose tables it reads.

    with Speaker("ipc:///run/region.ipc", "probe") as s:
        s.send("SUBMIT", id="r1", model="auto", messages=[{"role": "user", "content": "hi"}])
        for name, fields in s.answers("r1"):
            ...

A map is a dict by field name on this side and by key number on the wire; keys that the page does not know are kept
under their number.
"""
import os
import re
import time

import msgpack
import zmq

PAGE = os.path.join(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))), "docs", "protocol.md")
VERSION = 1
CONTEXT = zmq.Context()  # never ended: that would wait for sockets a failed test left open
LIMIT_S = float(os.environ.get("RUNG_TEST_LIMIT_S", "30"))


def read_page(path=PAGE):
    """{name of a message or map: {field: (key, name of the map inside or None)}}, {message: type number}"""
    shapes, types, here = {}, {}, None
    with open(path, encoding="utf-8") as page:
        for line in page:
            head = re.match(r"### (?:map: )?(\w+)(?: \(type (\d+)\))?$", line.strip())
            row = re.match(r"\| (\d+) \| `(\w+)` \| ([^|]*) \|", line)
            if head:
                here = shapes.setdefault(head[1], {})
                if head[2]:
                    types[head[1]] = int(head[2])
            elif row and here is not None:
                inside = re.match(r"maps? of (\w+)", row[3].strip())
                here[row[2]] = (int(row[1]), inside[1] if inside else None)
    return shapes, types


SHAPES, TYPES = read_page()
NAMES = {number: name for name, number in TYPES.items()}


def to_wire(shape, fields):
    out = {}
    for name, value in fields.items():
        key, inside = SHAPES[shape][name] if isinstance(name, str) else (name, None)
        if inside and isinstance(value, list):
            value = [to_wire(inside, v) for v in value]
        elif inside and isinstance(value, dict):
            value = to_wire(inside, value)
        out[key] = value
    return out


def from_wire(shape, pairs):
    names = {key: (name, inside) for name, (key, inside) in SHAPES[shape].items()}
    out = {}
    for key, value in pairs.items():
        name, inside = names.get(key, (key, None))
        if inside and isinstance(value, list):
            value = [from_wire(inside, v) for v in value]
        elif inside and isinstance(value, dict):
            value = from_wire(inside, value)
        out[name] = value
    return out


def encode(name, wire_version=VERSION, **fields):
    return bytes([TYPES[name], wire_version]) + msgpack.packb(to_wire(name, fields), use_bin_type=True)


def decode(data):
    name = NAMES[data[0]]
    if data[1] != VERSION:
        raise ValueError(f"version {data[1]}")
    return name, from_wire(name, msgpack.unpackb(data[2:], raw=False, strict_map_key=False))


class Speaker:
    """A DEALER: a client, a node below, or a worker."""

    def __init__(self, endpoint, node="speaker", keys=None, server_key=None):
        self.node = node
        self.socket = CONTEXT.socket(zmq.DEALER)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.setsockopt(zmq.ROUTING_ID, node.encode())
        if keys:
            self.socket.curve_publickey, self.socket.curve_secretkey = keys
            self.socket.curve_serverkey = server_key
        self.socket.connect(endpoint)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self.socket.close(0)

    def send(self, name, **fields):
        self.socket.send(encode(name, **fields))

    def send_raw(self, *frames):
        self.socket.send_multipart(frames)

    def receive(self, limit_s=LIMIT_S):
        """(name, fields), or None when nothing came."""
        if not self.socket.poll(max(0, int(limit_s * 1000))):
            return None
        return decode(self.socket.recv())

    def until(self, *names, limit_s=LIMIT_S, **wanted):
        """The next message of one of these names with these fields. PINGs are answered, all else is passed over."""
        deadline = time.monotonic() + limit_s
        while True:
            got = self.receive(deadline - time.monotonic())
            if got is None:
                raise AssertionError(f"no {' or '.join(names)} within {limit_s} s")
            name, fields = got
            if name == "PING":
                self.send("PONG", **fields)
            if name in names and all(fields.get(k) == v for k, v in wanted.items()):
                return name, fields

    def answers(self, request):
        """All that is said of a request, to its end."""
        out = []
        while not out or out[-1][0] not in ("DONE", "ERROR"):
            out.append(self.until("START", "TOKEN", "DONE", "ERROR", id=request))
        return out

    def hello(self, role):
        self.send("HELLO", node=self.node, version="speaker", role=role, version_min=VERSION, version_max=VERSION)
        return self.until("READY")[1]

    def offer(self, *models, slots=1, **more):
        """As a worker: what it can do."""
        self.send("READY", node=self.node, models=list(models), slots=slots, slots_free=slots, **more)
