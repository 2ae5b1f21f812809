"""Replay against a live run: what `rung tune` says of new thresholds beside what they then do; prints one table.

    python3 bench/replay_live.py [--logged 3000] [--live 1500] [--explore 0.2] [--seed replay] [--rung build/rung]

One edge with the three demo models. It answers items under the thresholds A with exploration, each answer is judged by its
checker and fed back as a label. Then `rung tune` replays that log to each B, and the same node answers other items under B.
The difference live less replayed should lie inside the interval of the difference: of both runs' errors together.
"""
import argparse
import http.client
import json
import math
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, os.path.join(ROOT, "tools"))
from curriculum import check, generate  # noqa: E402

A = (0.75, 0.75)
TO = [A, (0.5, 0.75), (0.85, 0.85), (0.93, 0.93), (0.85, 0.6), (0.97, 0.9)]  # A too: what chance alone does
Z95 = 1.96
START_LIMIT_S = 60


class UnixHTTP(http.client.HTTPConnection):
    def __init__(self, path):
        super().__init__("localhost", timeout=120)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


def config(folder, models, router):
    backends = [{"name": t, "type": "local", "tier": t, "model_file": os.path.join(models, f"{t}.q8_0.gguf"), "slots": 1,
                 "threads": 1} for t in ("edge", "region", "core")]
    return json.dumps({"node": {"id": "bench", "state_dir": folder, "log_level": "error"},
                       "http": {"unix": {"path": "edge.sock"}}, "log": {"path": "bench.db"}, "router": {"file": router},
                       "backends": backends, "policy": {"explore": 0}})


class Node:
    def __init__(self, folder, rung, models, router):
        self.rung, self.db, self.path = rung, f"{folder}/bench.db", f"{folder}/edge.sock"
        with open(f"{folder}/edge.yaml", "w") as f:
            f.write(config(folder, models, router))
        self.process = subprocess.Popen([rung, "edge", "-c", f"{folder}/edge.yaml"])
        self.connection = UnixHTTP(self.path)
        deadline = time.monotonic() + START_LIMIT_S
        while not self.ready():
            if time.monotonic() > deadline or self.process.poll() is not None:
                sys.exit("the node does not come up")
            time.sleep(0.05)

    def ready(self):
        try:
            connection = UnixHTTP(self.path)
            connection.request("GET", "/ready")
            tiers = json.loads(connection.getresponse().read()).get("tiers", {})
            return all(tiers.get(t) for t in ("edge", "region", "core"))
        except OSError:
            return False

    def post(self, path, body):
        self.connection.request("POST", path, json.dumps(body))
        response = self.connection.getresponse()
        data = response.read()
        if response.status != 200:
            sys.exit(f"{path}: HTTP {response.status}: {data[:300]}")
        return json.loads(data)

    def policy(self, thresholds, explore):
        self.post("/v1/rung/command", {"action": "set", "source": "bench", "policy": {
            "threshold_edge": thresholds[0], "threshold_region": thresholds[1], "explore": explore}})

    def ask(self, item):
        reply = self.post("/v1/chat/completions", {"model": "auto", "messages": item.messages, "temperature": 0})
        right = check(item, reply["choices"][0]["message"]["content"] or "")
        return bool(right), reply["rung"]["price_usd"], reply["id"]

    def logged(self, items):
        for item in items:
            right, _, request = self.ask(item)
            self.post("/v1/feedback", {"request_id": request, "right": right})

    def tune(self, thresholds):
        out = subprocess.run([self.rung, "tune", "--log", self.db, "--edge", str(thresholds[0]), "--region",
                              str(thresholds[1]), "--json"], capture_output=True, text=True)
        if not out.stdout:
            sys.exit(out.stderr)
        return json.loads(out.stdout)["tried"]

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(30)


def mean_error(values):
    n, mean = len(values), sum(values) / len(values)
    return mean, math.sqrt(sum((v - mean) ** 2 for v in values) / (n - 1) / n)


def settle():
    time.sleep(0.5)  # a bench: the log's last batch, 50 ms at most


def compare(live, replayed):
    """(live less replayed, half of the 95 % interval of that difference)"""
    mean, error = mean_error(live)
    half = math.hypot(Z95 * error, (replayed["high"] - replayed["low"]) / 2)
    return mean - replayed["value"], half


def run(node, logged, live, explore, to, seed="replay"):
    """One row for each B: (B, replayed, live right, difference, half, price replayed, price live, difference, half)."""
    items = list(generate(seed=seed, n=logged + live * len(to), split="test"))
    node.policy(A, explore)
    node.logged(items[:logged])
    node.policy(A, 0)  # what is replayed is policies that do not explore, as they are then run
    settle()
    replayed = [node.tune(b) for b in to]  # before anything is asked under B
    rows = []
    for k, (b, said) in enumerate(zip(to, replayed)):
        node.policy(b, 0)
        answers = [node.ask(item) for item in items[logged + live * k:logged + live * (k + 1)]]
        if said["refused"]:
            rows.append((b, said["refused"]))
            continue
        rows.append((b, said["quality"], mean_error([float(a[0]) for a in answers])[0],
                     *compare([float(a[0]) for a in answers], said["quality"]), said["price_usd"],
                     mean_error([a[1] for a in answers])[0], *compare([a[1] for a in answers], said["price_usd"])))
    return rows


def report(rows):
    print(f"{'edge, region':14} {'replayed right % [95 %]':26} {'live %':>7} {'difference':>17}    "
          f"{'replayed USD/M':>14} {'live':>7} {'difference':>17}")
    inside = total = 0
    for row in rows:
        if len(row) == 2:
            print(f"{row[0][0]:.2f}, {row[0][1]:.2f}     refused: {row[1]}")
            continue
        b, q, live, dq, hq, p, price, dp, hp = row
        inside += (abs(dq) <= hq) + (abs(dp) <= hp)
        total += 2
        print(f"{b[0]:.2f}, {b[1]:.2f}     {100 * q['value']:6.2f} [{100 * q['low']:5.2f} {100 * q['high']:6.2f}]     "
              f"{100 * live:7.2f}   {100 * dq:+6.2f} ± {100 * hq:5.2f} {'in ' if abs(dq) <= hq else 'OUT'}"
              f"  {1e6 * p['value']:10.3f} {1e6 * price:10.3f}   {1e6 * dp:+7.3f} ± {1e6 * hp:6.3f} {'in' if abs(dp) <= hp else 'OUT'}")
    print(f"{inside} of {total} differences lie inside their intervals")
    return inside, total


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--logged", type=int, default=3000)
    parser.add_argument("--live", type=int, default=1500)
    parser.add_argument("--explore", type=float, default=0.2)
    parser.add_argument("--seed", default="replay")
    parser.add_argument("--rung", default=os.path.join(ROOT, "build", "rung"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="rung-replay-") as folder:
        node = Node(folder, options.rung, os.path.join(ROOT, "models"), os.path.join(ROOT, "models", "demo.router"))
        try:
            rows = run(node, options.logged, options.live, options.explore, TO, options.seed)
        finally:
            node.stop()
    print(f"logged under {A} with exploration {options.explore}: {options.logged} items; live: {options.live} other items each")
    report(rows)


if __name__ == "__main__":
    main()
