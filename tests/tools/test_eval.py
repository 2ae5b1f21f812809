"""tools/eval: against a stub endpoint, merging, and the tables."""
import json
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
import tools_path  # puts tools/ on the path, so before them
import summary
from curriculum import generate

EVAL = [sys.executable, str(tools_path.ROOT / "tools" / "eval")]


class Stub(BaseHTTPRequestHandler):
    """Knows the answers to odd-numbered items only."""
    answers = {}

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        text = self.answers.get(body["messages"][-1]["content"], "no idea")
        reply = json.dumps({"choices": [{"message": {"role": "assistant", "content": text}}],
                            "usage": {"completion_tokens": 3}}).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(reply)))
        self.send_header("x-rung-tier", "edge")
        self.end_headers()
        self.wfile.write(reply)

    def log_message(self, *_):
        pass


@pytest.fixture
def url():
    items = list(generate("stub", 20, "test"))
    Stub.answers = {i.messages[-1]["content"]: i.answer for i in items[1::2]}
    server = HTTPServer(("127.0.0.1", 0), Stub)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()
    thread.join()


def scored(url, out, model):
    subprocess.run([*EVAL, "--seed", "stub", "--n", "20", "--url", url, "--model", model, "--out", str(out)], check=True,
                   capture_output=True)
    return [json.loads(line) for line in out.read_text().splitlines()]


def test_an_endpoint_is_scored_and_runs_are_merged(url, tmp_path):
    rows = scored(url, tmp_path / "a.jsonl", "one")
    assert [r["scores"]["one"] for r in rows] == [0, 1] * 10
    assert all(r["tokens"] == {"one": 3} and r["tier"] == {"one": "edge"} for r in rows)
    scored(url, tmp_path / "b.jsonl", "two")
    out = tmp_path / "all.jsonl.gz"
    subprocess.run([*EVAL, "--merge", str(tmp_path / "a.jsonl"), str(tmp_path / "b.jsonl"), "--out", str(out)], check=True,
                   capture_output=True)
    import gzip
    merged = [json.loads(line) for line in gzip.open(out, "rt")]
    assert all(set(r["scores"]) == {"one", "two"} for r in merged)


def test_auc_of_prompt_length():
    assert summary.auc([1, 2, 3, 4], [1, 1, 0, 0]) == 1.0
    assert summary.auc([4, 3, 2, 1], [1, 1, 0, 0]) == 0.0
    assert summary.auc([5, 5, 5, 5], [1, 0, 1, 0]) == 0.5


def test_shipped_outcomes_hold_scores_of_all_three():
    import gzip
    path = tools_path.ROOT / "tests" / "data" / "demo-outcomes.jsonl.gz"
    if not path.exists():
        pytest.skip("demo-outcomes.jsonl.gz is not here")
    rows = [json.loads(line) for line in gzip.open(path, "rt", encoding="utf-8")]
    assert len(rows) >= 10_000 and all(set(r["scores"]) == {"edge", "region", "core"} for r in rows)
    share = {n: summary.share(rows, n) for n in ("edge", "region", "core")}
    assert share["edge"] < share["region"] < share["core"]
    assert summary.length_auc(rows, "edge") < 0.75
