"""The node looks at its own log: a stale router says so, an experiment ends by rule."""
import json
import os
import subprocess

from ladder import ROOT, RUNG, scripted, until
from test_policy import command, policy


def watched(ladder, **arms):
    return ladder.edge(backends=[scripted("small", "edge", "forty two"), scripted("big", "core", "Forty two.")],
                       router={"file": os.path.join(ROOT, "models", "demo.router"), "watch_ms": 100}, arms=arms,
                       policy={"threshold": {"edge": 0.0, "region": 0.0}, "ood_limit": 1.0, "probe": False})


def judge(edge, count, right):
    for i in range(count):
        reply = edge.chat("What is 2 + 2?", user=f"user-{i}")
        edge.post("/v1/feedback", {"request_id": reply.json["id"], "right": right(reply)})


def test_a_router_that_is_off_says_so_and_a_refit_or_time_makes_it_fresh(ladder):
    edge = watched(ladder)
    wrong = 60
    judge(edge, wrong, lambda reply: False)
    until(lambda: edge.metric("rung_router_stale") == 1, "the node sees that its router is off")
    assert edge.metric('rung_router_calibration_drift{tier="edge"}') > 0.3
    router = json.loads(edge.get("/health")[1])["router"]
    assert router["stale"] is True and "rung tune refit" in router["why"]
    assert "router_stale" in edge.stderr()
    status = subprocess.run([RUNG, "status", "--socket", edge.socket], capture_output=True, text=True).stdout
    assert "router: STALE; it promises" in status
    summary = subprocess.run([RUNG, "log", "summary", "--log", edge.db], capture_output=True, text=True)
    assert "STALE; it promises" in summary.stdout, summary.stderr
    whole = subprocess.run([RUNG, "log", "summary", "--log", edge.db, "--json"], capture_output=True, text=True).stdout
    assert json.loads(whole)["router"]["stale"] is True
    promised = edge.until_rows(1, "SELECT p_edge FROM decisions")[0]["p_edge"]
    judge(edge, round(wrong * promised / (1 - promised)), lambda reply: True)  # now the labels say what this router promises
    until(lambda: edge.metric("rung_router_stale") == 0, "right answers make it fresh again")


def arms(edge):
    command(edge, action="try", policy={"threshold_edge": 1.0, "threshold_region": 1.0}, share=0.5, by="request")


def test_a_better_experiment_is_promoted_by_rule(ladder):
    edge = watched(ladder, promote="auto", labels_min=60)
    arms(edge)
    judge(edge, 300, lambda reply: reply.text == "Forty two.")
    until(lambda: "experiment" not in policy(edge), "the experiment has ended")
    assert policy(edge)["policy"]["threshold_edge"] == 1.0
    assert [r["source"] for r in edge.rows("SELECT source FROM policies ORDER BY version")] == ["config", "arms", "rule", "rule"]
    assert "right answers of B less A" in edge.stderr()


def test_a_worse_one_is_stopped_and_the_policy_stays(ladder):
    edge = watched(ladder, promote="auto", labels_min=60)
    arms(edge)
    judge(edge, 300, lambda reply: reply.text == "forty two")
    until(lambda: "experiment" not in policy(edge), "the experiment has ended")
    assert policy(edge)["policy"]["threshold_edge"] == 0.0


def test_without_a_rule_it_waits_for_an_operator(ladder):
    edge = watched(ladder)
    arms(edge)
    judge(edge, 200, lambda reply: reply.text == "Forty two.")
    until(lambda: edge.metric("rung_router_unfamiliar_share") is not None, "the log was looked at")
    seen = edge.rows("SELECT count(*) AS n FROM labels")[0]["n"]
    assert seen >= 0 and "experiment" in policy(edge)
