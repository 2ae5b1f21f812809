"""Spoken command -> JSON action."""
import json
from ..item import Draft

FAMILY = "action"
ROOMS = {"kitchen": "厨房", "bedroom": "卧室", "bathroom": "浴室", "office": "书房", "hall": "走廊", "garage": "车库",
         "living room": "客厅", "garden": "花园"}
LABELS = {"pasta": "意面", "tea": "茶", "laundry": "洗衣", "cake": "蛋糕", "workout": "锻炼", "rice": "米饭", "eggs": "鸡蛋",
          "bread": "面包", "soup": "汤", "break": "休息"}
GENRES = {"jazz": "爵士乐", "rock": "摇滚", "classical": "古典音乐", "pop": "流行音乐", "folk": "民谣", "blues": "蓝调"}
PEOPLE = {"mom": "妈妈", "dad": "爸爸", "Anna": "安娜", "Ben": "小本", "the doctor": "医生", "the office": "公司",
          "grandma": "奶奶", "Tom": "汤姆"}
TASKS = {"water the plants": "浇花", "take out the trash": "倒垃圾", "feed the cat": "喂猫", "pay the rent": "交房租",
         "buy milk": "买牛奶", "call the bank": "给银行打电话", "charge the car": "给车充电", "walk the dog": "遛狗",
         "take the medicine": "吃药", "send the report": "发报告"}

ASKS = {
    "en": {
        "one": ["{c}.", "Please {c}.", "Can you {c}?", "I'd like you to {c}.", "Would you {c}, please?", "Go ahead and {c}."],
        "correct": ["{c}. No, wait, make that {n}.", "Please {c}. Sorry, I meant {n}.", "Can you {c}? Actually, use {n}."],
        "except": ["{v} the lights everywhere except in the {r}. We have: {rooms}.",
                   "{v} all lights but not in the {r}. The rooms are {rooms}.",
                   "Rooms: {rooms}. {v} the lights in all of them, only not in the {r}."],
    },
    "zh": {
        "one": ["{c}。", "请{c}。", "可以{c}吗？", "麻烦你{c}。", "现在{c}。", "帮忙{c}吧。"],
        "correct": ["{c}。不对，改成{n}。", "请{c}。抱歉，我是说{n}。", "{c}吧。算了，用{n}。"],
        "except": ["除了{r}，把所有的灯{v}。房间有：{rooms}。", "把{r}以外的灯都{v}，房间是{rooms}。",
                   "房间：{rooms}。除{r}外全部{v}灯。"],
    },
}


def packed(value):
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def light(rng, en):
    room, state = rng.choice(list(ROOMS)), rng.choice(["on", "off"])
    text = f"turn {state} the {room} lights" if en else f"{'打开' if state == 'on' else '关掉'}{ROOMS[room]}的灯"
    return text, {"action": "light", "room": room, "state": state}


def lock(rng, en):
    state, door = rng.choice(["lock", "unlock"]), rng.choice(["front", "back", "garage", "garden"])
    zh = {"front": "前门", "back": "后门", "garage": "车库门", "garden": "花园门"}[door]
    text = f"{state} the {door} door" if en else f"{'锁上' if state == 'lock' else '打开'}{zh}"
    return text, {"action": state, "door": door}


def music(rng, en):
    genre, room = rng.choice(list(GENRES)), rng.choice(list(ROOMS))
    return (f"play {genre} in the {room}" if en else f"在{ROOMS[room]}播放{GENRES[genre]}",
            {"action": "play", "genre": genre, "room": room})


def call(rng, en):
    person, video = rng.choice(list(PEOPLE)), rng.random() < 0.3
    text = (f"{'video call' if video else 'call'} {person}" if en else f"{'视频呼叫' if video else '打电话给'}{PEOPLE[person]}")
    return text, {"action": "call", "person": person.replace("the ", ""), "video": video}


def dim(rng, en):
    room, level = rng.choice(list(ROOMS)), rng.randint(1, 99)
    return (f"dim the {room} lights to {level} percent" if en else f"把{ROOMS[room]}的灯调到百分之{level}",
            {"action": "dim", "room": room, "level": level})


def heat(rng, en):
    room, degrees = rng.choice(list(ROOMS)), rng.randint(5, 35)
    return (f"set the {room} to {degrees} degrees" if en else f"把{ROOMS[room]}的温度设为{degrees}度",
            {"action": "heat", "room": room, "degrees": degrees})


def timer(rng, en):
    label, minutes = rng.choice(list(LABELS)), rng.randint(1, 90)
    return (f"start a {label} timer for {minutes} minutes" if en else f"设一个{minutes}分钟的{LABELS[label]}计时器",
            {"action": "timer", "label": label, "minutes": minutes})


