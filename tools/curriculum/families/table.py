"""Questions about a small table."""
from ..item import Draft
from ..words import GOODS
from .. import working as w

FAMILY = "table"
COLUMNS = {"en": {"item": "item", "price": "price", "stock": "stock", "sold": "sold"},
           "zh": {"item": "品名", "price": "单价", "stock": "库存", "sold": "销量"}}
ASKS = {
    "en": {
        "cell": ["{t}\nWhat is the {c} of {x}?", "Look up the {c} of {x} in this table:\n{t}", "{t}\nGive me the {c} for {x}."],
        "which": ["{t}\nWhich item has a {c} of {n}?", "In the table, whose {c} is {n}?\n{t}"],
        "max": ["{t}\nWhich item has the highest {c}?", "Name the item with the largest {c}.\n{t}"],
        "min": ["{t}\nWhich item has the lowest {c}?", "Name the item with the smallest {c}.\n{t}"],
        "many": ["{t}\nHow many items have a {c} above {n}?", "Count the rows whose {c} is over {n}.\n{t}"],
        "sum": ["{t}\nWhat is the sum of the {c} column?", "Add up all values of {c}.\n{t}"],
        "value": ["{t}\nWhat is all the stock worth (price times stock, summed)?", "Multiply price by stock for each row and add it all up.\n{t}"],
        "sumover": ["{t}\nAdd up the {c} of the items with a price above {n}.", "What is the total {c} of all items that cost more than {n}?\n{t}"],
    },
    "zh": {
        "cell": ["{t}\n{x}的{c}是多少？", "在表里查{x}的{c}：\n{t}", "{t}\n告诉我{x}的{c}。"],
        "which": ["{t}\n哪种商品的{c}是{n}？", "表中谁的{c}等于{n}？\n{t}"],
        "max": ["{t}\n哪种商品的{c}最高？", "说出{c}最大的商品。\n{t}"],
        "min": ["{t}\n哪种商品的{c}最低？", "说出{c}最小的商品。\n{t}"],
        "many": ["{t}\n有几种商品的{c}大于{n}？", "数一数{c}超过{n}的行。\n{t}"],
        "sum": ["{t}\n{c}这一列的总和是多少？", "把{c}全部加起来。\n{t}"],
        "value": ["{t}\n全部库存值多少（单价乘库存再求和）？", "每行单价乘库存，然后全部相加。\n{t}"],
        "sumover": ["{t}\n单价大于{n}的商品，{c}加起来是多少？", "价格超过{n}的商品的{c}总计多少？\n{t}"],
    },
}


def build(rng, lang, rows, columns, low=2, high=99):
    names = COLUMNS[lang]
    data = {g: dict(zip(columns, [rng.randint(low, high) for _ in columns])) for g in rng.sample(GOODS[lang], rows)}
    bar = rng.random() < 0.5
    cells = [[names["item"]] + [names[c] for c in columns]] + [[g] + [str(v) for v in row.values()] for g, row in data.items()]
    return data, "\n".join("|" + "|".join(r) + "|" if bar else ",".join(r) for r in cells)


def copied(data, x, text):
    """The row of x as it stands in the table: copying from a key is what small models do best."""
    mark = "|" if text.startswith("|") else ","
    return mark.join([x, *map(str, data[x].values())])


def walk(data, better, c):
    """Row by row: its value, then the best row so far with its value."""
    best, steps = None, []
    for name, row in data.items():
        if best is None or better(row[c], data[best][c]):
            best = name
        steps.append(f"{name} {row[c]}>{best} {data[best][c]}")
    return ";".join(steps), best


def flat(data):
    return tuple((g, *row.values()) for g, row in data.items())


def cell(rng, lang, rows, columns):
    data, text = build(rng, lang, rows, columns)
    x, c = rng.choice(list(data)), rng.choice(columns)
    value = data[x][c]
    return Draft("cell", (x, c, *flat(data)), {"t": text, "c": COLUMNS[lang][c], "x": x}, str(value),
                 f"{copied(data, x, text)};{COLUMNS[lang][c]}={value}", copied(data, x, text), "number")


