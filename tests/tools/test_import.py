"""`rung import`: folders as Hugging Face writes them, with random weights, and what they mean in numpy.

The reference reads the folder's own tensors the way Hugging Face's models do (halves of a head rotated, norms that add
one, experts one by one), so that it finds out whether the GGUF holds the same model. RUNG=build/rung."""
import json
import math
import os
import struct
import subprocess
from pathlib import Path

import pytest

np = pytest.importorskip("numpy")

ROOT = Path(__file__).resolve().parents[2]
RUNG = os.path.abspath(os.environ.get("RUNG", ROOT / "build" / "rung"))
IDS = [int(i) for i in np.random.default_rng(3).integers(0, 300, size=64)]
BASE = dict(hidden_size=64, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2, intermediate_size=96, vocab_size=300,
            max_position_embeddings=512, rms_norm_eps=1e-5, rope_theta=10000.0)
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}
MODELS = {
    "llama": ("LlamaForCausalLM", {}),
    "llama3": ("LlamaForCausalLM", dict(rope_scaling=LLAMA3, rope_theta=500000.0, tie_word_embeddings=True)),
    "llama-bias": ("LlamaForCausalLM", dict(attention_bias=True)),
    "llama-linear": ("LlamaForCausalLM", dict(rope_scaling={"type": "linear", "factor": 4.0})),
    "llama-new-rope": ("LlamaForCausalLM", dict(rope_theta=None, rope_parameters={"rope_theta": 7000.0, "rope_type": "linear", "factor": 2.0})),
    "mistral": ("MistralForCausalLM", dict(sliding_window=20, head_dim=32)),
    "qwen2": ("Qwen2ForCausalLM", dict(qkv_bias=True, tie_word_embeddings=True, sliding_window=9, use_sliding_window=False)),
    "qwen3": ("Qwen3ForCausalLM", dict(head_dim=32, qk_norm=True)),
    "qwen3moe": ("Qwen3MoeForCausalLM", dict(head_dim=32, qk_norm=True, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=32,
                                             norm_topk_prob=True, decoder_sparse_step=1, mlp_only_layers=[])),
    "phi3": ("Phi3ForCausalLM", dict(fused=True, sliding_window=30)),
    "phi3-long": ("Phi3ForCausalLM", dict(fused=True, original_max_position_embeddings=128, rope_scaling={
        "type": "longrope", "short_factor": [1.0 + i / 10 for i in range(8)], "long_factor": [2.0 + i for i in range(8)]})),
    "gemma2": ("Gemma2ForCausalLM", dict(head_dim=32, sliding_window=12, attn_logit_softcapping=5.0, final_logit_softcapping=3.0,
                                         query_pre_attn_scalar=20, plus_one=True, num_hidden_layers=4)),
    "gemma3": ("Gemma3ForCausalLM", dict(head_dim=32, sliding_window=9, rope_theta=1000000.0, rope_local_base_freq=10000.0, plus_one=True,
                                         qk_norm=True, query_pre_attn_scalar=32, num_hidden_layers=7)),
    "granite": ("GraniteForCausalLM", dict(embedding_multiplier=3.0, residual_multiplier=0.4, attention_multiplier=0.1, logits_scaling=4.0)),
}


