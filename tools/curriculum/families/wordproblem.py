"""Multi-step word problems: difficulty is the number of steps."""
from ..item import Draft
from ..words import NAMES, THINGS
from .. import working as w

FAMILY = "word"
ASKS = {
    "en": {"story": ["{s} How many {t} does {n} have now?", "{s} How many {t} are there in the end?", "{s} What is the final number of {t}?",
                     "How many {t} does {n} end up with? {s}", "{s} Tell me how many {t} are left.", "{s} So how many {t} is that?"]},
    "zh": {"story": ["{s}现在{n}有多少{t}？", "{s}最后一共有多少{t}？", "{s}最终的{t}数量是多少？", "{n}最后有多少{t}？{s}",
                     "{s}请问还剩多少{t}？", "{s}那么{t}是多少？"]},
}
EVENTS = {
    "en": {
        "start": ["{n} has {x} {t}.", "{n} starts with {x} {t}.", "There are {x} {t} in {n}'s box."],
        "+": ["{n} buys {x} more.", "A friend brings {x} more.", "{n} finds another {x}.", "Then {x} are added."],
        "-": ["{n} gives away {x}.", "{x} get lost.", "{n} sells {x} of them.", "Then {x} are taken out."],
        "*": ["Then the number grows to {x} times as many.", "{n} trades and now has {x} times as many."],
        "/": ["They are shared equally among {x} people, and {n} keeps one share.", "{n} splits them into {x} equal piles and keeps one pile."],
        "b": ["{n} buys {x} packs of {y} each.", "Then {x} bags with {y} in each bag are added."],
    },
    "zh": {
        "start": ["{n}有{x}个{t}。", "{n}开始时有{x}个{t}。", "{n}的箱子里有{x}个{t}。"],
        "+": ["{n}又买了{x}个。", "朋友又带来{x}个。", "{n}又找到{x}个。", "然后加进{x}个。"],
        "-": ["{n}送出去{x}个。", "丢了{x}个。", "{n}卖掉{x}个。", "然后拿走{x}个。"],
        "*": ["然后数量变成原来的{x}倍。", "{n}换货后数量是原来的{x}倍。"],
        "/": ["平均分给{x}个人，{n}留下一份。", "{n}把它们平分成{x}堆，只留一堆。"],
        "b": ["{n}买了{x}包，每包{y}个。", "然后又加进{x}袋，每袋{y}个。"],
    },
}


def step(rng, kind, total, high):
    """(slots, new total, full working, short working) or None where the step does not fit."""
    x = rng.randint(2, high)
    if kind == "+":
        return {"x": x}, total + x, w.add(total, x), f"{total}+{x}={total + x}"
    if kind == "-" and total > 3:
        x = rng.randint(1, min(high, total - 2))
        return {"x": x}, total - x, w.sub(total, x), f"{total}-{x}={total - x}"
    if kind == "*" and total <= 400:
        x = rng.randint(2, 6)
        return {"x": x}, total * x, w.mul(total, x), f"{total}*{x}={total * x}"
    if kind == "/":
        fits = [k for k in range(2, 10) if total % k == 0 and total // k > 1]
        if fits:
            x = rng.choice(fits)
            return {"x": x}, total // x, w.div(total, x), f"{total}/{x}={total // x}"
    if kind == "b":
        x, y = rng.randint(2, 9), rng.randint(2, 12)
        return ({"x": x, "y": y}, total + x * y, f"{x}*{y}={x * y};{w.add(total, x * y)}",
                f"{x}*{y}={x * y};{total + x * y}")
    return None


def draft(rng, d, lang):
    name, thing = rng.choice(NAMES[lang]), rng.choice(THINGS[lang])
    events, high = EVENTS[lang], [0, 12, 30, 50, 90, 200][d]
    total = rng.randint(4, high + 10)
    story = [rng.choice(events["start"]).format(n=name, x=total, t=thing)]
    operands, full, short = [total], [], []
    kinds = "+-" if d == 1 else "+-+-b" if d == 2 else "+-*/b"
    while len(full) < d:
        kind = rng.choice(kinds)
        if operands[-1:] == [kind] or (made := step(rng, kind, total, high)) is None:
            continue
        slots, total, long, brief = made
        story.append(rng.choice(events[kind]).format(n=name, **slots))
        operands += [*slots.values(), kind]
        full.append(long)
        short.append(brief)
    slots = {"s": (" " if lang == "en" else "").join(story), "t": thing, "n": name}
    if d >= 4:
        short = short[:-2] + [short[-1]] if d == 4 else short[::2]
    return Draft("story", tuple(operands), slots, str(total), ";".join(full), ";".join(short), "number")