def which(rng, lang, rows, columns):
    data, text = build(rng, lang, rows, columns)
    c = rng.choice(columns)
    values = [row[c] for row in data.values()]
    x = rng.choice(list(data))
    n = data[x][c]
    if values.count(n) > 1:
        return which(rng, lang, rows, columns)
    return Draft("which", (n, c, *flat(data)), {"t": text, "c": COLUMNS[lang][c], "n": n}, x,
                 f"{n}:" + ";".join(f"{g} {row[c]}{'+' if row[c] == n else '-'}" for g, row in data.items()), f"{n}", "text")


def extreme(rng, lang, rows, columns):
    data, text = build(rng, lang, rows, columns)
    c, big = rng.choice(columns), rng.random() < 0.6
    values = [row[c] for row in data.values()]
    if len(set(values)) < rows:
        return extreme(rng, lang, rows, columns)
    full, best = walk(data, (lambda a, b: a > b) if big else (lambda a, b: a < b), c)
    return Draft("max" if big else "min", (c, *flat(data)), {"t": text, "c": COLUMNS[lang][c]}, best,
                 full, f"{data[best][c]}", "text")


def many(rng, lang, rows, columns):
    data, text = build(rng, lang, rows, columns)
    c = rng.choice(columns)
    values = [row[c] for row in data.values()]
    n = max(1, sorted(values)[rng.randint(1, rows - 2)] - rng.randint(0, 2))
    seen, steps = 0, []
    for v in values:
        seen += v > n
        steps.append(f"{v}+{seen}" if v > n else f"{v}-")
    return Draft("many", (c, n, *flat(data)), {"t": text, "c": COLUMNS[lang][c], "n": n}, str(seen),
                 " ".join(steps), " ".join(map(str, values)), "number")


def column_sum(rng, lang, rows, columns):
    data, text = build(rng, lang, rows, columns)
    c = rng.choice(columns)
    values = [row[c] for row in data.values()]
    return Draft("sum", (c, *flat(data)), {"t": text, "c": COLUMNS[lang][c]}, str(sum(values)), w.total(values),
                 w.total_short(values), "number")


def worth(rng, lang, rows):
    data, text = build(rng, lang, rows, ["price", "stock"], 2, 30)
    products, steps = [], []
    for row in data.values():
        steps.append(w.mul(row["price"], row["stock"]))
        products.append(row["price"] * row["stock"])
    short = ";".join(f"{r['price']}*{r['stock']}={p}" for r, p in zip(data.values(), products))
    return Draft("value", flat(data), {"t": text}, str(sum(products)), ";".join(steps) + ";" + w.total(products),
                 short, "number")


def sum_over(rng, lang, rows):
    data, text = build(rng, lang, rows, ["price", "sold"])
    prices = [row["price"] for row in data.values()]
    n = max(1, sorted(prices)[rng.randint(0, rows - 3)] + rng.randint(0, 1))
    kept = [row["sold"] for row in data.values() if row["price"] > n]
    if len(kept) < 2:
        return sum_over(rng, lang, rows)
    picked = " ".join(f"{row['price']}+{row['sold']}" if row["price"] > n else f"{row['price']}-" for row in data.values())
    return Draft("sumover", (n, *flat(data)), {"t": text, "c": COLUMNS[lang]["sold"], "n": n}, str(sum(kept)),
                 f"{picked};{w.total(kept)}", "+".join(map(str, kept)), "number")


def draft(rng, d, lang):
    kind = rng.random()
    if d == 1:
        return cell(rng, lang, rng.randint(2, 4), [rng.choice(["price", "stock", "sold"])])
    if d == 2:
        return cell(rng, lang, rng.randint(3, 5), ["price", "stock"]) if kind < 0.6 else which(rng, lang, 3, ["price"])
    if d == 3:
        return (extreme(rng, lang, rng.randint(3, 4), ["price", "stock"]) if kind < 0.5 else
                cell(rng, lang, rng.randint(5, 6), ["price", "stock", "sold"]) if kind < 0.75 else which(rng, lang, 5, ["price", "stock"]))
    if d == 4:
        return many(rng, lang, rng.randint(4, 7), ["price", "stock"]) if kind < 0.5 else column_sum(rng, lang, 4, ["price", "stock"])
    return worth(rng, lang, 3) if kind < 0.4 else sum_over(rng, lang, rng.randint(4, 6)) if kind < 0.8 else column_sum(rng, lang, 7, ["stock", "sold"])