class Folder:
    def __init__(self, name, path, dtype="F32"):
        model, changes = MODELS[name]
        self.c = {**BASE, "architectures": [model], **changes}
        self.path, self.dtype, self.t = path, dtype, {}
        self.rng = np.random.default_rng(abs(hash(name)) % 1000)
        self.gemma = model.startswith("Gemma")
        self.d = self.c.get("head_dim") or self.c["hidden_size"] // self.c["num_attention_heads"]
        self.make()
        self.write()

    def add(self, name, *shape, scale=None, around=0.0):
        v = self.rng.normal(size=shape) * (scale if scale is not None else 1 / math.sqrt(shape[-1])) + around
        v = v.astype(np.float16 if self.dtype == "F16" else np.float32)
        if self.dtype == "BF16":
            v = (v.view(np.uint32) & 0xFFFF0000).view(np.float32)
        self.t[name] = v

    def make(self):
        c, d = self.c, self.d
        h, q, kv, f = c["hidden_size"], c["num_attention_heads"] * d, c["num_key_value_heads"] * d, c["intermediate_size"]
        around = 0.0 if c.get("plus_one") else 1.0
        self.add("model.embed_tokens.weight", c["vocab_size"], h, scale=1.0)
        self.add("model.norm.weight", h, scale=0.2, around=around)
        if not (c.get("tie_word_embeddings") or self.gemma):
            self.add("lm_head.weight", c["vocab_size"], h)
        for i in range(c["num_hidden_layers"]):
            p = "model.layers.%d." % i
            norms = ["input_layernorm", "post_attention_layernorm"]
            norms += ["pre_feedforward_layernorm", "post_feedforward_layernorm"] if self.gemma else []
            for n in norms:
                self.add(p + n + ".weight", h, scale=0.2, around=around)
            if c.get("fused"):
                self.add(p + "self_attn.qkv_proj.weight", q + 2 * kv, h)
                self.add(p + "mlp.gate_up_proj.weight", 2 * f, h)
            else:
                for n, rows in (("q", q), ("k", kv), ("v", kv)):
                    self.add(p + "self_attn.%s_proj.weight" % n, rows, h)
                    if c.get("attention_bias") or c.get("qkv_bias"):
                        self.add(p + "self_attn.%s_proj.bias" % n, rows, scale=0.3)
            self.add(p + "self_attn.o_proj.weight", h, q)
            if c.get("attention_bias"):
                self.add(p + "self_attn.o_proj.bias", h, scale=0.3)
            if c.get("qk_norm"):
                self.add(p + "self_attn.q_norm.weight", d, scale=0.2, around=around)
                self.add(p + "self_attn.k_norm.weight", d, scale=0.2, around=around)
            if c.get("num_experts"):
                self.add(p + "mlp.gate.weight", c["num_experts"], h)
                for k in range(c["num_experts"]):
                    for n, (rows, cols) in (("gate", (32, h)), ("up", (32, h)), ("down", (h, 32))):
                        self.add(p + "mlp.experts.%d.%s_proj.weight" % (k, n), rows, cols)
            else:
                if not c.get("fused"):
                    self.add(p + "mlp.gate_proj.weight", f, h)
                    self.add(p + "mlp.up_proj.weight", f, h)
                self.add(p + "mlp.down_proj.weight", h, f)

    def write(self):
        self.path.mkdir()
        (self.path / "config.json").write_text(json.dumps({k: v for k, v in self.c.items() if v is not None}))
        names, index = list(self.t), {}
        for part in range(2):  # two shards and an index
            mine = names[part::2]
            head, data = {"__metadata__": {"format": "pt"}}, b""
            for n in mine:
                v = self.t[n]
                raw = (v.view(np.uint32) >> 16).astype(np.uint16).tobytes() if self.dtype == "BF16" else v.tobytes()
                head[n] = {"dtype": self.dtype, "shape": list(v.shape), "data_offsets": [len(data), len(data) + len(raw)]}
                data += raw
                index[n] = "model-%d.safetensors" % part
            text = json.dumps(head).encode()
            (self.path / ("model-%d.safetensors" % part)).write_bytes(struct.pack("<Q", len(text)) + text + data)
        (self.path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))

    # ---- what it means ----

    def w(self, name):
        return self.t[name].astype(np.float64)

    def norm(self, x, name):
        w = self.w(name) + (1 if self.c.get("plus_one") else 0)
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + self.c["rms_norm_eps"]) * w

    def frequencies(self, local):
        c, d = self.c, self.d
        rope = c.get("rope_parameters") or c.get("rope_scaling") or {}
        base = c.get("rope_local_base_freq") if local else rope.get("rope_theta") or c["rope_theta"]
        f = base ** (-np.arange(0, d, 2) / d)
        kind = rope.get("rope_type") or rope.get("type")
        scale = 1.0
        if kind == "linear":
            f = f / rope["factor"]
        if kind == "llama3":
            wave, old = 2 * math.pi / f, rope["original_max_position_embeddings"]
            low, high = old / rope["low_freq_factor"], old / rope["high_freq_factor"]
            smooth = (old / wave - rope["low_freq_factor"]) / (rope["high_freq_factor"] - rope["low_freq_factor"])
            middle = (1 - smooth) * f / rope["factor"] + smooth * f
            f = np.where(wave > low, f / rope["factor"], np.where(wave < high, f, middle))
        if kind == "longrope":
            old = c["original_max_position_embeddings"]
            f = f / np.array(rope["long_factor"])  # the engine chooses by its context, here longer than the old one
            scale = math.sqrt(1 + math.log(c["max_position_embeddings"] / old) / math.log(old))
        return f, scale

    def rotate(self, x, local):
        f, scale = self.frequencies(local)
        angle = np.arange(x.shape[1])[:, None] * f[None]
        cos, sin = np.cos(angle) * scale, np.sin(angle) * scale
        a, b = x[..., : self.d // 2], x[..., self.d // 2:]
        return np.concatenate([a * cos - b * sin, b * cos + a * sin], -1)

    def attention(self, x, i):
        c, d, p = self.c, self.d, "model.layers.%d.self_attn." % i
        heads, kv = c["num_attention_heads"], c["num_key_value_heads"]
        if c.get("fused"):
            q, k, v = np.split(x @ self.w(p + "qkv_proj.weight").T, [heads * d, (heads + kv) * d], axis=-1)
        else:
            q, k, v = (x @ self.w(p + n + "_proj.weight").T + (self.w(p + n + "_proj.bias") if p + n + "_proj.bias" in self.t else 0) for n in "qkv")
        q, k, v = (t.reshape(len(x), -1, d).transpose(1, 0, 2) for t in (q, k, v))
        if c.get("qk_norm"):
            q, k = self.norm(q, p + "q_norm.weight"), self.norm(k, p + "k_norm.weight")
        model = c["architectures"][0]
        every = 2 if model == "Gemma2ForCausalLM" else 6 if model == "Gemma3ForCausalLM" else 0
        full = bool(every) and (i + 1) % every == 0
        q, k = (self.rotate(t, every == 6 and not full) for t in (q, k))
        k, v = np.repeat(k, heads // kv, 0), np.repeat(v, heads // kv, 0)
        scale = c.get("attention_multiplier") or (c.get("query_pre_attn_scalar") or d) ** -0.5
        s = q @ k.transpose(0, 2, 1) * scale
        if c.get("attn_logit_softcapping"):
            s = np.tanh(s / c["attn_logit_softcapping"]) * c["attn_logit_softcapping"]
        n = np.arange(len(x))
        hidden = n[None] > n[:, None]
        window = c.get("sliding_window") if c.get("use_sliding_window", True) else None
        if window and not full:
            hidden = hidden | (n[:, None] - n[None] >= window)
        s = np.where(hidden, -np.inf, s)
        s = np.exp(s - s.max(-1, keepdims=True))
        out = (s / s.sum(-1, keepdims=True) @ v).transpose(1, 0, 2).reshape(len(x), -1)
        return out @ self.w(p + "o_proj.weight").T + (self.w(p + "o_proj.bias") if p + "o_proj.bias" in self.t else 0)

    def act(self, x):
        if self.gemma:
            return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x ** 3)))
        return x / (1 + np.exp(-x))

    def mlp(self, x, p):
        if self.c.get("fused"):
            gate, up = np.split(x @ self.w(p + "gate_up_proj.weight").T, 2, axis=-1)
        else:
            gate, up = x @ self.w(p + "gate_proj.weight").T, x @ self.w(p + "up_proj.weight").T
        return (self.act(gate) * up) @ self.w(p + "down_proj.weight").T

    def feed_forward(self, x, i):
        c, p = self.c, "model.layers.%d.mlp." % i
        if not c.get("num_experts"):
            return self.mlp(x, p)
        score = x @ self.w(p + "gate.weight").T
        score = np.exp(score - score.max(-1, keepdims=True))
        score /= score.sum(-1, keepdims=True)
        best = np.argsort(-score, axis=-1)[:, : c["num_experts_per_tok"]]
        out = np.zeros_like(x)
        for row in range(len(x)):
            share = score[row, best[row]] / score[row, best[row]].sum()
            for k, part in zip(best[row], share):
                out[row] += part * self.mlp(x[row:row + 1], p + "experts.%d." % k)[0]
        return out

    def logits(self, ids):
        c = self.c
        x = self.w("model.embed_tokens.weight")[ids] * (c.get("embedding_multiplier") or (math.sqrt(c["hidden_size"]) if self.gemma else 1))
        part = c.get("residual_multiplier") or 1
        for i in range(c["num_hidden_layers"]):
            p = "model.layers.%d." % i
            a = self.attention(self.norm(x, p + "input_layernorm.weight"), i)
            if self.gemma:
                a = self.norm(a, p + "post_attention_layernorm.weight")
            x = x + a * part
            before = "pre_feedforward_layernorm" if self.gemma else "post_attention_layernorm"
            m = self.feed_forward(self.norm(x, p + before + ".weight"), i)
            if self.gemma:
                m = self.norm(m, p + "post_feedforward_layernorm.weight")
            x = x + m * part
        x = self.norm(x, "model.norm.weight")
        head = "lm_head.weight" if "lm_head.weight" in self.t else "model.embed_tokens.weight"
        out = x @ self.w(head).T / (c.get("logits_scaling") or 1)
        cap = c.get("final_logit_softcapping")
        return np.tanh(out / cap) * cap if cap else out


