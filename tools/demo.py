"""Starts the demo ladder, asks it prompts of rising difficulty, prints who answered and why, and stops it again.

Run through tools/demo.sh, which builds first. Needs only Python's standard library.
"""
import argparse
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
import unicodedata

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
HOME = os.path.join(ROOT, "build", "demo")
RUNG = os.path.join(ROOT, "build", "rung")
SOCKET = os.path.join("build", "demo", "edge.sock")  # from ROOT: a socket's path may hold 107 bytes only
START_LIMIT_S = 60
SEED = 7
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

# name, command and flags: started from the top down, so that each finds the one above it
NODES = [
    ("core", ["core", "-c", "configs/demo-core.yaml"]),
    ("region", ["region", "-c", "configs/demo-region.yaml"]),
    ("worker-1", ["worker", "-c", "configs/demo-worker.yaml", "node.id=worker-1", "node.pid_file=worker-1.pid"]),
    ("worker-2", ["worker", "-c", "configs/demo-worker.yaml", "node.id=worker-2", "node.pid_file=worker-2.pid"]),
    ("edge", ["edge", "-c", "configs/demo-edge.yaml"]),
]


class UnixHTTP(http.client.HTTPConnection):
    def __init__(self, path, timeout=60):
        super().__init__("localhost", timeout=timeout)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


def get(path):
    connection = UnixHTTP(SOCKET, timeout=2)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


# ---- processes ----

def pid_of(name):
    try:
        with open(os.path.join(HOME, name + ".pid")) as f:
            return int(f.read())
    except (OSError, ValueError):
        return None


def is_rung(pid):
    """Is that process one of ours, and not another that got its number?"""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as f:
            return f.read().split(b"\0")[0] == RUNG.encode()
    except OSError:
        return False


