"""Greedy generation for many prompts at once, with a key-value cache."""
import math

import torch

from .model import rotate


class Cache:
    """Keys and values of every layer: (B, kv_heads, room, head_dim); half precision on a GPU."""

    def __init__(self, shape, count, room, device):
        dtype = torch.float16 if str(device).startswith("cuda") else torch.float32
        size = (count, shape.kv_heads, room, shape.head_dim)
        self.dtype = dtype
        self.keys = [torch.zeros(size, device=device, dtype=dtype) for _ in range(shape.layers)]
        self.values = [torch.zeros(size, device=device, dtype=dtype) for _ in range(shape.layers)]

    def keep(self, index):
        self.keys = [k[index] for k in self.keys]
        self.values = [v[index] for v in self.values]


def attend(q, k, v, mask):
    """q: (B, heads, T, d); k, v: (B, kv_heads, S, d); mask: (B, 1, T, S) bool. Query heads of a group go together."""
    b, heads, t, d = q.shape
    groups = k.shape[1]
    q = q.reshape(b, groups, heads // groups * t, d).to(k.dtype)
    scores = (q @ k.transpose(-1, -2)).float().unflatten(2, (heads // groups, t)) / math.sqrt(d)
    weights = scores.masked_fill(~mask[:, :, None], -1e30).softmax(-1).flatten(2, 3).to(v.dtype)
    return (weights @ v).float().reshape(b, heads, t, d)


def forward(model, cache, ids, positions, width):
    """ids, positions: (B, T); `width` cache places are looked at. Hidden states (B, T, dim)."""
    b, t = ids.shape
    cos, sin = model.rotary(positions.flatten())
    x = model.token_embd(ids).flatten(0, 1)
    mask = (torch.arange(width, device=ids.device) <= positions[..., None])[:, None]
    place = positions[:, None, :, None].expand(-1, model.shape.kv_heads, -1, model.shape.head_dim)
    for layer, block in enumerate(model.blocks):
        q, k, v = (y.unflatten(0, (b, t)).transpose(1, 2) for y in block.queries_keys_values(x, cos, sin))
        cache.keys[layer].scatter_(2, place, k.to(cache.dtype))
        cache.values[layer].scatter_(2, place, v.to(cache.dtype))
        attended = attend(q, cache.keys[layer][:, :, :width], cache.values[layer][:, :, :width], mask)
        x = block.rest(x, attended.transpose(1, 2).flatten(0, 1))
    return x.unflatten(0, (b, t))


def batch_greedy(model, prompts, most, stop, device):
    """Continuations (without the stop token) of prompts that fit in one batch."""
    lengths = torch.tensor([len(p) for p in prompts], device=device)
    longest = int(lengths.max())
    room = min(longest + most, model.shape.context)
    cache = Cache(model.shape, len(prompts), room, device)
    padded = torch.zeros(len(prompts), longest, dtype=torch.long)
    for i, p in enumerate(prompts):
        padded[i, :len(p)] = torch.tensor(p)
    positions = torch.arange(longest, device=device).expand(len(prompts), -1).contiguous()
    hidden = forward(model, cache, padded.to(device), positions, longest)
    token = model.logits(hidden[torch.arange(len(prompts), device=device), lengths - 1]).argmax(-1)
    alive, at = torch.arange(len(prompts), device=device), lengths.clone()
    made = [[] for _ in prompts]
    pieces, width = [], longest
    for step in range(most):
        pieces.append((alive, token))
        width = min(width + 1, room)
        if step % 16 == 15 or step == most - 1:
            keep = flush(pieces, made, stop, room, at)
            pieces = []
            if not len(keep):
                break
            keep = torch.tensor(keep, device=device)
            alive, token, at = alive[keep], token[keep], at[keep]
            cache.keep(keep)
        here = at.clamp(max=room - 1)
        hidden = forward(model, cache, token[:, None], here[:, None], width)
        token = model.logits(hidden[:, 0]).argmax(-1)
        at = at + 1
    return [cut(ids, stop) for ids in made]


def flush(pieces, made, stop, room, at):
    """Write down the tokens since the last time; which places of the batch go on."""
    alive = pieces[0][0].tolist()
    columns = torch.stack([t for _, t in pieces], 1).tolist()
    ends = at.tolist()
    keep = []
    for place, (who, tokens) in enumerate(zip(alive, columns)):
        made[who] += tokens
        if stop not in tokens and ends[place] + 1 < room:
            keep.append(place)
    return keep


def cut(ids, stop):
    return ids[:ids.index(stop)] if stop in ids else ids


@torch.no_grad()
def greedy(model, prompts, most=700, stop=0, device="cpu", batch=1024):
    """Greedy continuations of all prompts, in their order; prompts of like length go together."""
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    out = [None] * len(prompts)
    for at in range(0, len(order), batch):
        chosen = order[at:at + batch]
        for i, ids in zip(chosen, batch_greedy(model, [prompts[i] for i in chosen], most, stop, device)):
            out[i] = ids
    return out
