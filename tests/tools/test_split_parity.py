"""Our pre-tokenizers against their published regular expressions, run by the `regex` module (python3-regex).

Needs the build's engine_split_main (RUNG_BUILD, else ./build). Texts are made at random from characters of every kind."""
import os
import random
import struct
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest

regex = pytest.importorskip("regex")

ROOT = Path(__file__).resolve().parents[2]
HELPER = Path(os.environ.get("RUNG_BUILD", ROOT / "build")) / "tests" / "engine_split_main"
sys.path.insert(0, str(ROOT / "tools"))
import unicode_table

CONTRACTION = "(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])"
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
CASED = "[" + unicode_table.CASED.replace(" ", "") + "]"
BLOOM = r" ?[^(\s|.,!?…。，、।۔،)]+"


def words(digits, after=r"[\r\n]*", letters=r"\p{L}", newlines=""):
    return (CONTRACTION + r"|[^\r\n\p{L}\p{N}]?[" + letters + r"]+|\p{N}" + digits + r"| ?[^\s" + letters + r"\p{N}" + newlines
            + "]+" + after + r"|\s*[\r\n]+|\s+(?!\S)|\s+")


def cased_words(digits, contraction):
    suffix = CONTRACTION + "?" if contraction else ""
    upper, lower = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
    lead = r"[^\r\n\p{L}\p{N}]?"
    return (lead + upper + "*" + lower + "+" + suffix + "|" + lead + upper + "+" + lower + "*" + suffix + r"|\p{N}" + digits
            + r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")


SPLITS = {
    "gpt-2": [GPT2],
    "smollm": [r"\p{N}", GPT2],
    "llama-bpe": [words("{1,3}")],
    "qwen2": [words("")],
    "qwen35": [words("", letters=r"\p{L}\p{M}")],
    "seed-coder": [words("", after="", newlines=r"\r\n")],
    "minicpm5": [r"\p{N}{1,3}", words("+")],
    "deepseek-llm": ["[\r\n]", r"\s?" + CASED + "+", r"\s?[!-/:-~！-／：-～‘-‟　-。]+", r"\s+$(?!\n)", "[一-龥ࠀ-一가-퟿]+", r"\p{N}+"],
    "deepseek-coder": ["[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥ࠀ-一가-퟿]+", r"\p{N}"],
    "deepseek-v3": [r"\p{N}{1,3}", "[一-龥぀-ゟ゠-ヿ]+",
                    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"""],
    "falcon": [r"[\p{P}\$\+<=>\^~\|`]+", GPT2, "[0-9][0-9][0-9]"],
    "default": [r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]"],
    "bloom": [BLOOM],
    "viking": [BLOOM, r"\p{N}"],
    "tekken": [cased_words("", False)],
    "gpt-4o": [cased_words("{1,3}", True)],
}

POOL = list(" \n\r\t  ''''abcdefstmlvrdABCDSTMLVRE0123456789!?.,:;()[]{}<>=+-*/\\|`~^$#@%&_\"") + list(
    "éÉßñЖжшΩωǅʰªºאبकाि्ते한국어中文字日本語のァー一龥１２³½Ⅷ٣\u3000\u2003\u0085\u00a0\u1680\u2028\u200b。、，！？“”‘’…—〜«»€£°©™😀🚀\u200d\u0301\u0308"
    "\ufe0f\u00ad\ufeff\u0001\u001f\u007f")


def make_text(rng):
    n = rng.randint(0, 24)
    if rng.random() < 0.2:
        spans = [(1, 0x7f), (1, 0x24ff), (0x3000, 0xd7ff), (0xe000, 0x1ffff)]
        return "".join(chr(rng.randint(*rng.choice(spans))) for _ in range(n))
    pool = rng.sample(POOL, rng.choice([3, 6, len(POOL)])) if rng.random() < 0.5 else POOL
    return "".join(rng.choice(pool) for _ in range(n))


def cut(text, expressions):
    pieces = [text] if text else []
    for expression in expressions:
        finer = []
        for piece in pieces:
            at = 0
            for match in expression.finditer(piece):
                if match.end() == match.start():
                    continue
                if match.start() > at:
                    finer.append(piece[at:match.start()])
                finer.append(match.group())
                at = match.end()
            if at < len(piece):
                finer.append(piece[at:])
        pieces = finer
    return pieces


@pytest.mark.parametrize("name", SPLITS)
def test_cuts_where_the_expression_does(name):
    rng = random.Random(int(os.environ.get("RUNG_SEED", "1")))
    texts = [make_text(rng) for _ in range(5000)]
    # a code point that one table knows and the other does not yet says nothing
    texts = [t for t in texts if all(unicodedata.category(c) != "Cn" for c in t)]
    data = b"".join(struct.pack("<I", len(t.encode())) + t.encode() for t in texts)
    lines = subprocess.run([HELPER, name], input=data, stdout=subprocess.PIPE, check=True).stdout.decode().split("\n")
    expressions = [regex.compile(e) for e in SPLITS[name]]
    for text, line in zip(texts, lines):
        ends, at = [], 0
        for piece in cut(text, expressions):
            at += len(piece)
            ends.append(at)
        assert ends == [int(x) for x in line.split()], repr(text)
