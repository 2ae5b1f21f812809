"""Answers held to JSON on the device's own model: `response_format` through a whole edge node."""
import json
import os

import pytest

from ladder import KERNELS, model

needs_models = pytest.mark.skipif(not os.path.exists(model("edge.q8_0.gguf")), reason="models/ is not there")
SCHEMA = {"type": "object", "additionalProperties": False, "required": ["answer", "sure", "kind", "digits"],
          "properties": {"answer": {"type": "integer", "minimum": -10, "maximum": 500}, "sure": {"type": ["boolean", "null"]},
                         "kind": {"enum": ["sum", "difference", "other"]},
                         "digits": {"type": "array", "items": {"$ref": "#/$defs/digit"}, "minItems": 1, "maxItems": 3}},
          "$defs": {"digit": {"type": "integer", "minimum": 0, "maximum": 9}}}


def schema(of, strict=True):
    return {"type": "json_schema", "json_schema": {"name": "t", "strict": strict, "schema": of}}


def good(text):
    value = json.loads(text)
    assert list(value) == ["answer", "sure", "kind", "digits"]
    assert type(value["answer"]) is int and -10 <= value["answer"] <= 500
    assert value["sure"] in (True, False, None) and value["kind"] in ("sum", "difference", "other")
    assert 1 <= len(value["digits"]) <= 3 and all(type(d) is int and 0 <= d <= 9 for d in value["digits"])
    return value


@pytest.fixture
def edge(ladder):
    device = {"name": "device", "type": "local", "tier": "edge", "model_file": model("edge.q8_0.gguf"), "threads": 1, "slots": 2,
              "kernels": KERNELS}
    return ladder.edge(backends=[device]).until_tiers("edge")


@needs_models
def test_a_schema_holds_greedy_sampled_streamed_and_for_every_choice(edge):
    ask = {"response_format": schema(SCHEMA), "max_tokens": 300}
    reply = edge.chat(temperature=0, **ask)
    assert reply.status == 200 and reply.finish == "stop" and good(reply.text)
    assert reply.headers["x-rung-tier"] == "edge"
    streamed = edge.chat(temperature=0, stream=True, **ask)
    assert streamed.done and streamed.text == reply.text
    texts = {edge.chat(temperature=2, seed=s, **ask).text for s in range(10)}
    assert len(texts) > 3 and all(good(t) for t in texts)
    many = edge.chat(temperature=2, seed=3, n=3, **ask)
    assert len(many.json["choices"]) == 3 and all(good(c["message"]["content"]) for c in many.json["choices"])


@needs_models
def test_json_object_is_an_object(edge):
    for seed in range(6):
        reply = edge.chat(temperature=1.5, seed=seed, max_tokens=600, response_format={"type": "json_object"})
        assert reply.status == 200 and reply.text.lstrip().startswith("{")
        if reply.finish == "stop":
            assert isinstance(json.loads(reply.text), dict)


@needs_models
def test_a_long_prompt_is_held_to_its_schema_too(edge):
    reply = edge.chat("word " * 20000, response_format=schema(SCHEMA))
    assert reply.status in (200, 400, 413) and (reply.status != 200 or good(reply.text))


@needs_models
@pytest.mark.parametrize("form, says", [
    (schema({"type": "object", "properties": {"when": {"type": "string", "format": "date"}}}), ["schema.properties.when", "format"]),
    (schema({"type": "strnig"}), ["strnig"]),
    (schema({"$ref": "#/$defs/none"}), ["leads nowhere"]),
    ({"type": "json_schema"}, ["json_schema must be"]),
    ({"type": "yaml"}, ["yaml"]),
])
def test_a_schema_that_cannot_be_held_to_is_refused_with_its_place(edge, form, says):
    reply = edge.chat(response_format=form)
    assert reply.status == 400 and reply.error["param"] == "response_format"
    assert "response_format" in reply.error["message"] and all(s in reply.error["message"] for s in says)
