"""Byte-level BPE with single digits: the GPT-2 scheme with llama.cpp's "smollm" pre-tokenizer.

Trained here in plain Python, deterministic: equal counts are decided by the pair itself.
"""
import functools
import json
import re
import sys
import unicodedata
from collections import Counter, defaultdict
from pathlib import Path

SPECIALS = ["<|end|>", "<|bos|>", "<|system|>", "<|user|>", "<|assistant|>", "<think>", "</think>", "<|brief|>"]
VOCAB = 4096
TOKENIZER_FILE = Path(__file__).with_name("tokenizer.json")


def byte_symbols():
    """GPT-2's printable stand-in for each byte."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    symbols, extra = {b: chr(b) for b in plain}, 0
    for b in range(256):
        if b not in symbols:
            symbols[b] = chr(256 + extra)
            extra += 1
    return symbols


BYTE_TO_SYMBOL = byte_symbols()
SYMBOL_TO_BYTE = {s: b for b, s in BYTE_TO_SYMBOL.items()}


def category_class(letter):
    """Regex character class of a Unicode main category, as ranges."""
    ranges, start = [], None
    for code in range(sys.maxunicode + 2):
        inside = code <= sys.maxunicode and unicodedata.category(chr(code))[0] == letter
        if inside and start is None:
            start = code
        elif not inside and start is not None:
            ranges.append(f"{re.escape(chr(start))}-{re.escape(chr(code - 1))}")
            start = None
    return "".join(ranges)


@functools.lru_cache(None)
def pre_tokenizer():
    """Each digit alone; then GPT-2's pattern on what lies between. White space before a digit ends its span."""
    letters, numbers = category_class("L"), category_class("N")
    return re.compile(rf"[{numbers}]|'s|'t|'re|'ve|'m|'ll|'d| ?[{letters}]+| ?[^\s{letters}{numbers}]+"
                      rf"|\s+(?=[{numbers}])|\s+(?!\S)|\s+")


def symbols_of(piece):
    return [BYTE_TO_SYMBOL[b] for b in piece.encode()]


def train(texts, vocab=VOCAB):
    """Merges, most frequent pair first."""
    counts = Counter(piece for text in texts for piece in pre_tokenizer().findall(text))
    words = [(symbols_of(piece), n) for piece, n in sorted(counts.items())]
    pairs, where = Counter(), defaultdict(set)
    for i, (word, n) in enumerate(words):
        for pair in zip(word, word[1:]):
            pairs[pair] += n
            where[pair].add(i)
    merges = []
    while len(merges) < vocab - len(SPECIALS) - 256 and pairs:
        best = max(pairs, key=lambda p: (pairs[p], p))
        merges.append(best)
        for i in list(where[best]):
            replace_pair(words, i, best, pairs, where)
        del pairs[best]
    return merges


def replace_pair(words, i, best, pairs, where):
    """Merge `best` in word i and keep the pair counts right."""
    word, n = words[i]
    for pair in zip(word, word[1:]):
        pairs[pair] -= n
    merged = merge(word, best)
    for pair in zip(merged, merged[1:]):
        pairs[pair] += n
        where[pair].add(i)
    words[i] = (merged, n)


def merge(word, pair):
    out, i = [], 0
    while i < len(word):
        if i + 1 < len(word) and (word[i], word[i + 1]) == pair:
            out.append(word[i] + word[i + 1])
            i += 2
        else:
            out.append(word[i])
            i += 1
    return out


class Tokenizer:
    def __init__(self, merges, specials=SPECIALS):
        self.merges = [tuple(m) for m in merges]
        self.specials = list(specials)
        self.tokens = self.specials + [BYTE_TO_SYMBOL[b] for b in range(256)] + [a + b for a, b in self.merges]
        self.ids = {t: i for i, t in enumerate(self.tokens)}
        self.ranks = {m: i for i, m in enumerate(self.merges)}
        self.special_ids = {t: self.ids[t] for t in self.specials}
        self._special_pattern = re.compile("(" + "|".join(map(re.escape, self.specials)) + ")")
        self._cache = {}

    @classmethod
    def load(cls, path=TOKENIZER_FILE):
        return cls([m.split(" ") for m in json.loads(Path(path).read_text())["merges"]])

    def save(self, path=TOKENIZER_FILE):
        Path(path).write_text(json.dumps({"merges": [" ".join(m) for m in self.merges]}, ensure_ascii=False, indent=0) + "\n")

    def _piece(self, piece):
        word = symbols_of(piece)
        while len(word) > 1:
            best = min(zip(word, word[1:]), key=lambda p: self.ranks.get(p, 1 << 30))
            if best not in self.ranks:
                break
            word = merge(word, best)
        ids = tuple(self.ids[s] for s in word)
        if len(self._cache) < 500_000:
            self._cache[piece] = ids
        return ids

    def encode_text(self, text):
        """Ids of text in which special tokens mean nothing special."""
        out, cache = [], self._cache
        for piece in pre_tokenizer().findall(text):
            out += cache.get(piece) or self._piece(piece)
        return out

    def encode(self, text):
        """Ids of template output: special tokens are matched first."""
        out = []
        for part in self._special_pattern.split(text):
            if part in self.special_ids:
                out.append(self.special_ids[part])
            elif part:
                out += self.encode_text(part)
        return out

    def decode(self, ids, specials=True):
        parts = []
        for i in ids:
            token = self.tokens[i]
            if i < len(self.specials):
                parts.append(token.encode() if specials else b"")
            else:
                parts.append(bytes(SYMBOL_TO_BYTE[s] for s in token))
        return b"".join(parts).decode("utf-8", "replace")


def training_texts(count=60_000):
    """Fresh questions and their working, as the tokenizer's corpus."""
    from curriculum import generate
    for item in generate("tokenizer", count, "train"):
        yield from (m["content"] for m in item.messages)
        yield item.work_full
        yield item.answer


def main():
    Tokenizer(train(training_texts())).save()


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    main()
