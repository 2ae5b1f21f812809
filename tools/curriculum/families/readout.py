"""Reading a value out of a telemetry or log line."""
from ..item import Draft
from ..words import devices
from .. import working as w

FAMILY = "readout"
FIELDS = {"temp": (150, 950), "press": (10, 99), "rpm": (400, 3900), "volt": (180, 260), "amp": (1, 60), "flow": (5, 400),
          "level": (1, 100), "humid": (10, 95)}
NAMES_ZH = {"temp": "温度", "press": "压力", "rpm": "转速", "volt": "电压", "amp": "电流", "flow": "流量", "level": "液位",
            "humid": "湿度"}
NAMES_EN = {"temp": "temperature", "press": "pressure", "rpm": "speed", "volt": "voltage", "amp": "current", "flow": "flow",
            "level": "level", "humid": "humidity"}
ASKS = {
    "en": {
        "one": ["{log}\nWhat is the {f} here?", "Read the {f} from this line:\n{log}", "Which value does {f} have?\n{log}",
                "Log: {log}\nTell me the {f}."],
        "of": ["{log}\nWhat is the {f} of {x}?", "Look at the log and give the {f} of {x}.\n{log}", "Which {f} does {x} report?\n{log}"],
        "marked": ["{log}\nOnly one line is marked with >>. What is its value?", "Give the value on the line marked >>:\n{log}",
                   "{log}\nRead the number on the >> line."],
        "max": ["{log}\nWhich device has the highest {f}?", "Name the device with the largest {f}.\n{log}"],
        "last": ["{log}\nWhat is the latest {f} of {x}?", "Give the most recent {f} reported by {x}.\n{log}"],
        "diff": ["{log}\nBy how much does the {f} of {x} exceed that of {y}?", "How much higher is the {f} of {x} than of {y}?\n{log}"],
        "over": ["{log}\nHow many lines have a {f} above {n}?", "Count the lines with {f} over {n}.\n{log}"],
    },
    "zh": {
        "one": ["{log}\n这里的{f}是多少？", "从这一行读出{f}：\n{log}", "{f}的值是多少？\n{log}", "日志：{log}\n告诉我{f}。"],
        "of": ["{log}\n{x}的{f}是多少？", "看日志，给出{x}的{f}。\n{log}", "{x}报告的{f}是多少？\n{log}"],
        "marked": ["{log}\n只有一行标了>>，它的值是多少？", "给出标有>>那一行的值：\n{log}", "{log}\n读出>>那行的数字。"],
        "max": ["{log}\n哪个设备的{f}最高？", "说出{f}最大的设备。\n{log}"],
        "last": ["{log}\n{x}最新的{f}是多少？", "给出{x}最近一次报告的{f}。\n{log}"],
        "diff": ["{log}\n{x}的{f}比{y}高多少？", "{x}的{f}超出{y}多少？\n{log}"],
        "over": ["{log}\n有几行的{f}大于{n}？", "数一数{f}超过{n}的行。\n{log}"],
    },
}


def label(field, lang):
    return NAMES_EN[field] if lang == "en" else NAMES_ZH[field]


def stamp(rng, start, step):
    return f"{start // 60 % 24:02d}:{start % 60:02d}"


def line(rng, name, values, style):
    if style == 0:
        return f"dev={name} " + " ".join(f"{k}={v}" for k, v in values.items())
    if style == 1:
        return "{" + f'"dev":"{name}",' + ",".join(f'"{k}":{v}' for k, v in values.items()) + "}"
    return f"[{name}] " + ", ".join(f"{k}: {v}" for k, v in values.items())


def reading(rng, field):
    return rng.randint(*FIELDS[field])


def one(rng, lang, count):
    fields, style = rng.sample(list(FIELDS), count), rng.randrange(3)
    values = {f: reading(rng, f) for f in fields}
    field, name = rng.choice(fields), devices(rng, 1)[0]
    text = line(rng, name, values, style)
    if rng.random() < 0.5:
        text = f"{rng.randint(0, 23):02d}:{rng.randint(0, 59):02d} {text}"
    return Draft("one", (name, field, *values.items()), {"log": text, "f": label(field, lang)}, str(values[field]),
                 f"{field}={values[field]}", field, "number")


