"""python3 -m curriculum --seed 1 --n 10 --split test: items as JSON lines (run in tools/)."""
import argparse
import dataclasses
import json

from . import FAMILIES, generate


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", default="1")
    parser.add_argument("--n", type=int, default=10)
    parser.add_argument("--split", choices=("train", "test"), default="test")
    parser.add_argument("--family", action="append", choices=FAMILIES)
    parser.add_argument("--difficulty", action="append", type=int, choices=range(1, 6))
    parser.add_argument("--lang", action="append", choices=("en", "zh"))
    args = parser.parse_args()
    for item in generate(args.seed, args.n, args.split, args.family, args.difficulty, tuple(args.lang or ("en", "zh"))):
        print(json.dumps(dataclasses.asdict(item), ensure_ascii=False))


if __name__ == "__main__":
    main()
