"""Small GGUF files with random weights, and what they mean in float64: the independent reference of the engine.

Nothing here is shared with the C code: types are taken apart from their published layouts, the transformer is
written down in numpy as the papers have it.
"""
import struct

import numpy as np

TYPES = {"F32": 0, "F16": 1, "Q4_0": 2, "Q4_1": 3, "Q5_0": 6, "Q5_1": 7, "Q8_0": 8, "Q2_K": 10, "Q3_K": 11, "Q4_K": 12,
         "Q5_K": 13, "Q6_K": 14, "IQ4_NL": 20, "BF16": 30, "FP8": 24, "W4A16": 24}
OWN = ("FP8", "W4A16")  # I8 to GGUF; keys of ours name them
PLAIN = ("F32", "F16", "BF16", *OWN)  # their inputs are not rounded
IQ4_NL = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], dtype=np.float64)


# ---- types: random blocks, and their values ----

def half(rng, rows, scale):
    """A column of positive f16 numbers around scale, as bytes and as float64."""
    h = (scale * rng.uniform(0.5, 1.5, size=(rows, 1))).astype(np.float16)
    return h.view(np.uint8).reshape(rows, 2), h.astype(np.float64)


def byte(rng, rows, n):
    return rng.integers(0, 256, size=(rows, n), dtype=np.uint8)


def low_high(b):
    """Nibbles: the low halves of the bytes, then the high ones."""
    return np.concatenate([b & 15, b >> 4], axis=1).astype(np.float64)


def bits32(b):
    return np.unpackbits(b, axis=1, bitorder="little").astype(np.float64)


def k4_scales(s):
    sc = np.concatenate([s[:, 0:4] & 63, (s[:, 8:12] & 15) | (s[:, 0:4] >> 6) << 4], axis=1)
    mn = np.concatenate([s[:, 4:8] & 63, (s[:, 8:12] >> 4) | (s[:, 4:8] >> 6) << 4], axis=1)
    return sc.astype(np.float64), mn.astype(np.float64)


