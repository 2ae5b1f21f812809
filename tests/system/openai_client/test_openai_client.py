"""OpenAI's own npm client, unchanged, against both fronts of an edge."""
import os
import shutil
import subprocess

import pytest

from ladder import scripted

HERE = os.path.dirname(os.path.abspath(__file__))


def install():
    if not os.path.isdir(os.path.join(HERE, "node_modules", "openai")):
        run = subprocess.run(["npm", "ci", "--no-audit", "--no-fund"], cwd=HERE, capture_output=True, text=True, timeout=300)
        if run.returncode:
            errors = [line for line in run.stderr.splitlines() if "ERR!" in line]
            pytest.skip("npm could not fetch OpenAI's client: " + " ".join(errors[:3])[:200])


@pytest.mark.skipif(not shutil.which("npm") and not os.environ.get("CI"), reason="npm is not here")
def test_openai_npm_client(ladder):
    install()
    keys, url = os.path.join(ladder.dir, "keys"), os.path.join(ladder.dir, "url")
    with open(os.open(keys, os.O_CREAT | os.O_WRONLY, 0o600), "w") as f:
        f.write("a-key-for-tests tester\n")
    edge = ladder.edge(
        http={"tcp": {"listen": "127.0.0.1:0", "keys_file": keys, "url_file": url}},
        backends=[scripted("good", "edge", "hello from the ladder"),
                  scripted("slow", "edge", "word " * 200, delay_ms=50),
                  scripted("breaks", "edge", "one two three four", delay_ms=20, fail_after=2),
                  scripted("dead", "edge", "never said", fail_after=0)])
    with open(url) as f:
        address = f.read().strip()
    run = subprocess.run(["node", "--test", "test.mjs"], cwd=HERE, capture_output=True, text=True,
                         timeout=300, env={**os.environ, "RUNG_URL": address, "RUNG_KEY": "a-key-for-tests",
                                           "RUNG_SOCKET": edge.socket})
    assert run.returncode == 0, run.stdout[-8000:] + run.stderr[-2000:]
