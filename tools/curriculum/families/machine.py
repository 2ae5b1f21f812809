"""Following a short state machine, or a register that is stepped."""
from ..item import Draft

FAMILY = "machine"
STATES = ["idle", "ready", "busy", "done", "error", "sleep", "open", "closed"]
EVENTS = ["go", "stop", "next", "reset", "push", "tick"]
ASKS = {
    "en": {"states": ["Rules: {r}. Start in {s}. Events: {e}. Which state is it in at the end?", "A machine has these rules: {r}. It begins in {s} and gets {e}. Final state?",
                      "Start state {s}, rules {r}. After the events {e}, where is it?"],
           "counter": ["A counter is at {s}. Then: {e}. What does it show?", "Start with {s} and do this: {e}. Result?", "Counter = {s}. Steps: {e}. Final value?"]},
    "zh": {"states": ["规则：{r}。从{s}开始，事件：{e}。最后处于哪个状态？", "机器的规则是{r}。初始{s}，依次收到{e}。最终状态？", "初始状态{s}，规则{r}。经过{e}之后在哪里？"],
           "counter": ["计数器为{s}，然后：{e}。显示多少？", "从{s}开始，依次：{e}。结果？", "计数器={s}。步骤：{e}。最终值？"]},
}
STEP_WORDS = {"en": {"+": "add {n}", "-": "subtract {n}", "0": "reset to {n}"}, "zh": {"+": "加{n}", "-": "减{n}", "0": "重置为{n}"}}


def states(rng, lang, n_states, n_events, length):
    names, events = rng.sample(STATES, n_states), rng.sample(EVENTS, n_events)
    rules = {(s, e): rng.choice([t for t in names if t != s]) for s in names for e in events}
    told = {s: f"{s}: " + ", ".join(f"{e}>{rules[s, e]}" for e in events) for s in names}
    at = start = rng.choice(names)
    given, steps, middle = [], [], []
    for _ in range(length):
        event = rng.choice(events)
        steps.append(f"{told[at]}|{event}>{rules[at, event]}")
        at = rules[at, event]
        middle.append(at)
        given.append(event)
    said = ", ".join(given) if lang == "en" else "、".join(given)
    text = "; ".join(told.values())
    return Draft("states", (text, start, *given), {"r": text, "s": start, "e": said}, at, ";".join(steps),
                 " ".join(middle[1::2]), "text")


def counter(rng, lang, length, high):
    value = start = rng.randint(5, 40)
    said, steps, operands, short = [], [], [start], []
    for _ in range(length):
        op, n = rng.choice("++-" if length < 4 else "++--0"), rng.randint(1, high)
        if op == "-" and n > value:
            op = "+"
        before = value
        value = value + n if op == "+" else value - n if op == "-" else n
        steps.append(f"{before}{op}{n}={value}" if op != "0" else f"={n}")
        said.append(STEP_WORDS[lang][op].format(n=n))
        operands.append(f"{op}{n}")
        short.append(str(value))
    text = ", ".join(said) if lang == "en" else "，".join(said)
    return Draft("counter", tuple(operands), {"s": start, "e": text}, str(value), ";".join(steps), " ".join(short[:-1:2]),
                 "number")


def draft(rng, d, lang):
    kind = rng.random()
    if d == 1:
        return states(rng, lang, 2, 1, 1) if kind < 0.4 else counter(rng, lang, 1, 30)
    if d == 2:
        return states(rng, lang, 2, 2, 1) if kind < 0.5 else counter(rng, lang, 2, 9)
    if d == 3:
        return states(rng, lang, 3, 2, 2) if kind < 0.5 else counter(rng, lang, 4, 9)
    if d == 4:
        return states(rng, lang, 3, 2, rng.randint(3, 5)) if kind < 0.6 else counter(rng, lang, 6, 9)
    return states(rng, lang, rng.randint(3, 4), 2, rng.randint(6, 9)) if kind < 0.65 else counter(rng, lang, rng.randint(8, 10), 15)