def rung(*args, **kwargs):
    return subprocess.run([RUNG, *map(str, args)], capture_output=True, text=True, **kwargs)


def engine_logits(path, tmp_path):
    ids, out = tmp_path / "ids", tmp_path / "logits"
    ids.write_text(" ".join(map(str, IDS)))
    done = rung("perplexity", "-m", path, "--ids", ids, "--logits", out)
    if "not computed yet" in done.stderr:
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0, done.stderr
    return np.fromfile(out, dtype=np.float32).reshape(len(IDS), -1).astype(np.float64)


def check(folder, tmp_path, bound):
    out = tmp_path / "out.gguf"
    done = rung("import", folder.path, out)
    assert done.returncode == 0, done.stderr
    got, want = engine_logits(out, tmp_path), folder.logits(IDS)
    error = np.linalg.norm(got - want) / np.linalg.norm(want)
    assert error <= bound, error


@pytest.mark.parametrize("name", MODELS)
def test_logits_are_the_folders(name, tmp_path):
    check(Folder(name, tmp_path / "src"), tmp_path, 1e-3)


@pytest.mark.parametrize("dtype", ["F16", "BF16"])
def test_half_types_are_kept(dtype, tmp_path):
    check(Folder("llama", tmp_path / "src", dtype), tmp_path, 1e-2)


