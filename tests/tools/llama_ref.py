"""A llama in numpy, float64, straight from a GGUF file: what every other implementation is compared with.

    python3 tests/tools/llama_ref.py models/edge.q8_0.gguf "What is 12+30?"
"""
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools"))

from distill import chat, gguf  # noqa: E402
from distill.tokenizer import Tokenizer  # noqa: E402


class LlamaRef:
    def __init__(self, path):
        self.metadata, tensors, _ = gguf.read(path)
        self.w = {name: value.astype(np.float64) for name, value in tensors.items()}
        key = lambda name: self.metadata[f"llama.{name}"]
        self.layers, self.heads, self.kv_heads = key("block_count"), key("attention.head_count"), key("attention.head_count_kv")
        self.head_dim = key("embedding_length") // self.heads
        self.eps, self.base = key("attention.layer_norm_rms_epsilon"), key("rope.freq_base")
        self.head = self.w.get("output.weight", self.w["token_embd.weight"])
        tokens = self.metadata["tokenizer.ggml.tokens"]
        kinds = self.metadata["tokenizer.ggml.token_type"]
        merges = [m.split(" ") for m in self.metadata["tokenizer.ggml.merges"]]
        self.tokenizer = Tokenizer(merges, [t for t, kind in zip(tokens, kinds) if kind in (3, 4)])
        assert self.tokenizer.tokens == tokens
        self.stop = self.metadata["tokenizer.ggml.eos_token_id"]

    def norm(self, x, name):
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + self.eps) * self.w[name]

    def rotated(self, x, at):
        """x: (tokens, heads, head_dim); neighbouring pairs are turned by the position."""
        half = self.head_dim // 2
        angle = (at + np.arange(len(x)))[:, None] * self.base ** (-np.arange(half) / half)
        c, s = np.cos(angle)[:, None], np.sin(angle)[:, None]
        a, b = x[..., 0::2], x[..., 1::2]
        return np.stack([a * c - b * s, a * s + b * c], -1).reshape(x.shape)

    def attention(self, y, i, cache):
        """y: (tokens, dim) after the norm; the cache grows by the new keys and values."""
        split = lambda name, heads: (y @ self.w[f"blk.{i}.{name}.weight"].T).reshape(len(y), heads, self.head_dim)
        old_k, old_v = cache.get(i, (np.zeros((0, self.kv_heads, self.head_dim)),) * 2)
        at = len(old_k)
        q = self.rotated(split("attn_q", self.heads), at)
        k = np.concatenate([old_k, self.rotated(split("attn_k", self.kv_heads), at)])
        v = np.concatenate([old_v, split("attn_v", self.kv_heads)])
        cache[i] = (k, v)
        group = self.heads // self.kv_heads
        scores = np.einsum("thd,shd->hts", q, k.repeat(group, 1)) / np.sqrt(self.head_dim)
        scores[:, np.arange(len(k))[None] > at + np.arange(len(y))[:, None]] = -np.inf
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        return np.einsum("hts,shd->thd", weights, v.repeat(group, 1)).reshape(len(y), -1) @ self.w[f"blk.{i}.attn_output.weight"].T

    def feed_forward(self, y, i):
        gate, up = (y @ self.w[f"blk.{i}.ffn_{n}.weight"].T for n in ("gate", "up"))
        return (gate / (1 + np.exp(-gate)) * up) @ self.w[f"blk.{i}.ffn_down.weight"].T

    def logits(self, ids, cache=None):
        """(tokens, vocab) for the new ids; a cache from earlier calls is continued."""
        cache = {} if cache is None else cache
        x = self.w["token_embd.weight"][list(ids)]
        for i in range(self.layers):
            x = x + self.attention(self.norm(x, f"blk.{i}.attn_norm.weight"), i, cache)
            x = x + self.feed_forward(self.norm(x, f"blk.{i}.ffn_norm.weight"), i)
        return self.norm(x, "output_norm.weight") @ self.head.T

    def greedy(self, ids, most=256):
        """Ids of the greedy continuation, without the stop token."""
        cache, out, new = {}, [], list(ids)
        while len(out) < most:
            token = int(self.logits(new, cache)[-1].argmax())
            if token == self.stop:
                break
            out.append(token)
            new = [token]
        return out

    def answer(self, messages, most=700):
        """The reply as text, reasoning included."""
        return self.tokenizer.decode(self.greedy(chat.prompt_ids(self.tokenizer, messages), most))


if __name__ == "__main__":
    print(LlamaRef(sys.argv[1]).answer([{"role": "user", "content": sys.argv[2]}]))
