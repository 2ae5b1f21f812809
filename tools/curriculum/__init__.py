"""The curriculum: questions people ask a device, with exact answers, working and checkers.

    from curriculum import generate, check
    for item in generate(seed=1, n=10, split="test"):
        print(item.messages[-1]["content"], check(item, item.answer))
"""
from .checkers import check, parses_as_json, visible
from .generate import DIFFICULTIES, FAMILIES, LANGS, generate
from .item import Item, split_of

__all__ = ["DIFFICULTIES", "FAMILIES", "Item", "LANGS", "check", "generate", "parses_as_json", "split_of", "visible"]
