"""Score models on fresh items of a seed, or merge what earlier runs wrote.

    python3 tools/eval --seed 2026 --n 1000 --url http://127.0.0.1:8080/v1 --model edge --out edge.jsonl
    python3 tools/eval --seed 2026 --n 1000 --unix /run/rung/rung.sock --model auto --out auto.jsonl
    python3 tools/eval --seed 2026 --n 10000 --gguf edge=models/edge.q8_0.gguf --gguf core=models/core.q8_0.gguf --out all.jsonl
    python3 tools/eval --merge edge.jsonl auto.jsonl --out all.jsonl

Each line: {id, task, difficulty, lang, prompt, messages (where there are more than one), scores {model: 0|1},
tokens {model: n}, time_s {model: s}}. A name ending in .gz is compressed.
"""
import argparse
import gzip
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent))

import endpoint  # noqa: E402
import items as fresh_items  # noqa: E402
import summary  # noqa: E402
from curriculum import check, parses_as_json  # noqa: E402


def opened(path, mode):
    return gzip.open(path, mode + "t", encoding="utf-8") if str(path).endswith(".gz") else open(path, mode, encoding="utf-8")


def write(path, rows):
    with opened(path, "w") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False, separators=(",", ":")) + "\n")


def read(path):
    with opened(path, "r") as file:
        return [json.loads(line) for line in file]


def note(rows, items, name, replies):
    for row, item, (text, tokens, seconds, *tier) in zip(rows, items, replies):
        row["scores"][name] = int(check(item, text))
        row["tokens"][name] = tokens
        row["time_s"][name] = round(seconds, 4)
        if "parses" in row:
            row["parses"][name] = int(parses_as_json(text))
        if tier and tier[0]:
            row.setdefault("tier", {})[name] = tier[0]


def merged(paths):
    """Runs over the same items, all scores of an item in one line."""
    first, *others = [read(p) for p in paths]
    for rows in others:
        for mine, theirs in zip(first, rows, strict=True):
            if mine["prompt"] != theirs["prompt"]:
                raise SystemExit(f"not the same items: id {mine['id']}")
            for key in ("scores", "tokens", "time_s", "parses", "tier"):
                if key in theirs:
                    mine.setdefault(key, {}).update(theirs[key])
    return first


def evaluate(args):
    items = fresh_items.fresh(args.seed, args.n, args.split)
    rows = [fresh_items.record(i, item) for i, item in enumerate(items)]
    chats = [item.messages for item in items]
    for spec in args.gguf:
        import local
        name, path = spec.split("=", 1)
        note(rows, items, name, local.answer_all(path, chats, args.device))
    if args.url or args.unix:
        service = endpoint.Endpoint(args.url, args.unix, args.key, lanes=args.lanes)
        for name in args.model:
            note(rows, items, name, service.ask_all(name, chats))
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", default="2026")
    parser.add_argument("--n", type=int, default=1000)
    parser.add_argument("--split", default="test", choices=("train", "test"))
    parser.add_argument("--url")
    parser.add_argument("--unix")
    parser.add_argument("--key")
    parser.add_argument("--lanes", type=int, default=4, help="requests at a time")
    parser.add_argument("--model", action="append", default=[])
    parser.add_argument("--gguf", action="append", default=[], metavar="NAME=PATH", help="through PyTorch; a checkpoint works too")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--merge", nargs="+")
    parser.add_argument("--out")
    parser.add_argument("--cells", action="store_true", help="also family by difficulty")
    args = parser.parse_args()
    rows = merged(args.merge) if args.merge else evaluate(args)
    if args.out:
        write(args.out, rows)
    print("\n".join(summary.lines(rows) + (summary.cells(rows) if args.cells else [])))


if __name__ == "__main__":
    main()
