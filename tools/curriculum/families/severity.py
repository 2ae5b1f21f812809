"""Severity of a message or a reading."""
from ..item import Draft
from ..words import devices

FAMILY = "severity"
LEVELS = {"en": ["info", "warning", "critical"], "zh": ["正常", "警告", "严重"]}
MESSAGES = {
    "en": [["{d} started normally", "{d} finished its job", "{d} is back online", "backup of {d} completed", "{d} passed the self-test",
            "{d} was updated", "user logged in to {d}", "{d} went to standby as planned"],
           ["{d} is running a bit hot", "{d} retried twice before it answered", "disk of {d} is getting full", "{d} responds slowly",
            "battery of {d} is low", "{d} missed one heartbeat", "{d} needs service soon", "{d} uses an old certificate"],
           ["{d} is on fire", "{d} stopped and does not restart", "{d} lost all its data", "{d} leaks gas", "emergency stop of {d} pressed",
            "{d} exploded", "{d} is overheating and out of control", "water is flooding {d}"]],
    "zh": [["{d}正常启动", "{d}完成了任务", "{d}恢复在线", "{d}备份完成", "{d}自检通过", "{d}已更新", "用户登录{d}", "{d}按计划待机"],
           ["{d}温度略高", "{d}重试两次后才响应", "{d}磁盘快满了", "{d}响应缓慢", "{d}电量低", "{d}丢了一次心跳", "{d}需要尽快保养", "{d}证书较旧"],
           ["{d}着火了", "{d}停机且无法重启", "{d}丢失全部数据", "{d}燃气泄漏", "{d}的急停被按下", "{d}爆炸了", "{d}过热失控", "{d}被水淹"]],
}
ASKS = {
    "en": {
        "message": ["How severe is this message: {m}? Answer info, warning or critical.", "Classify as info, warning or critical: {m}.",
                    "Log message: {m}. Which severity (info, warning, critical)?"],
        "worst": ["Which is the worst severity (info, warning, critical) among: {m}?", "Messages: {m}. Give the highest severity of them: info, warning or critical."],
        "limit": ["{r} The reading is {x}. Is that info, warning or critical?", "Rules: {r} Now it shows {x}. Which severity, info, warning or critical?",
                  "We measured {x}. {r} Classify: info, warning or critical."],
        "worst_limit": ["{r} The readings are {x}. What is the worst severity: info, warning or critical?",
                        "Rules: {r} Sensors show {x}. Give the highest severity (info, warning, critical)."],
        "long": ["{r} It is critical only if it lasts for more than {t} minutes in a row, otherwise a warning. Readings, one a minute: {x}. Info, warning or critical?",
                 "Readings each minute: {x}. {r} More than {t} such minutes in a row is critical, fewer a warning, none info. Which is it?"],
    },
    "zh": {
        "message": ["这条消息有多严重：{m}？回答正常、警告或严重。", "按正常、警告、严重分类：{m}。", "日志：{m}。属于哪一级（正常、警告、严重）？"],
        "worst": ["下面最高的级别是什么（正常、警告、严重）：{m}？", "消息：{m}。给出其中最严重的级别：正常、警告或严重。"],
        "limit": ["{r}读数是{x}，是正常、警告还是严重？", "规则：{r}现在显示{x}，属于正常、警告还是严重？", "测得{x}。{r}请分类：正常、警告或严重。"],
        "worst_limit": ["{r}读数为{x}，最高级别是正常、警告还是严重？", "规则：{r}传感器显示{x}，给出最高级别（正常、警告、严重）。"],
        "long": ["{r}连续超过{t}分钟才算严重，否则是警告。每分钟读数：{x}。正常、警告还是严重？",
                 "每分钟读数：{x}。{r}连续多于{t}分钟为严重，较少为警告，没有为正常。是哪一级？"],
    },
}


def message(rng, lang):
    level, at = rng.randrange(3), rng.randrange(8)
    name = devices(rng, 1)[0]
    text = MESSAGES[lang][level][at].format(d=name)
    answer = LEVELS[lang][level]
    return Draft("message", (text,), {"m": text}, answer, str(level), str(level), "text")


