"""Exact checkers: is this reply the right answer? Lenient about dress, never about content."""
import json
import re

_NUMBER = re.compile(r"-?\d+(?:\.\d+)?\Z")


def visible(text):
    """The reply without its reasoning."""
    return text.rsplit("</think>", 1)[-1].strip()


def _plain(text):
    return " ".join(visible(text).strip("。.!！ \n").split())


def _number(text):
    text = _plain(text).replace(",", "")
    return float(text) if _NUMBER.match(text) else None


def check_text(answer, text):
    return _plain(text).lower() == _plain(answer).lower()


def check_exact(answer, text):
    """Letter case matters (string edits)."""
    return visible(text) == answer


def check_number(answer, text):
    got = _number(text)
    return got is not None and abs(got - float(answer)) < 1e-9


def check_list(answer, text):
    """Comma-separated, order matters."""
    split = lambda s: [part.strip().lower() for part in re.split(r"[,，、]", _plain(s))]
    return split(answer) == split(text)


def check_json(answer, text):
    try:
        return json.loads(visible(text)) == json.loads(answer)
    except ValueError:
        return False


CHECKERS = {
    "text": check_text,
    "exact": check_exact,
    "number": check_number,
    "list": check_list,
    "json": check_json,
}


def check(item, text):
    """Whether `text` answers `item` (an Item or its dict) correctly."""
    kind, answer = (item["check"], item["answer"]) if isinstance(item, dict) else (item.check, item.answer)
    return CHECKERS[kind](answer, text)


def parses_as_json(text):
    try:
        return isinstance(json.loads(visible(text)), dict)
    except ValueError:
        return False
