"""The commands as a user types them."""
import hashlib
import json
import os
import re
import subprocess

import pytest

from ladder import ROOT, RUNG, model, scripted, until
from upstream import Upstream

ANSWER = "one two three four five"


def rung(*words, stdin=None, cwd=None, **environment):
    clean = {k: v for k, v in os.environ.items() if not k.startswith("RUNG_")}
    run = subprocess.run([RUNG, *words], input=stdin if stdin is not None else "", capture_output=True, text=True, timeout=30,
                         cwd=cwd, env={**clean, **environment})
    assert "AddressSanitizer" not in run.stderr and "runtime error" not in run.stderr, run.stderr
    return run


@pytest.fixture(scope="module")
def up():
    with Upstream() as upstream:
        yield upstream


def test_every_command_has_help_and_unknown_ones_are_told():
    names = re.findall(r"^  ([a-z]+) ", rung("--help").stdout, flags=re.M)
    assert "ask" in names and "check" in names
    assert rung("aks").returncode == 2 and "no command 'aks'" in rung("aks").stderr
    for name in names:
        assert rung(name, "--help").returncode in (0, 2), name


def test_ask_prints_the_answer_and_nothing_else(up):
    run = rung("ask", "--url", up.url, "hi", "there")
    assert (run.returncode, run.stdout, run.stderr) == (0, ANSWER + "\n", "")
    assert up.stats()["last"]["body"]["messages"] == [{"role": "user", "content": "hi there"}]


def test_ask_takes_its_prompt_from_stdin_only_when_told(up):
    assert rung("ask", "--url", up.url, stdin="from a file\n").returncode == 0
    assert up.stats()["last"]["body"]["messages"][0]["content"] == "from a file"
    rung("ask", "--url", up.url, "Sum up:", "-", stdin="a text\n")
    assert up.stats()["last"]["body"]["messages"][0]["content"] == "Sum up:\n\na text"
    rung("ask", "--url", up.url, "alone", stdin="not ours\n")
    assert up.stats()["last"]["body"]["messages"][0]["content"] == "alone"
    assert rung("ask", "--url", up.url, stdin="").returncode == 2


def test_ask_sends_its_options(up):
    rung("ask", "--model=ok", "--system", "Be brief.", "--max-tokens", "2", "--temperature=0.5", "--seed", "7", "--private",
         "--max-tier", "region", "--deadline-ms", "900", "hi", RUNG_URL=up.url, RUNG_KEY="sk-1")
    last = up.stats()["last"]
    assert last["body"]["model"] == "ok" and last["body"]["max_tokens"] == 2 and last["body"]["seed"] == 7
    assert last["body"]["temperature"] == 0.5 and last["body"]["messages"][0] == {"role": "system", "content": "Be brief."}
    headers = {k.lower(): v for k, v in last["headers"].items()}
    assert headers["authorization"] == "Bearer sk-1" and headers["x-rung-privacy"] == "device"
    assert headers["x-rung-max-tier"] == "region" and headers["x-rung-deadline-ms"] == "900"


def test_ask_tells_failures_on_stderr(up):
    run = rung("ask", "--url", up.url, "--model", "error-event/2", "hi")
    assert (run.returncode, run.stdout) == (1, "one two\n") and "the GPU is gone" in run.stderr
    run = rung("ask", "--url", up.url, "--model", "context", "hi")
    assert run.returncode == 1 and "context_length_exceeded" in run.stderr
    run = rung("ask", "--url", up.url, "--model", "cut-clean", "hi")
    assert run.returncode == 1 and "broke off" in run.stderr
    run = rung("ask", "--socket", "/nowhere.sock", "hi")
    assert run.returncode == 1 and "no node answers at /nowhere.sock" in run.stderr
    assert rung("ask", "--tmeperature", "1", "hi").returncode == 2
    assert rung("ask", "--url", up.url, "--temperature", "hot", "hi").returncode == 2


def test_ask_as_json_is_one_object(up):
    answer = json.loads(rung("ask", "--json", "--url", up.url, "hi").stdout)
    assert answer["answer"] == ANSWER and answer["finish_reason"] == "stop" and answer["usage"]["completion_tokens"] == 5


def test_chat_sends_the_whole_conversation(up):
    run = rung("chat", "--url", up.url, stdin="first\n\n/why\nsecond\n/quit\nnever\n")
    assert run.returncode == 0 and run.stdout.count(ANSWER) == 2
    last = up.stats()["last"]
    assert [m["content"] for m in last["body"]["messages"]] == ["first", ANSWER, "second"]
    assert {k.lower() for k in last["headers"]} >= {"x-rung-conversation"}
    rung("chat", "--url", up.url, stdin="first\n/new\nanew\n")
    assert [m["content"] for m in up.stats()["last"]["body"]["messages"]] == ["anew"]