def test_what_does_not_fit_is_refused(tmp_path):
    folder = Folder("llama", tmp_path / "src")
    config = json.loads((folder.path / "config.json").read_text())
    for change, words in [({"architectures": ["BertModel"]}, "BertModel"), ({"num_hidden_layers": 2}, "has no place"), ({"hidden_size": None}, "hidden_size"),
                          ({"rope_scaling": {"type": "odd"}}, "'odd'"), ({"num_attention_heads": 8}, "rows")]:
        (folder.path / "config.json").write_text(json.dumps({**config, **change}))
        done = rung("import", folder.path, tmp_path / "out.gguf")
        assert done.returncode == 1 and words in done.stderr, done.stderr
    assert not list(tmp_path.glob("out*"))
    (folder.path / "config.json").write_text(json.dumps(config))
    index = folder.path / "model.safetensors.index.json"
    kept = index.read_text()
    index.write_text(kept.replace("model-1.safetensors", "../model-1.safetensors", 1))
    done = rung("import", folder.path, tmp_path / "out.gguf")
    assert done.returncode == 1 and "lies in no plain .safetensors file" in done.stderr, done.stderr
    index.write_text(kept)
    shard = folder.path / "model-1.safetensors"
    whole = shard.read_bytes()
    for cut in (0, 4, 9, len(whole) // 2, len(whole) - 1):
        shard.write_bytes(whole[:cut])
        done = rung("import", folder.path, tmp_path / "out.gguf")
        assert done.returncode == 1 and done.stderr.startswith("rung import: ") and done.stderr.count("\n") == 1, done.stderr


ALPHABET = {b: chr(c) for b, c in zip(
    [*range(33, 127), *range(161, 173), *range(174, 256), *(b for b in range(256) if not (33 <= b <= 126 or 161 <= b <= 172 or b >= 174))],
    [*range(33, 127), *range(161, 173), *range(174, 256), *range(256, 256 + 68)])}


def test_a_byte_level_tokenizer_is_taken_over(tmp_path):
    folder = Folder("llama", tmp_path / "src")
    vocab = {ALPHABET[b]: b for b in range(256)}
    vocab.update({"he": 256, "ll": 257, "hell": 258, "Ġhell": 259})
    pattern = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    (folder.path / "tokenizer.json").write_text(json.dumps({
        "model": {"type": "BPE", "vocab": vocab, "merges": [["h", "e"], ["l", "l"], ["he", "ll"], ["Ġ", "hell"]]},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "Split", "pattern": {"Regex": pattern}}, {"type": "ByteLevel", "use_regex": False}]},
        "added_tokens": [{"id": 260, "content": "<|im_start|>", "special": True}, {"id": 261, "content": "<|im_end|>", "special": True},
                         {"id": 262, "content": "<tool>", "special": False}]}))
    (folder.path / "tokenizer_config.json").write_text(json.dumps({
        "eos_token": {"content": "<|im_end|>"}, "bos_token": "<|im_start|>", "add_bos_token": True,
        "chat_template": "{{ messages[0].content }}"}))
    out = tmp_path / "out.gguf"
    assert rung("import", folder.path, out).returncode == 0
    text = "hell hell<|im_end|>12<tool>"
    assert rung("tokenize", "-m", out, input=text).stdout == "258 259 261 49 50 262\n"
    assert rung("tokenize", "-m", out, "--add", input="").stdout == "260\n"
    data = out.read_bytes()
    assert b"tokenizer.chat_template" in data and b"qwen2" in data