def marked(rng, lang, lines):
    field, at = rng.choice(list(FIELDS)), rng.randrange(lines)
    rows = [(devices(rng, 1)[0], reading(rng, field)) for _ in range(lines)]
    start = rng.randint(0, 1300)
    log = "\n".join(f"{'>> ' if i == at else ''}{stamp(rng, start + i, 1)} {n} {field}={v}" for i, (n, v) in enumerate(rows))
    return Draft("marked", (field, at, *rows), {"log": log}, str(rows[at][1]), f">>{rows[at][0]} {field}={rows[at][1]}",
                 ">>", "number")


def several(rng, lines, count):
    fields, style = rng.sample(list(FIELDS), count), rng.randrange(3)
    rows = {name: {f: reading(rng, f) for f in fields} for name in devices(rng, lines)}
    return fields, rows, "\n".join(line(rng, n, v, style) for n, v in rows.items())


def of_device(rng, lang, lines, count):
    fields, rows, log = several(rng, lines, count)
    name, field = rng.choice(list(rows)), rng.choice(fields)
    value = rows[name][field]
    row = " ".join(f"{k}={v}" for k, v in rows[name].items())
    return Draft("of", (name, field, log), {"log": log, "f": label(field, lang), "x": name}, str(value),
                 f"{name} {row};{field}={value}", f"{name} {row}", "number")


def highest(rng, lang, lines, count):
    fields, rows, log = several(rng, lines, count)
    field = rng.choice(fields)
    values = [row[field] for row in rows.values()]
    if len(set(values)) < len(values):
        return highest(rng, lang, lines, count)
    best, steps = None, []
    for name, row in rows.items():
        if best is None or row[field] > rows[best][field]:
            best = name
        steps.append(f"{name} {row[field]}>{best} {rows[best][field]}")
    return Draft("max", (field, log), {"log": log, "f": label(field, lang)}, best, f"{field}:{';'.join(steps)}",
                 str(rows[best][field]), "text")


def latest(rng, lang, lines):
    field, names = rng.choice(list(FIELDS)), devices(rng, 3)
    rows = [(rng.choice(names), reading(rng, field)) for _ in range(lines)]
    name = rng.choice(rows)[0]
    start = rng.randint(0, 1300)
    log = "\n".join(f"{stamp(rng, start + 2 * i, 1)} {n} {field}={v}" for i, (n, v) in enumerate(rows))
    mine = [v for n, v in rows if n == name]
    return Draft("last", (name, log), {"log": log, "f": label(field, lang), "x": name}, str(mine[-1]),
                 f"{name}: " + " ".join(f"{n}={v}" if n == name else f"{n}-" for n, v in rows), name, "number")


def difference(rng, lang, lines, count):
    fields, rows, log = several(rng, lines, count)
    field, (x, y) = rng.choice(fields), rng.sample(list(rows), 2)
    a, b = rows[x][field], rows[y][field]
    if a < b:
        x, y, a, b = y, x, b, a
    return Draft("diff", (x, y, field, log), {"log": log, "f": label(field, lang), "x": x, "y": y}, str(a - b),
                 f"{x}={a};{y}={b};{w.sub(a, b)}", f"{a}-{b}", "number")


def over(rng, lang, lines, count):
    fields, rows, log = several(rng, lines, count)
    field = rng.choice(fields)
    values = [row[field] for row in rows.values()]
    n = max(1, sorted(values)[rng.randint(1, lines - 2)] - rng.randint(0, 3))
    seen, steps = 0, []
    for name, v in zip(rows, values):
        seen += v > n
        steps.append(f"{name} {v}+{seen}" if v > n else f"{name} {v}-")
    return Draft("over", (field, n, log), {"log": log, "f": label(field, lang), "n": n}, str(seen),
                 f"{field}>{n}:{' '.join(steps)}", " ".join(str(v) for v in values), "number")


def draft(rng, d, lang):
    kind = rng.random()
    if d == 1:
        return one(rng, lang, rng.randint(2, 4)) if kind < 0.6 else marked(rng, lang, rng.randint(3, 10))
    if d == 2:
        return one(rng, lang, rng.randint(5, 7)) if kind < 0.5 else of_device(rng, lang, 2, 2)
    if d == 3:
        return of_device(rng, lang, rng.randint(3, 5), rng.randint(2, 3)) if kind < 0.6 else latest(rng, lang, 4)
    if d == 4:
        return highest(rng, lang, rng.randint(3, 5), 2) if kind < 0.5 else latest(rng, lang, rng.randint(6, 9))
    return difference(rng, lang, rng.randint(3, 5), 2) if kind < 0.55 else over(rng, lang, rng.randint(4, 7), 2)
