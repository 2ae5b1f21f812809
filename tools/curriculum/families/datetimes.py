"""Dates, times and durations."""
from ..item import Draft
from ..words import MONTHS, MONTH_DAYS, WEEKDAYS
from .. import working as w

FAMILY = "datetime"
ASKS = {
    "en": {
        "later": ["It is {t}. What time will it be in {x}?", "What time is it {x} after {t}?",
                  "The oven goes on at {t} and runs for {x}. When is it done?", "My shift starts at {t} and lasts {x}. When does it end?"],
        "weekday": ["Today is {w}. What day of the week is it in {n} days?", "If it is {w} now, which weekday is {n} days later?",
                    "A parcel sent on {w} needs {n} days. On which weekday does it arrive?"],
        "duration": ["How long is it from {a} to {b}? Answer as h:mm.", "The film runs from {a} to {b}. How long is that, as h:mm?",
                     "I slept from {a} until {b}. How long, as h:mm?"],
        "date": ["What is the date {n} days after {m} {d}? Answer as MM-DD.", "A trial of {n} days starts on {m} {d}. On which date (MM-DD) is it over?",
                 "Add {n} days to {m} {d} and give me MM-DD."],
        "between": ["How many days are there from {m} {d} to {m2} {d2} of the same year, not a leap year?",
                    "Today is {m} {d}. How many days until {m2} {d2}? February has 28 days.",
                    "Count the days from {m} {d} to {m2} {d2} (28 days in February)."],
        "repeat": ["{k} sessions of {n} minutes each start at {t}, with no break. When do they end?",
                   "Starting at {t}, I run {k} tests of {n} minutes one after another. When am I done?"],
    },
    "zh": {
        "later": ["现在是{t}，再过{x}是几点？", "{t}之后{x}是几点？", "烤箱{t}开始，运行{x}，几点结束？", "我{t}上班，工作{x}，几点下班？"],
        "weekday": ["今天是{w}，{n}天后是星期几？", "如果现在是{w}，过{n}天是星期几？", "{w}寄出的包裹要走{n}天，星期几到？"],
        "duration": ["从{a}到{b}有多久？用h:mm回答。", "电影从{a}放到{b}，时长是多少（h:mm）？", "我从{a}睡到{b}，睡了多久（h:mm）？"],
        "date": ["{m}{d}日之后{n}天是几月几日？用MM-DD回答。", "{n}天的试用期从{m}{d}日开始，哪天（MM-DD）结束？", "{m}{d}日加{n}天，用MM-DD表示。"],
        "between": ["同一年（平年）从{m}{d}日到{m2}{d2}日有多少天？", "今天是{m}{d}日，离{m2}{d2}日还有多少天？二月按28天算。",
                    "数一下{m}{d}日到{m2}{d2}日的天数（二月28天）。"],
        "repeat": ["{k}场每场{n}分钟，从{t}开始连着进行，几点结束？", "从{t}起连续做{k}个测试，每个{n}分钟，几点做完？"],
    },
}


def hhmm(minutes):
    return f"{minutes // 60 % 24:02d}:{minutes % 60:02d}"


def span(h, m, lang):
    if lang == "en":
        return " and ".join(([f"{h} hours" if h > 1 else "1 hour"] if h else []) + ([f"{m} minutes"] if m else []))
    return (f"{h}小时" if h else "") + (f"{m}分钟" if m else "")


def carry_steps(hour, minute, h, m):
    """Working of hour:minute + h:m, minutes first."""
    minutes, steps = minute + m, [f"{minute}+{m}={minute + m}"]
    extra = minutes // 60
    if extra:
        steps.append(f"-60={minutes - 60}")
    hours = hour + h + extra
    steps.append(f"{hour}+{h}+{extra}={hours}")
    if hours >= 24:
        steps.append(f"-24={hours - 24}")
    return ";".join(steps)


def later(rng, lang, d):
    hour, minute = rng.randint(0, 23), rng.randint(0, 59)
    if d == 1:
        hour, minute, h, m = rng.randint(0, 14), minute, rng.randint(1, 9), 0
    elif d == 2:
        hour, h, m = rng.randint(0, 20), 0, rng.randint(1, 59)
    else:
        h, m = rng.randint(1, 14), rng.randint(1, 59)
    answer = hhmm(hour * 60 + minute + h * 60 + m)
    steps = carry_steps(hour, minute, h, m)
    return Draft("later", (hour, minute, h, m), {"t": f"{hour:02d}:{minute:02d}", "x": span(h, m, lang)}, answer, steps,
                 steps.split(";")[0], "text")


