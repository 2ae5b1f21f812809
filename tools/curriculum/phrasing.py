"""Putting a draft into words: frame (how it is introduced) x ask (how it is asked), and irrelevant filler around it.

One phrasing in eight is held out: training never sees that pair of frame and ask.
"""
import zlib

FRAMES = {
    "en": [
        "{q}", "Please help me: {q}", "Quick question. {q}", "{q} Thanks!", "Hi there! {q}", "I need this for work: {q}",
        "Could you check something for me? {q}", "One more thing. {q}", "{q} Just the answer, please.",
        "For my notes: {q}", "Hey Rung, {q}", "OK, next one. {q}", "I'm in a hurry. {q}", "{q} Many thanks in advance.",
    ],
    "zh": [
        "{q}", "请帮个忙：{q}", "问个小问题。{q}", "{q}谢谢！", "你好！{q}", "工作上需要：{q}", "帮我看一下，{q}",
        "还有一件事。{q}", "{q}只要答案就行。", "我记一下：{q}", "嘿，小梯，{q}", "好，下一个。{q}", "我赶时间。{q}",
        "{q}先谢过了。",
    ],
}

FILLER = {
    "en": [
        "It has been raining here since early morning.", "My colleague asked me about this during lunch.",
        "I am writing this from the train, so excuse the typos.", "The coffee machine is broken again.",
        "We moved to the new office last month and it is still a mess.", "My sister says hello.",
        "I looked at the manual first but it was not helpful.", "The weather report promised sunshine all week.",
        "There is a lot of noise in the hall today.", "I have a meeting after this.",
        "Nobody in the team could tell me, so I am asking you.", "The printer on the second floor is out of paper.",
        "Take your time, there is no rush at all.", "I already finished the rest of the form.",
        "This is the last open point on my list.", "My phone battery is almost empty.",
        "The dog is barking at the postman again.", "I hope you had a good start into the week.",
        "Our old assistant could never answer things like that.", "The kids are at school until the afternoon.",
        "I tried it on paper and lost track halfway.", "The screen of my tablet is rather small.",
        "They painted the fence green, which looks nice.", "I will read the answer aloud to the others.",
    ],
    "zh": [
        "这边从早上就一直在下雨。", "同事午饭的时候问了我这个。", "我在火车上写的，有错别字请见谅。", "咖啡机又坏了。",
        "我们上个月搬了新办公室，还很乱。", "我妹妹向你问好。", "我先看了说明书，不过没什么用。", "天气预报说这周都是晴天。",
        "今天走廊里很吵。", "一会儿我还有个会。", "组里没人知道，所以来问你。", "二楼的打印机没纸了。", "不着急，慢慢来。",
        "表格的其他部分我都填好了。", "这是清单上的最后一项。", "我的手机快没电了。", "狗又在对着邮递员叫。",
        "希望你这周一切顺利。", "以前的助手总是答不上来。", "孩子们下午才放学。", "我在纸上算过，算到一半就乱了。",
        "我的平板屏幕有点小。", "他们把篱笆刷成了绿色，挺好看的。", "我会把答案念给大家听。",
    ],
}

SYSTEM = {
    "en": ["You are Rung, a helpful assistant on a device.", "Answer briefly and exactly.", "Be precise."],
    "zh": ["你是设备上的助手小梯。", "请简短准确地回答。", "请务必准确。"],
}


def held_out(key):
    return zlib.crc32(key.encode()) % 8 == 0


def choose(rng, family, asks, sub, lang, split):
    """(template, key) of a phrasing allowed in this split. Tests use held-out phrasings about half of the time."""
    want_held_out = split == "test" and rng.random() < 0.5
    for _ in range(200):
        ask, frame = rng.randrange(len(asks)), rng.randrange(len(FRAMES[lang]))
        key = f"{family}/{sub}/{lang}/{ask}/{frame}"
        if held_out(key) == want_held_out:
            break
    return FRAMES[lang][frame], asks[ask], key


def filler(rng, lang, difficulty):
    """Irrelevant sentences before and after. Easy questions get more, so that length does not give difficulty away."""
    if rng.random() < 0.30 + 0.08 * difficulty:
        return "", ""
    most = 9 - difficulty
    count = rng.randint(1, most)
    sentences = rng.sample(FILLER[lang], count)
    before = rng.randint(0, count)
    space = " " if lang == "en" else ""
    return (space.join(sentences[:before]) + (space if before else ""),
            (space if before < count else "") + space.join(sentences[before:]))
