"""Starts fake_upstream.py for a test: `with Upstream(key="sk-1") as up: up.backend("big", "ok")`."""
import json
import os
import subprocess
import sys
import urllib.request

HERE = os.path.dirname(os.path.abspath(__file__))


class Upstream:
    def __init__(self, **options):
        self.arguments = [word for name, value in options.items() for word in ("--" + name.replace("_", "-"), str(value))]

    def __enter__(self):
        self.process = subprocess.Popen([sys.executable, os.path.join(HERE, "fake_upstream.py"), *self.arguments],
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.url = self.process.stdout.readline().strip()
        assert self.url, "fake_upstream.py did not start"
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()

    def stats(self):
        with urllib.request.urlopen(self.url[: -len("/v1")] + "/stats", timeout=10) as answer:
            return json.load(answer)

    def backend(self, name, model, **more):
        return {"name": name, "type": "upstream", "tier": "core", "url": self.url, "model": model, "retries_max": 0,
                "first_token_ms": 400, "stall_ms": 400, **more}