def test_a_turn_that_failed_is_not_in_the_conversation(up):
    run = rung("chat", "--url", up.url, "--model", "fail-once", stdin="first\nsecond\n")
    assert run.returncode == 0 and "it is broken" in run.stderr
    assert [m["content"] for m in up.stats()["last"]["body"]["messages"]] == ["second"]


def test_models_lists(up):
    assert re.search(r"^ok +- ", rung("models", "--url", up.url).stdout, flags=re.M)
    assert json.loads(rung("models", "--json", "--url", up.url).stdout)["object"] == "list"


def test_status_tells_what_is_wrong(ladder):
    edge = ladder.edge(backends=[scripted("device", "edge", "ok"),
                                 {"name": "gone", "type": "upstream", "tier": "core", "url": "http://127.0.0.1:1/v1",
                                  "model": "m"}])
    edge.until_tiers("edge")
    assert rung("ask", "--socket", edge.socket, "--private", "hi").stdout == "ok\n"
    run = rung("status", RUNG_SOCKET=edge.socket)
    assert run.returncode == 0, run.stderr
    assert re.search(r"^device +scripted +up ", run.stdout, flags=re.M)
    assert re.search(r"^edge +yes +1 ", run.stdout, flags=re.M)
    assert re.search(r"^requests taken +1$", run.stdout, flags=re.M)
    status = json.loads(rung("status", "--json", "--socket", edge.socket).stdout)
    assert status["metrics"]["rung_requests_total"] == 1 and status["ready"]["tiers"]["edge"] is True
    answer = json.loads(rung("ask", "--json", "--private", "--socket", edge.socket, "hi").stdout)
    assert answer["rung"]["tier"] == "edge" and answer["rung"]["reason"] == "private"
    why = rung("ask", "--why", "--private", "--socket", edge.socket, "hi")
    assert why.stdout == "ok\n" and why.stderr.startswith("edge (device): private, $0.000000, ")
    edge.stop()
    assert rung("status", "--socket", edge.socket).returncode == 1


def test_check_and_config(tmp_path):
    good, bad = tmp_path / "edge.yaml", tmp_path / "core.yaml"
    good.write_text(rung("config", "--tier", "edge").stdout)
    assert rung("check", str(good)).returncode == 0
    bad.write_text("log:\n  keep_dyas: 3\nhttp: {unix: {mode: 9}}\n")
    run = rung("check", str(bad))
    assert run.returncode == 1 and run.stdout == ""
    assert run.stderr.splitlines() == [
        f"{bad}:2: log.keep_dyas: no such key; did you mean log.keep_days?",
        f"{bad}:3: http.unix.mode: got \"9\", want a file mode in octal, such as 0660"]
    assert rung("check").returncode == 2
    assert "keep_days: 7" in rung("config", "--effective", str(good), RUNG_LOG_KEEP_DAYS="7").stdout
    assert "keep_days: 8" in rung("config", "--effective", str(good), "log.keep_days=8", RUNG_LOG_KEEP_DAYS="7").stdout


def test_check_looks_at_what_a_file_names(tmp_path):
    file, there = tmp_path / "edge.yaml", tmp_path / "there.gguf"
    there.write_bytes(b"GGUF....")
    (tmp_path / "open.key").write_text("secret")

    def check(text, **environment):
        file.write_text(text)
        run = rung("check", str(file), cwd=tmp_path, **environment)
        return run.returncode, run.stderr.replace(f"{file}:", "").splitlines()
    code, said = check("router: {file: no.router}\nbackends:\n"
                       "  - {name: a, type: local, model_file: gone.gguf}\n  - {name: b, type: local, model_file: there.gguf, draft_model: small.gguf}\n"
                       "  - {name: c, type: local,\n     model_file: .}\n"
                       "  - {name: d, type: upstream, tier: core, url: 'http://h/v1', model: m, key_env: RUNG_NO_SUCH_KEY}\n")
    assert code == 0, said  # a node starts without these, and says so
    assert said[0].startswith("1: warning: router.file: ") and said[0].endswith("every tier would score 0.5")
    assert said[1].startswith("3: warning: backends.0.model_file: gone.gguf: No such file or directory; ") and "degraded" in said[1]
    assert said[2].startswith("4: warning: backends.1.draft_model: small.gguf: No such file or directory; ")
    assert said[3].startswith("6: warning: backends.2.model_file: .: not a plain file; ")
    assert said[4].startswith("7: warning: backends.3.key_env: RUNG_NO_SUCH_KEY is not set here")
    assert len(said) == 5
    code, said = check("node: {state_dir: made/anew}\nhttp:\n  unix:\n    path: /nowhere/edge.sock\n"
                       "zmq: {keys_file: none.key, peers_file: none}\n"
                       "backends:\n  - {name: d, type: upstream, tier: core, url: 'http://h/v1', model: m, key_file: none.key}\n")
    assert code == 1
    assert [line.split(": ")[:2] for line in said] == [["4", "http.unix.path"], ["5", "zmq.keys_file"], ["5", "zmq.peers_file"],
                                                        ["7", "backends.0.key_file"]]
    assert "/nowhere" in said[0] and "none.key" in said[1]
    code, said = check("zmq: {keys_file: open.key}\nhttp: {unix: {uids: [nobody-of-this-name]}}\n")
    assert code == 1 and "chmod 600" in said[0] and "there is no user" in said[1]


