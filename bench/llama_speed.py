"""Rung's speed on a CPU against llama.cpp's: the same file, the same threads, by turns, medians and spread.

    python3 bench/llama_speed.py make DIR --vocab VOCAB.gguf      # files of random weights, mixed as llama-quantize mixes them
    python3 bench/llama_speed.py run DIR --peer PATH/bin [--only llama3.2-1b.Q8_0] [--what speed,batch,start,memory] [--rounds 1]
    python3 bench/llama_speed.py table DIR

`run` appends what it measures to DIR/results.jsonl, so that short calls on a busy machine add up; `table` prints the
medians with the least and the most in brackets. VOCAB.gguf gives the tokenizer; it is filled up to the shape's vocabulary, and
given as many merges as the real model has. PATH/bin holds llama-bench, llama-batched-bench and llama-simple.

speed   prefill of 512 tokens and decoding 128 from an empty context; each Rung call measures the memory's read rate first
batch   8 streams that decode 32 tokens after 128
start   process start to the end of a process that made one token after a prompt of 16, file in the page cache
memory  resident memory less the file's weights, after a context of 2048 was asked for and 1,500 tokens of it read
"""
import argparse
import json
import statistics
import struct
import subprocess
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
SHAPES = {  # arch, embedding, layers, heads, kv heads, feed-forward, vocabulary, rope base, merges; heads of 64, tied
    "llama3.2-1b": ("llama", 2048, 16, 32, 8, 8192, 128256, 5e5, 280147),
    "qwen2.5-0.5b": ("qwen2", 896, 24, 14, 2, 4864, 151936, 1e6, 151387),
}
TYPES = {  # number, elements and bytes of a block, where its f16 scale and minimum stand, how large its values are
    "F32": (0, 1, 4), "Q4_0": (2, 32, 18, 0, None, 5), "Q5_0": (6, 32, 22, 0, None, 9), "Q8_0": (8, 32, 34, 0, None, 70),
    "Q5_1": (7, 32, 24, 0, 2, 9), "Q4_K": (12, 256, 144, 0, 2, 150), "Q6_K": (14, 256, 210, 208, None, 1500)}
SMALLER_ROWS = {"Q4_K": "Q5_0", "Q6_K": "Q8_0"}  # for rows that are no multiple of 256
MIXES = ("Q8_0", "Q4_K_M", "Q4_0")
FILE_TYPES = {"Q8_0": 7, "Q4_K_M": 15, "Q4_0": 2}
SIZES = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
PROMPT = "The river ran past the mill and the old stone bridge to the sea"


# ---- files ----

class Reader:
    """The keys of a GGUF file: name to (kind, raw bytes, values if an array)."""

    def __init__(self, path):
        self.data, self.at = Path(path).read_bytes(), 4
        _, _, count = self.take("IQQ")
        self.keys = {}
        for _ in range(count):
            name = self.string().decode()
            kind, = self.take("I")
            start = self.at
            self.keys[name] = (kind, self.value(kind), self.data[start:self.at])

    def take(self, form):
        out = struct.unpack_from("<" + form, self.data, self.at)
        self.at += struct.calcsize("<" + form)
        return out

    def string(self):
        n, = self.take("Q")
        self.at += n
        return self.data[self.at - n:self.at]

    def value(self, kind):
        if kind == 8:
            return self.string()
        if kind == 9:
            element, n = self.take("IQ")
            return [self.value(element) for _ in range(n)]
        return self.take(SIZES[kind])[0]


def string(s):
    return struct.pack("<Q", len(s)) + s


def key(name, kind, raw):
    return string(name.encode()) + struct.pack("<I", kind) + raw


def array(kind, items):
    return struct.pack("<IQ", kind, len(items)) + b"".join(items)


def merges_of(tokens, wanted):
    """Every way to split a token into two others, in the order of the tokens: what byte-pair files list."""
    known, out = {t.decode() for t in tokens}, []
    for token in dict.fromkeys(t.decode() for t in tokens):
        for i in range(1, len(token)):
            if token[:i] in known and token[i:] in known:
                out.append(f"{token[:i]} {token[i:]}".encode())
    return out[:wanted]


def tokenizer(vocab, size, merges):
    read = Reader(vocab)
    tokens = read.keys["tokenizer.ggml.tokens"][1]
    kinds = read.keys["tokenizer.ggml.token_type"][1]
    spare = size - len(tokens)
    listed = merges_of([t for t, k in zip(tokens, kinds) if k == 1], merges)
    keys = [key("tokenizer.ggml.tokens", 9, array(8, [string(t) for t in tokens + [b"[PAD%d]" % i for i in range(spare)]])),
            key("tokenizer.ggml.token_type", 9, array(5, [struct.pack("<i", k) for k in kinds + [5] * spare])),
            key("tokenizer.ggml.merges", 9, array(8, [string(m) for m in listed]))]
    keys += [key(n, k, raw) for n, (k, _, raw) in read.keys.items()
             if n.startswith("tokenizer.") and n.split(".")[-1] not in ("tokens", "token_type", "merges", "scores")]
    return keys