def worst(rng, lang, n):
    names, levels = devices(rng, n), [rng.randrange(3) for _ in range(n)]
    if rng.random() < 0.5:
        levels = [min(v, 1) for v in levels]
    texts = [MESSAGES[lang][v][rng.randrange(8)].format(d=d) for v, d in zip(levels, names)]
    text = "; ".join(texts) if lang == "en" else "；".join(texts)
    return Draft("worst", (text,), {"m": text}, LEVELS[lang][max(levels)],
                 " ".join(f"{d}:{v}" for d, v in zip(names, levels)) + f";{max(levels)}", " ".join(map(str, levels)), "text")


def grade(x, warn, crit):
    return 2 if x > crit else 1 if x > warn else 0


def rule(lang, warn, crit):
    return (f"Above {warn} is a warning, above {crit} is critical." if lang == "en" else f"高于{warn}为警告，高于{crit}为严重。")


def versus(x, limit):
    return f"{x}{'>' if x > limit else '<'}{limit}"


def thresholds(rng):
    warn = rng.randint(20, 80)
    return warn, warn + rng.randint(5, 19)


def limit(rng, lang):
    warn, crit = thresholds(rng)
    x = rng.choice([rng.randint(1, warn), rng.randint(warn + 1, crit), rng.randint(crit + 1, 120)])
    level = grade(x, warn, crit)
    return Draft("limit", (warn, crit, x), {"r": rule(lang, warn, crit), "x": x}, LEVELS[lang][level],
                 f"{versus(x, crit)} {versus(x, warn)};{level}", versus(x, warn)[len(str(x))], "text")


def worst_limit(rng, lang, n):
    warn, crit = thresholds(rng)
    top = rng.choice([warn, crit, 110])
    values = [rng.randint(max(1, top - 30), top) for _ in range(n)]
    level = max(grade(x, warn, crit) for x in values)
    steps = " ".join(f"{x}:{grade(x, warn, crit)}" for x in values)
    text = ", ".join(map(str, values)) if lang == "en" else "、".join(map(str, values))
    return Draft("worst_limit", (warn, crit, *values), {"r": rule(lang, warn, crit), "x": text}, LEVELS[lang][level],
                 f"{warn} {crit};{steps};{level}", str(max(values)), "text")


def lasting(rng, lang, n):
    bound, t = rng.randint(30, 90), rng.randint(2, 4)
    hot = rng.choice([0.0, 0.4, 0.65, 0.8])
    values = [rng.randint(bound + 1, bound + 9) if rng.random() < hot else rng.randint(bound - 9, bound) for _ in range(n)]
    run = best = 0
    steps = []
    for v in values:
        run = run + 1 if v > bound else 0
        best = max(best, run)
        steps.append(f"{v}:{run}")
    level = 2 if best > t else 1 if best else 0
    said = f"Above {bound} is too hot." if lang == "en" else f"高于{bound}算过热。"
    text = ", ".join(map(str, values)) if lang == "en" else "、".join(map(str, values))
    return Draft("long", (bound, t, *values), {"r": said, "t": t, "x": text}, LEVELS[lang][level],
                 f"{bound};{' '.join(steps)};{best}>{t}={level}" if level == 2 else f"{bound};{' '.join(steps)};{best}<={t}={level}",
                 " ".join("+" if v > bound else "-" for v in values), "text")


def draft(rng, d, lang):
    kind = rng.random()
    if d == 1:
        return message(rng, lang)
    if d == 2:
        return limit(rng, lang) if kind < 0.5 else worst(rng, lang, 2)
    if d == 3:
        return worst_limit(rng, lang, 3) if kind < 0.6 else worst(rng, lang, 4)
    if d == 4:
        return worst_limit(rng, lang, rng.randint(5, 7)) if kind < 0.6 else lasting(rng, lang, 6)
    return lasting(rng, lang, rng.randint(8, 12))
