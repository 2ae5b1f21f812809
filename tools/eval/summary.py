"""Tables of outcomes: by family, difficulty and language; how far prompt length separates right from wrong."""
from collections import defaultdict


def share(rows, name):
    scored = [r["scores"][name] for r in rows if name in r["scores"]]
    return sum(scored) / len(scored) if scored else float("nan")


def grouped(rows, key):
    groups = defaultdict(list)
    for row in rows:
        groups[row[key]].append(row)
    return sorted(groups.items())


def auc(values, labels):
    """Probability that a wrong one (label 0) has a larger value than a right one; ties count half."""
    pairs = sorted(zip(values, labels))
    right = sum(labels)
    wrong = len(labels) - right
    if not right or not wrong:
        return float("nan")
    rank_sum, at = 0.0, 0
    while at < len(pairs):
        end = at
        while end < len(pairs) and pairs[end][0] == pairs[at][0]:
            end += 1
        middle = (at + end + 1) / 2
        rank_sum += middle * sum(1 for _, label in pairs[at:end] if label == 0)
        at = end
    return (rank_sum - wrong * (wrong + 1) / 2) / (wrong * right)


def length_auc(rows, name):
    size = lambda r: sum(len(m["content"]) for m in r["messages"]) if "messages" in r else len(r["prompt"])
    rows = [r for r in rows if name in r["scores"]]
    return auc([size(r) for r in rows], [r["scores"][name] for r in rows])


def parse_rate(rows, name):
    parsed = [r["parses"][name] for r in rows if name in r.get("parses", {})]
    return sum(parsed) / len(parsed) if parsed else float("nan")


def models_of(rows):
    return list(dict.fromkeys(name for row in rows for name in row["scores"]))


def lines(rows):
    names = models_of(rows)
    table = [["all", len(rows)] + [share(rows, n) for n in names]]
    for key in ("difficulty", "lang", "task"):
        table += [[f"{key} {value}", len(group)] + [share(group, n) for n in names] for value, group in grouped(rows, key)]
    out = ["| | items | " + " | ".join(names) + " |", "| --- | ---: |" + " ---: |" * len(names)]
    out += [f"| {label} | {count} | " + " | ".join(f"{100 * v:.1f} %" for v in values) + " |" for label, count, *values in table]
    out.append("| JSON actions that parse | | " + " | ".join(f"{100 * parse_rate(rows, n):.2f} %" for n in names) + " |")
    out.append("| AUC of prompt length | | " + " | ".join(f"{length_auc(rows, n):.3f}" for n in names) + " |")
    tokens = [[r["tokens"].get(n, 0) for r in rows] for n in names]
    out.append("| tokens a reply | | " + " | ".join(f"{sum(t) / max(1, len(t)):.1f}" for t in tokens) + " |")
    return out


def cells(rows):
    """Family x difficulty for each model."""
    out = []
    for name in models_of(rows):
        out += [f"\n{name}, family by difficulty", "| | 1 | 2 | 3 | 4 | 5 |", "| --- | ---: | ---: | ---: | ---: | ---: |"]
        for task, group in grouped(rows, "task"):
            by = dict(grouped(group, "difficulty"))
            out.append(f"| {task} | " + " | ".join(f"{100 * share(by.get(d, []), name):.0f} %" for d in range(1, 6)) + " |")
    return out
