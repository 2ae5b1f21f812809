"""rung bench engine --streams: requests that come and go, through the engine's scheduler."""
import json
import os

import pytest

from ladder import model
from test_cli import rung

FILE = model("edge.q8_0.gguf")
pytestmark = pytest.mark.skipif(not os.path.exists(FILE), reason="models/ is not there")
STREAMS, PROMPT, TOKENS = 6, 16, 48


def serve(*more, file=FILE):
    return rung("bench", "engine", "-m", file, "--kernels", "cpu", "-t", "1", "--streams", str(STREAMS), "-p", str(PROMPT), "-n", str(TOKENS), "--json", *more)


def measured(*more):
    run = serve(*more)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


def test_streams_are_kept_busy_until_no_request_is_left():
    r = measured("--requests", "30")
    assert (r["requests"], r["streams"], r["preemptions"]) == (30, STREAMS, 0)
    # What the first answers lack is spread over 1 … n, the others are whole.
    assert r["run_tokens"] == sum(TOKENS - i * TOKENS // STREAMS for i in range(STREAMS)) + 24 * TOKENS
    assert 0 < r["window_tokens"] < r["run_tokens"] and 0 < r["window_s"] < r["run_s"]
    assert r["window_requests"] >= 30 - 2 * STREAMS
    assert abs(r["tokens_per_s"] - r["window_tokens"] / r["window_s"]) < 0.01 * r["tokens_per_s"]
    assert 1 <= r["decoding_mean"] <= r["decoding_most"] <= STREAMS  # how near, hangs on how soon the client's thread is woken
    # Answers of every age: the middle of 17 … 64.
    assert abs(r["mean_context"] - (PROMPT + (TOKENS + 1) / 2)) < 3
    assert 0 < r["first_ms_p50"] <= r["first_ms_p99"] and 0 < r["between_ms_p50"] <= r["between_ms_p99"]
    assert 0 < r["pages_most"] <= r["pages"] == STREAMS * 2


def test_fresh_streams_begin_with_short_contexts_and_draw_at_a_temperature():
    fresh = measured("--requests", str(2 * STREAMS), "--fresh", "--temp", "1")
    half_done = measured("--requests", str(2 * STREAMS), "--temp", "1")
    assert fresh["run_tokens"] == half_done["run_tokens"] and fresh["temperature"] == 1
    assert fresh["mean_context"] < half_done["mean_context"]


def test_the_time_ends_a_run():
    r = measured("--seconds", "0.5")
    assert 0.3 < r["run_s"] < 10 and r["window_s"] <= r["run_s"] and r["requests"] >= STREAMS
    run = serve("--seconds", "0.000001")
    assert run.returncode == 1 and "0 of 6 streams had begun" in run.stderr and run.stdout == ""


def test_with_few_pages_all_answers_still_come():
    pages = 5
    r = measured("--requests", "30", "--kv-bytes", str(pages * page_bytes()))
    assert r["pages"] == pages and r["pages_most"] <= pages and r["run_tokens"] == measured("--requests", "30")["run_tokens"]


def page_bytes():
    """Of the model: what one page costs is what the error for too few bytes says of one sequence, which has two."""
    run = serve("--requests", "30", "--kv-bytes", "1")
    assert run.returncode == 1
    return int(run.stderr.split("needs ")[1].split()[0]) // 2


def test_a_shape_needs_no_file():
    run = rung("bench", "engine", "--shape", "smollm2-135m", "--type", "Q4_0", "--kernels", "cpu", "--streams", "2", "--requests", "4", "-p", "8", "-n", "4")
    assert run.returncode == 0 and "smollm2-135m Q4_0" in run.stdout and "whole run" in run.stdout


def test_what_is_missing_is_told():
    def told(*words):
        run = rung("bench", "engine", "-m", FILE, *words)
        assert run.returncode == 2 and run.stdout == ""
        return run.stderr

    assert "--streams needs --requests or --seconds" in told("--streams", "4")
    assert "need --streams" in told("--requests", "4")
    assert "as many as --streams" in told("--streams", "4", "--requests", "3")
    assert "one token at least" in told("--streams", "4", "--requests", "4", "-n", "0")
    assert "two benches" in told("--streams", "4", "--requests", "4", "--draft", FILE)
    assert "'0' is no time" in told("--streams", "4", "--seconds", "0")
    assert "'2000' is not a whole number" in told("--streams", "2000", "--requests", "4")
    assert "'-5' is no number of bytes" in told("--streams", "4", "--requests", "4", "--kv-bytes", "-5")
    gone = serve("--requests", "8", file="/nowhere.gguf")
    assert gone.returncode == 1 and "/nowhere.gguf" in gone.stderr
