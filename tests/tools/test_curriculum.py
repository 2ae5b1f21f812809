"""The curriculum: coverage, right answers, and train and test that never meet."""
import dataclasses
import itertools
import json
import re
import subprocess
import sys

import pytest
import tools_path
from curriculum import DIFFICULTIES, FAMILIES, LANGS, check, generate, parses_as_json, split_of
from curriculum.families import BY_NAME
from curriculum.phrasing import FRAMES, held_out


@pytest.fixture(scope="module")
def train():
    return list(generate("a", 6000, "train"))


@pytest.fixture(scope="module")
def test_items():
    return list(generate("b", 3000, "test"))


def test_train_and_test_share_no_operands(train, test_items):
    assert not {i.operands for i in train} & {i.operands for i in test_items}
    assert all(split_of(i.operands) == "train" for i in train)
    assert all(split_of(i.operands) == "test" for i in test_items)


def test_held_out_phrasings_are_only_in_tests(train, test_items):
    assert not any(held_out(i.phrasing) for i in train)
    unseen = sum(held_out(i.phrasing) for i in test_items) / len(test_items)
    assert 0.3 < unseen < 0.6


def test_every_family_difficulty_and_language_appears(train):
    seen = {(i.task, i.difficulty, i.lang) for i in train}
    assert seen == set(itertools.product(FAMILIES, DIFFICULTIES, LANGS))
    assert len(FAMILIES) >= 14


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("lang", LANGS)
def test_every_family_has_many_phrasings_and_some_held_out(family, lang):
    asks = BY_NAME[family].ASKS[lang]
    keys = [f"{family}/{sub}/{lang}/{a}/{f}" for sub, options in asks.items() for a in range(len(options))
            for f in range(len(FRAMES[lang]))]
    assert len({t for options in asks.values() for t in options}) >= 6
    assert sum(not held_out(k) for k in keys) >= 25
    assert any(held_out(k) for k in keys)


def test_the_same_seed_gives_the_same_items():
    first, again, other = (list(generate(s, 200, "test")) for s in ("s", "s", "t"))
    assert first == again
    assert first != other


def test_right_answers_pass_with_and_without_working(train):
    for item in train[:1500]:
        assert check(item, item.answer)
        assert check(item, f"<think>{item.work_full}</think>{item.answer}")
        assert not check(item, "")
        assert not check(item, item.answer + "x")


@pytest.mark.parametrize("kind, answer, right, wrong", [
    ("number", "1827", ["1827", " 1,827. ", "<think>9</think>1827", "1827.0"], ["1828", "about 1827", "18 27", ""]),
    ("number", "-3.5", ["-3.5", "-3.50"], ["3.5", "-3,5"]),
    ("list", "3, 5, 9", ["3, 5, 9", "3,5,9", "3、5、9"], ["5, 3, 9", "3, 5", "3, 5, 9, 9"]),
    ("text", "Monday", ["Monday", "monday."], ["Tuesday", "It is Monday"]),
    ("text", "星期一", ["星期一", "星期一。"], ["星期二"]),
    ("exact", "ICBG", ["ICBG"], ["icbg", "ICB"]),
    ("json", '{"action":"lock","door":"back"}', ['{"door": "back", "action": "lock"}'], ['{"action":"lock"}', "lock back", "{"]),
])
def test_checkers_know_right_from_wrong(kind, answer, right, wrong):
    item = {"check": kind, "answer": answer}
    assert all(check(item, text) for text in right)
    assert not any(check(item, text) for text in wrong)


def test_actions_are_json(train):
    assert all(parses_as_json(i.answer) for i in train if i.task == "action")
    assert not parses_as_json("[1]") and not parses_as_json("{")


def test_arithmetic_answers_are_what_python_says():
    for item in generate("arith", 400, "test", ["arith"]):
        kind, *operands = item.operands.split("|")[1:]
        if kind == "sum":
            assert int(item.answer) == sum(map(int, operands))
        elif kind == "percent":
            assert int(item.answer) * 100 == int(operands[0]) * int(operands[1])


STEP = re.compile(r"(\d+)([-+*])(\d+)(?:([-+])(\d+))?=(\d+)([bn]?)")
OPERATION = {"+": int.__add__, "-": int.__sub__, "*": int.__mul__}


def test_every_step_of_written_working_is_true():
    steps = 0
    for item in generate("steps", 1500, "train", ["arith", "shopping", "word", "convert", "lists"]):
        for text in re.split("[;: ]", item.work_full):
            if match := STEP.fullmatch(text):
                a, op, b, then, c, result, borrow = match.groups()
                value = OPERATION[op](int(a), int(b))
                value = OPERATION[then](value, int(c)) if then else value
                assert int(result) == (value % 10 if borrow else value), text
                steps += 1
    assert steps > 3000


def test_length_does_not_give_difficulty_away(train):
    sizes = {d: [len(i.messages[-1]["content"]) for i in train if i.difficulty == d and i.lang == "en"] for d in DIFFICULTIES}
    medians = {d: sorted(s)[len(s) // 2] for d, s in sizes.items()}
    assert max(medians.values()) < 2 * min(medians.values())


def test_recall_asks_about_an_earlier_turn(train):
    assert all(len([m for m in i.messages if m["role"] == "user"]) > 1 for i in train if i.task == "recall")


def test_the_command_line_prints_items():
    run = subprocess.run([sys.executable, "-m", "curriculum", "--seed", "5", "--n", "3", "--family", "logic"],
                         cwd=tools_path.ROOT / "tools", capture_output=True, text=True, check=True)
    rows = [json.loads(line) for line in run.stdout.splitlines()]
    assert rows == [json.loads(json.dumps(dataclasses.asdict(i))) for i in generate("5", 3, "test", ["logic"])]
