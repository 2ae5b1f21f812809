"""Train a model on the curriculum without a teacher: the core, and the students of the ablation.

    python3 tools/distill/train.py core --out build/core.pt
    python3 tools/distill/train.py edge --steps 2000 --out build/edge-plain.pt     (no teacher)
    python3 tools/distill/train.py core --resume build/core.pt --seconds 120 --out build/core.pt
"""
import argparse
import sys
from pathlib import Path

import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from distill import loop, model as models  # noqa: E402
from distill.data import Stream  # noqa: E402

MODES = {"core": "full", "region": "short", "edge": "none"}
DEFAULTS = {  # rows a step, AdamW rate, Muon rate
    "core": (64, 2e-3, 0.012),
    "region": (64, 3e-3, 0.016),
    "edge": (64, 4e-3, 0.02),
}


def plain_loss(device):
    def loss_of(model, batch):
        packed, targets = loop.to_device(batch.student, device)
        hidden = model.hidden(packed)
        return F.cross_entropy(model.logits(hidden[targets]), packed.ids[targets + 1])
    return loss_of


def arguments(parser, names):
    """Options that train.py and distill.py share."""
    parser.add_argument("name", choices=names)
    parser.add_argument("--out", required=True)
    parser.add_argument("--resume", help="start from these weights")
    parser.add_argument("--seconds", type=float)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--seed", default="1")
    parser.add_argument("--rows", type=int, help="rows of 1,024 tokens a step")
    parser.add_argument("--lr", type=float)
    parser.add_argument("--matrix-lr", type=float)
    parser.add_argument("--workers", type=int, default=14)
    parser.add_argument("--curve", help="write the loss curve here, JSON lines")
    parser.add_argument("--every", type=int, default=50)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--no-compile", action="store_true")


def settle(args):
    rows, lr, matrix_lr = DEFAULTS.get(args.name, (None, None, None))
    args.rows, args.lr, args.matrix_lr = args.rows or rows, args.lr or lr, args.matrix_lr or matrix_lr
    if not args.seconds and not args.steps:
        args.seconds = 480.0
    torch.backends.cuda.matmul.allow_tf32 = True
    return torch.device(args.device)


def start(args, device):
    model = models.load(args.resume, device) if args.resume else models.Llama(models.SHAPES[args.name], seed=7).to(device)
    if device.type == "cuda" and not args.no_compile:
        model.compile()
    print(f"{args.name}: {models.parameters_of(model)} parameters on {device}", flush=True)
    return model


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments(parser, sorted(models.SHAPES))
    args = parser.parse_args()
    device = settle(args)
    brief = 0.15 if args.name == "core" else 0.0  # the teacher has to know short working too
    stream = Stream(args.workers, f"train/{args.seed}", mode=MODES[args.name], rows=args.rows, brief_share=brief)
    model = start(args, device)
    curve = loop.Curve(args.curve, args.every)
    steps, tokens = loop.run(model, stream, plain_loss(device), loop.Budget(args.seconds, args.steps), device, args.lr,
                             args.matrix_lr, curve)
    stream.close()
    models.save(model, args.out, steps=steps, tokens=tokens, name=args.name, mode=MODES[args.name])
    print(f"saved {args.out} steps={steps} tokens={tokens}", flush=True)


if __name__ == "__main__":
    main()