def blocks(kind, rng, n, scale):
    """n random blocks of a type: (bytes, values)."""
    if kind == "Q8_0":
        d, dv = half(rng, n, scale / 70)
        q = byte(rng, n, 32)
        return np.concatenate([d, q], axis=1), dv * q.view(np.int8).astype(np.float64)
    if kind in ("Q4_0", "IQ4_NL"):
        d, dv = half(rng, n, scale / (4.6 if kind == "Q4_0" else 65))
        q = byte(rng, n, 16)
        v = low_high(q) - 8 if kind == "Q4_0" else IQ4_NL[low_high(q).astype(int)]
        return np.concatenate([d, q], axis=1), dv * v
    if kind == "Q4_1":
        d, dv = half(rng, n, scale / 4.6)
        m, mv = half(rng, n, scale * 1.6)
        m[:, 1] |= 0x80
        q = byte(rng, n, 16)
        return np.concatenate([d, m, q], axis=1), dv * low_high(q) - mv
    if kind in ("Q5_0", "Q5_1"):
        d, dv = half(rng, n, scale / 9)
        h, q = byte(rng, n, 4), byte(rng, n, 16)
        v = low_high(q) + 16 * bits32(h)
        if kind == "Q5_0":
            return np.concatenate([d, h, q], axis=1), dv * (v - 16)
        m, mv = half(rng, n, scale * 1.6)
        m[:, 1] |= 0x80
        return np.concatenate([d, m, h, q], axis=1), dv * v - mv
    if kind in ("Q4_K", "Q5_K"):
        d, dv = half(rng, n, scale / (150 if kind == "Q4_K" else 300))
        m, mv = half(rng, n, scale / 20)
        s, q = byte(rng, n, 12), byte(rng, n, 128)
        sc, mn = k4_scales(s)
        v = np.stack([low_high(q[:, i * 32:i * 32 + 32]).reshape(n, 2, 32) for i in range(4)], axis=1).reshape(n, 8, 32)
        if kind == "Q5_K":
            h = byte(rng, n, 32)
            v = v + 16 * np.stack([(h >> j) & 1 for j in range(8)], axis=1)
            raw = np.concatenate([d, m, s, h, q], axis=1)
        else:
            raw = np.concatenate([d, m, s, q], axis=1)
        return raw, (dv[:, :, None] * sc[:, :, None] * v - mv[:, :, None] * mn[:, :, None]).reshape(n, 256)
    if kind == "Q6_K":
        ql, qh, sc = byte(rng, n, 128), byte(rng, n, 64), byte(rng, n, 16)
        d, dv = half(rng, n, scale / 1500)
        v = np.zeros((n, 256))
        for h in range(2):
            for l in range(32):
                a, b, c = ql[:, h * 64 + l], ql[:, h * 64 + 32 + l], qh[:, h * 32 + l]
                v[:, h * 128 + l] = (a & 15) | (c & 3) << 4
                v[:, h * 128 + 32 + l] = (b & 15) | (c >> 2 & 3) << 4
                v[:, h * 128 + 64 + l] = (a >> 4) | (c >> 4 & 3) << 4
                v[:, h * 128 + 96 + l] = (b >> 4) | (c >> 6 & 3) << 4
        scale_of = np.repeat(sc.view(np.int8).astype(np.float64), 16, axis=1)
        return np.concatenate([ql, qh, sc, d], axis=1), dv * scale_of * (v - 32)
    if kind == "Q2_K":
        s, q = byte(rng, n, 16), byte(rng, n, 64)
        d, dv = half(rng, n, scale / 8)
        m, mv = half(rng, n, scale / 5)
        v = np.stack([(q[:, h * 32:h * 32 + 32] >> (2 * j)) & 3 for h in range(2) for j in range(4)], axis=1).reshape(n, 256)
        sc, mn = np.repeat(s & 15, 16, axis=1).astype(np.float64), np.repeat(s >> 4, 16, axis=1).astype(np.float64)
        return np.concatenate([s, q, d, m], axis=1), dv * sc * v - mv * mn
    if kind == "Q3_K":
        h, q, s = byte(rng, n, 32), byte(rng, n, 64), byte(rng, n, 12)
        d, dv = half(rng, n, scale / 45)
        v = np.stack([(q[:, p * 32:p * 32 + 32] >> (2 * j)) & 3 for p in range(2) for j in range(4)], axis=1).astype(np.float64)
        v += 4.0 * np.stack([(h >> j) & 1 for j in range(8)], axis=1) - 4
        sc = np.zeros((n, 16))
        for i in range(16):
            low = s[:, i % 8] & 15 if i < 8 else s[:, i % 8] >> 4
            high = s[:, 8 + i % 4] >> (2 * (i // 4)) & 3
            sc[:, i] = (low | high << 4).astype(np.float64) - 32
        return np.concatenate([h, q, s, d], axis=1), dv * np.repeat(sc, 16, axis=1) * v.reshape(n, 256)
    raise ValueError(kind)


def fp8(rng, shape, scale):
    """E4M3 bytes near normally spread numbers, then a scale for each row: (bytes, values)."""
    x = np.abs(rng.standard_normal(shape)) * 80
    raw = np.clip((np.log2(np.maximum(x, 2.0 ** -9)) + 7) * 8, 0, 126).astype(np.uint8)
    raw |= rng.integers(0, 2, size=shape, dtype=np.uint8) << 7
    e, m = (raw >> 3 & 15).astype(np.float64), (raw & 7).astype(np.float64)
    v = np.where(e > 0, 2.0 ** (e - 7) * (1 + m / 8), 2.0 ** -6 * m / 8) * np.where(raw >> 7, -1, 1)
    row = (scale / 80 * rng.uniform(0.5, 1.5, size=shape[:-1])).astype(np.float32)
    return raw.tobytes() + row.tobytes(), v * row.astype(np.float64)[..., None]


def w4a16(rng, shape, scale):
    """Random nibbles and F16 group scales as the format's page lays them out: (bytes, values)."""
    rows, k = int(np.prod(shape[:-1])), shape[-1]
    nibble = rng.integers(0, 16, size=(rows // 8, 8, k // 128, 4, 4, 8), dtype=np.uint32)  # panel, row, group, j, t, e
    d = (scale / 4.6 * rng.uniform(0.5, 1.5, size=(rows // 8, 8, k // 128))).astype(np.float16)
    words = (nibble << (4 * np.array([0, 4, 1, 5, 2, 6, 3, 7], dtype=np.uint32))).sum(-1, dtype=np.uint32)
    words = words.transpose(0, 2, 1, 4, 3)  # panel, group, row, t, j: a lane is (row, t)
    granule = np.concatenate([np.ascontiguousarray(words).view(np.uint8).reshape(rows // 8, k // 128, 512),
                              np.ascontiguousarray(d.transpose(0, 2, 1)).view(np.uint8).reshape(rows // 8, k // 128, 16)], axis=2)
    v = (nibble.astype(np.float64) - 8) * d.astype(np.float64)[..., None, None, None]
    return granule.tobytes(), v.reshape(shape)


SIZE = {"Q2_K": 256, "Q3_K": 256, "Q4_K": 256, "Q5_K": 256, "Q6_K": 256}


def tensor(kind, rng, shape, scale):
    """A random tensor (rows…, k): (type, bytes, float64 values)."""
    if kind in ("F32", "F16", "BF16"):
        v = (rng.standard_normal(shape) * scale).astype(np.float32)
        if kind == "F32":
            return kind, v.tobytes(), v.astype(np.float64)
        if kind == "F16":
            h = v.astype(np.float16)
            return kind, h.tobytes(), h.astype(np.float64)
        b = v.view(np.uint32) >> 16
        return kind, b.astype(np.uint16).tobytes(), (b << 16).astype(np.uint32).view(np.float32).astype(np.float64)
    if kind in OWN:
        return kind, *(fp8 if kind == "FP8" else w4a16)(rng, shape, scale)
    raw, v = blocks(kind, rng, int(np.prod(shape)) // SIZE.get(kind, 32), scale)
    return kind, np.ascontiguousarray(raw, dtype=np.uint8).tobytes(), v.reshape(shape)


# ---- the file ----

def gguf_string(s):
    b = s if isinstance(s, bytes) else s.encode()
    return struct.pack("<Q", len(b)) + b


def gguf_value(v):
    if isinstance(v, bool):
        return struct.pack("<I?", 7, v)
    if isinstance(v, int):
        return struct.pack("<II", 4, v)
    if isinstance(v, float):
        return struct.pack("<If", 6, v)
    if isinstance(v, str):
        return struct.pack("<I", 8) + gguf_string(v)
    if v and isinstance(v[0], str):
        return struct.pack("<IIQ", 9, 8, len(v)) + b"".join(map(gguf_string, v))
    return struct.pack("<IIQ", 9, 5, len(v)) + struct.pack("<%di" % len(v), *v)


def byte_pieces():
    """GPT-2's printable stand-ins for the 256 bytes."""
    plain = list(range(33, 127)) + list(range(161, 173)) + list(range(174, 256))
    extra = [b for b in range(256) if b not in plain]
    return {b: chr(b) for b in plain} | {b: chr(256 + i) for i, b in enumerate(extra)}


def tokenizer_keys(vocabulary):
    pieces = byte_pieces()
    tokens = [pieces[b] for b in range(256)] + ["<|end|>"] + ["<|x%d|>" % i for i in range(vocabulary - 257)]
    return {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "gpt-2", "tokenizer.ggml.tokens": tokens,
            "tokenizer.ggml.token_type": [1] * 256 + [3] * (vocabulary - 256), "tokenizer.ggml.merges": ["h e", "l l"],
            "tokenizer.ggml.eos_token_id": 256, "tokenizer.ggml.add_bos_token": False}


def in_file(tensors):
    """[(name, type, shape, bytes)]: what GGUF sees of them, scales of FP8 as tensors of their own."""
    for name, (kind, raw, values) in tensors.items():
        shape = list(values.shape[::-1])
        if kind == "FP8":
            yield name, kind, shape, raw[:values.size]
            yield name + ".scale", "F32", shape[1:], raw[values.size:]
        else:
            yield name, kind, [66 * shape[0] // 128, *shape[1:]] if kind == "W4A16" else shape, raw


def write(path, keys, tensors):
    for kind in OWN:
        names = [name for name, t in tensors.items() if t[0] == kind]
        keys = keys | ({"rung.weights.version": 1, "rung.weights." + kind.lower(): names} if names else {})
    tensors = list(in_file(tensors))
    out = struct.pack("<IIQQ", 0x46554747, 3, len(tensors), len(keys))
    for k, v in keys.items():
        out += gguf_string(k) + gguf_value(v)
    data = b""
    for name, kind, shape, raw in tensors:
        out += gguf_string(name) + struct.pack("<I", len(shape)) + struct.pack("<%dQ" % len(shape), *shape)
        data += b"\0" * (-len(data) % 32)
        out += struct.pack("<IQ", TYPES[kind], len(data))
        data += raw
    with open(path, "wb") as f:
        f.write(out + b"\0" * (-len(out) % 32) + data)


# ---- models ----

class Model:
    """A random model of an architecture; `keys` override or add metadata (without the architecture's prefix)."""

    def __init__(self, arch, kind, seed=1, layers=2, d=256, heads=4, kv_heads=2, head_dim=64, ff=512, vocabulary=320, tied=False,
                 experts=0, used=0, **keys):
        rng = np.random.default_rng(seed)
        self.arch, self.layers, self.d, self.heads, self.kv_heads, self.head_dim = arch, layers, d, heads, kv_heads, head_dim
        self.ff, self.vocabulary, self.experts, self.used = ff, vocabulary, experts, used
        self.keys = {"embedding_length": d, "block_count": layers, "attention.head_count": heads,
                     "attention.head_count_kv": kv_heads, "attention.key_length": head_dim, "attention.value_length": head_dim,
                     "feed_forward_length": ff, "context_length": 512, "attention.layer_norm_rms_epsilon": 1e-5,
                     "rope.freq_base": 10000.0, "rope.dimension_count": head_dim}
        if experts:
            self.keys |= {"expert_count": experts, "expert_used_count": used, "expert_feed_forward_length": ff}
        self.keys |= keys
        self.t = {}

        def add(name, *shape, gain=1.0, kind_=kind):
            self.t[name] = tensor(kind_, rng, shape, gain / np.sqrt(shape[-1]))

        def vec(name, n, base, spread):
            v = (base + rng.standard_normal(n) * spread).astype(np.float32)
            self.t[name] = ("F32", v.tobytes(), v.astype(np.float64))

        q, kv = heads * head_dim, kv_heads * head_dim
        self.t["token_embd.weight"] = tensor(kind, rng, (vocabulary, d), 1.0 if arch not in ("gemma2", "gemma3") else d ** -0.5)
        if not tied:
            add("output.weight", vocabulary, d)
        vec("output_norm.weight", d, 1, 0.1)
        for i in range(layers):
            b = "blk.%d." % i
            vec(b + "attn_norm.weight", d, 1, 0.1)
            vec(b + "ffn_norm.weight", d, 1, 0.1)
            if arch == "phi3":
                add(b + "attn_qkv.weight", q + 2 * kv, d)
            else:
                add(b + "attn_q.weight", q, d)
                add(b + "attn_k.weight", kv, d)
                add(b + "attn_v.weight", kv, d)
            if arch == "qwen2":
                vec(b + "attn_q.bias", q, 0, 0.3)
                vec(b + "attn_k.bias", kv, 0, 0.3)
                vec(b + "attn_v.bias", kv, 0, 0.3)
            if arch in ("qwen3", "qwen3moe", "gemma3"):
                vec(b + "attn_q_norm.weight", head_dim, 1, 0.1)
                vec(b + "attn_k_norm.weight", head_dim, 1, 0.1)
            add(b + "attn_output.weight", d, q)
            if arch in ("gemma2", "gemma3"):
                vec(b + "post_attention_norm.weight", d, 1, 0.1)
                vec(b + "post_ffw_norm.weight", d, 1, 0.1)
            if experts:
                add(b + "ffn_gate_inp.weight", experts, d, gain=2.0, kind_="F32")
                add(b + "ffn_gate_exps.weight", experts, ff, d)
                add(b + "ffn_up_exps.weight", experts, ff, d)
                add(b + "ffn_down_exps.weight", experts, d, ff)
            elif arch == "phi3":
                add(b + "ffn_up.weight", 2 * ff, d)
                add(b + "ffn_down.weight", d, ff)
            else:
                add(b + "ffn_gate.weight", ff, d)
                add(b + "ffn_up.weight", ff, d)
                add(b + "ffn_down.weight", d, ff)

    def add_vector(self, name, values):
        v = np.asarray(values, dtype=np.float32)
        self.t[name] = ("F32", v.tobytes(), v.astype(np.float64))

    def write(self, path):
        keys = {"general.architecture": self.arch, "general.name": "tiny"}
        keys |= {"%s.%s" % (self.arch, k): v for k, v in self.keys.items()}
        write(path, keys | tokenizer_keys(self.vocabulary), self.t)

    # ---- the reference ----

    def w(self, name):
        return self.t[name][2] if name in self.t else None

    def mul(self, x, name, slice_=None):
        """x times a matrix. With `rounded`, inputs of quantized matrices are rounded to 8 bits by 32, as the engine's are."""
        w = self.w(name) if slice_ is None else self.w(name)[slice_]
        if self.rounded and self.t[name][0] not in PLAIN:
            b = x.reshape(-1, 32)
            most = np.abs(b).max(-1, keepdims=True)
            x = (np.rint(b * 127 / np.where(most > 0, most, 1)) * most / 127).reshape(x.shape)
        return x @ w.T

    def frequencies(self, local):
        n = self.keys["rope.dimension_count"]
        base = 10000.0 if local else self.keys["rope.freq_base"]
        f = base ** (-np.arange(0, n, 2) / n)
        scale = 1.0
        if local:
            return f, scale
        kind, factor = self.keys.get("rope.scaling.type"), self.keys.get("rope.scaling.factor", 1.0)
        if kind == "linear":
            f = f / factor
        if kind == "yarn":
            trained = self.keys["rope.scaling.original_context_length"]
            dim = lambda turns: n * np.log(trained / (turns * 2 * np.pi)) / (2 * np.log(base))
            low, high = max(0, np.floor(dim(32))), min(n - 1, np.ceil(dim(1)))
            keep = 1 - np.clip((np.arange(n // 2) - low) / max(0.001, high - low), 0, 1)
            f = f / factor * (1 - keep) + f * keep
            scale = 1 + 0.1 * np.log(factor)
        for name in ("rope_freqs.weight", "rope_factors_short.weight"):
            if name in self.t:
                f = f / self.w(name)
        return f, scale * self.keys.get("rope.scaling.attn_factor", 1.0)

    def rope(self, x, local):
        f, scale = self.frequencies(local)
        n = 2 * len(f)
        a = np.arange(x.shape[0])[:, None, None] * f
        c, s = np.cos(a) * scale, np.sin(a) * scale
        out = x.copy()
        if self.arch in ("llama", "granite"):
            e, o = x[..., 0:n:2], x[..., 1:n:2]
            out[..., 0:n:2], out[..., 1:n:2] = e * c - o * s, e * s + o * c
        else:
            e, o = x[..., :n // 2], x[..., n // 2:n]
            out[..., :n // 2], out[..., n // 2:n] = e * c - o * s, e * s + o * c
        return out

    def norm(self, x, weight):
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + self.keys["attention.layer_norm_rms_epsilon"]) * weight

    def gate(self, x):
        if self.arch in ("gemma2", "gemma3"):
            return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x ** 3)))
        return x / (1 + np.exp(-x))

    def attention(self, x, i):
        b, n, hd = "blk.%d." % i, x.shape[0], self.head_dim
        q_dim, kv_dim = self.heads * hd, self.kv_heads * hd
        if self.arch == "phi3":
            q, k, v = np.split(self.mul(x, b + "attn_qkv.weight"), [q_dim, q_dim + kv_dim], axis=1)
        else:
            q, k, v = (self.mul(x, b + "attn_%s.weight" % p) for p in "qkv")
        if self.arch == "qwen2":
            q, k, v = q + self.w(b + "attn_q.bias"), k + self.w(b + "attn_k.bias"), v + self.w(b + "attn_v.bias")
        q, k, v = q.reshape(n, -1, hd), k.reshape(n, -1, hd), v.reshape(n, -1, hd)
        if b + "attn_q_norm.weight" in self.t:
            q, k = self.norm(q, self.w(b + "attn_q_norm.weight")), self.norm(k, self.w(b + "attn_k_norm.weight"))
        every = {"gemma2": 2, "gemma3": 6}.get(self.arch, 0)
        all_seen = every and (i + 1) % every == 0
        local = self.arch == "gemma3" and not all_seen
        q, k = self.rope(q, local), self.rope(k, local)
        k, v = k.astype(np.float16).astype(np.float64), v.astype(np.float16).astype(np.float64)  # the cache's type
        k, v = (np.repeat(t, self.heads // self.kv_heads, axis=1) for t in (k, v))
        s = np.einsum("qhd,khd->hqk", q, k) * self.keys.get("attention.scale", hd ** -0.5)
        cap = self.keys.get("attn_logit_softcapping", 0)
        if cap:
            s = cap * np.tanh(s / cap)
        distance = np.arange(n)[:, None] - np.arange(n)[None, :]
        window = 0 if all_seen else self.keys.get("attention.sliding_window", 0)
        s = np.where((distance >= 0) & (not window or distance < window), s, -np.inf)
        p = np.exp(s - s.max(-1, keepdims=True))
        p /= p.sum(-1, keepdims=True)
        return self.mul(np.einsum("hqk,khd->qhd", p, v).reshape(n, -1), b + "attn_output.weight")

    def feed_forward(self, x, i):
        b = "blk.%d." % i
        if self.arch == "phi3":
            g, u = np.split(self.mul(x, b + "ffn_up.weight"), 2, axis=1)
            return self.mul(self.gate(g) * u, b + "ffn_down.weight")
        if not self.experts:
            g, u = self.mul(x, b + "ffn_gate.weight"), self.mul(x, b + "ffn_up.weight")
            return self.mul(self.gate(g) * u, b + "ffn_down.weight")
        r = self.mul(x, b + "ffn_gate_inp.weight")
        p = np.exp(r - r.max(-1, keepdims=True))
        p /= p.sum(-1, keepdims=True)
        out = np.zeros_like(x)
        for t in range(x.shape[0]):
            best = np.argsort(-p[t], kind="stable")[:self.used]
            for e in best:
                h = self.gate(self.mul(x[t], b + "ffn_gate_exps.weight", e)) * self.mul(x[t], b + "ffn_up_exps.weight", e)
                out[t] += p[t, e] / p[t, best].sum() * self.mul(h, b + "ffn_down_exps.weight", e)
        return out

    def logits(self, ids, rounded=False):
        self.rounded = rounded
        x = self.w("token_embd.weight")[ids]
        x = x * self.keys.get("embedding_scale", np.sqrt(self.d) if self.arch in ("gemma2", "gemma3") else 1.0)
        residual = self.keys.get("residual_scale", 1.0)
        for i in range(self.layers):
            b = "blk.%d." % i
            y = self.attention(self.norm(x, self.w(b + "attn_norm.weight")), i)
            if b + "post_attention_norm.weight" in self.t:
                y = self.norm(y, self.w(b + "post_attention_norm.weight"))
            x = x + residual * y
            y = self.feed_forward(self.norm(x, self.w(b + "ffn_norm.weight")), i)
            if b + "post_ffw_norm.weight" in self.t:
                y = self.norm(y, self.w(b + "post_ffw_norm.weight"))
            x = x + residual * y
        out = "output.weight" if "output.weight" in self.t else "token_embd.weight"
        z = self.mul(self.norm(x, self.w("output_norm.weight")), out) / self.keys.get("logit_scale", 1.0)
        cap = self.keys.get("final_logit_softcapping", 0)
        return cap * np.tanh(z / cap) if cap else z
