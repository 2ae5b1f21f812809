"""`chat_template_kwargs`: a client's own variables for the chat template of a node's model."""
import pathlib
import sys

import pytest

pytest.importorskip("numpy")
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "engine"))
import tiny_gguf  # noqa: E402

TEMPLATE = ("{% for m in messages %}{{ m.content }}{% endfor %}"
            "{% if enable_thinking is defined and not enable_thinking %}QUIET{% endif %}")


@pytest.fixture
def edge(ladder, tmp_path):
    m = tiny_gguf.Model("llama", "F32")
    keys = {"general.architecture": "llama", "general.name": "tiny", "tokenizer.chat_template": TEMPLATE}
    keys |= {"llama." + k: v for k, v in m.keys.items()} | tiny_gguf.tokenizer_keys(m.vocabulary)
    tiny_gguf.write(tmp_path / "tiny.gguf", keys, m.t)
    device = {"name": "device", "type": "local", "tier": "edge", "model_file": str(tmp_path / "tiny.gguf"), "threads": 1}
    return ladder.edge(backends=[device]).until_tiers("edge")


def prompt_tokens(edge, **more):
    reply = edge.chat(content="hi", max_tokens=1, temperature=0, **more)
    assert reply.status == 200
    return reply.json["usage"]["prompt_tokens"]


def test_variables_reach_the_template(edge):
    plain = prompt_tokens(edge)
    assert prompt_tokens(edge, chat_template_kwargs={"enable_thinking": False}) == plain + len("QUIET")
    assert prompt_tokens(edge, chat_template_kwargs={"enable_thinking": True, "messages": []}) == plain
    assert prompt_tokens(edge, chat_template_kwargs=None) == plain


def test_what_is_no_object_is_refused_by_name(edge):
    for wrong in (["enable_thinking"], 7, "x"):
        reply = edge.chat(content="hi", max_tokens=1, chat_template_kwargs=wrong)
        assert reply.status == 400 and "chat_template_kwargs" in reply.json["error"]["message"]
