"""Replay against a live run: what `rung tune` says of other thresholds is what then comes."""
import json
import math
import os
import random
import subprocess
import sys

from ladder import ROOT, RUNG, scripted
from test_policy import command

sys.path.insert(0, os.path.join(ROOT, "tools"))
from curriculum import generate  # noqa: E402

TIERS = ("edge", "region", "core")
A, B = {"threshold_edge": 0.75, "threshold_region": 0.75}, {"threshold_edge": 0.95, "threshold_region": 0.9}
LOGGED, LIVE = 4000, 2500


def right(item, tier):
    """The truth of this world: by the item's difficulty and the tier, the same whenever it is asked."""
    skill = {"edge": 0.95 - 0.15 * item.difficulty, "region": 1.0 - 0.07 * item.difficulty, "core": 0.98}[tier]
    return random.Random(f"{item.messages[-1]['content']} {tier}").random() < skill


def ask(edge, item):
    reply = edge.chat(item.messages)
    return reply.json["id"], right(item, reply.rung["tier"])


def test_the_difference_of_a_live_run_lies_inside_the_interval_of_the_difference(ladder):
    edge = ladder.edge(backends=[scripted(t, t, "forty two") for t in TIERS],
                       router={"file": os.path.join(ROOT, "models", "demo.router")}, policy={"probe": False, "ood_limit": 1.0})
    items = list(generate(seed="replay test", n=LOGGED + LIVE, split="test"))
    command(edge, action="set", policy={**A, "explore": 0.2})
    for item in items[:LOGGED]:
        request, good = ask(edge, item)
        edge.post("/v1/feedback", {"request_id": request, "right": good})
    command(edge, action="set", policy={**A, "explore": 0})
    edge.until_rows(LOGGED, "SELECT id FROM labels")
    edge.until_rows(LOGGED, "SELECT id FROM decisions")
    tune = subprocess.run([RUNG, "tune", "--log", edge.db, "--edge", "0.97", "--region", "0.75", "--json"],
                          capture_output=True, text=True)
    said = json.loads(tune.stdout)["tried"]
    assert said["refused"] is None, said
    command(edge, action="set", policy={**B, "explore": 0})
    answers = [ask(edge, item)[1] for item in items[LOGGED:]]
    live = sum(answers) / LIVE
    half = math.hypot(1.96 * math.sqrt(live * (1 - live) / LIVE), (said["quality"]["high"] - said["quality"]["low"]) / 2)
    print(f"replayed {said['quality']['value']:.4f}, live {live:.4f}, ± {half:.4f}")
    assert half < 0.08
    # 95 % of runs lie within half, and requests' ids, which exploration is drawn by, are new each time: 99.9 % within this
    assert abs(live - said["quality"]["value"]) < 1.68 * half


def test_what_exploration_chose_is_checked_like_any_other_answer(ladder):
    """Else replay would promise of the edge what it does without its second thought."""
    edge = ladder.edge(backends=[scripted("small", "edge", "no JSON"), scripted("big", "core", '{"a": 1}')],
                       router={"file": os.path.join(ROOT, "models", "demo.router")},
                       policy={"threshold": {"edge": 1.0, "region": 1.0}, "ood_limit": 1.0, "explore": 0.2})
    for i in range(60):
        assert edge.chat(f"{i}?", response_format={"type": "json_object"}).text == '{"a": 1}'
    rows = edge.until_rows(60)
    explored = [r for r in rows if r["explored"] and r["first_tier"] == "edge"]
    assert explored and all(r["escalated"] and r["reason"] == "check" for r in explored)
