"""Nodes on a GPU, played by a library that stands in for librung_cuda.so (tests/engine/fake_gpu.c), and warming up."""
import json
import os
import subprocess

import pytest

from ladder import RUNG, model, until

HERE = os.path.join(os.path.dirname(os.path.abspath(RUNG)), "tests")
LIBRARY = os.path.join(HERE, "fake_gpu.so")
needs_models = pytest.mark.skipif(not os.path.exists(model("edge.q8_0.gguf")), reason="models/ is not there")
pytestmark = [needs_models, pytest.mark.skipif(not os.path.exists(LIBRARY), reason="tests/fake_gpu.so is not built beside the program")]


@pytest.fixture
def gpu(monkeypatch):
    """An environment with one, until changed by setenv."""
    monkeypatch.setenv("RUNG_CUDA_LIBRARY", LIBRARY)
    monkeypatch.setenv("LD_LIBRARY_PATH", HERE)  # NVML's stand-in
    return monkeypatch


def engine(tier="edge", **more):
    return {"name": "device", "type": "local", "tier": tier, "model_file": model("edge.q8_0.gguf"), "threads": 1, **more}


def run(*words):
    done = subprocess.run([RUNG, *words], capture_output=True, text=True, timeout=30)
    assert "AddressSanitizer" not in done.stderr, done.stderr
    return done.stdout


def unready(node):
    """What /ready says while it is not 200."""
    status, body = node.get("/ready")
    return json.loads(body) if status == 503 else None


def test_a_node_tells_which_gpu_it_runs_on_and_what_that_does(ladder, gpu):
    edge = ladder.edge(backends=[engine(kv="q8_0", invariant=True, sparse_pages=5)])
    edge.until_tiers("edge")
    assert edge.ready()["backends"][0]["device"] == "Fake GPU 0"
    reply = edge.chat("Hello there", max_tokens=12, ignore_eos=True)
    assert reply.status == 200
    label = '{backend="device"}'
    assert edge.metric("rung_engine_slots" + label) == 64
    assert edge.metric("rung_engine_batch" + label) >= 1
    assert edge.metric("rung_engine_pages_fragmented" + label) is not None
    card = '{gpu="0",name="Fake GPU 0"}'
    until(lambda: edge.metric("rung_gpu_utilization" + card), "the GPU has been read")
    assert edge.metric("rung_gpu_utilization" + card) == 0.37
    assert edge.metric("rung_gpu_memory_used_bytes" + card) == 12e9 and edge.metric("rung_gpu_memory_free_bytes" + card) == 68e9
    assert edge.metric("rung_gpu_power_watts" + card) == 250.5 and edge.metric("rung_gpu_temperature_celsius" + card) == 61
    status = run("status", "--socket", edge.socket)
    assert "Fake GPU 0                            37.0      12.0      68.0     250.5      61.0" in status
    line = next(line for line in status.splitlines() if line.startswith("device") and "/64" in line)
    assert line.split()[1:4] == ["Fake", "GPU", "0"]
    assert "Fake GPU 0" in run("models", "--socket", edge.socket)
    assert "no GPU" not in status


def test_a_region_knows_what_its_workers_run_on(ladder, gpu):
    region = ladder.region(backends=[])
    ladder.worker("w1", backends=[engine("region")])
    region.until_tiers("region")
    listed = json.loads(region.get("/v1/models")[1])["data"]
    assert [m["rung"]["device"] for m in listed if "device" in m.get("rung", {})] == ["Fake GPU 0"]


def test_without_a_gpu_the_cpu_answers_and_the_reason_is_shown(ladder, gpu):
    gpu.setenv("FAKE_GPU", "none")
    edge = ladder.edge(backends=[engine()])
    edge.until_tiers("edge")
    assert edge.chat("Hello there", max_tokens=4).status == 200
    assert edge.ready()["backends"][0]["device"].startswith("cpu ")
    assert "no GPU: no GPU is here" in run("status", "--socket", edge.socket)
    assert edge.metric("rung_gpu_utilization") is None


def test_a_gpu_asked_for_by_name_is_not_replaced(ladder, gpu):
    gpu.setenv("FAKE_GPU", "small")
    edge = ladder.edge(backends=[engine(kernels="cuda")])
    down = until(lambda: (lambda s: s and s["backends"][0]["health"] == "down" and s)(unready(edge)), "the model was refused")
    assert "the model needs 9 GB; the GPU has 1 GB free" in down["backends"][0]["trouble"]


