"""Policies that change while the node runs: set, undone, tried on a share of the traffic; shadow runs as labels."""
import json
import subprocess

from ladder import RUNG, model, scripted, until
from test_ladder import three_tiers

STAY = {"policy": {"threshold": {"edge": 0.0}, "explore": 0}}


def command(node, **body):
    return node.post("/v1/rung/command", body)


def policy(node):
    return json.loads(node.get("/v1/rung/policy")[1])


def two_tiers(ladder, **more):
    return ladder.edge(backends=[scripted("small", "edge", "forty two"), scripted("big", "core", "Forty two.")],
                       **{**STAY, **more})


def test_a_policy_is_set_stored_and_undone(ladder):
    edge = two_tiers(ladder)
    assert edge.chat().text == "forty two"
    reply = command(edge, action="set", policy={"threshold_edge": 1.0, "threshold_region": 1.0})
    assert reply.status == 200 and reply.json["policy"]["threshold_edge"] == 1.0
    assert edge.chat().text == "Forty two."
    assert command(edge, action="undo").json["policy"]["threshold_edge"] == 0.0
    assert edge.chat().text == "forty two"
    versions = [r["version"] for r in edge.rows("SELECT version FROM policies ORDER BY version")]
    assert versions == [1, 2, 3]
    edge.stop()
    edge.start()
    assert policy(edge)["policy"]["threshold_edge"] == 0.0


def test_a_wrong_command_says_what_is_wrong_and_changes_nothing(ladder):
    edge = two_tiers(ladder)
    before = policy(edge)
    for body, names in (({"action": "set", "policy": {"treshold": 1}}, "policy"), ({"action": "go"}, "action"),
                        ({"action": "set", "policy": {"threshold_edge": 9}}, "threshold_edge"),
                        ({"action": "try", "policy": {}, "share": 2}, "share"), ({"action": "undo"}, "")):
        reply = command(edge, **body)
        assert reply.status == 400 and reply.error["message"] and (reply.error["param"] or "") == names
    assert policy(edge) == before


def test_an_experiment_takes_its_share_keeps_tenants_on_their_arm_and_can_be_promoted(ladder):
    edge = two_tiers(ladder)
    command(edge, action="try", policy={"threshold_edge": 1.0, "threshold_region": 1.0}, share=0.5, by="tenant")
    arms = {}
    for i in range(40):
        first, again = edge.chat(user=f"user-{i}").text, edge.chat(user=f"user-{i}").text
        assert first == again
        arms[i] = first
    assert 5 < sum(text == "Forty two." for text in arms.values()) < 35
    rows = edge.until_rows(80)
    assert {r["arm"] for r in rows} == {"A", "B"}
    assert all((r["tier"] == "core") == (r["arm"] == "B") for r in rows)
    promoted = command(edge, action="promote").json
    assert "experiment" not in promoted and promoted["policy"]["threshold_edge"] == 1.0
    assert {edge.chat(user=f"user-{i}").text for i in range(10)} == {"Forty two."}


def test_arms_may_differ_in_the_model_of_a_tier(ladder):
    edge = ladder.edge(backends=[scripted("q8", "edge", "said by q8"), scripted("q4", "edge", "said by q4")], **STAY)
    assert {edge.chat().text for _ in range(6)} == {"said by q8"}
    assert command(edge, action="try", policy={"prefer": "q4"}, share=0.5).status == 200
    assert {edge.chat().text for _ in range(40)} == {"said by q8", "said by q4"}
    rows = edge.until_rows(46)
    assert all((r["backend"] == "q4") == (r["arm"] == "B") for r in rows)
    command(edge, action="promote")
    assert {edge.chat().text for _ in range(6)} == {"said by q4"}
    command(edge, action="set", policy={"prefer": "gone"})  # what is not there is not waited for
    assert edge.chat().text == "said by q8"
    assert command(edge, action="set", policy={"prefer": "x" * 64}).status == 400


def test_shadow_runs_label_the_edges_answers_without_delaying_them(ladder):
    edge = two_tiers(ladder, policy={"threshold": {"edge": 0.0}, "explore": 0, "shadow": 1.0})
    for _ in range(3):
        assert edge.chat().text == "forty two"
    labels = edge.until_rows(3, "SELECT * FROM labels WHERE source = 'shadow'")
    assert all(label["value"] == 1 for label in labels)
    shadows = edge.until_rows(3, "SELECT * FROM decisions WHERE endpoint = 'shadow'")
    assert all(row["tier"] == "core" for row in shadows)