def stop_left_running():
    pids = [pid for name, _ in NODES if (pid := pid_of(name)) and is_rung(pid)]
    for pid in reversed(pids):
        os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + 15
    while any(is_rung(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    for pid in pids:
        if is_rung(pid):
            os.kill(pid, signal.SIGKILL)
    return len(pids)


def start_all(processes):
    """Appends (name, process) of each node. No signal comes between a start and its record: none is forgotten."""
    os.makedirs(HOME, exist_ok=True)
    for name, command in NODES:
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        try:
            with open(os.path.join(HOME, name + ".log"), "wb") as log:
                processes.append((name, subprocess.Popen(
                    [RUNG, *command], cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                    preexec_fn=lambda: signal.pthread_sigmask(signal.SIG_SETMASK, mask))))
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def stop_all(processes):
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)  # a second Ctrl-C must not leave half of them running
    for _, process in reversed(processes):
        if process.poll() is None:
            process.terminate()
    deadline = time.monotonic() + 15
    for _, process in processes:
        try:
            process.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_ready(processes):
    deadline = time.monotonic() + START_LIMIT_S
    while time.monotonic() < deadline:
        for name, process in processes:
            if process.poll() is not None:
                with open(os.path.join(HOME, name + ".log"), errors="replace") as f:
                    sys.exit(f"{name} ended at once (exit {process.returncode}):\n{f.read()[-2000:]}")
        try:
            status, body = get("/ready")
            tiers = json.loads(body).get("tiers", {})
            if status == 200 and all(tiers.get(t) for t in ("edge", "region", "core")):
                return
        except (OSError, ValueError, http.client.HTTPException):
            pass
        time.sleep(0.05)
    sys.exit(f"the ladder did not come up within {START_LIMIT_S} s; see {os.path.relpath(HOME)}/*.log")


# ---- asking ----

def pick_items():
    """Two prompts of each difficulty and language, easy ones first, each of another family."""
    sys.path.insert(0, os.path.join(ROOT, "tools"))
    from curriculum import check, generate
    wanted = {(d, lang): 2 for d in (1, 2, 3, 4, 5) for lang in ("en", "zh")}
    families, items = set(), []
    for item in generate(seed=SEED, n=4000, split="test"):
        text = item.messages[-1]["content"]
        key = (item.difficulty, item.lang)
        if wanted.get(key, 0) and item.task not in families and len(text) < 160 and "\n" not in text:
            wanted[key] -= 1
            families.add(item.task)
            items.append(item)
            if len(families) > 9:
                families.clear()
    return sorted(items, key=lambda i: (i.difficulty, i.lang)), check


def ask(messages):
    """One streamed chat through the edge's socket: (text, time to first token, total, the `rung` object)."""
    connection = UnixHTTP(SOCKET)
    body = json.dumps({"model": "auto", "messages": messages, "stream": True, "temperature": 0,
                       "stream_options": {"include_usage": True}})
    begin = time.monotonic()
    connection.request("POST", "/v1/chat/completions", body, {"content-type": "application/json"})
    response = connection.getresponse()
    if response.status != 200:
        raise RuntimeError(f"HTTP {response.status}: {response.read()[:300]!r}")
    text, first, rung = "", None, {}
    for line in response:
        if not line.startswith(b"data: ") or line.strip() == b"data: [DONE]":
            continue
        event = json.loads(line[6:])
        rung = event.get("rung") or rung
        for choice in event.get("choices", []):
            delta = choice.get("delta", {})
            if first is None and (delta.get("content") or delta.get("reasoning_content")):
                first = time.monotonic() - begin
            text += delta.get("content") or ""
    total = time.monotonic() - begin
    connection.close()
    return text, first if first is not None else total, total, rung


# ---- showing ----

def width(text):
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def fit(text, columns):
    text = " ".join(text.split())
    while width(text) > columns:
        text = text[:-2].rstrip("…") + "…"
    return text + " " * (columns - width(text))


def price(usd):
    return f"{usd * 1e6:7.1f}"


def core_price(rung):
    value = rung.get("price_core_usd")
    return value if value is not None else rung.get("price_usd", 0.0)


def show(items, check):
    print(f"{'#':>2} {'level':5} {fit('prompt', 46)} {'tier':7} {'why':11} {'':5} {'first ms':>8} {'total ms':>8} "
          f"{'price u$':>8} {'core u$':>8}")
    right = spent = all_core = 0
    tiers = {}
    for number, item in enumerate(items, 1):
        text, first, total, rung = ask(item.messages)
        ok = check(item, text)
        tier = rung.get("tier", "?")
        tiers[tier] = tiers.get(tier, 0) + 1
        right += ok
        spent += rung.get("price_usd", 0.0)
        all_core += core_price(rung)
        print(f"{number:2} {item.difficulty} {item.lang:3} {fit(item.messages[-1]['content'], 46)} {tier:7} "
              f"{rung.get('reason', '?'):11} {'right' if ok else 'WRONG'} {first * 1000:8.0f} {total * 1000:8.0f} "
              f"{price(rung.get('price_usd', 0.0)):>8} {price(core_price(rung)):>8}", flush=True)
    n = len(items)
    mix = ", ".join(f"{tiers.get(t, 0)} {t}" for t in ("edge", "region", "core"))
    saved = 100 * (1 - spent / all_core) if all_core else 0
    print(f"\n{right} of {n} right; answered by {mix}.")
    print(f"Price {spent * 1e6:.0f} u$ (millionths of a dollar) where core alone would have cost {all_core * 1e6:.0f} u$: "
          f"{saved:.0f} % saved.")


def show_try():
    url = ""
    try:
        with open(os.path.join(HOME, "edge.url")) as f:
            url = f.read().strip()
    except OSError:
        pass
    print("\nTry it:")
    print("  curl --unix-socket build/demo/edge.sock http://localhost/v1/chat/completions \\\n"
          "    -H 'content-type: application/json' \\\n"
          "    -d '{\"model\":\"auto\",\"messages\":[{\"role\":\"user\",\"content\":\"What is 17+25?\"}]}'")
    if url:
        print(f"  The same over TCP: {url}/v1 (any OpenAI client, any key)")
    print("  build/rung log --db build/demo/edge.db summary")


def leave(number, _):
    os.write(2, b"\nstopping ...\n")
    sys.exit(128 + number)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--keep", action="store_true")
    parser.add_argument("--stop", action="store_true")
    options = parser.parse_args()
    os.chdir(ROOT)
    sys.stdout.reconfigure(errors="replace")  # Chinese on a terminal of another encoding
    if options.stop:
        print(f"stopped {stop_left_running()} processes")
        return
    for number in SIGNALS:
        signal.signal(number, leave)
    stop_left_running()
    items, check = pick_items()
    processes, keep = [], False
    try:
        start_all(processes)
        wait_ready(processes)
        print("The ladder is up: edge → region (2 workers) → core. Asking through build/demo/edge.sock ...\n")
        show(items, check)
        show_try()
        keep = options.keep
        if keep:
            print("\nStill running; `sh tools/demo.sh --stop` ends it.")
        else:
            print("  (with `sh tools/demo.sh --keep` the ladder stays up for that)")
    finally:
        if not keep:
            stop_all(processes)


if __name__ == "__main__":
    main()
