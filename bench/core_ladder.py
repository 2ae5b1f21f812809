"""A model of the DeepSeek-LLM-67B shape behind a whole ladder on one machine; prints a transcript.

    python3 bench/core_ladder.py make FILE [--layers 95]        # W4A16, random weights, the demo's tokenizer filled up: 36 GB
    python3 bench/core_ladder.py run FILE [--streams 1,8,64] [--prompt 128] [--tokens 128] [--kv f16] [--temperature 0] [--rung build/rung]

edge, region and core are three processes; requests enter at the edge's socket and travel edge → region → core over ZeroMQ, the
tokens back again. Every stream is one streamed chat of its own prompt. TTFT is from the request to its first token, `between` from a
token to the next one, both as the client sees them. The first lines: a process' start to its first token, the file in the page cache
(the second and third call), and until core says that it is ready. GPU figures are core's own metrics while the streams run.
"""
import argparse
import http.client
import json
import os
import random
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from llama_speed import Reader, key, string

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests" / "system")]
SHAPE = {"embedding_length": 8192, "block_count": 95, "attention.head_count": 64, "attention.head_count_kv": 8, "feed_forward_length": 22016,
         "context_length": 4096, "rope.dimension_count": 128, "vocab_size": 102400}
GROUP, PANEL_ROWS, GRANULE, POOL, F32, F16, I8 = 128, 8, 528, 1 << 26, 0, 1, 24


# ---- the file ----

def tokenizer_keys(path):
    """The keys of the demo's tokenizer; its tokens filled up with words to the shape's vocabulary."""
    read, keys = Reader(path), []
    for name, (kind, value, raw) in read.keys.items():
        if not name.startswith("tokenizer."):
            continue
        if name in ("tokenizer.ggml.tokens", "tokenizer.ggml.token_type"):
            words = name.endswith("tokens")
            spare = [f"w{i}\u0120".encode() if words else 1 for i in range(SHAPE["vocab_size"] - len(value))]
            items = [string(v) if words else struct.pack("<i", v) for v in value + spare]
            raw = struct.pack("<IQ", 8 if words else 5, len(items)) + b"".join(items)
        keys.append(key(name, kind, raw))
    return keys


def tensors(layers):
    d, kv, ff, vocabulary = 8192, 1024, 22016, SHAPE["vocab_size"]
    yield "output_norm.weight", F32, d, 0
    yield "token_embd.weight", F16, d, vocabulary
    yield "output.weight", F16, d, vocabulary
    for i in range(layers):
        for name, k, rows in (("attn_norm", d, 0), ("ffn_norm", d, 0), ("attn_q", d, d), ("attn_k", d, kv), ("attn_v", d, kv),
                              ("attn_output", d, d), ("ffn_gate", d, ff), ("ffn_up", d, ff), ("ffn_down", ff, d)):
            yield f"blk.{i}.{name}.weight", I8 if rows else F32, k, rows


def size_of(kind, k, rows):
    return k * 4 if not rows else k * rows * 2 if kind == F16 else rows // PANEL_ROWS * (k // GROUP) * GRANULE


