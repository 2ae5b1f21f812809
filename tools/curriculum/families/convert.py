"""Unit conversion."""
from ..item import Draft
from .. import working as w

FAMILY = "convert"
UNITS_ZH = {"km": "千米", "m": "米", "cm": "厘米", "mm": "毫米", "kg": "千克", "g": "克", "t": "吨", "L": "升", "mL": "毫升",
            "h": "小时", "min": "分钟", "s": "秒", "days": "天", "weeks": "周", "°C": "摄氏度", "°F": "华氏度",
            "km/h": "千米每小时", "m/s": "米每秒", "in": "英寸", "MB": "MB", "GB": "GB", "kW": "千瓦", "W": "瓦"}
DOWN = [("km", "m", 3), ("m", "cm", 2), ("cm", "mm", 1), ("kg", "g", 3), ("t", "kg", 3), ("L", "mL", 3), ("kW", "W", 3),
        ("GB", "MB", 3)]
ASKS = {
    "en": {"plain": ["Convert {a} {u} to {v}.", "How many {v} are {a} {u}?", "What is {a} {u} in {v}?",
                     "Express {a} {u} in {v}.", "I have {a} {u}. What is that in {v}?", "Turn {a} {u} into {v}."],
           "mixed": ["How many {v} are {a} {u} {b} {t}?", "Convert {a} {u} and {b} {t} to {v}.",
                     "What is {a} {u} {b} {t} in {v}?"],
           "split": ["Write {a} {t} as h:mm.", "How much is {a} {t} in hours and minutes, as h:mm?",
                     "Convert {a} {t} to the form h:mm."]},
    "zh": {"plain": ["把{a}{u}换算成{v}。", "{a}{u}是多少{v}？", "{a}{u}等于多少{v}？", "用{v}表示{a}{u}。",
                     "我有{a}{u}，换成{v}是多少？", "{a}{u}合多少{v}？"],
           "mixed": ["{a}{u}{b}{t}是多少{v}？", "把{a}{u}{b}{t}换算成{v}。", "{a}{u}{b}{t}等于多少{v}？"],
           "split": ["把{a}{t}写成h:mm的形式。", "{a}{t}用h:mm怎么写？", "把{a}{t}换算成h:mm。"]},
}


def named(unit, lang):
    return unit if lang == "en" else UNITS_ZH[unit]


def plain(operands, a, u, v, lang, answer, full, short, check="number"):
    return Draft("plain", (*operands, lang), {"a": a, "u": named(u, lang), "v": named(v, lang)}, answer, full, short, check)


def down(rng, lang):
    u, v, zeros = rng.choice(DOWN)
    a = rng.randint(2, 399)
    answer = f"{a}{'0' * zeros}"
    return plain(("down", a, u), a, u, v, lang, answer, f"*1{'0' * zeros};{answer}", f"*1{'0' * zeros}")


def shift_point(value, places):
    """value / 10**places as text without trailing zeros."""
    text = str(value).rjust(places + 1, "0")
    whole, rest = text[:-places], text[-places:].rstrip("0")
    return f"{whole}.{rest}" if rest else whole


def up(rng, lang):
    u, v, zeros = rng.choice(DOWN)
    a = rng.randint(11, 999) * (10 if zeros == 3 else 1)
    answer = shift_point(a, zeros)
    padded = str(a).rjust(zeros + 1, "0")
    full = f"/1{'0' * zeros};{padded[:-zeros]}.{padded[-zeros:]}={answer}"
    return plain(("up", a, v), a, v, u, lang, answer, full, f"/1{'0' * zeros}")


def clock(rng, lang, big):
    u, t, factor = rng.choice([("h", "min", 60), ("min", "s", 60)] + ([("days", "h", 24), ("weeks", "days", 7)] if big else []))
    a, b = rng.randint(1, 40 if big else 9), rng.randint(1, min(factor, 60) - 1)
    head, tail = a * factor, a * factor + b
    slots = {"a": a, "u": named(u, lang), "b": b, "t": named(t, lang), "v": named(t, lang)}
    return Draft("mixed", (a, u, b, lang), slots, str(tail), f"{w.mul(a, factor)};{w.add(head, b)}",
                 f"{a}*{factor}={head};{head}+{b}", "number")


def split(rng, lang, high):
    a = rng.randint(61, high)
    h, m = divmod(a, 60)
    full = f"{h}*60={h * 60};{w.sub(a, h * 60)}"
    return Draft("split", (a, lang), {"a": a, "t": named("min", lang)}, f"{h}:{m:02d}", full, f"{h}*60={h * 60}", "text")


def celsius(rng, lang):
    c = rng.randint(-4, 60) * 5
    part = c // 5 * 9
    f = part + 32
    if c < 0:
        full = f"{-c}/5={-c // 5};{-c // 5}*9={-part};32-{-part}={f}"
    else:
        full = f"{w.div(c, 5)};{w.mul(c // 5, 9)};{w.add(part, 32)}"
    return plain(("c", c), c, "°C", "°F", lang, str(f), full, f"*9/5={part};+32")


def fahrenheit(rng, lang):
    c = rng.randint(0, 60) * 5
    f = c * 9 // 5 + 32
    full = f"{w.sub(f, 32)};{w.div(f - 32, 9)};{w.mul(c // 5, 5)}"
    return plain(("f", f), f, "°F", "°C", lang, str(c), full, f"-32={f - 32};/9={c // 5};*5")


def speed(rng, lang):
    ms = rng.randint(2, 99) * 5
    kmh = ms * 36 // 10
    if rng.random() < 0.5:
        full = f"{w.mul(ms, 36)};/10={kmh}"
        return plain(("ms", ms), ms, "m/s", "km/h", lang, str(kmh), full, f"*36={ms * 36};/10")
    full = f"{w.div(kmh, 9)};{w.mul(kmh // 9, 10)};{w.div(kmh // 9 * 10, 4)}"
    return plain(("kmh", kmh), kmh, "km/h", "m/s", lang, str(ms), full, f"/9={kmh // 9};*10/4")


def inches(rng, lang):
    a = rng.randint(2, 199)
    product = a * 254
    answer = shift_point(product, 2)
    return plain(("in", a), a, "in", "cm", lang, answer, f"{w.mul(254, a)};/100={answer}",
                 f"*254={product};/100")


def draft(rng, d, lang):
    kind = rng.random()
    if d == 1:
        return down(rng, lang)
    if d == 2:
        return up(rng, lang) if kind < 0.7 else clock(rng, lang, False)
    if d == 3:
        return clock(rng, lang, True) if kind < 0.6 else split(rng, lang, 299)
    if d == 4:
        return celsius(rng, lang) if kind < 0.3 else fahrenheit(rng, lang) if kind < 0.6 else split(rng, lang, 1439)
    return speed(rng, lang) if kind < 0.5 else inches(rng, lang)
