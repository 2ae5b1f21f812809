"""What one question of the curriculum is, and which split its operands belong to."""
import hashlib
from dataclasses import dataclass, field

TEST_SHARE = 10  # one operand tuple in ten belongs to the test split


@dataclass
class Draft:
    """A question before it has been put into words: what a family returns."""
    sub: str                 # which kind of question inside the family; chooses the phrasings
    operands: tuple          # everything the answer depends on; decides train or test
    slots: dict              # text that goes into the phrasing
    answer: str
    full: str                # working of the core model
    short: str               # working of the region model
    check: str = "text"      # name of the checker
    turns: list = field(default_factory=list)  # earlier messages of the chat


@dataclass
class Item:
    task: str
    difficulty: int
    lang: str
    messages: list
    answer: str
    work_full: str
    work_short: str
    check: str
    operands: str            # canonical, for the disjointness test
    phrasing: str            # family/sub/lang/ask/frame, likewise


def canonical(family, draft):
    return f"{family}|{draft.sub}|" + "|".join(str(o) for o in draft.operands)


def split_of(operands):
    digest = hashlib.sha256(operands.encode()).digest()
    return "test" if int.from_bytes(digest[:4], "big") % TEST_SHARE == 0 else "train"