def weekday(rng, lang, high):
    start, n = rng.randrange(7), rng.randint(1, high)
    end = (start + n) % 7
    names = WEEKDAYS[lang]
    full = f"{w.div(n, 7)};{start + 1}+{n % 7}={start + 1 + n % 7}" + (f"-7={start + n % 7 - 6}" if start + n % 7 >= 7 else "")
    return Draft("weekday", (start, n, lang), {"w": names[start], "n": n}, names[end], full, f"{n}%7={n % 7}", "text")


def duration(rng, lang, overnight):
    a, b = rng.randint(0, 1439), rng.randint(0, 1439)
    if (b < a) != overnight:
        a, b = b, a
    if a == b:
        b = (b + 75) % 1440
    length = (b - a) % 1440
    ah, am, bh, bm = a // 60, a % 60, b // 60, b % 60
    steps, eh, em = [], bh + (24 if b < a else 0), bm
    if b < a:
        steps.append(f"{bh}+24={eh}")
    if em < am:
        steps.append(f"{eh}-1={eh - 1};{em}+60={em + 60}")
        eh, em = eh - 1, em + 60
    steps.append(f"{em}-{am}={em - am};{eh}-{ah}={eh - ah}")
    return Draft("duration", (a, b), {"a": hhmm(a), "b": hhmm(b)}, f"{length // 60}:{length % 60:02d}", ";".join(steps),
                 f"{bh}-{ah}", "text")


def month_name(index, lang):
    return MONTHS[index] if lang == "en" else f"{index + 1}月"


def date(rng, lang, high):
    month, day, n = rng.randrange(11), 0, rng.randint(5, high)
    day = rng.randint(1, MONTH_DAYS[month])
    at, left, steps = month, day + n, [w.add(day, n)]
    while left > MONTH_DAYS[at]:
        steps.append(f"{at + 1}:{w.sub(left, MONTH_DAYS[at])}")
        left, at = left - MONTH_DAYS[at], at + 1
        if at == 12:
            return date(rng, lang, high)
    answer = f"{at + 1:02d}-{left:02d}"
    return Draft("date", (month, day, n), {"n": n, "m": month_name(month, lang), "d": day}, answer,
                 ";".join(steps) + f";{at + 1}", f"{day}+{n}={day + n}", "text")


def between(rng, lang):
    start, end = sorted(rng.sample(range(12), 2))
    end = min(end, start + 5)
    d1, d2 = rng.randint(1, MONTH_DAYS[start]), rng.randint(1, MONTH_DAYS[end])
    running = MONTH_DAYS[start] - d1
    steps = [f"{start + 1}:{MONTH_DAYS[start]}-{d1}={running}"]
    for m in range(start + 1, end):
        steps.append(f"{m + 1}:{w.add(running, MONTH_DAYS[m])}")
        running += MONTH_DAYS[m]
    steps.append(f"{end + 1}:{w.add(running, d2)}")
    slots = {"m": month_name(start, lang), "d": d1, "m2": month_name(end, lang), "d2": d2}
    return Draft("between", (start, d1, end, d2), slots, str(running + d2), ";".join(steps), f"{running}+{d2}", "number")


def repeat(rng, lang):
    hour, minute, k, n = rng.randint(0, 23), rng.randint(0, 59), rng.randint(3, 9), rng.randint(11, 55)
    length = k * n
    h, m = divmod(length, 60)
    full = f"{w.mul(n, k)};{h}*60={h * 60};{w.sub(length, h * 60)};{carry_steps(hour, minute, h, m)}"
    return Draft("repeat", (hour, minute, k, n), {"k": k, "n": n, "t": f"{hour:02d}:{minute:02d}"},
                 hhmm(hour * 60 + minute + length), full, f"{k}*{n}={length};{h}:{m:02d}", "text")


def draft(rng, d, lang):
    kind = rng.random()
    if d == 1:
        return later(rng, lang, 1)
    if d == 2:
        return later(rng, lang, 2) if kind < 0.6 else weekday(rng, lang, 13)
    if d == 3:
        return (later(rng, lang, 3) if kind < 0.4 else duration(rng, lang, False) if kind < 0.7 else weekday(rng, lang, 99))
    if d == 4:
        return date(rng, lang, 40) if kind < 0.5 else duration(rng, lang, True)
    return between(rng, lang) if kind < 0.45 else repeat(rng, lang) if kind < 0.75 else date(rng, lang, 120)
