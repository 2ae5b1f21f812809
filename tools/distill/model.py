"""The llama architecture, packed: a batch is one flat row of tokens with document boundaries.

Rotary embedding turns neighbouring pairs (2i, 2i+1), which is how GGUF stores llama, so export permutes nothing.
"""
import math
from dataclasses import asdict, dataclass

import torch
import torch.nn as nn
import torch.nn.functional as F

ROW = 1024  # tokens in a packed row; no document crosses a row


@dataclass
class Shape:
    dim: int
    layers: int
    heads: int
    kv_heads: int
    ff: int
    vocab: int = 4096
    context: int = 1024
    rope_base: float = 10000.0
    eps: float = 1e-5
    tied: bool = True

    @property
    def head_dim(self):
        return self.dim // self.heads

    def dict(self):
        return asdict(self)


SHAPES = {
    "edge": Shape(128, 5, 4, 2, 384),
    "region": Shape(256, 8, 4, 2, 768),
    "core": Shape(512, 8, 8, 4, 1280),
}


@dataclass
class Packed:
    """N tokens on the device; document i is positions starts[i]:starts[i+1]."""
    ids: torch.Tensor        # (N) int64
    positions: torch.Tensor  # (N) int64, counted from the start of the document
    starts: torch.Tensor     # (documents+1) int32
    longest: int


class RMSNorm(nn.Module):
    def __init__(self, dim, eps):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.eps = eps

    def forward(self, x):
        y = x.float()
        y = y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + self.eps)
        return (y * self.weight).to(x.dtype)


def rotary_table(shape, device):
    """cos, sin: (context, head_dim/2)."""
    half = shape.head_dim // 2
    inverse = shape.rope_base ** (-torch.arange(half, dtype=torch.float64) / half)
    angle = torch.arange(shape.context, dtype=torch.float64)[:, None] * inverse
    return angle.cos().float().to(device), angle.sin().float().to(device)


def rotate(x, cos, sin):
    """x: (N, heads, head_dim); cos, sin: (N, head_dim/2)."""
    a, b = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    c, s = cos[:, None], sin[:, None]
    return torch.stack((a * c - b * s, a * s + b * c), -1).flatten(-2).to(x.dtype)


def masked_attention(q, k, v, starts):
    """Reference attention within documents: (N, heads, head_dim) each."""
    n = q.shape[0]
    document = torch.zeros(n, dtype=torch.long, device=q.device)
    inner = starts[1:-1].long()
    document[inner[inner < n]] = 1
    document = document.cumsum(0)
    allowed = (document[:, None] == document[None]) & torch.ones(n, n, dtype=torch.bool, device=q.device).tril()
    scores = torch.einsum("nhd,mhd->hnm", q, k).float() / math.sqrt(q.shape[-1])
    weights = scores.masked_fill(~allowed, -1e30).softmax(-1).to(v.dtype)
    return torch.einsum("hnm,mhd->nhd", weights, v)


def row_attention(q, k, v, starts):
    """The same on a GPU without a variable-length kernel: rows of ROW tokens with a mask each."""
    n = q.shape[0]
    document = torch.bucketize(torch.arange(n, device=q.device, dtype=torch.int32), starts, right=True).view(-1, ROW)
    mask = (document[:, :, None] == document[:, None, :]) & torch.ones(ROW, ROW, dtype=torch.bool, device=q.device).tril()
    rows = [x.view(-1, ROW, *x.shape[1:]).transpose(1, 2) for x in (q, k, v)]
    return F.scaled_dot_product_attention(*rows, attn_mask=mask[:, None]).transpose(1, 2).reshape(q.shape)


def flash_attention(q, k, v, starts, longest):
    return torch.ops.aten._flash_attention_forward(q, k, v, starts, starts, longest, longest, 0.0, True, False)[0]


FLASH = {"works": None}


def attention(q, k, v, batch):
    if not q.is_cuda or q.dtype == torch.float32:
        return masked_attention(q, k, v, batch.starts)
    if FLASH["works"] is None:
        try:
            flash_attention(q.detach(), k.detach(), v.detach(), batch.starts, batch.longest)
            FLASH["works"] = True
        except Exception as error:  # an operator private to PyTorch may change: then the slower way
            print(f"flash attention not used: {error}", flush=True)
            FLASH["works"] = False
    return (flash_attention(q, k, v, batch.starts, batch.longest) if FLASH["works"] else row_attention(q, k, v, batch.starts))


