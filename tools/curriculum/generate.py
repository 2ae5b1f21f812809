"""The stream of questions: deterministic by seed, train and test disjoint by construction."""
import random

from . import phrasing
from .families import BY_NAME
from .item import Item, canonical, split_of

FAMILIES = sorted(BY_NAME)
DIFFICULTIES = (1, 2, 3, 4, 5)
WEIGHTS = (27, 23, 20, 16, 14)  # easy questions are commoner, as in life
LANGS = ("en", "zh")
SYSTEM_SHARE = 0.08


def draw(rng, module, difficulty, lang, split):
    """A draft whose operands belong to the split, and those operands in canonical form."""
    while True:
        draft = module.draft(rng, difficulty, lang)
        operands = canonical(module.FAMILY, draft)
        if split_of(operands) == split:
            return draft, operands


def sentence(ask, slots):
    """The ask filled in; a spoken command in front starts with a capital, a log or a table stays as it is."""
    text = ask.format(**slots)
    return text[:1].upper() + text[1:] if ask.startswith(("{c}", "{a} and")) else text


def worded(rng, family, draft, difficulty, lang, split):
    asks = BY_NAME[family].ASKS[lang][draft.sub]
    frame, ask, key = phrasing.choose(rng, family, asks, draft.sub, lang, split)
    before, after = phrasing.filler(rng, lang, difficulty)
    return before + frame.format(q=sentence(ask, draft.slots)) + after, key


def make_item(rng, family, difficulty, lang, split):
    draft, operands = draw(rng, BY_NAME[family], difficulty, lang, split)
    text, key = worded(rng, family, draft, difficulty, lang, split)
    messages = []
    if rng.random() < SYSTEM_SHARE:
        messages.append({"role": "system", "content": rng.choice(phrasing.SYSTEM[lang])})
    messages += [{"role": role, "content": content} for role, content in draft.turns]
    messages.append({"role": "user", "content": text})
    return Item(family, difficulty, lang, messages, draft.answer, draft.full, draft.short, draft.check, operands, key)


def generate(seed, n, split, families=None, difficulties=None, langs=LANGS):
    """n items of a split ("train" or "test"); n=None goes on for ever."""
    rng = random.Random(f"{seed}/{split}")
    names = list(families or FAMILIES)
    made = 0
    while n is None or made < n:
        difficulty = rng.choice(difficulties) if difficulties else rng.choices(DIFFICULTIES, WEIGHTS)[0]
        yield make_item(rng, rng.choice(names), difficulty, rng.choice(langs), split)
        made += 1
