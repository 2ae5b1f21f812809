"""A router refitted from a live node's log: labels in, sketches read, the node switched to it and back."""
import glob
import json
import os
import random
import shutil
import subprocess

from ladder import ROOT, RUNG, scripted
from test_policy import command, policy

EASY = ["colour", "name", "hello", "thanks", "spell", "weather", "friend", "music"]
HARD = ["integral", "prove", "entropy", "tensor", "modulo", "lemma", "eigen", "stochastic"]


def prompt(dice, words):
    return "Please say something of " + " and ".join(dice.choice(words) for _ in range(4)) + f" number {dice.randrange(100)}"


def with_router(ladder, name="edge", **log):
    """An edge that answers all itself, under a copy of the general router."""
    home = os.path.join(ladder.dir, name)
    os.makedirs(home, exist_ok=True)
    shutil.copy(os.path.join(ROOT, "models", "general.router"), os.path.join(home, "base.router"))
    return ladder.edge(name, backends=[scripted("small", "edge", "forty two"), scripted("big", "core", "Forty two.")],
                       router={"file": os.path.join(home, "base.router")}, log={"path": "log.db", **log},
                       policy={"threshold": {"edge": 0.0, "region": 0.0}, "ood_limit": 1.0, "probe": False})


def judged(edge, count):
    dice = random.Random(4)
    for i in range(count):
        words = HARD if i % 2 else EASY
        reply = edge.chat(prompt(dice, words))
        edge.post("/v1/feedback", {"request_id": reply.json["id"], "right": i % 2 == 0})
    edge.until_rows(count, "SELECT * FROM labels")


def refit(edge, *words):
    return subprocess.run([RUNG, "tune", "refit", "--log", edge.db, *words], capture_output=True, text=True)



def settled(edge, words):
    """The score of a prompt, once its row has come to the log."""
    before = len(edge.rows())
    edge.chat(prompt(random.Random(77), words))
    return edge.until_rows(before + 1, "SELECT p_edge, router FROM decisions ORDER BY id DESC")[0]


def test_labels_refit_the_router_the_node_switches_and_goes_back(ladder):
    edge = with_router(ladder)
    judged(edge, 240)
    base, new = os.path.join(edge.dir, "base.router"), os.path.join(edge.dir, "new.router")
    easy, hard = settled(edge, EASY), settled(edge, HARD)
    done = refit(edge, "--router", base, "-o", new, "--apply", "--socket", edge.socket)
    assert done.returncode == 0, done.stderr
    named = policy(edge)["policy"]["router"]
    assert len(named) == 16 and os.path.exists(f"{base}.{named}")
    easy2, hard2 = settled(edge, EASY), settled(edge, HARD)
    assert easy2["router"] == named != easy["router"]
    assert easy2["p_edge"] - hard2["p_edge"] > 0.4 + easy["p_edge"] - hard["p_edge"]
    edge.stop()
    edge.start()
    assert settled(edge, EASY) == easy2  # the table is the truth
    assert command(edge, action="undo").json["policy"]["router"] == ""
    assert settled(edge, EASY) == easy
    info = subprocess.run([RUNG, "router", "info", new], capture_output=True, text=True).stdout
    assert "refitted" in info and named in info


def test_what_cannot_be_switched_to_changes_nothing(ladder):
    edge = with_router(ladder)
    judged(edge, 240)
    base, new = os.path.join(edge.dir, "base.router"), os.path.join(edge.dir, "new.router")
    before = policy(edge)
    assert refit(edge, "--router", base, "-o", new).returncode == 0
    other = with_router(ladder, "other")
    for body, says in (({"action": "router", "file": "new.router"}, "whole path"),
                       ({"action": "router", "file": "/nowhere/x"}, "cannot read"),
                       ({"action": "router", "file": edge.file}, "not a router file"),
                       ({"action": "set", "policy": {"router": "0123456789abcdef"}}, "cannot read"),
                       ({"action": "set", "policy": {"router": "x"}}, "16 hex digits")):
        reply = command(edge, **body)
        assert reply.status >= 400 and says in reply.error["message"], reply.error
    assert policy(edge) == before and glob.glob(base + ".*") == []
    foreign = command(other, action="router", file=new)  # sketches under another key
    assert foreign.status == 400 and "sketch_key_file" in foreign.error["message"]


def test_nodes_that_share_a_sketch_key_share_a_refit(ladder, tmp_path):
    key = tmp_path / "sketch.key"
    key.write_text("5" * 64)
    key.chmod(0o600)
    edge = with_router(ladder, sketch_key_file=str(key))
    other = with_router(ladder, "other", sketch_key_file=str(key))
    judged(edge, 240)
    base, new = os.path.join(edge.dir, "base.router"), os.path.join(edge.dir, "new.router")
    assert refit(edge, "--router", base, "-o", new).returncode == 0
    assert command(other, action="router", file=new).status == 200
    key.chmod(0o644)
    process = subprocess.run([RUNG, "edge", "-c", other.file], capture_output=True, text=True, timeout=20, cwd=other.dir)
    assert process.returncode != 0 and "chmod 600" in process.stderr


def test_too_few_labels_are_refused_with_the_reason(ladder):
    edge = with_router(ladder)
    judged(edge, 6)
    base, new = os.path.join(edge.dir, "base.router"), os.path.join(edge.dir, "new.router")
    done = refit(edge, "--router", base, "-o", new)
    assert done.returncode == 1 and "a refit wants 20" in done.stderr and not os.path.exists(new)
    assert refit(edge, "--router", base).returncode == 2
    assert json.loads(edge.get("/v1/rung/policy")[1])["policy"]["router"] == ""
