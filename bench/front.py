"""Requests/s through the local socket, routed and logged, against nginx proxying the same answer; prints one table.

    python3 bench/front.py [--seconds 5] [--rounds 3] [--nginx /usr/sbin/nginx]

Both are asked by the same load over 64 connections on the same machine, in turns, so that its noise falls on both. The answer
is scripted: what is measured is everything around a model. nginx runs one worker that proxies to a second server of its
own, which returns the same bytes. `bare` is that second server alone.

`thread us` is the processor time that the one thread which answers spends on a request (the node's loop, nginx's worker), and
`all us` that of all threads of the process (the log's writer too). On a shared machine they tell more than requests/s.
"""
import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
LOAD = os.path.join(ROOT, "build", "bench", "bench_base_http_load")
RUNG = os.path.join(ROOT, "build", "rung")
PATH = "/v1/chat/completions"
NGINX = """daemon off; worker_processes 1; pid {d}/nginx.pid; error_log {d}/error.log; events {{ worker_connections 4096; }}
http {{ access_log off; keepalive_requests 100000000; client_body_temp_path {d}; proxy_temp_path {d}; fastcgi_temp_path {d};
  uwsgi_temp_path {d}; scgi_temp_path {d}; default_type application/json;
  upstream bare {{ server unix:{d}/bare.sock; keepalive 64; keepalive_requests 100000000; }}
  server {{ listen unix:{d}/bare.sock; location / {{ return 200 '{answer}'; }} }}
  server {{ listen unix:{d}/proxy.sock; location / {{ proxy_pass http://bare; proxy_http_version 1.1;
            proxy_set_header Connection ""; }} }} }}
"""
EDGE = """node: {{id: bench, state_dir: {d}, log_level: error, requests_max: 4096}}
http: {{unix: {{path: edge.sock}}, connections_max: 4096}}
log: {{path: bench.db}}
router: {{file: {router}}}
backends:
  - {{name: script, type: scripted, tier: edge, script_text: "It is forty two.", slots: 0}}
"""


def cpu_us(pid, thread):
    """Processor time so far of a process' thread, or of all its threads."""
    threads = [thread] if thread else os.listdir(f"/proc/{pid}/task")
    total = 0
    for t in threads:
        with open(f"/proc/{pid}/task/{t}/schedstat") as f:
            total += int(f.read().split()[0]) / 1000
    return total


def load(pid, socket, body, seconds, rate=0):
    command = [LOAD, "unix:" + socket, PATH, body, str(seconds), "64"] + ([str(rate)] if rate else [])
    before = cpu_us(pid, pid), cpu_us(pid, None)
    out = subprocess.run(command, capture_output=True, text=True)
    after = cpu_us(pid, pid), cpu_us(pid, None)
    numbers = re.findall(r"[\d.]+", out.stdout)
    if len(numbers) < 6 or out.returncode:
        sys.exit(f"{' '.join(command)}: {out.stdout}{out.stderr}")
    asked = float(numbers[0]) * seconds
    return {"rps": float(numbers[0]), "p50": float(numbers[3]), "p99": float(numbers[5]),
            "thread": (after[0] - before[0]) / asked, "all": (after[1] - before[1]) / asked}


def worker_of(pid):
    with open(f"/proc/{pid}/task/{pid}/children") as f:
        return int(f.read().split()[0])


def row(chars, name, got):
    middle = {key: statistics.median(one[key] for one in got) for key in got[0]}
    rps = [one["rps"] for one in got]
    print(f"{chars:7} {name:22} {middle['rps']:10.0f} {min(rps):7.0f}-{max(rps):<7.0f} {middle['p50']:7.0f} {middle['p99']:7.0f} "
          f"{middle['thread']:9.1f} {middle['all']:7.1f}")


def ratio(runs, key):
    """Of pairs, the middle; of processor time also that of each one's least, when nobody else was in the way."""
    ours, theirs = ([one[key] for one in runs[name]] for name in ("rung", "nginx proxy"))
    if key == "rps":
        return f"{statistics.median(a / b for a, b in zip(ours, theirs)):.2f}"
    return f"{statistics.median(b / a for a, b in zip(ours, theirs)):.2f}, of the least {min(theirs):.1f} / {min(ours):.1f} = {min(theirs) / min(ours):.2f}"


def wait_for(path):
    for _ in range(500):
        if os.path.exists(path):
            return
        time.sleep(0.01)
    sys.exit(f"{path} did not appear")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--nginx", default="/usr/sbin/nginx")
    parser.add_argument("--router", default=os.path.join(ROOT, "models", "demo.router"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="rung-bench-") as d:
        os.chmod(d, 0o755)
        with open(f"{d}/edge.yaml", "w") as f:
            f.write(EDGE.format(d=d, router=options.router))
        edge = subprocess.Popen([RUNG, "edge", "-c", f"{d}/edge.yaml"])
        wait_for(f"{d}/edge.sock")
        bodies = {}
        for chars in (150, 1000):
            bodies[chars] = f"{d}/body-{chars}.json"
            with open(bodies[chars], "w") as f:
                json.dump({"model": "auto", "messages": [{"role": "user", "content": ("What is 17 + 25? " * 80)[:chars]}]}, f)
        answer = subprocess.run(["curl", "-s", "--unix-socket", f"{d}/edge.sock", f"http://localhost{PATH}", "-H",
                                 "content-type: application/json", "-d", f"@{bodies[150]}"], capture_output=True, text=True).stdout
        with open(f"{d}/nginx.conf", "w") as f:
            f.write(NGINX.format(d=d, answer=answer.strip().replace("\\", "\\\\").replace("'", "")))
        nginx = subprocess.Popen([options.nginx, "-p", d, "-c", f"{d}/nginx.conf"])
        wait_for(f"{d}/proxy.sock")
        try:
            worker = worker_of(nginx.pid)
            print(f"{'prompt':>7} {'what':22} {'requests/s':>10} {'spread':>15} {'p50 us':>7} {'p99 us':>7} {'thread us':>9} {'all us':>7}")
            for chars, body in bodies.items():
                runs = {"rung": [], "nginx proxy": []}
                for i in range(options.rounds):
                    for name in sorted(runs, reverse=i % 2 == 1):  # in turns, each first every other time
                        pid, socket = (edge.pid, "edge.sock") if name == "rung" else (worker, "proxy.sock")
                        runs[name].append(load(pid, f"{d}/{socket}", body, options.seconds))
                for name, got in runs.items():
                    row(chars, name, got)
                print(f"{chars:7} {'rung / nginx':22} {ratio(runs, 'rps'):>10} {'by thread us':>15} {ratio(runs, 'thread')}")
            for name, pid, socket in (("rung at 10,000/s", edge.pid, "edge.sock"), ("bare at 10,000/s", worker, "bare.sock")):
                row(150, name, [load(pid, f"{d}/{socket}", bodies[150], options.seconds, 10000) for _ in range(options.rounds)])
        finally:
            edge.terminate()
            nginx.terminate()
            edge.wait()
            nginx.wait()


if __name__ == "__main__":
    main()
