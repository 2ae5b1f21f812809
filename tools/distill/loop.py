"""The training loop that the teacher and the students share."""
import json
import time

import torch

from . import model as models
from .optim import optimizers, schedule


def to_device(rows, device):
    move = lambda a, dtype: torch.from_numpy(a).to(device, non_blocking=True).to(dtype)
    packed = models.Packed(move(rows.ids, torch.long), move(rows.positions, torch.long), move(rows.starts, torch.int32),
                           rows.longest)
    return packed, move(rows.targets, torch.long)


class Budget:
    """A run ends after so many seconds or steps, whichever is given."""

    def __init__(self, seconds=None, steps=None):
        self.seconds, self.steps, self.began = seconds, steps, time.time()

    def progress(self, step):
        by_time = (time.time() - self.began) / self.seconds if self.seconds else 0.0
        return max(by_time, step / self.steps if self.steps else 0.0)


class Curve:
    """Loss curve: printed, and written as JSON lines."""

    def __init__(self, path, every):
        self.file, self.every, self.began = open(path, "w") if path else None, every, time.time()
        self.total, self.count = None, 0

    def add(self, step, loss, progress, tokens):
        self.total = loss.detach() if self.total is None else self.total + loss.detach()
        self.count += 1
        if step % self.every:
            return
        row = {"step": step, "loss": round(float(self.total) / self.count, 5), "tokens": tokens,
               "seconds": round(time.time() - self.began, 1)}
        print(f"{progress:5.1%} step={step} loss={row['loss']:.4f} tokens={tokens} "
              f"tokens_s={tokens / max(1e-9, row['seconds']):.0f}", flush=True)
        if self.file:
            self.file.write(json.dumps(row) + "\n")
            self.file.flush()
        self.total, self.count = None, 0


def run(model, stream, loss_of, budget, device, lr, matrix_lr, curve):
    """Train until the budget is spent; loss_of(model, batch) -> scalar. Returns (steps, tokens)."""
    chosen = optimizers(model, lr, matrix_lr)
    step = tokens = 0
    model.train()
    while (progress := budget.progress(step)) < 1:
        schedule(chosen, progress)
        batch = stream.next()
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda"):
            loss = loss_of(model, batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in chosen:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        step += 1
        tokens += batch.student.tokens
        curve.add(step, loss, progress, tokens)
    return step, tokens