def test_a_bench_on_a_gpu_needs_no_memory_for_its_weights(gpu):
    lines = run("bench", "engine", "--shape", "llama3.1-70b", "--type", "BF16", "--kernels", "cuda", "-p", "8", "-n", "4", "-b", "1,200",
                "-d", "1000", "-r", "1", "--json").splitlines()
    machine, prefill, one, many = map(json.loads, lines)
    assert (machine["device"], machine["read_gb_per_s"], machine["depth"]) == ("Fake GPU 0", 1000, 1000)
    assert prefill["tokens_per_s"] > 0 and (one["streams"], many["streams"]) == (1, 200)
    # The stand-in's weights are 1 MiB a step, its pages 4,096 bytes of 32 positions.
    kv = 4096 // 80 * 80 * (1000 + 2 + 1) // 32
    assert abs(one["bytes_per_token"] - (2**20 + kv)) <= 1 and abs(many["bytes_per_token"] - (2**20 / 200 + kv)) <= 1
    assert abs(one["share"] - one["bytes_per_token"] * one["tokens_per_s"] / 1e12) < 1e-4


# ---- warming up ----

def test_a_node_is_ready_only_when_it_is_warm(ladder, gpu, tmp_path):
    hold = tmp_path / "hold"
    hold.write_text("")
    gpu.setenv("FAKE_GPU_HOLD", str(hold))
    edge = ladder.edge(node={"warm": True}, backends=[engine()])
    warming = until(lambda: (lambda s: s and s["backends"][0]["health"] == "warming" and s)(unready(edge)), "it warms up")
    assert warming["status"] == "warming" and not any(warming["tiers"].values())
    assert edge.get("/health")[0] == 200
    assert edge.chat("Hello there").status == 503
    hold.unlink()
    edge.until_tiers("edge")
    # One, two, four … sixty-four at once, then a long one, four tokens each.
    assert edge.metric('rung_engine_completion_tokens_total{backend="device"}') == 4 * (127 + 1)
    assert edge.chat("Hello there", max_tokens=4).status == 200


def test_a_warming_worker_gets_no_work(ladder, gpu, tmp_path):
    region = ladder.region(backends=[])
    hold = tmp_path / "hold"
    hold.write_text("")
    gpu.setenv("FAKE_GPU_HOLD", str(hold))
    worker = ladder.worker("cold", node={"warm": True}, backends=[engine("region")])
    until(lambda: (lambda s: s and any(b["name"] == "cold" for b in s["backends"]))(unready(region)), "the worker has registered")
    assert region.chat("Hello there").status == 503
    gpu.delenv("FAKE_GPU_HOLD")
    ladder.worker("warm", node={"warm": True}, backends=[engine("region")])
    region.until_tiers("region")
    for _ in range(3):
        assert region.chat("Hello there", max_tokens=4).rung["backend"] == "warm"
    hold.unlink()
    until(lambda: region.metric('rung_backend_up{backend="cold",type="worker"}') == 1, "the other is warm too")
    assert "warmed" in worker.stderr()


def test_an_engine_whose_first_steps_fail_never_becomes_ready(ladder, gpu):
    gpu.setenv("FAKE_GPU", "dies")
    edge = ladder.edge(node={"warm": True}, backends=[engine()])
    down = until(lambda: (lambda s: s and s["backends"][0]["health"] == "down" and s)(unready(edge)), "warming up failed")
    assert down["backends"][0]["trouble"] == "warming up failed: the GPU has fallen off the bus"


def test_a_node_stops_while_it_warms_up(ladder, gpu, tmp_path):
    hold = tmp_path / "hold"
    hold.write_text("")
    gpu.setenv("FAKE_GPU_HOLD", str(hold))
    edge = ladder.edge(node={"warm": True}, backends=[engine()])
    until(lambda: (lambda s: s and s["backends"][0]["health"] == "warming")(unready(edge)), "it warms up")
    edge.process.terminate()
    until(lambda: "draining" in edge.stderr(), "it was told to stop")
    hold.unlink()
    assert edge.stop() == 0


def test_cpus_warm_up_by_the_flag(ladder, monkeypatch):
    monkeypatch.setenv("RUNG_CUDA_LIBRARY", "/nowhere.so")
    edge = ladder._node("edge", ["edge", "--warm"], backends=[engine(slots=3)])
    edge.until_tiers("edge")
    assert edge.metric('rung_engine_completion_tokens_total{backend="device"}') == 4 * (1 + 2 + 3 + 1)
    cold = ladder.edge("cold", backends=[engine(slots=3)])
    cold.until_tiers("edge")
    assert cold.metric('rung_engine_completion_tokens_total{backend="device"}') == 0
    ask = {"max_tokens": 30, "temperature": 0, "ignore_eos": True}
    assert edge.chat("Hello there", **ask).text == cold.chat("Hello there", **ask).text
