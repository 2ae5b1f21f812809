"""Boolean logic over named switches and comparisons."""
from ..item import Draft

FAMILY = "logic"
NAMES = "ABCDEFGHKMPRSTVWX"
WORDS = {"en": {"and": "and", "or": "or", "xor": "xor", "not": "not ", True: "true", False: "false"},
         "zh": {"and": "且", "or": "或", "xor": "异或", "not": "非", True: "真", False: "假"}}
ASKS = {
    "en": {"expr": ["{f} Is this true or false: {e}?", "{f} Evaluate {e}. Answer true or false.", "Given: {f} What is {e}?",
                    "{f} Does {e} hold? Say true or false.", "Is {e} true or false? {f}"],
           "compare": ["True or false: {e}?", "Is it true that {e}? Answer true or false.", "Check this claim, true or false: {e}."]},
    "zh": {"expr": ["{f}{e}是真还是假？", "{f}求{e}的值，回答真或假。", "已知：{f}那么{e}是什么？", "{f}{e}成立吗？回答真或假。",
                    "{e}是真还是假？{f}"],
           "compare": ["真还是假：{e}？", "{e}，对吗？回答真或假。", "判断真假：{e}。"]},
}
OPS = {"and": lambda a, b: a and b, "or": lambda a, b: a or b, "xor": lambda a, b: a != b}
MARK = {"and": "&", "or": "|", "xor": "^"}


def bit(value):
    return "1" if value else "0"


def leaf(rng, facts):
    return rng.choice(list(facts)), rng.random() < 0.3


def tree(rng, facts, operators):
    """Nested tuples (op, left, right) with so many operators; leaves are (name, negated)."""
    if operators == 0:
        return leaf(rng, facts)
    left = rng.randint(0, operators - 1)
    return rng.choice(["and", "or", "and", "or", "xor"]), tree(rng, facts, left), tree(rng, facts, operators - 1 - left)


def show(node, words, top=True):
    if len(node) == 2:
        return (words["not"] if node[1] else "") + node[0]
    gap = " " if words["and"] == "and" else ""
    text = f"{show(node[1], words, False)}{gap}{words[node[0]]}{gap}{show(node[2], words, False)}"
    return text if top else f"({text})"


def filled(node, facts):
    """The expression with values for names: nested lists [op, left, right], leaves "0", "1", "!0", "!1"."""
    if len(node) == 2:
        return ("!" if node[1] else "") + bit(facts[node[0]])
    return [node[0], filled(node[1], facts), filled(node[2], facts)]


def written(node):
    """Gaps keep every sign a token of its own."""
    return node if isinstance(node, str) else f"( {written(node[1])} {MARK[node[0]]} {written(node[2])} )"


def reduced(node):
    """One round: negations first, then everything innermost."""
    if isinstance(node, str):
        return bit(node == "!0") if node.startswith("!") else node
    left, right = node[1], node[2]
    if left in ("0", "1") and right in ("0", "1"):
        return bit(OPS[node[0]](left == "1", right == "1"))
    return [node[0], reduced(left), reduced(right)]


def solve(node, facts):
    """(value, rounds as text)."""
    now = filled(node, facts)
    rounds = [written(now)]
    while now not in ("0", "1"):
        now = reduced(now)
        rounds.append(written(now))
    return now == "1", rounds


def expression(rng, lang, operators):
    words = WORDS[lang]
    facts = {n: rng.random() < 0.5 for n in rng.sample(NAMES, min(6, max(2, operators + 1)))}
    node = tree(rng, facts, operators)
    value, rounds = solve(node, facts)
    told = (" ".join(f"{n} is {words[v]}." for n, v in facts.items()) if lang == "en" else
            "".join(f"{n}为{words[v]}，" for n, v in facts.items())[:-1] + "。")
    text = show(node, words)
    return Draft("expr", (told, text), {"f": told, "e": text}, words[value], "=".join(rounds),
                 rounds[0], "text")


def comparison(rng, lang):
    words = WORDS[lang]
    a, b, less = rng.randint(1, 999), rng.randint(1, 999), rng.random() < 0.5
    value = a < b if less else a > b
    text = f"{a}{'<' if less else '>'}{b}" if rng.random() < 0.5 else (
        f"{a} is {'less' if less else 'greater'} than {b}" if lang == "en" else f"{a}{'小' if less else '大'}于{b}")
    return Draft("compare", (a, b, less), {"e": text}, words[value], f"{a}{'<' if a < b else '=' if a == b else '>'}{b}",
                 f"{'<' if a < b else '=' if a == b else '>'}", "text")


def draft(rng, d, lang):
    if d == 1:
        return comparison(rng, lang) if rng.random() < 0.5 else expression(rng, lang, 0)
    return expression(rng, lang, {2: 1, 3: 2, 4: rng.randint(3, 4), 5: rng.randint(5, 7)}[d])
