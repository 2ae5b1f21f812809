"""Unit prices, totals and change."""
from ..item import Draft
from ..words import GOODS
from .. import working as w

FAMILY = "shopping"
ASKS = {
    "en": {
        "total": ["One {g} costs {p}. What do {n} cost?", "I buy {n} {g} at {p} each. What is the total?", "How much are {n} {g} if each is {p}?"],
        "change": ["I pay a bill of {p} with {n}. How much change do I get?", "The {g} costs {p} and I hand over {n}. What is my change?",
                   "What is the change from {n} for {g} at {p}?"],
        "two": ["{a} and {b}: what is the total?", "I take {a} and {b}. How much is it?", "Basket: {a} and {b}. Total price?"],
        "unit": ["{n} {g} cost {p} in total. What does one cost?", "I paid {p} for {n} {g}. What is the unit price?"],
        "cheaper": ["Offer A: {n} {g} for {p}. Offer B: {m} {g} for {q}. Which is cheaper per piece, A or B?",
                    "Is A ({n} {g} for {p}) or B ({m} {g} for {q}) the better unit price? Answer A or B."],
        "discount": ["The {g} costs {p}, now {r}% off. What is the new price?", "What do I pay for {g} at {p} with a discount of {r}%?"],
        "basket": ["I buy {a}, {b} and {c} and pay with {n}. How much change?", "Basket: {a}, {b}, {c}. What is the change from {n}?"],
    },
    "zh": {
        "total": ["一份{g}{p}元，{n}份多少钱？", "我买{n}份{g}，每份{p}元，一共多少？", "每份{g}{p}元，买{n}份要多少元？"],
        "change": ["账单{p}元，我付{n}元，找零多少？", "{g}{p}元，我给了{n}元，应找多少？", "用{n}元买{p}元的{g}，找回多少？"],
        "two": ["{a}，{b}，一共多少钱？", "我要{a}和{b}，总共多少？", "购物篮：{a}，{b}。总价？"],
        "unit": ["{n}份{g}共{p}元，一份多少钱？", "我花{p}元买了{n}份{g}，单价是多少？"],
        "cheaper": ["A：{n}份{g}{p}元；B：{m}份{g}{q}元。哪个单价更低，A还是B？", "A（{n}份{g}{p}元）和B（{m}份{g}{q}元）哪个更划算？回答A或B。"],
        "discount": ["{g}原价{p}元，优惠{r}%，现价多少？", "{p}元的{g}打折{r}%，要付多少？"],
        "basket": ["我买{a}、{b}和{c}，付{n}元，找零多少？", "购物篮：{a}、{b}、{c}。付{n}元找多少？"],
    },
}


def goods(rng, lang):
    return rng.choice(GOODS[lang])


def total(rng, lang, n, p):
    return Draft("total", (n, p), {"g": goods(rng, lang), "p": p, "n": n}, str(n * p), w.mul(p, n), f"{p}*{n}", "number")


def change(rng, lang, notes):
    n = rng.choice(notes)
    p = rng.randint(n // 10, n - 1)
    return Draft("change", (n, p), {"g": goods(rng, lang), "p": p, "n": n}, str(n - p), w.sub(n, p), f"{n}-{p}", "number")


def change_cents(rng, lang):
    n = rng.choice([10, 20, 50, 100])
    cents = rng.randint(n * 10, n * 100 - 1)
    rest = n * 100 - cents
    full = f"{w.sub(n * 100, cents)};/100"
    return Draft("change", (n, cents), {"g": goods(rng, lang), "p": w.money(cents), "n": n}, w.money(rest), full,
                 f"{n * 100}-{cents}={rest}", "number")


def entry(lang, n, g, p):
    return f"{n} {g} at {p} each" if lang == "en" else f"{n}份每份{p}元的{g}"


def basket_lines(rng, lang, count, high):
    return [(rng.randint(2, 9), g, rng.randint(2, high)) for g in rng.sample(GOODS[lang], count)]


def two(rng, lang, high):
    lines = basket_lines(rng, lang, 2, high)
    products = [n * p for n, _, p in lines]
    full = ";".join(w.mul(p, n) for n, _, p in lines) + ";" + w.add(*products)
    return Draft("two", tuple((n, p) for n, _, p in lines), {"a": entry(lang, *lines[0]), "b": entry(lang, *lines[1])},
                 str(sum(products)), full, ";".join(f"{n}*{p}={n * p}" for n, _, p in lines), "number")


def unit(rng, lang):
    n, p = rng.randint(2, 9), rng.randint(12, 99)
    return Draft("unit", (n, p), {"g": goods(rng, lang), "n": n, "p": n * p}, str(p), w.div(n * p, n), f"{n * p}/{n}", "number")


def cheaper(rng, lang):
    n, m = rng.sample(range(2, 10), 2)
    p, q = rng.sample(range(5, 60), 2)
    answer = "A" if p < q else "B"
    full = f"{w.div(n * p, n)};{w.div(m * q, m)};{p}{'<' if p < q else '>'}{q}"
    return Draft("cheaper", (n, p, m, q), {"g": goods(rng, lang), "n": n, "p": n * p, "m": m, "q": m * q}, answer, full,
                 f"{p} {q}", "text")


def discount(rng, lang):
    r, p = rng.randint(1, 18) * 5, rng.randint(2, 99) * 20
    off = p * r // 100
    return Draft("discount", (r, p), {"g": goods(rng, lang), "p": p, "r": r}, str(p - off),
                 f"{w.mul(p, r)};/100={off};{w.sub(p, off)}", f"{off}", "number")


def basket(rng, lang):
    lines = basket_lines(rng, lang, 3, 30)
    products = [n * p for n, _, p in lines]
    spent = sum(products)
    note = next(v for v in (100, 200, 500, 1000, 2000) if v > spent)
    full = ";".join(w.mul(p, n) for n, _, p in lines) + f";{w.total(products)};{w.sub(note, spent)}"
    slots = {k: entry(lang, *line) for k, line in zip("abc", lines)}
    return Draft("basket", (note, *((n, p) for n, _, p in lines)), {**slots, "n": note}, str(note - spent), full,
                 "+".join(map(str, products)) + f"={spent}", "number")


def draft(rng, d, lang):
    kind = rng.random()
    if d == 1:
        return total(rng, lang, rng.choice([2, 3, 5, 10]), rng.randint(2, 40)) if kind < 0.6 else change(rng, lang, [50, 100])
    if d == 2:
        return total(rng, lang, rng.randint(3, 9), rng.randint(11, 60)) if kind < 0.5 else change(rng, lang, [200, 500])
    if d == 3:
        return two(rng, lang, 12) if kind < 0.5 else unit(rng, lang) if kind < 0.8 else change_cents(rng, lang)
    if d == 4:
        return (cheaper(rng, lang) if kind < 0.3 else discount(rng, lang) if kind < 0.6 else two(rng, lang, 60) if kind < 0.8 else
                change_cents(rng, lang))
    return basket(rng, lang) if kind < 0.7 else discount(rng, lang)