def test_a_tokenizer_with_byte_fallback_becomes_spm(tmp_path):
    folder = Folder("llama", tmp_path / "src")
    vocab = {"<unk>": 0, "<s>": 1, "</s>": 2, **{"<0x%02X>" % b: 3 + b for b in range(256)}, "▁": 259, "a": 260, "b": 261, "ab": 262, "▁a": 263, "▁ab": 264}
    (folder.path / "tokenizer.json").write_text(json.dumps({
        "model": {"type": "BPE", "vocab": vocab, "merges": ["a b", "▁ ab", "▁ a"], "byte_fallback": True},
        "normalizer": {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]},
        "decoder": {"type": "Sequence", "decoders": [{"type": "ByteFallback"}]},
        "post_processor": {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]},
        "added_tokens": [{"id": 0, "content": "<unk>", "special": True}, {"id": 1, "content": "<s>", "special": True}, {"id": 2, "content": "</s>", "special": True}]}))
    (folder.path / "tokenizer_config.json").write_text(json.dumps({"bos_token": "<s>", "eos_token": "</s>"}))
    out = tmp_path / "out.gguf"
    done = rung("import", folder.path, out)
    assert done.returncode == 0, done.stderr
    assert rung("tokenize", "-m", out, "--add", input="ab a\n").stdout == "1 264 263 13\n"
    pieces = b"".join(b"\x0a" + bytes([len(p)]) + p for p in (
        b"\x0a" + bytes([len(k.encode())]) + k.encode() + b"\x15" + struct.pack("<f", -float(i)) + b"\x18" + bytes([2 if i == 0 else 3 if i < 3 else 6 if i < 259 else 1])
        for k, i in vocab.items()))
    (folder.path / "tokenizer.model").write_bytes(pieces + b"\x1a\x02\x18\x00")  # normalizer_spec.add_dummy_prefix = false
    assert rung("import", folder.path, out).returncode == 0
    assert rung("tokenize", "-m", out, input="ab a").stdout == "262 263\n"
    (folder.path / "tokenizer.model").write_bytes(pieces[:-3])
    assert "damaged" in rung("import", folder.path, out).stderr


def test_an_ollama_model_is_linked(tmp_path):
    import hashlib
    made = tmp_path / "made.gguf"
    assert rung("import", Folder("llama", tmp_path / "src").path, made).returncode == 0
    data = made.read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    store = tmp_path / "store"
    (store / "blobs").mkdir(parents=True)
    blob = store / "blobs" / ("sha256-" + digest)
    blob.write_bytes(data)
    manifest = json.dumps({"layers": [{"mediaType": "application/vnd.ollama.image.template", "digest": "sha256:" + "0" * 64, "size": 1},
                                      {"mediaType": "application/vnd.ollama.image.model", "digest": "sha256:" + digest, "size": len(data)}]})
    for place in ("registry.ollama.ai/library/tiny/latest", "registry.ollama.ai/me/tiny/q4", "hf.co/org/tiny/main"):
        path = store / "manifests" / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(manifest)
    env = {**os.environ, "OLLAMA_MODELS": str(store)}
    for i, name in enumerate(("tiny", "tiny:latest", "me/tiny:q4", "hf.co/org/tiny:main")):
        out = tmp_path / ("linked%d.gguf" % i)
        done = rung("import", name, out, env=env)
        assert done.returncode == 0, done.stderr
        assert out.samefile(blob)
    copied = tmp_path / "copied.gguf"
    assert rung("import", "tiny", copied, "--copy", env=env).returncode == 0
    assert copied.read_bytes() == data and not copied.samefile(blob)
    for bad in ("../tiny", "a/../../b", "nothing", "tiny:no", "/etc", ".x", "a:b:c"):
        done = rung("import", bad, tmp_path / "bad.gguf", env=env)
        assert done.returncode == 1 and not (tmp_path / "bad.gguf").exists(), bad
    blob.write_bytes(data[:-1])
    assert "manifest says" in rung("import", "tiny", tmp_path / "bad.gguf", env=env).stderr
