"""Distil a student from a teacher.

    python3 tools/distill/distill.py region --teacher build/core.pt --out build/region.pt
    python3 tools/distill/distill.py edge --teacher build/core.pt --loss mse --out build/edge.pt

The edge learns the teacher's distributions over the answer, given the teacher's own working; the region learns them
over short working and answer. A pair of your own, two Hugging Face folders:

    python3 tools/distill/distill.py pair --teacher BIG --student SMALL --prompts prompts.jsonl --steps 2000 --out OUT
"""
import argparse
import sys
from pathlib import Path

import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from distill import loop, model as models  # noqa: E402
from distill.data import Stream  # noqa: E402
from distill.train import MODES, arguments, settle, start  # noqa: E402


def soft_loss(student, teacher, kind, temperature):
    """KL(teacher || student) at a temperature, scaled by its square; or mean-squared error on centred logits."""
    if kind == "mse":
        centred = lambda x: x - x.mean(-1, keepdim=True)
        return F.mse_loss(centred(student), centred(teacher))
    target = F.log_softmax(teacher / temperature, -1)
    guess = F.log_softmax(student / temperature, -1)
    return F.kl_div(guess, target, log_target=True, reduction="batchmean") * temperature ** 2


def distil_loss(teacher, device, kind, temperature, hard):
    def loss_of(student, batch):
        packed, targets = loop.to_device(batch.student, device)
        seen, aligned = loop.to_device(batch.teacher, device)
        with torch.no_grad():
            wanted = teacher.logits(teacher.hidden(seen)[aligned])
        logits = student.logits(student.hidden(packed)[targets])
        soft = soft_loss(logits, wanted, kind, temperature)
        return (1 - hard) * soft + hard * F.cross_entropy(logits, packed.ids[targets + 1])
    return loss_of


def teacher_rows(name, rows):
    """The teacher's documents are longer where it works in full."""
    return rows * 2 if name == "edge" else rows + max(1, rows // 16)


def options():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments(parser, ["edge", "region", "pair"])
    parser.add_argument("--teacher", required=True, help="checkpoint; for a pair a Hugging Face folder")
    parser.add_argument("--loss", choices=("kl", "mse"), default="kl")
    parser.add_argument("--temperature", type=float, default=2.0)
    parser.add_argument("--hard", type=float, default=0.5, help="share of cross-entropy on the right answer")
    parser.add_argument("--student", help="pair: Hugging Face folder to start from")
    parser.add_argument("--prompts", help="pair: JSON lines of prompts")
    parser.add_argument("--answer-tokens", type=int, default=128, help="pair: most tokens the teacher answers with")
    return parser.parse_args()


def distil_rung(args, device):
    stream = Stream(args.workers, f"distill/{args.seed}", mode=MODES[args.name], rows=args.rows,
                    teacher_rows=teacher_rows(args.name, args.rows))
    student = start(args, device)
    teacher = models.load(args.teacher, device).eval()
    if student.compiled:
        teacher.compile()
    curve = loop.Curve(args.curve, args.every)
    loss_of = distil_loss(teacher, device, args.loss, args.temperature, args.hard)
    steps, tokens = loop.run(student, stream, loss_of, loop.Budget(args.seconds, args.steps), device, args.lr,
                             args.matrix_lr, curve)
    stream.close()
    models.save(student, args.out, steps=steps, tokens=tokens, name=args.name, mode=MODES[args.name])
    print(f"saved {args.out} steps={steps} tokens={tokens}", flush=True)


def main():
    args = options()
    device = settle(args)
    if args.name == "pair":
        from distill import pair
        pair.distil(args, device, distil_loss)
    else:
        distil_rung(args, device)


if __name__ == "__main__":
    main()