@pytest.mark.skipif(not os.path.exists(model("edge.q8_0.gguf")), reason="models/ is not there")
def test_a_model_file_is_read_whole_and_compared_with_what_was_kept(tmp_path):
    with open(model("edge.q8_0.gguf"), "rb") as f:
        data = f.read()
    file, kept = tmp_path / "m.gguf", tmp_path / "m.gguf.sha256"
    file.write_bytes(data)
    run = rung("models", "--verify", str(file))
    assert run.returncode == 0 and run.stdout == f"{hashlib.sha256(data).hexdigest()}  {file}\n"
    assert re.search(r": identity [0-9a-f]{64}$", run.stderr.strip())
    kept.write_text(run.stdout)
    assert rung("models", "--verify", str(file)).returncode == 0
    file.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))  # one bit of 1.7 MB, where no sample looks
    run = rung("models", "--verify", str(file))
    assert run.returncode == 1 and "damaged" in run.stderr and run.stdout == ""
    assert rung("models", "--verify", str(kept)).returncode == 1 and rung("models", "--verify").returncode == 2


def test_the_state_folder_is_made(ladder):
    edge = ladder.edge(node={"state_dir": os.path.join(ladder.dir, "new", "folder")}, wait=False,
                       backends=[scripted("small", "edge", "ok")])
    edge.socket = os.path.join(ladder.dir, "new", "folder", "http.sock")
    until(lambda: os.path.exists(edge.socket), "its socket is there")
    assert os.path.exists(os.path.join(ladder.dir, "new", "folder", "log.db"))


def test_completion_knows_the_options_of_the_help():
    script = rung("completion", "bash").stdout
    assert subprocess.run(["bash", "-n"], input=script, text=True).returncode == 0
    cases = dict(re.findall(r"^    ([a-z]+)\) words='([^']*)' ;;$", script, flags=re.M))
    for command in ("ask", "chat", "status", "models", "check", "config"):
        told = set(re.findall(r"--[a-z][a-z-]+", rung(command, "--help").stdout)) | {"--help"}
        assert set(cases[command].split()) == told, command
    names = re.findall(r"^  ([a-z]+) ", rung("--help").stdout, flags=re.M)
    assert list(cases) == names
    for shell in ("zsh", "fish"):
        assert all(name in rung("completion", shell).stdout for name in names)
    assert rung("completion", "tcsh").returncode == 2


def test_the_reference_configurations_are_the_programs_own():
    for tier in ("edge", "region", "core"):
        with open(os.path.join(ROOT, "configs", tier + ".yaml")) as f:
            assert rung("config", "--tier", tier).stdout == f.read()


def test_a_router_fitted_again_on_the_same_day_is_the_same_file(tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"prompt": f"What is {i} plus {i * 7}?" if i % 2 else f"Name river number {i}.",
                                        "scores": {"small": i % 2, "large": 1}}) + "\n" for i in range(80)))
    files = [tmp_path / "a.router", tmp_path / "b.router", tmp_path / "c.router"]
    for file, date in zip(files, ("1700000000", "1700000000", "1700000001")):
        subprocess.run([RUNG, "router", "train", "--data", rows, "--tiers", "small,large", "-o", file], check=True, capture_output=True,
                       env={**os.environ, "SOURCE_DATE_EPOCH": date})
    a, b, c = (file.read_bytes() for file in files)
    assert a == b != c