def type_of(mix, role, layer, layers, k):
    kind = "Q4_K" if mix == "Q4_K_M" else mix
    finer = layer < layers // 8 or layer >= 7 * layers // 8 or (layer - layers // 8) % 3 == 2
    if mix != "Q8_0" and role == "output" or mix == "Q4_K_M" and role in ("v", "down") and finer:
        kind = "Q6_K"
    return kind if k % TYPES[kind][1] == 0 else SMALLER_ROWS[kind]


def random_rows(rng, kind, k, rows):
    _, elements, size, at, least, divide = TYPES[kind]
    raw = np.frombuffer(rng.bytes(k * rows // elements * size), np.uint8).reshape(-1, size).copy()
    raw[:, at:at + 2] = np.array([k ** -0.5 / divide], np.float16).view(np.uint8)
    if least is not None:
        raw[:, least:least + 2] = np.array([k ** -0.5 / 20], np.float16).view(np.uint8)
    return raw.tobytes()


def tensors_of(shape, mix):
    arch, d, layers, heads, kv, ff, vocabulary, _, _ = SHAPES[shape]
    yield "token_embd.weight", type_of(mix, "output", 0, layers, d), d, vocabulary
    yield "output_norm.weight", "F32", d, 0
    for i in range(layers):
        rows = [("attn_norm", "", d, 0), ("attn_q", "", d, heads * 64), ("attn_k", "", d, kv * 64), ("attn_v", "v", d, kv * 64),
                ("attn_output", "", heads * 64, d), ("ffn_norm", "", d, 0), ("ffn_gate", "", d, ff), ("ffn_up", "", d, ff),
                ("ffn_down", "down", ff, d)]
        for name, role, k, n in rows:
            yield f"blk.{i}.{name}.weight", type_of(mix, role, i, layers, k) if n else "F32", k, n
            if arch == "qwen2" and name in ("attn_q", "attn_k", "attn_v"):
                yield f"blk.{i}.{name}.bias", "F32", n, 0


def make(options):
    options.dir.mkdir(parents=True, exist_ok=True)
    for shape, (arch, d, layers, heads, kv, ff, vocabulary, base, merges) in SHAPES.items():
        words = tokenizer(options.vocab, vocabulary, merges)
        ints = {"embedding_length": d, "block_count": layers, "attention.head_count": heads, "attention.head_count_kv": kv,
                "feed_forward_length": ff, "context_length": 32768, "rope.dimension_count": 64, "vocab_size": vocabulary}
        for mix in MIXES:
            rng, tensors = np.random.default_rng(1), list(tensors_of(shape, mix))
            keys = [key("general.architecture", 8, string(arch.encode())), key("general.name", 8, string(shape.encode())),
                    key("general.file_type", 4, struct.pack("<I", FILE_TYPES[mix]))]
            keys += [key(f"{arch}.{n}", 4, struct.pack("<I", v)) for n, v in ints.items()]
            keys += [key(f"{arch}.{n}", 6, struct.pack("<f", v)) for n, v in
                     {"attention.layer_norm_rms_epsilon": 1e-5, "rope.freq_base": base}.items()] + words
            table, at = b"", 0
            for name, kind, k, n in tensors:
                table += string(name.encode()) + struct.pack("<I", 2 if n else 1) + struct.pack("<Q", k) + (struct.pack("<Q", n) if n else b"")
                table += struct.pack("<IQ", TYPES[kind][0], at)
                at += -(-(k * max(n, 1) // TYPES[kind][1] * TYPES[kind][2]) // 32) * 32
            head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(keys)) + b"".join(keys) + table
            with open(options.dir / f"{shape}.{mix}.gguf", "wb") as f:
                f.write(head + bytes(-len(head) % 32))
                for _, kind, k, n in tensors:
                    raw = np.ones(k, np.float32).tobytes() if not n else random_rows(rng, kind, k, n)
                    f.write(raw + bytes(-len(raw) % 32))
            print(f"{shape}.{mix}.gguf", flush=True)


# ---- runs ----

def run_rung(options, *args):
    return subprocess.run([options.rung, *args], capture_output=True, text=True, check=True).stdout


def run_peer(options, program, *args):
    return subprocess.run([options.peer / program, *args], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True).stdout


def rung_rates(options, model, *args):
    lines = [json.loads(line) for line in run_rung(options, "bench", "engine", "-m", model, "-t", "2", "-r", "1", "--json", *args).splitlines()]
    out = {"read_gb_per_s": lines[0]["read_gb_per_s"], "token_mb": lines[0]["token_bytes"] * 1e-6}
    return out | {row["what"]: row["tokens_per_s"] for row in lines[1:]}


def speed(options, model):
    ours = rung_rates(options, model, "-p", "512", "-n", "128", "-d", "0")
    rows = json.loads(run_peer(options, "llama-bench", "-m", model, "-p", "512", "-n", "128", "-t", "2", "-r", "1", "-o", "json"))
    return ours, {"prefill" if row["n_prompt"] else "decode": row["avg_ts"] for row in rows}


def batch(options, model):
    ours = rung_rates(options, model, "-p", "0", "-n", "32", "-b", "8", "-d", "128")
    out = run_peer(options, "llama-batched-bench", "-m", model, "-c", "2048", "-b", "512", "-npp", "128", "-ntg", "32", "-npl", "8",
                   "-t", "2", "--output-format", "jsonl")
    row = [json.loads(line) for line in out.splitlines() if line.startswith("{")][-1]
    return {"batch8": ours["decode"], "read_gb_per_s": ours["read_gb_per_s"]}, {"batch8": row["speed_tg"]}


def seconds_of(command):
    start = time.monotonic()
    subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
    return time.monotonic() - start


def first_tokens(options, model):
    ours = seconds_of([options.rung, "generate", "-m", model, "-p", PROMPT, "--raw", "-n", "1", "-t", "2", "-c", "2048"])
    theirs = seconds_of([options.peer / "llama-simple", "-m", model, "-n", "1", PROMPT])
    return {"start_ms": ours * 1e3}, {"start_ms": theirs * 1e3}


def resident(command, weights):
    """Megabytes beside the weights: the median over the second half of the process's life, when it decodes or reads the prompt."""
    looks = []
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while process.poll() is None:
            try:
                looks.append(int(Path(f"/proc/{process.pid}/status").read_text().split("VmRSS:")[1].split()[0]) * 1024)
            except (OSError, IndexError):
                pass
            time.sleep(0.02)
    return (statistics.median(looks[len(looks) // 2:]) - weights) * 1e-6


def memory(options, model):
    text = " ".join([PROMPT] * 110)  # some 1,500 tokens
    shape, mix = Path(model).name.split(".gguf")[0].rsplit(".", 1)
    weights = sum(k * max(n, 1) // TYPES[kind][1] * TYPES[kind][2] for _, kind, k, n in tensors_of(shape, mix))
    ours = resident([options.rung, "generate", "-m", model, "-p", text, "--raw", "-n", "24", "-t", "2", "-c", "2048", "--ignore-eos"], weights)
    theirs = resident([options.peer / "llama-completion", "-m", model, "-p", text, "-n", "24", "-t", "2", "-c", "2048", "--ignore-eos",
                       "-no-cnv", "--no-warmup"], weights)
    return {"memory_mb": ours}, {"memory_mb": theirs}


KINDS = {"speed": speed, "batch": batch, "start": first_tokens, "memory": memory}


def run(options):
    for path in sorted(options.dir.glob("*.gguf")):
        if options.only and options.only not in path.name:
            continue
        for what in options.what.split(","):
            for _ in range(options.rounds):
                ours, theirs = KINDS[what](options, str(path))
                row = {"file": path.name[:-5], "rung": ours, "llama.cpp": theirs}
                print(json.dumps(row), flush=True)
                with open(options.dir / "results.jsonl", "a") as f:
                    f.write(json.dumps(row) + "\n")


def cell(values, digits):
    if not values:
        return "–"
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f}–{max(values):.{digits}f})"


def table(options):
    rows = [json.loads(line) for line in open(options.dir / "results.jsonl")]
    for name in sorted({row["file"] for row in rows}):
        mine = [row for row in rows if row["file"] == name]
        for what, digits in (("prefill", 0), ("decode", 1), ("batch8", 1), ("start_ms", 0), ("memory_mb", 0)):
            ours, theirs = ([row[side][what] for row in mine if what in row[side]] for side in ("rung", "llama.cpp"))
            if not ours:
                continue
            share = [row["rung"]["decode"] * row["rung"]["token_mb"] * 1e-3 / row["rung"]["read_gb_per_s"] for row in mine if what in row["rung"]] \
                if what == "decode" else []
            reads = [row["rung"]["read_gb_per_s"] for row in mine if what == "decode" and what in row["rung"]]
            note = f", {100 * statistics.median(share):.0f} % of {cell(reads, 1)} GB/s" if share else ""
            print(f"{name:22} {what:10} {cell(ours, digits):24} {cell(theirs, digits):24} {statistics.median(ours) / statistics.median(theirs):.2f}{note}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("make", "run", "table"))
    parser.add_argument("dir", type=Path)
    parser.add_argument("--vocab")
    parser.add_argument("--peer", type=Path, help="llama.cpp's build/bin")
    parser.add_argument("--rung", default=str(ROOT / "build" / "rung"))
    parser.add_argument("--only", help="only files with this in their name")
    parser.add_argument("--what", default=",".join(KINDS))
    parser.add_argument("--rounds", type=int, default=1)
    options = parser.parse_args()
    {"make": make, "run": run, "table": table}[options.command](options)


if __name__ == "__main__":
    main()
