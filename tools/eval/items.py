"""Fresh items of a seed as outcome records, still without scores."""
from curriculum import generate


def fresh(seed, n, split="test"):
    return list(generate(seed, n, split))


def record(index, item):
    prompt = item.messages[-1]["content"]
    row = {"id": index, "task": item.task, "difficulty": item.difficulty, "lang": item.lang, "prompt": prompt,
           "scores": {}, "tokens": {}, "time_s": {}}
    if len(item.messages) > 1:
        row["messages"] = item.messages
    if item.task == "action":
        row["parses"] = {}
    return row