def pool_of(kind, k, rng):
    """Random elements of about 1/√k, which tensors are cut from."""
    if kind == F16:
        return (rng.standard_normal(POOL // 2, np.float32) * k ** -0.5).astype(np.float16).tobytes()
    raw = np.frombuffer(rng.bytes(POOL // GRANULE * GRANULE), np.uint8).reshape(-1, GRANULE).copy()
    raw[:, 512:] = np.full((1, 8), k ** -0.5 / 4.6, np.float16).view(np.uint8)
    return raw.tobytes()


def make(options):
    rows, at, table, own = list(tensors(options.layers)), 0, b"", []
    places = []
    for name, kind, k, n in rows:
        size = size_of(kind, k, n)
        shape = [k] if not n else [k, n] if kind != I8 else [size // n, n]
        own += [name] if kind == I8 else []
        table += string(name.encode()) + struct.pack("<I", len(shape)) + b"".join(struct.pack("<Q", s) for s in shape) + struct.pack("<IQ", kind, at)
        places.append(at)
        at += -(-size // 64) * 64
    ints = SHAPE | {"block_count": options.layers}
    keys = [key("general.architecture", 8, string(b"llama")), key("general.name", 8, string(b"deepseek-67b-shape")),
            key("rung.weights.version", 4, struct.pack("<I", 1)),
            key("rung.weights.w4a16", 9, struct.pack("<IQ", 8, len(own)) + b"".join(string(n.encode()) for n in own))]
    keys += [key(f"llama.{n}", 4, struct.pack("<I", v)) for n, v in ints.items()]
    keys += [key("llama.attention.layer_norm_rms_epsilon", 6, struct.pack("<f", 1e-5)), key("llama.rope.freq_base", 6, struct.pack("<f", 1e4))]
    keys += tokenizer_keys(ROOT / "models" / "core.q8_0.gguf")
    head = b"GGUF" + struct.pack("<IQQ", 3, len(rows), len(keys)) + b"".join(keys) + table
    head += bytes(-len(head) % 32)
    rng = np.random.default_rng()
    pools = {(kind, k): pool_of(kind, k, rng) for kind, k in {(kind, k) for _, kind, k, n in rows if n}}
    began = time.monotonic()
    with open(options.file, "wb") as f:
        f.write(head)
        os.posix_fallocate(f.fileno(), 0, len(head) + at)

        def fill(i):
            _, kind, k, n = rows[i]
            left, to = size_of(kind, k, n), len(head) + places[i]
            pool = memoryview(pools[kind, k] if n else np.ones(k, np.float32).tobytes())
            start = GRANULE * (i * 131 % 1000) if kind == I8 else 0
            while left:
                wrote = os.pwrite(f.fileno(), pool[start:start + min(left, len(pool) - start)], to)
                left, to, start = left - wrote, to + wrote, 0
        with ThreadPoolExecutor(8) as workers:
            list(workers.map(fill, range(len(rows))))
    print(f"{options.file}: {(len(head) + at) * 1e-9:.2f} GB in {time.monotonic() - began:.1f} s", flush=True)


# ---- the run ----

def first_token(options):
    command = [options.rung, "generate", "-m", options.file, "--raw", "-p", "12 and 30 are", "-n", "1", "--ignore-eos", "--temp", "0",
               "--kernels", options.kernels, "-c", "512"]
    for i in range(3):
        began = time.monotonic()
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        process.stdout.read(1)
        first = time.monotonic() - began
        _, said = process.communicate()
        if process.returncode:
            sys.exit(said.decode())
        print(f"process start to the first token's text, call {i + 1}: {first:.2f} s, to the end {time.monotonic() - began:.2f} s", flush=True)


def ask(path, prompt, options, out):
    from ladder import UnixHTTP
    began, times = time.monotonic(), []
    try:
        connection = UnixHTTP(path, 300)
        connection.request("POST", "/v1/chat/completions", json.dumps(
            {"model": "core", "messages": [{"role": "user", "content": prompt}], "stream": True, "max_tokens": options.tokens, "ignore_eos": True,
             "temperature": options.temperature, "stream_options": {"include_usage": True}}), {"content-type": "application/json"})
        response, usage = connection.getresponse(), {}
        if response.status != 200:
            raise RuntimeError(response.read().decode())
        for line in response:
            if not line.startswith(b"data: {"):
                continue
            event = json.loads(line[6:])
            usage = event.get("usage") or usage
            if event.get("error"):
                raise RuntimeError(str(event["error"]))
            if event.get("choices") and event["choices"][0].get("delta", {}).get("content"):
                times.append(time.monotonic())
        out.append({"began": began, "times": times, "prompt": usage["prompt_tokens"], "tokens": usage["completion_tokens"]})
    except (RuntimeError, OSError, http.client.HTTPException, KeyError) as error:
        out.append({"error": str(error)})


def watch(core, stop, seen):
    names = ("rung_gpu_utilization", "rung_gpu_memory_used_bytes", "rung_gpu_power_watts", "rung_engine_batch", "rung_engine_pages_used")
    while not stop.wait(0.5):
        for name in names:
            value = core.metric(name)
            if value is not None:
                seen.setdefault(name, []).append(value)


def percentile(values, p):
    values = sorted(values)
    return values[min(len(values) - 1, int(p * len(values)))] if values else float("nan")


def words(rng, tokens):
    return " ".join(str(rng.randrange(10)) for _ in range(tokens // 2))


def together(edge, core, streams, options):
    rng, out, stop, seen = random.Random(streams), [], threading.Event(), {}
    threads = [threading.Thread(target=ask, args=(edge.socket, words(rng, options.prompt), options, out)) for _ in range(streams)]
    watcher = threading.Thread(target=watch, args=(core, stop, seen))
    watcher.start()
    began = time.monotonic()
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    took = time.monotonic() - began
    stop.set()
    watcher.join()
    good = [o for o in out if "error" not in o]
    for o in [o for o in out if "error" in o][:3]:
        print(f"  failed: {o['error'][:200]}")
    if not good:
        return
    first = [o["times"][0] - o["began"] for o in good]
    between = [b - a for o in good for a, b in zip(o["times"], o["times"][1:])]
    tokens = sum(o["tokens"] for o in good)
    decoding = max(o["times"][-1] for o in good) - max(o["times"][0] for o in good)
    late = max(o["times"][0] for o in good)
    steady = sum(sum(t > late for t in o["times"]) for o in good) / decoding if decoding > 0 else float("nan")
    gpu = {name: statistics.mean(v) for name, v in seen.items()}
    print(f"{streams:4} streams, {statistics.mean(o['prompt'] for o in good):.0f} tokens in, {statistics.mean(o['tokens'] for o in good):.0f} out: "
          f"{tokens / took:7.1f} tokens/s in all ({steady:.0f} once all had begun), TTFT p50 {1e3 * percentile(first, .5):.0f} p99 {1e3 * percentile(first, .99):.0f} ms, "
          f"between p50 {1e3 * percentile(between, .5):.1f} p99 {1e3 * percentile(between, .99):.1f} ms; GPU busy {100 * gpu.get('rung_gpu_utilization', 0):.0f} %, "
          f"{gpu.get('rung_gpu_memory_used_bytes', 0) * 1e-9:.1f} GB, {gpu.get('rung_gpu_power_watts', 0):.0f} W, {gpu.get('rung_engine_pages_used', 0):.0f} KV pages", flush=True)


def run(options):
    os.environ["RUNG_BIN"] = options.rung
    from ladder import Ladder, until
    first_token(options)
    with tempfile.TemporaryDirectory(dir="/tmp") as folder, Ladder(folder) as ladder:
        most = max(options.streams)
        began = time.monotonic()
        core = ladder.core(backends=[{"name": "gpu", "type": "local", "model_file": options.file, "kernels": options.kernels, "kv": options.kv, "slots": most,
                                      "queue_max": most, "context_tokens": 2 * (options.prompt + options.tokens)}], node={"warm": True})
        until(core.ready, "core is ready", 120)
        print(f"core's start until it is ready (warm): {time.monotonic() - began:.2f} s", flush=True)
        ladder.region(backends=[ladder.peer("core")])
        edge = ladder.edge(backends=[ladder.peer("region")])
        edge.until_tiers("core")
        together(edge, core, 1, argparse.Namespace(**vars(options) | {"tokens": 8}))
        print("edge → region → core over ZeroMQ:", flush=True)
        for streams in options.streams:
            together(edge, core, streams, options)
        for row in edge.rows("SELECT tier, count(*) AS requests, sum(completion_tokens) AS tokens FROM decisions GROUP BY tier"):
            print("edge's log:", row)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=("make", "run"))
    parser.add_argument("file")
    parser.add_argument("--layers", type=int, default=95)
    parser.add_argument("--streams", type=lambda s: [int(n) for n in s.split(",")], default=[1, 8, 64])
    parser.add_argument("--prompt", type=int, default=128)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--kv", default="f16")
    parser.add_argument("--kernels", default="cuda")
    parser.add_argument("--temperature", type=float, default=0)
    parser.add_argument("--rung", default=str(ROOT / "build" / "rung"))
    options = parser.parse_args()
    make(options) if options.what == "make" else run(options)


if __name__ == "__main__":
    main()
