"""Sequence continuation: the next number."""
from ..item import Draft
from .. import working as w

FAMILY = "sequence"
ASKS = {
    "en": {"next": ["What comes next: {s}, ...?", "Continue the sequence: {s}.", "{s}, ... What is the next number?",
                    "Find the next term of {s}.", "Which number follows in {s}?", "The series goes {s}. Next?"]},
    "zh": {"next": ["接下来是什么：{s}，……？", "继续这个数列：{s}。", "{s}，……下一个数是多少？", "求{s}的下一项。", "{s}后面是哪个数？",
                    "数列是{s}，下一个？"]},
}


def finish(lang, values, full, short):
    shown, answer = values[:-1], values[-1]
    text = ", ".join(map(str, shown)) if lang == "en" else "，".join(map(str, shown))
    return Draft("next", tuple(shown), {"s": text}, str(answer), full, short, "number")


def steady(rng, lang, high, down):
    step, start, n = rng.randint(2, high), rng.randint(1, 60), rng.randint(4, 5)
    values = [start + step * i for i in range(n + 1)]
    if down:
        values = [v + rng.randint(0, 0) for v in reversed(values)]
        return finish(lang, values, f"{values[0]}-{values[1]}={step};{w.sub(values[-2], step)}", f"-{step}")
    return finish(lang, values, f"{values[1]}-{values[0]}={step};{w.add(values[-2], step)}", f"+{step}")


def geometric(rng, lang):
    factor, start = rng.randint(2, 4), rng.randint(1, 19)
    values = [start * factor ** i for i in range(5)]
    tries = " ".join(f"{start}*{k}={start * k}" for k in range(2, factor + 1))
    return finish(lang, values, f"{values[0]}>{values[1]}:{tries};{w.mul(values[-2], factor)}", f"*{factor}")


def alternating(rng, lang):
    a, b, value = rng.randint(5, 20), rng.randint(1, 4), rng.randint(5, 60)
    values = [value]
    for i in range(6):
        value += a if i % 2 == 0 else -b
        values.append(value)
    full = f"{values[0]}+{a}={values[1]};{values[1]}-{b}={values[2]};+{a} -{b} +{a} -{b} +{a};{w.sub(values[-2], b)}"
    return finish(lang, values, full, f"+{a} -{b}")


def growing(rng, lang, big):
    gap, more, value = rng.randint(1, 20 if big else 9), rng.randint(2, 15 if big else 5), rng.randint(1, 80 if big else 30)
    values, gaps = [value], []
    for _ in range(5):
        value += gap
        values.append(value)
        gaps.append(gap)
        gap += more
    steps = ";".join(w.sub(b, a) for a, b in zip(values, values[1:-1]))
    full = f"{steps};{gaps[0]} {gaps[1]} {gaps[2]} {gaps[3]}:+{more}={gaps[4]};{w.add(values[-2], gaps[4])}"
    return finish(lang, values, full, " ".join(map(str, gaps[:4])))


def fibonacci(rng, lang, high):
    values = [rng.randint(1, high), rng.randint(1, high)]
    while len(values) < 7:
        values.append(values[-1] + values[-2])
    full = f"{values[0]}+{values[1]}={values[2]};{w.add(values[-3], values[-2])}"
    return finish(lang, values, full, f"{values[-3]}+{values[-2]}")


def woven(rng, lang):
    a, b = rng.randint(1, 99), rng.randint(1, 99)
    p, q = rng.randint(2, 25), rng.randint(2, 25)
    values = []
    for i in range(4):
        values += [a + p * i, b + q * i]
    odd = rng.random() < 0.5
    values = values[:7] if odd else values
    mine, step = (values[0::2], p) if odd else (values[1::2], q)
    full = f"{' '.join(map(str, mine[:-1]))};{w.sub(mine[1], mine[0])};{w.add(mine[-2], step)}"
    return finish(lang, values, full, f"+{step}")


def draft(rng, d, lang):
    kind = rng.random()
    if d == 1:
        return steady(rng, lang, 12, False)
    if d == 2:
        return steady(rng, lang, 60, kind < 0.5)
    if d == 3:
        return geometric(rng, lang) if kind < 0.4 else alternating(rng, lang)
    if d == 4:
        return growing(rng, lang, False) if kind < 0.5 else fibonacci(rng, lang, 20)
    return growing(rng, lang, True) if kind < 0.4 else woven(rng, lang) if kind < 0.75 else fibonacci(rng, lang, 99)
