"""Sorting, counting and filtering lists."""
from ..item import Draft
from ..words import GOODS, joined
from .. import working as w

FAMILY = "lists"
ASKS = {
    "en": {
        "max": ["Which is the largest of {v}?", "What is the biggest number in this list: {v}?", "Find the maximum of {v}."],
        "min": ["Which is the smallest of {v}?", "What is the lowest number in this list: {v}?", "Find the minimum of {v}."],
        "count": ["How often does {x} appear in: {v}?", "Count {x} in this list: {v}.", "How many times is {x} in {v}?"],
        "sort": ["Sort these from small to large: {v}.", "Put {v} in ascending order.", "Order these numbers, lowest first: {v}."],
        "down": ["Sort these from large to small: {v}.", "Put {v} in descending order.", "Order these numbers, highest first: {v}."],
        "above": ["Which of these are greater than {x}: {v}? Keep the order.", "Keep only the numbers above {x}: {v}.",
                  "From {v} list those over {x}, in the same order."],
        "many": ["How many of these are greater than {x}: {v}?", "Count the numbers above {x} in {v}.", "In {v}, how many are over {x}?"],
        "median": ["What is the median of {v}?", "Find the middle value of {v} after sorting.", "Give me the median: {v}."],
        "second": ["What is the second largest of {v}?", "Which number comes second from the top in {v}?", "Find the runner-up to the maximum: {v}."],
        "evens": ["Add up the even numbers in {v}.", "What is the sum of all even numbers among {v}?", "Sum only the even ones: {v}."],
    },
    "zh": {
        "max": ["{v}中最大的是哪个？", "这组数里最大的数是多少：{v}？", "求最大值：{v}。"],
        "min": ["{v}中最小的是哪个？", "这组数里最小的数是多少：{v}？", "求最小值：{v}。"],
        "count": ["{x}在下面出现了几次：{v}？", "数一数{x}的次数：{v}。", "{v}里有几个{x}？"],
        "sort": ["从小到大排列：{v}。", "把{v}按升序排好。", "给这些数排序，小的在前：{v}。"],
        "down": ["从大到小排列：{v}。", "把{v}按降序排好。", "给这些数排序，大的在前：{v}。"],
        "above": ["哪些数大于{x}：{v}？保持顺序。", "只保留大于{x}的数：{v}。", "从{v}里按原顺序选出超过{x}的数。"],
        "many": ["有几个数大于{x}：{v}？", "{v}里超过{x}的有几个？", "数一数大于{x}的个数：{v}。"],
        "median": ["{v}的中位数是多少？", "把{v}排序后中间的数是哪个？", "求中位数：{v}。"],
        "second": ["{v}中第二大的是多少？", "{v}里排第二的数是哪个？", "求第二大的数：{v}。"],
        "evens": ["把{v}里的偶数加起来。", "{v}中所有偶数的和是多少？", "只求偶数之和：{v}。"],
    },
}


def numbers(rng, n, high=99):
    return rng.sample(range(10 if high < 100 else 100, high + 1), n)


def marks(values, keep):
    """Each value with a + or - for whether it is kept."""
    return " ".join(f"{v}{'+' if keep(v) else '-'}" for v in values)


def insertion(values, descending=False):
    """Working of an insertion sort: the sorted list so far after each element."""
    done, steps = [], []
    for value in values:
        done = sorted(done + [value], reverse=descending)
        steps.append(" ".join(map(str, done)))
    return ";".join(steps)


def running_best(values, better):
    best, steps = values[0], [str(values[0])]
    for value in values[1:]:
        best = value if better(value, best) else best
        steps.append(f"{value}>{best}")
    return " ".join(steps)


def extreme(rng, n, high, lang):
    values, big = numbers(rng, n, high), rng.random() < 0.5
    answer = str(max(values) if big else min(values))
    full = running_best(values, (lambda a, b: a > b) if big else (lambda a, b: a < b))
    return Draft("max" if big else "min", tuple(values), {"v": joined(values, lang)}, answer, full, answer, "number")


def count_word(rng, lang, n):
    kinds = rng.sample(GOODS[lang], 4)
    values = [rng.choice(kinds) for _ in range(n)]
    word = rng.choice(kinds[:3])
    seen, steps = 0, []
    for value in values:
        seen += value == word
        steps.append(f"{value}{seen}" if value == word else f"{value}-")
    return Draft("count", (word, *values), {"x": word, "v": joined(values, lang)}, str(seen), f"{word}: " + " ".join(steps),
                 "".join("+" if v == word else "-" for v in values), "number")


def sort(rng, n, high, lang):
    values, descending = numbers(rng, n, high), rng.random() < 0.4
    answer = ", ".join(map(str, sorted(values, reverse=descending)))
    return Draft("down" if descending else "sort", tuple(values), {"v": joined(values, lang)}, answer,
                 insertion(values, descending), f"{answer.split(',')[0]}", "list")


def above(rng, n, lang, count_only):
    values = numbers(rng, n)
    x = sorted(values)[rng.randint(n // 3, n - 2)]
    kept = [v for v in values if v > x]
    slots = {"x": x, "v": joined(values, lang)}
    work = f"{x}:" + marks(values, lambda v: v > x)
    if not count_only:
        return Draft("above", (x, *values), slots, ", ".join(map(str, kept)), work, str(x), "list")
    seen, steps = 0, []
    for v in values:
        seen += v > x
        steps.append(f"{v}+{seen}" if v > x else f"{v}-")
    return Draft("many", (x, *values), slots, str(seen), f"{x}:" + " ".join(steps),
                 "".join("+" if v > x else "-" for v in values), "number")


def median(rng, n, lang):
    values = numbers(rng, n)
    return Draft("median", tuple(values), {"v": joined(values, lang)}, str(sorted(values)[n // 2]), insertion(values),
                 " ".join(map(str, sorted(values)[:n // 2 + 1])), "number")


def second(rng, n, lang):
    values = numbers(rng, n, 999)
    top = sorted(values)[-1]
    rest = [v for v in values if v != top]
    full = running_best(values, lambda a, b: a > b) + ";" + running_best(rest, lambda a, b: a > b)
    return Draft("second", tuple(values), {"v": joined(values, lang)}, str(sorted(values)[-2]), full, str(top), "number")


def evens(rng, n, lang):
    values = numbers(rng, n)
    kept = [v for v in values if v % 2 == 0] or [0]
    full = f"{marks(values, lambda v: v % 2 == 0)};{w.total(kept)}"
    return Draft("evens", tuple(values), {"v": joined(values, lang)}, str(sum(kept)), full, w.total_short(kept) if len(kept) > 1 else str(kept[0]), "number")


def draft(rng, d, lang):
    kind = rng.random()
    if d == 1:
        return extreme(rng, 3, 99, lang) if kind < 0.7 else count_word(rng, lang, rng.randint(3, 5))
    if d == 2:
        return extreme(rng, rng.randint(5, 7), 99, lang) if kind < 0.6 else count_word(rng, lang, rng.randint(6, 9))
    if d == 3:
        return sort(rng, rng.randint(4, 5), 99, lang) if kind < 0.5 else above(rng, rng.randint(5, 7), lang, False)
    if d == 4:
        return sort(rng, rng.randint(6, 8), 99, lang) if kind < 0.5 else above(rng, rng.randint(8, 12), lang, True)
    return (sort(rng, rng.randint(8, 10), 999, lang) if kind < 0.3 else median(rng, rng.choice([7, 9]), lang) if kind < 0.55 else
            second(rng, rng.randint(7, 10), lang) if kind < 0.75 else evens(rng, rng.randint(6, 9), lang))
