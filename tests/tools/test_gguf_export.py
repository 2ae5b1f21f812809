"""The GGUF writer, and the shipped models read back."""
import numpy as np
import pytest
import tools_path
from curriculum import check, generate
from distill import chat, gguf
from llama_ref import LlamaRef

MODELS = tools_path.ROOT / "models"
SHIPPED = ["edge.q8_0", "edge.f16", "region.q8_0", "core.q8_0"]


def test_what_is_written_is_read_back(tmp_path):
    rng = np.random.default_rng(1)
    a, b, c = (rng.normal(size=s).astype(np.float32) for s in ((4, 64), (3, 32), (32,)))
    metadata = [("general.architecture", gguf.STRING, "llama"), ("x.count", gguf.UINT32, 7), ("x.rate", gguf.FLOAT32, 0.5),
                ("x.flag", gguf.BOOL, True), ("x.names", gguf.ARRAY, (gguf.STRING, ["a", "你"])),
                ("x.numbers", gguf.ARRAY, (gguf.INT32, [1, -2]))]
    path = tmp_path / "t.gguf"
    gguf.write(path, metadata, [("a", a, gguf.Q8_0), ("b", b, gguf.F16), ("c", c, gguf.F32)])
    read, tensors, kinds = gguf.read(path)
    assert read == {"general.architecture": "llama", "x.count": 7, "x.rate": 0.5, "x.flag": True, "x.names": ["a", "你"],
                    "x.numbers": [1, -2]}
    assert kinds == {"a": gguf.Q8_0, "b": gguf.F16, "c": gguf.F32}
    assert np.array_equal(tensors["c"], c)
    assert np.array_equal(tensors["b"], b.astype(np.float16).astype(np.float32))
    assert np.abs(tensors["a"] - a).max() <= np.abs(a).max() / 127


def test_q8_0_rounds_to_the_nearest_and_survives_zeros():
    x = np.zeros(64, np.float32)
    x[32:] = np.linspace(-1.27, 1.27, 32)
    back = gguf.dequantize_q8_0(gguf.quantize_q8_0(x), 64)
    assert np.array_equal(back[:32], x[:32])
    assert np.abs(back - x).max() <= 0.0051


def shipped(name):
    path = MODELS / f"{name}.gguf"
    if not path.exists():
        pytest.skip(f"{path.name} is not here")
    return path


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_model_says_what_it_is(name):
    metadata, tensors, _ = gguf.read(shipped(name))
    assert metadata["general.name"] == f"rung-demo-{name.split('.')[0]}"
    assert metadata["general.architecture"] == "llama" and metadata["llama.context_length"] >= 1024
    assert metadata["tokenizer.ggml.model"] == "gpt2" and metadata["tokenizer.ggml.pre"] == "smollm"
    assert metadata["tokenizer.chat_template"] == chat.TEMPLATE
    assert len(metadata["tokenizer.ggml.tokens"]) == metadata["llama.vocab_size"] == len(tensors["token_embd.weight"])
    kinds = dict(zip(metadata["tokenizer.ggml.tokens"], metadata["tokenizer.ggml.token_type"]))
    assert kinds["<think>"] == kinds["</think>"] == 4 and kinds["<|end|>"] == kinds["<|user|>"] == 3
    assert all(t.shape[-1] % 32 == 0 for t in tensors.values())


def test_all_models_share_one_tokenizer():
    tokens = [gguf.read(shipped(n))[0]["tokenizer.ggml.tokens"] for n in ("edge.q8_0", "region.q8_0", "core.q8_0")]
    assert tokens[0] == tokens[1] == tokens[2]


def test_the_models_fit_their_share_of_the_repository():
    assert sum(p.stat().st_size for p in MODELS.glob("*")) <= 40_000_000


@pytest.mark.parametrize("name, least", [("edge.q8_0", 16), ("region.q8_0", 17)])
def test_a_shipped_model_answers_easy_questions(name, least):
    model = LlamaRef(shipped(name))
    items = list(generate("easy", 20, "test", difficulties=[1]))
    assert sum(check(i, model.answer(i.messages, 60)) for i in items) >= least


def test_the_core_multiplies_on_paper():
    reply = LlamaRef(shipped("core.q8_0")).answer([{"role": "user", "content": "What is 347*86?"}], 200)
    assert reply.startswith("<think>") and reply.endswith("</think>29842")


def test_continuing_with_a_cache_changes_nothing():
    model = LlamaRef(shipped("edge.q8_0"))
    ids = chat.prompt_ids(model.tokenizer, [{"role": "user", "content": "What is 12+30?"}])
    cache = {}
    parts = np.concatenate([model.logits(ids[:4], cache), model.logits(ids[4:], cache)])
    assert np.abs(parts - model.logits(ids)).max() < 1e-9
