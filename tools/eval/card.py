"""Model cards from an outcomes file, so that the figures in them are what was measured.

    python3 tools/eval/card.py check.jsonl.gz models
"""
import gzip
import json
import sys
from pathlib import Path

import summary

COMMON = """It is a llama-architecture model trained from nothing on questions that `tools/curriculum` generates, so its data holds no
text from anywhere else. It knows those fifteen families of questions in English and Chinese, and nothing of the world.
The tokenizer (byte-level BPE, 4,096 tokens, each digit alone) and the chat template are the same in all three models."""

CARDS = {
    "edge": {
        "files": "`edge.q8_0.gguf` (shipped and measured), `edge.f16.gguf`",
        "shape": "1.5 M parameters: 5 layers, width 128, 4 heads (2 for keys and values), feed-forward 384, context 1,024",
        "how": "Answers at once, without working. Distilled from the core: 3,100 steps, 202 M tokens, half cross-entropy and half\nKL divergence at temperature 2 to the teacher's distributions over the answer, given the teacher's own working.",
        "cannot": "Anything that needs more than a step or two: long products, sums of many numbers, several look-ups in a table.\nLooking a value up in a table fails most of the time even where the table is small; that is what the router should send up.",
    },
    "region": {
        "files": "`region.q8_0.gguf`; F16 by the export command",
        "shape": "7.3 M parameters: 8 layers, width 256, 4 heads (2 for keys and values), feed-forward 768, context 1,024",
        "how": "Works briefly inside `<think>`, then answers. Distilled from the core: 3,019 steps, 197 M tokens, half cross-entropy and\nhalf KL divergence at temperature 2 to the teacher's distributions over short working and answer.",
        "cannot": "Long working: products of large numbers, six or more steps of a state machine, five-step word problems, and comparing\nmany rows of a table. It skips steps there that it cannot do in one.",
    },
    "core": {
        "files": "`core.q8_0.gguf`; F16 by the export command",
        "shape": "24.1 M parameters: 8 layers, width 512, 8 heads (4 for keys and values), feed-forward 1,280, context 1,024",
        "how": "Writes its whole working inside `<think>`, digit by digit where there is arithmetic, then answers. Trained without a\nteacher: 10,186 steps, 662 M tokens, 450 s on one H100. Fifteen in a hundred of its documents show it short working, marked\nby the token `<|brief|>`, so that it can teach the region.",
        "cannot": "Boolean logic over switches in English is its weakest family (about one in five wrong, none in Chinese), then geometric\nsequences whose first term and factor were never seen together. Numbers longer than the curriculum's (about eight digits)\nand any question outside the families get confident nonsense.",
    },
}


def table(rows, name):
    out = ["| | 1 | 2 | 3 | 4 | 5 | all | en | zh |", "| --- |" + " ---: |" * 8]
    groups = [("**all**", rows)] + summary.grouped(rows, "task")
    for label, group in groups:
        by, lang = dict(summary.grouped(group, "difficulty")), dict(summary.grouped(group, "lang"))
        values = [summary.share(by.get(d, []), name) for d in range(1, 6)]
        values += [summary.share(group, name), summary.share(lang.get("en", []), name), summary.share(lang.get("zh", []), name)]
        out.append(f"| {label} | " + " | ".join(f"{100 * v:.1f}" for v in values) + " |")
    return "\n".join(out)


def card(name, rows):
    text = CARDS[name]
    tokens = sum(r["tokens"][name] for r in rows) / len(rows)
    return f"""# rung-demo-{name}

{text['shape']}. Files: {text['files']}. License: Apache-2.0, as the project.

{COMMON}

## Training
{text['how']}
Commands and the comparison with training without a teacher: [docs/models.md](../docs/models.md).

## Accuracy
Per cent right on {len(rows):,} fresh test items (seed `check`, greedy, the Q8_0 weights, through PyTorch), by family, difficulty
and language. Operands of test items never occur in training, and about half of the phrasings do not.

{table(rows, name)}

JSON actions that parse: {100 * summary.parse_rate(rows, name):.2f} %. Tokens a reply: {tokens:.1f}. AUC of prompt length, wrong against right:
{summary.length_auc(rows, name):.3f}.

## What it cannot do
{text['cannot']}
"""


def main():
    with gzip.open(sys.argv[1], "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    for name in CARDS:
        path = Path(sys.argv[2]) / f"{name}.md"
        path.write_text(card(name, rows), encoding="utf-8")
        print(f"wrote {path}")


if __name__ == "__main__":
    main()
