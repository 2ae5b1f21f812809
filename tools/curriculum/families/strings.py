"""String edits on words and codes."""
from ..item import Draft
from ..words import WORDS

FAMILY = "strings"
LETTERS = "ABCDEFGHJKLMNPQRSTUVWXYZ"
ASKS = {
    "en": {
        "dash": ["Join these words with dashes: {s}.", "Write \"{s}\" with - instead of spaces.", "Put a dash between the words: {s}."],
        "first": ["What is the first word of \"{s}\"?", "Give only the first word: {s}."],
        "last": ["What is the last word of \"{s}\"?", "Give only the last word: {s}."],
        "replace": ["In \"{s}\" replace {x} by {y}.", "Write \"{s}\" again, but with {y} instead of {x}.", "Swap {x} for {y} in: {s}."],
        "drop": ["Remove the word {x} from \"{s}\".", "Write \"{s}\" without {x}.", "Delete {x}: {s}."],
        "flip": ["Reverse the order of the words: {s}.", "Write the words of \"{s}\" from last to first."],
        "reverse": ["Reverse the code {s}.", "Write {s} backwards.", "What is {s} read from right to left?"],
        "count": ["How often does {x} occur in the code {s}?", "Count the {x} in {s}."],
        "initials": ["Write the first letters of these words in capitals: {s}.", "Make an acronym of: {s}."],
        "spell": ["Write the word {s} backwards.", "Reverse the letters of {s}.", "Spell {s} from back to front."],
        "vowels": ["Remove all vowels from: {s}.", "Write \"{s}\" without a, e, i, o and u."],
    },
    "zh": {
        "dash": ["用短横线连接这些词：{s}。", "把“{s}”里的空格换成-。", "在单词之间加上-：{s}。"],
        "first": ["“{s}”的第一个词是什么？", "只给出第一个词：{s}。"],
        "last": ["“{s}”的最后一个词是什么？", "只给出最后一个词：{s}。"],
        "replace": ["把“{s}”里的{x}换成{y}。", "重写“{s}”，用{y}代替{x}。", "将{x}替换为{y}：{s}。"],
        "drop": ["从“{s}”里去掉{x}。", "写出“{s}”，不要{x}。", "删除{x}：{s}。"],
        "flip": ["把词的顺序倒过来：{s}。", "从后往前写出“{s}”的各个词。"],
        "reverse": ["把代码{s}倒过来。", "倒着写{s}。", "{s}从右往左读是什么？"],
        "count": ["代码{s}里有几个{x}？", "数一数{s}中的{x}。"],
        "initials": ["用大写写出这些词的首字母：{s}。", "写出首字母缩写：{s}。"],
        "spell": ["把单词{s}倒着写。", "把{s}的字母反过来。", "从后往前拼出{s}。"],
        "vowels": ["去掉所有元音字母：{s}。", "写出“{s}”，不要a、e、i、o、u。"],
    },
}


def finish(sub, operands, slots, answer, full, short):
    return Draft(sub, operands, slots, answer, full, short, "exact")


def dash(rng, n):
    words = rng.sample(WORDS, n)
    return finish("dash", tuple(words), {"s": " ".join(words)}, "-".join(words), "-", "-")


def end(rng, n):
    words, first = rng.sample(WORDS, n), rng.random() < 0.5
    answer = words[0] if first else words[-1]
    return finish("first" if first else "last", tuple(words), {"s": " ".join(words)}, answer, answer, answer)


def replace(rng, n):
    words = rng.sample(WORDS, n + 1)
    new, words = words[-1], words[:-1]
    at = rng.randrange(n)
    out = [new if i == at else w for i, w in enumerate(words)]
    return finish("replace", (*words, at, new), {"s": " ".join(words), "x": words[at], "y": new}, " ".join(out),
                  f" {words[at]}> {new}: " + " ".join(f"{w}{'-' if i == at else '+'}" for i, w in enumerate(words)),
                  f" {words[at]}> {new}")


def drop(rng, n):
    words = rng.sample(WORDS, n)
    at = rng.randrange(n)
    return finish("drop", (*words, at), {"s": " ".join(words), "x": words[at]}, " ".join(words[:at] + words[at + 1:]),
                  f" {words[at]}: " + " ".join(f"{w}{'-' if i == at else '+'}" for i, w in enumerate(words)), f" {words[at]}:")


def flip(rng, n):
    words = rng.sample(WORDS, n)
    numbered = " ".join(f"{i + 1}{w}" for i, w in enumerate(words))
    return finish("flip", tuple(words), {"s": " ".join(words)}, " ".join(reversed(words)), numbered, str(n))


def code(rng, n):
    return "".join(rng.choice(LETTERS) if rng.random() < 0.5 else str(rng.randint(0, 9)) for _ in range(n))


def reverse(rng, n):
    text = code(rng, n)
    return finish("reverse", (text,), {"s": text}, text[::-1], " ".join(f"{i + 1}{c}" for i, c in enumerate(text)), "")


def count(rng, n):
    pool = rng.sample(LETTERS, 4)
    text = "".join(rng.choice(pool) for _ in range(n))
    x, seen, steps = rng.choice(pool[:3]), 0, []
    for c in text:
        seen += c == x
        steps.append(f"{c}{seen}" if c == x else f"{c}.")
    return Draft("count", (text, x), {"s": "-".join(text), "x": x}, str(seen), f"{x}:" + " ".join(steps), x, "number")


def initials(rng, n):
    words = rng.sample(WORDS, n)
    answer = "".join(w[0].upper() for w in words)
    return finish("initials", tuple(words), {"s": " ".join(words)}, answer, " ".join(f"{w}:{w[0]}" for w in words),
                  " ".join(w[0] for w in words))


def spelled(word):
    return "-".join(word)


def spell(rng, n):
    words = rng.sample([w for w in WORDS if len(w) > 3], n)
    text = " ".join(words)
    back = " ".join(w[::-1] for w in words)
    return finish("spell", tuple(words), {"s": text}, back, " ".join(f"{spelled(w)}:{spelled(w[::-1])}" for w in words),
                  spelled(words[0]))


def vowels(rng, n):
    words = rng.sample(WORDS, n)
    bare = ["".join(c for c in w if c not in "aeiou") for w in words]
    return finish("vowels", tuple(words), {"s": " ".join(words)}, " ".join(bare),
                  " ".join(f"{spelled(w)}:{spelled(b)}" for w, b in zip(words, bare)), spelled(words[0]))


def draft(rng, d, lang):
    kind = rng.random()
    if d == 1:
        return dash(rng, rng.randint(2, 3)) if kind < 0.5 else end(rng, rng.randint(3, 5))
    if d == 2:
        return replace(rng, rng.randint(3, 5)) if kind < 0.6 else drop(rng, rng.randint(3, 4))
    if d == 3:
        return flip(rng, rng.randint(3, 5)) if kind < 0.5 else initials(rng, rng.randint(3, 4))
    if d == 4:
        return reverse(rng, rng.randint(4, 7)) if kind < 0.5 else count(rng, rng.randint(6, 12))
    return spell(rng, 2) if kind < 0.4 else vowels(rng, rng.randint(2, 3)) if kind < 0.8 else reverse(rng, rng.randint(8, 12))
