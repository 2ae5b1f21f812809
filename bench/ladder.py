"""The demo ladder, live: right answers and price at several policies beside core alone and the oracle; prints one table.

    sh tools/demo.sh --keep && python3 bench/ladder.py [--items 1000] [--seed bench]; sh tools/demo.sh --stop

Every item is asked of each tier by name first (their real answers, tokens and price), then of `auto` under each policy. The
oracle takes, for each item, the cheapest tier that is right (core where none is). Prices are what the log of a node would
charge: abandoned work is counted.
"""
import argparse
import json
import os
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, os.path.join(ROOT, "tools"))
from curriculum import check, generate  # noqa: E402
from demo import UnixHTTP  # noqa: E402

POLICIES = [  # threshold edge, region; probe on, and its threshold; how to name it
    (0.75, 0.75, False, 0.0, "text alone, 0.75"),
    (0.85, 0.85, False, 0.0, "text alone, 0.85"),
    (0.93, 0.93, False, 0.0, "text alone, 0.93"),
    (0.75, 0.75, True, 0.5, "as shipped"),
    (0.60, 0.85, True, 0.8, "probe at 0.8"),
    (0.60, 0.85, True, 0.9, "same, probe at 0.9"),
    (0.60, 0.93, True, 0.9, "0.93, probe at 0.9"),
    (0.80, 0.95, True, 0.93, "probe at 0.93"),
]


class Node:
    def __init__(self, path):
        self.connection = UnixHTTP(path)

    def post(self, path, body):
        self.connection.request("POST", path, json.dumps(body), {"content-type": "application/json"})
        response = self.connection.getresponse()
        data = json.loads(response.read())
        if response.status != 200:
            sys.exit(f"{path}: HTTP {response.status}: {data}")
        return data

    def ask(self, item, model):
        reply = self.post("/v1/chat/completions", {"model": model, "messages": item.messages, "temperature": 0})
        return check(item, reply["choices"][0]["message"]["content"] or ""), reply["rung"]["price_usd"], reply["rung"]["tier"]


def row(name, right, price, core_right, core_price, tiers, n):
    mix = " ".join(f"{100 * tiers.get(t, 0) / n:5.1f}" for t in ("edge", "region", "core"))
    print(f"{name:18} {100 * right / n:7.1f} {100 * right / core_right:9.1f} {100 * price / core_price:8.1f}   {mix}", flush=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--items", type=int, default=1000)
    parser.add_argument("--seed", default="bench")
    parser.add_argument("--socket", default=os.path.join(ROOT, "build", "demo", "edge.sock"))
    options = parser.parse_args()
    node = Node(options.socket)
    items = list(generate(seed=options.seed, n=options.items, split="test"))
    n = len(items)
    alone = {tier: [node.ask(item, tier) for item in items] for tier in ("edge", "region", "core")}
    core_right, core_price = sum(a[0] for a in alone["core"]), sum(a[1] for a in alone["core"])
    print(f"{n} items\n{'policy':18} {'right %':>7} {'of core %':>9} {'price %':>8}   edge / region / core %")
    for tier, answers in alone.items():
        row(f"{tier} alone", sum(a[0] for a in answers), sum(a[1] for a in answers), core_right, core_price, {tier: n}, n)
    picks = [next((a for a in three[:2] if a[0]), three[2]) for three in zip(alone["edge"], alone["region"], alone["core"])]
    tiers = {t: sum(p[2] == t for p in picks) for t in alone}
    row("oracle", sum(p[0] for p in picks), sum(p[1] for p in picks), core_right, core_price, tiers, n)
    for edge, region, probe, probe_threshold, name in POLICIES:
        node.post("/v1/rung/command", {"action": "set", "source": "bench", "policy": {
            "threshold_edge": edge, "threshold_region": region, "probe": probe, "probe_threshold": probe_threshold, "explore": 0}})
        answers = [node.ask(item, "auto") for item in items]
        tiers = {t: sum(a[2] == t for a in answers) for t in alone}
        row(name, sum(a[0] for a in answers), sum(a[1] for a in answers), core_right, core_price, tiers, n)


if __name__ == "__main__":
    main()