def volume(rng, en):
    room, level = rng.choice(list(ROOMS)), rng.randint(1, 99)
    return (f"set the volume in the {room} to {level}" if en else f"把{ROOMS[room]}的音量调到{level}",
            {"action": "volume", "room": room, "level": level})


def spoken_time(rng, en):
    """(words, HH:MM, working)."""
    hour, minute = rng.randint(1, 11), rng.choice([0, 15, 30, 45, 5, 10, 20])
    part, zh_part, add = rng.choice([("in the morning", "早上", 0), ("in the evening", "晚上", 12)])
    if add and hour < 5:
        hour += 5
    if en:
        words = {0: f"{hour} o'clock", 15: f"quarter past {hour}", 30: f"half past {hour}",
                 45: f"quarter to {hour + 1}"}.get(minute, f"{minute} past {hour}") + f" {part}"
    else:
        words = zh_part + {0: f"{hour}点", 15: f"{hour}点一刻", 30: f"{hour}点半", 45: f"{hour}点三刻"}.get(
            minute, f"{hour}点{minute}分")
    clock = f"{hour + add:02d}:{minute:02d}"
    return words, clock, f"{hour}:{minute:02d}+{add}h={clock}"


def alarm(rng, en):
    words, clock, steps = spoken_time(rng, en)
    day, zh = rng.choice([("today", "今天"), ("tomorrow", "明天"), ("on Sunday", "星期日"), ("on Monday", "星期一")])
    return (f"set an alarm for {words} {day}" if en else f"把{zh}的闹钟定在{words}",
            {"action": "alarm", "day": day.replace("on ", ""), "time": clock}, steps)


def remind(rng, en):
    words, clock, steps = spoken_time(rng, en)
    task = rng.choice(list(TASKS))
    return (f"remind me at {words} to {task}" if en else f"{words}提醒我{TASKS[task]}",
            {"action": "remind", "text": task, "time": clock}, steps)


SIMPLE, NUMERIC, TIMED = [light, lock, music, call], [dim, heat, timer, volume], [alarm, remind]


def parts(made):
    return made if len(made) == 3 else (*made, "")


def one(rng, en, makers):
    text, action, steps = parts(rng.choice(makers)(rng, en))
    answer = packed(action)
    values = ",".join(str(v) for v in action.values())
    work = f"{steps};{values}" if steps else values
    return Draft("one", (answer, en), {"c": text}, answer, work, steps or action["action"], "json")


def several(rng, en, count):
    made = [parts(rng.choice(SIMPLE + NUMERIC + (TIMED if count > 2 or rng.random() < 0.5 else []))(rng, en))
            for _ in range(count)]
    text = (" and ".join(m[0] for m in made) if count == 2 else
            ", ".join(m[0] for m in made[:-1]) + " and then " + made[-1][0]) if en else "，然后".join(m[0] for m in made)
    answer = packed({"actions": [m[1] for m in made]})
    work = "|".join((f"{m[2]};" if m[2] else "") + ",".join(str(v) for v in m[1].values()) for m in made)
    return Draft("one", (answer, en), {"c": text}, answer, work, "|".join(m[2] or m[1]["action"] for m in made), "json")


def corrected(rng, en):
    maker = rng.choice(NUMERIC)
    text, action = maker(rng, en)
    key = list(action)[-1]
    final = rng.randint(5, 90)
    while final == action[key]:
        final = rng.randint(5, 90)
    work = f"{action[key]}>{final};" + ",".join(str(v) for v in {**action, key: final}.values())
    answer = packed({**action, key: final})
    return Draft("correct", (answer, action[key], en), {"c": text, "n": final}, answer, work, f"{action[key]}>{final}",
                 "json")


def all_but(rng, en):
    rooms = rng.sample(list(ROOMS), rng.randint(3, 6))
    left, state = rng.choice(rooms), rng.choice(["on", "off"])
    kept = [r for r in rooms if r != left]
    answer = packed({"action": "light", "rooms": kept, "state": state})
    named = ", ".join(rooms) if en else "、".join(ROOMS[r] for r in rooms)
    verb = f"Turn {state}" if en else ("打开" if state == "on" else "关掉")
    work = ",".join(f"{r}-" if r == left else r for r in rooms)
    return Draft("except", (answer, left, tuple(rooms), en), {"v": verb, "r": left if en else ROOMS[left], "rooms": named},
                 answer, work, f"-{left}", "json")


def draft(rng, d, lang):
    en, kind = lang == "en", rng.random()
    if d == 1:
        return one(rng, en, SIMPLE)
    if d == 2:
        return one(rng, en, NUMERIC)
    if d == 3:
        return one(rng, en, TIMED) if kind < 0.6 else corrected(rng, en)
    if d == 4:
        return several(rng, en, 2) if kind < 0.6 else all_but(rng, en)
    return several(rng, en, 3) if kind < 0.75 else all_but(rng, en)
