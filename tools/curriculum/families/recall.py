"""A question about an earlier turn of the chat."""
from ..item import Draft
from .. import working as w

FAMILY = "recall"
FACTS = {
    "en": {"locker code": "My {k} is {v}.", "room number": "Please note, my {k} is {v}.", "badge number": "The {k} is {v}.",
           "order number": "For later: the {k} is {v}.", "parking spot": "I use {k} {v}.", "shelf": "The spare parts are on {k} {v}.",
           "seat": "My {k} on the train is {v}.", "budget": "Our {k} is {v}.", "gate": "We board at {k} {v}.",
           "queue ticket": "I drew {k} {v}."},
    "zh": {"柜子密码": "我的{k}是{v}。", "房间号": "请记住，我的{k}是{v}。", "工牌号": "{k}是{v}。", "订单号": "备忘：{k}是{v}。",
           "车位": "我用的{k}是{v}。", "货架": "备件放在{k}{v}。", "座位": "我火车上的{k}是{v}。", "预算": "我们的{k}是{v}。",
           "登机口": "我们在{k}{v}登机。", "排队号": "我抽到的{k}是{v}。"},
}
CHANGE = {"en": ["Correction: the {k} is {v} now.", "The {k} has changed to {v}."], "zh": ["更正：{k}现在是{v}。", "{k}改成{v}了。"]}
REPLIES = {"en": ["Noted.", "OK.", "Got it."], "zh": ["记下了。", "好的。", "明白。"]}
CHAT = {"en": ["The weather is nice today.", "I had soup for lunch.", "My train was late again."],
        "zh": ["今天天气不错。", "我中午喝了汤。", "我的火车又晚点了。"]}
ASKS = {
    "en": {"ask": ["What was my {k}?", "Which {k} did I tell you?", "Remind me of the {k}.", "I forgot the {k}. What is it?", "Earlier I gave you the {k}. Which one?"],
           "first": ["What was the {k} at first, before any change?", "Which {k} did I mention first?"],
           "sum": ["What is the {k} plus the {j}?", "Add the {k} and the {j}."],
           "diff": ["By how much did the {k} change?", "What is the difference between the old and the new {k}?"]},
    "zh": {"ask": ["我的{k}是多少？", "我告诉过你的{k}是什么？", "提醒我一下{k}。", "我忘了{k}，是多少？", "之前我说过{k}，是哪个？"],
           "first": ["{k}最初（更改之前）是多少？", "我第一次说的{k}是多少？"],
           "sum": ["{k}加{j}是多少？", "把{k}和{j}加起来。"],
           "diff": ["{k}变化了多少？", "{k}新旧之差是多少？"]},
}


def turn(rng, lang, text):
    return [("user", text), ("assistant", rng.choice(REPLIES[lang]))]


def told(lang, key, value):
    return FACTS[lang][key].format(k=key, v=value)


def remember(rng, lang, count, chat, changes):
    keys = rng.sample(list(FACTS[lang]), count)
    values = {k: rng.randint(10, 9999) for k in keys}
    said = [(k, v, told(lang, k, v)) for k, v in values.items()]
    for key in rng.sample(keys, changes):
        values[key] = rng.randint(10, 9999)
        said.append((key, values[key], rng.choice(CHANGE[lang]).format(k=key, v=values[key])))
    turns = []
    for _, _, text in said:
        turns += turn(rng, lang, text)
        if rng.random() < chat:
            turns += turn(rng, lang, rng.choice(CHAT[lang]))
    return keys, values, said, turns


def history(said, key):
    return [v for k, v, _ in said if k == key]


def ask(rng, lang, count, chat, changes):
    keys, values, said, turns = remember(rng, lang, count, chat, changes)
    key = rng.choice(keys)
    past = history(said, key)
    full = f"{key}:" + ">".join(map(str, past))
    return Draft("ask", (key, *((k, v) for k, v, _ in said)), {"k": key}, str(values[key]), full, key, "number", turns)


def first(rng, lang, count, chat):
    keys, _, said, turns = remember(rng, lang, count, chat, count)
    key = rng.choice(keys)
    past = history(said, key)
    return Draft("first", (key, *((k, v) for k, v, _ in said)), {"k": key}, str(past[0]), f"{key}:" + ">".join(map(str, past)),
                 key, "number", turns)


def add_up(rng, lang, count):
    keys, values, said, turns = remember(rng, lang, count, 0.3, rng.randint(0, 1))
    k, j = rng.sample(keys, 2)
    a, b = values[k], values[j]
    full = f"{k}:{'>'.join(map(str, history(said, k)))};{j}:{'>'.join(map(str, history(said, j)))};{w.add(a, b)}"
    return Draft("sum", (k, j, *((x, v) for x, v, _ in said)), {"k": k, "j": j}, str(a + b), full, f"{a}+{b}", "number", turns)


def changed(rng, lang):
    keys, _, said, turns = remember(rng, lang, 2, 0.3, 2)
    key = rng.choice(keys)
    old, new = history(said, key)
    high, low = max(old, new), min(old, new)
    return Draft("diff", (key, *((k, v) for k, v, _ in said)), {"k": key}, str(high - low), f"{key}:{old}>{new};{w.sub(high, low)}",
                 f"{high}-{low}", "number", turns)


def draft(rng, d, lang):
    kind = rng.random()
    if d == 1:
        return ask(rng, lang, 1, 0.4, 0)
    if d == 2:
        return ask(rng, lang, 2, 0.3, 0)
    if d == 3:
        return ask(rng, lang, rng.randint(3, 4), 0.2, 0) if kind < 0.5 else ask(rng, lang, 2, 0.2, 2)
    if d == 4:
        return first(rng, lang, 2, 0.2) if kind < 0.5 else ask(rng, lang, 4, 0.2, 3)
    return add_up(rng, lang, rng.randint(2, 3)) if kind < 0.6 else changed(rng, lang)