class Block(nn.Module):
    def __init__(self, shape):
        super().__init__()
        self.shape = shape
        d, kv = shape.dim, shape.kv_heads * shape.head_dim
        self.attn_norm = RMSNorm(d, shape.eps)
        self.attn_q = nn.Linear(d, d, bias=False)
        self.attn_k = nn.Linear(d, kv, bias=False)
        self.attn_v = nn.Linear(d, kv, bias=False)
        self.attn_output = nn.Linear(d, d, bias=False)
        self.ffn_norm = RMSNorm(d, shape.eps)
        self.ffn_gate = nn.Linear(d, shape.ff, bias=False)
        self.ffn_up = nn.Linear(d, shape.ff, bias=False)
        self.ffn_down = nn.Linear(shape.ff, d, bias=False)

    def queries_keys_values(self, x, cos, sin):
        s = self.shape
        y = self.attn_norm(x)
        q = rotate(self.attn_q(y).unflatten(-1, (s.heads, s.head_dim)), cos, sin)
        k = rotate(self.attn_k(y).unflatten(-1, (s.kv_heads, s.head_dim)), cos, sin)
        return q, k, self.attn_v(y).unflatten(-1, (s.kv_heads, s.head_dim))

    def qkv(self, x, cos, sin):
        """As queries_keys_values, with keys and values repeated for every query head."""
        q, k, v = self.queries_keys_values(x, cos, sin)
        repeat = self.shape.heads // self.shape.kv_heads
        return q, k.repeat_interleave(repeat, 1), v.repeat_interleave(repeat, 1)

    def rest(self, x, attended):
        x = x + self.attn_output(attended.flatten(1))
        y = self.ffn_norm(x)
        return x + self.ffn_down(F.silu(self.ffn_gate(y)) * self.ffn_up(y))


class Llama(nn.Module):
    def __init__(self, shape, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.shape = shape
        self.token_embd = nn.Embedding(shape.vocab, shape.dim)
        self.blocks = nn.ModuleList(Block(shape) for _ in range(shape.layers))
        self.output_norm = RMSNorm(shape.dim, shape.eps)
        self.output = None if shape.tied else nn.Linear(shape.dim, shape.vocab, bias=False)
        self.tables = None
        self.compiled = None
        self.initialise()

    def initialise(self):
        for name, p in self.named_parameters():
            if p.dim() < 2:
                continue
            std = 0.02 if "embd" in name or name == "output.weight" else 0.5 / math.sqrt(p.shape[1])
            if "attn_output" in name or "ffn_down" in name:
                std /= math.sqrt(2 * self.shape.layers)
            nn.init.normal_(p, std=std)

    def compile(self):
        """Compile what has a fixed shape; attention over documents stays outside."""
        self.compiled = (torch.compile(Block.qkv, dynamic=False), torch.compile(Block.rest, dynamic=False))

    def rotary(self, positions):
        if self.tables is None or self.tables[0].device != positions.device:
            self.tables = rotary_table(self.shape, positions.device)
        return self.tables[0][positions], self.tables[1][positions]

    def hidden(self, batch):
        """Last hidden state of every token: (N, dim)."""
        qkv, rest = self.compiled or (Block.qkv, Block.rest)
        cos, sin = self.rotary(batch.positions)
        x = self.token_embd(batch.ids)
        if torch.is_autocast_enabled() and x.is_cuda:
            x = x.to(torch.bfloat16)
        for block in self.blocks:
            q, k, v = qkv(block, x, cos, sin)
            x = rest(block, x, attention(q, k, v, batch))
        return x

    def logits(self, hidden):
        weight = self.token_embd.weight if self.output is None else self.output.weight
        y = self.output_norm(hidden)
        return F.linear(y, weight.to(y.dtype)).float()


def parameters_of(model):
    return sum(p.numel() for p in model.parameters())


def save(model, path, **extra):
    """Weights in half precision: what every export starts from."""
    torch.save({"shape": model.shape.dict(), "state": {k: v.cpu().half() for k, v in model.state_dict().items()}, **extra}, path)


def load(path, device="cpu"):
    data = torch.load(path, map_location="cpu")
    model = Llama(Shape(**data["shape"]))
    model.load_state_dict({k: v.float() for k, v in data["state"].items()})
    return model.to(device)
