"""Distilling a pair of your own: two Hugging Face llama folders that share a tokenizer.

    python3 tools/distill/distill.py pair --teacher BIG --student SMALL --prompts prompts.jsonl --out OUT --steps 2000

Each line of the prompts is {"ids": [...]}, {"prompt": "..."} or {"messages": [...]}; the last two need the `tokenizers`
package (and jinja2 for messages). The teacher answers greedily, the student learns its distributions over the answers.
"""
import json
import random
from pathlib import Path

import numpy as np
import torch

from . import generate, hf, loop
from .data import Batch, Document, Packer


class Prompts:
    """Prompts as token ids."""

    def __init__(self, path, folder):
        self.folder = Path(folder)
        with open(path, encoding="utf-8") as file:
            self.ids = [self.encoded(json.loads(line)) for line in file if line.strip()]

    def encoded(self, row):
        if "ids" in row:
            return row["ids"]
        return self.tokenizer().encode(self.text(row), add_special_tokens="prompt" in row).ids

    def text(self, row):
        if "prompt" in row:
            return row["prompt"]
        import jinja2
        config = json.loads((self.folder / "tokenizer_config.json").read_text())
        template = jinja2.Environment().from_string(config["chat_template"])
        special = {k: config[k] for k in ("bos_token", "eos_token") if isinstance(config.get(k), str)}
        return template.render(messages=row["messages"], add_generation_prompt=True, **special)

    def tokenizer(self):
        if not hasattr(self, "_tokenizer"):
            from tokenizers import Tokenizer
            self._tokenizer = Tokenizer.from_file(str(self.folder / "tokenizer.json"))
        return self._tokenizer


class Labelled:
    """A stream of batches from the teacher's own answers; every prompt is answered once and seen again later."""

    def __init__(self, documents, rows, seed):
        self.documents, self.rows, self.random = documents, rows, random.Random(seed)

    def next(self):
        packer = Packer(self.rows)
        while (row := packer.fits(len((document := self.random.choice(self.documents)).ids))) is not None:
            packer.put(row, document)
        packed = packer.finish()
        return Batch(packed, packed)


def end_token(folder):
    config = json.loads((Path(folder) / "config.json").read_text())
    end = config.get("eos_token_id", 0)
    return end[0] if isinstance(end, list) else end


def labelled(teacher, prompts, args, device):
    stop = end_token(args.teacher)
    answers = generate.greedy(teacher, prompts, most=args.answer_tokens, stop=stop, device=device, batch=64)
    return [Document(list(p) + a + [stop], len(p)) for p, a in zip(prompts, answers)]


def distil(args, device, loss_from):
    """Run the whole path; loss_from is distill.distil_loss."""
    teacher, student = hf.load(args.teacher).to(device).eval(), hf.load(args.student).to(device)
    if teacher.shape.vocab != student.shape.vocab:
        raise SystemExit(f"teacher and student need one tokenizer: {teacher.shape.vocab} and {student.shape.vocab} tokens")
    documents = labelled(teacher, Prompts(args.prompts, args.teacher).ids, args, device)
    print(f"{len(documents)} prompts answered by the teacher, "
          f"{np.mean([len(d.ids) - d.reply for d in documents]):.1f} tokens each", flush=True)
    steps, tokens = loop.run(student, Labelled(documents, args.rows or 8, args.seed),
                             loss_from(teacher, device, args.loss, args.temperature, args.hard),
                             loop.Budget(args.seconds, args.steps), device, args.lr or 1e-3, args.matrix_lr or 0.004,
                             loop.Curve(args.curve, args.every))
    hf.save(student, args.out, args.student)
    print(f"saved {args.out} steps={steps} tokens={tokens}", flush=True)
