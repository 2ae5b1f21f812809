"""Arithmetic: sums, differences, products up to four digits, parentheses, percentages."""
from ..item import Draft
from .. import working as w

FAMILY = "arith"
EXPRESSION = ["What is {e}?", "Calculate {e}.", "Work out {e}.", "How much is {e}?", "Compute {e} for me.", "{e} = ?"]
EXPRESSION_ZH = ["{e}等于多少？", "计算{e}。", "算一下{e}。", "请算出{e}的结果。", "{e}是多少？", "{e}=？"]
ASKS = {
    "en": {
        "expression": EXPRESSION,
        "sum": ["Add up these numbers: {e}.", "What is the sum of {e}?", "What do {e} come to in total?",
                "Give me the total of {e}."],
        "percent": ["What is {p}% of {n}?", "How much is {p} percent of {n}?", "Calculate {p}% of {n}.",
                    "I need {p}% of {n}. How much is that?"],
    },
    "zh": {
        "expression": EXPRESSION_ZH,
        "sum": ["把这些数加起来：{e}。", "{e}的和是多少？", "{e}一共是多少？", "求{e}的总和。"],
        "percent": ["{n}的{p}%是多少？", "求{n}的百分之{p}。", "计算{n}的{p}%。", "{n}乘以{p}%得多少？"],
    },
}


def digits(rng, n):
    return rng.randint(10 ** (n - 1), 10 ** n - 1)


def plus(rng, n):
    a, b = digits(rng, n), digits(rng, n)
    return Draft("expression", ("+", a, b), {"e": f"{a}+{b}"}, str(a + b), w.add(a, b), f"{a}+{b}={a + b}", "number")


def minus(rng, n):
    a, b = sorted((digits(rng, n), digits(rng, n)), reverse=True)
    return Draft("expression", ("-", a, b), {"e": f"{a}-{b}"}, str(a - b), w.sub(a, b), f"{a}-{b}={a - b}", "number")


def times(rng, n, m):
    a, b = digits(rng, n), max(2, digits(rng, m))
    return Draft("expression", ("*", a, b), {"e": rng.choice([f"{a}*{b}", f"{a}×{b}"])}, str(a * b), w.mul(a, b),
                 w.mul_short(a, b), "number")


def long_sum(rng, count, high, lang):
    values = [rng.randint(high // 10, high) for _ in range(count)]
    text = ("、" if lang == "zh" else ", ").join(map(str, values))
    return Draft("sum", tuple(values), {"e": text}, str(sum(values)), w.total(values), w.total_short(values), "number")


def small_parens(rng):
    a, b, c = rng.randint(2, 40), rng.randint(2, 40), rng.randint(2, 9)
    total = a + b
    return Draft("expression", ("(+)*", a, b, c), {"e": f"({a}+{b})*{c}"}, str(total * c),
                 f"{a}+{b}={total};{w.mul(total, c)}", f"{a}+{b}={total};{total}*{c}={total * c}", "number")


def large_parens(rng):
    a, b, e = rng.randint(11, 99), rng.randint(11, 99), rng.randint(10, 500)
    c = rng.randint(30, 99)
    d = rng.randint(2, c - 12)
    total, rest = a + b, c - d
    product = total * rest
    full = f"{a}+{b}={total};{c}-{d}={rest};{w.mul(total, rest)};{w.add(product, e)}"
    short = f"{a}+{b}={total};{c}-{d}={rest};{w.mul_short(total, rest)};{product}+{e}={product + e}"
    return Draft("expression", ("(+)(-)+", a, b, c, d, e), {"e": f"({a}+{b})*({c}-{d})+{e}"}, str(product + e), full,
                 short, "number")


def percent(rng, high):
    p = rng.randint(1, 19) * 5
    n = rng.randint(1, high // 20) * 20
    product = p * n
    full = f"{w.mul(n, p)};{product}/100={product // 100}"
    return Draft("percent", (p, n), {"p": p, "n": n}, str(product // 100), full,
                 f"{n}*{p}={product};{product // 100}", "number")


def draft(rng, d, lang):
    kind = rng.random()
    if d == 1:
        return plus(rng, 2) if kind < 0.5 else minus(rng, 2)
    if d == 2:
        return plus(rng, 3) if kind < 0.35 else minus(rng, 3) if kind < 0.65 else times(rng, 2, 1)
    if d == 3:
        return (times(rng, 3, 1) if kind < 0.3 else long_sum(rng, 4, 99, lang) if kind < 0.6 else
                small_parens(rng) if kind < 0.8 else plus(rng, 4))
    if d == 4:
        return (times(rng, rng.randint(2, 3), 2) if kind < 0.45 else percent(rng, 1000) if kind < 0.75 else
                long_sum(rng, 6, 400, lang))
    return (times(rng, 4, rng.choice([2, 2, 3, 4])) if kind < 0.4 else times(rng, 3, 3) if kind < 0.5 else
            large_parens(rng) if kind < 0.75 else percent(rng, 10000) if kind < 0.85 else long_sum(rng, 8, 900, lang))