def test_shadow_runs_wait_for_a_higher_tier_and_private_prompts_make_none(ladder):
    edge = three_tiers(ladder, {"policy": {"threshold": {"edge": 0.0}, "explore": 0, "shadow": 1.0}})
    region = next(n for n in ladder.nodes if n.name == "region")
    region.kill()
    until(lambda: not edge.ready()["tiers"].get("region"), "the edge sees that the region is gone")
    assert edge.chat().text == "said by edge"
    assert edge.chat(headers={"x-rung-privacy": "device"}).text == "said by edge"
    region.start()
    labels = edge.until_rows(1, "SELECT * FROM labels WHERE source = 'shadow'")
    assert len(labels) == 1 and labels[0]["value"] == 0


def test_feedback_becomes_a_label_of_that_request(ladder):
    edge = two_tiers(ladder)
    reply = edge.chat()
    said = edge.post("/v1/feedback", {"request_id": reply.json["id"], "right": False, "note": "it is 43"})
    assert said.status == 200
    label = edge.until_rows(1, "SELECT * FROM labels WHERE source = 'feedback'")[0]
    assert label["value"] == 0 and label["request"] == edge.rows()[0]["request"]


def test_the_commands_do_the_same(ladder):
    edge = two_tiers(ladder)

    def rung(*words):
        return subprocess.run([RUNG, *words, "--socket", edge.socket], capture_output=True, text=True)
    assert "threshold_edge" in rung("policy").stdout
    done = rung("policy", "set", "threshold_edge=1", "threshold_region=1")
    assert done.returncode == 0 and edge.chat().text == "Forty two."
    assert rung("tune", "undo").returncode == 0 and edge.chat().text == "forty two"
    wrong = rung("policy", "set", "treshold_edge=1")
    assert wrong.returncode == 1 and "treshold_edge" in wrong.stderr
    assert rung("policy", "go").returncode == 2


def test_a_region_sends_its_policy_down_and_privacy_only_gets_tighter(ladder):
    region = ladder.region(backends=[scripted("mid", "region", "said by region")],
                           policy={"threshold": {"edge": 0.9, "region": 0.0}, "explore": 0, "send_below": True})
    willing = ladder.edge("willing", backends=[scripted("small", "edge", "x"), ladder.peer("region")],
                          policy={"threshold": {"edge": 0.1}, "private_default": True, "accept_from_above": True})
    wary = ladder.edge("wary", backends=[scripted("small", "edge", "x"), ladder.peer("region")],
                       policy={"threshold": {"edge": 0.1}})
    until(lambda: policy(willing)["policy"]["threshold_edge"] == 0.9, "the edge took the policy from above")
    assert policy(willing)["policy"]["private_default"] is True
    version = policy(willing)["policy"]["version"]
    command(region, action="set", policy={"threshold_edge": 0.8})
    until(lambda: policy(willing)["policy"]["threshold_edge"] == 0.8, "and the next one")
    assert policy(willing)["policy"]["version"] == version + 1
    assert policy(wary)["policy"]["threshold_edge"] == 0.1
    assert [r["source"] for r in willing.rows("SELECT source FROM policies ORDER BY version")] == ["config", "above", "above"]


def test_the_command_tells_each_policy_with_its_version_and_an_experiment_with_its_share(ladder):
    edge = two_tiers(ladder)

    def rung(*words):
        run = subprocess.run([RUNG, "policy", *words, "--socket", edge.socket], capture_output=True, text=True, timeout=30)
        assert run.returncode == 0, run.stderr
        return [line for line in run.stdout.splitlines() if not line.startswith(" ")]
    assert rung("set", "threshold_edge=0.5") == ["policy: version 2"]
    assert rung("try", "threshold_edge=0.9", "--share", "0.1", "--by", "tenant") == [
        "policy: version 2", "experiment: version 3, for 0.1 of the traffic by tenant"]
    assert rung("show")[1].startswith("experiment: version 3")
    assert rung("promote") == ["policy: version 5"]  # 4 was the experiment's end


def test_what_no_tier_can_do_is_refused_with_the_field(ladder):
    edge = ladder.edge(backends=[{"name": "device", "type": "local", "model_file": model("edge.q8_0.gguf")}]).until_tiers("edge")
    reply = edge.chat(tools=[{"type": "function", "function": {"name": "f"}}])
    assert reply.status == 400 and reply.error["param"] == "tools" and "call tools" in reply.error["message"]
    assert "x-rung-tier" not in reply.headers  # nobody answered
    reply = edge.chat([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,"}}]}])
    assert reply.status == 400 and reply.error["param"] == "messages"
    reply = edge.chat([])
    assert reply.error["message"] == "messages is an empty array; it should be an array of at least one message"
