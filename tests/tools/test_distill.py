"""Training and distilling, tiny: packing, agreement of PyTorch with numpy, and a user's own pair."""
import json

import numpy as np
import pytest
import tools_path

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

from curriculum import generate as items  # noqa: E402
from distill import chat, data, distill, generate, hf, loop, model as models, pair  # noqa: E402
from llama_ref import LlamaRef  # noqa: E402

CPU = torch.device("cpu")
TINY = models.Shape(32, 2, 2, 1, 64, vocab=64, context=128)


def test_student_and_teacher_targets_are_the_same_tokens():
    for mode in ("none", "short"):
        batch = data.Maker("x", mode, 1, teacher_rows=2).batch()
        wanted = [rows.ids[rows.targets + 1] for rows in (batch.student, batch.teacher)]
        assert len(wanted[0]) > 10 and np.array_equal(*wanted)


def test_documents_of_a_packed_row_do_not_see_each_other():
    model = models.Llama(TINY, seed=1)
    one, two = [5, 6, 7, 8, 9], [11, 12, 13]
    packed = models.Packed(torch.tensor(one + two), torch.tensor([0, 1, 2, 3, 4, 0, 1, 2]), torch.tensor([0, 5, 8]).int(), 5)
    alone = models.Packed(torch.tensor(two), torch.arange(3), torch.tensor([0, 3]).int(), 3)
    assert torch.allclose(model.hidden(packed)[5:], model.hidden(alone), atol=1e-5)


def test_generation_with_a_cache_is_what_the_whole_forward_says():
    model = models.Llama(TINY, seed=2)
    prompts = [[3, 4, 5], [9, 8, 7, 6, 5, 4]]
    for prompt, out in zip(prompts, generate.greedy(model, prompts, 10, stop=63)):
        ids = list(prompt)
        for token in out:
            packed = models.Packed(torch.tensor(ids), torch.arange(len(ids)), torch.tensor([0, len(ids)]).int(), len(ids))
            assert int(model.logits(model.hidden(packed)[-1:]).argmax()) == token
            ids.append(token)


def test_pytorch_and_the_reference_agree_on_the_shipped_edge():
    import local
    path = tools_path.ROOT / "models" / "edge.q8_0.gguf"
    if not path.exists():
        pytest.skip("edge.q8_0.gguf is not here")
    reference, model = LlamaRef(path), local.from_gguf(path)
    prompts = [chat.prompt_ids(reference.tokenizer, i.messages) for i in items("agree", 12, "test")]
    for prompt, out in zip(prompts, generate.greedy(model, prompts, 40, stop=reference.stop)):
        assert reference.greedy(prompt, 40) == out


def tiny_folder(path, layers, seed):
    config = {"model_type": "llama", "hidden_size": 32, "num_hidden_layers": layers, "num_attention_heads": 2,
              "num_key_value_heads": 1, "intermediate_size": 64, "vocab_size": 64, "max_position_embeddings": 128,
              "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": False, "eos_token_id": 63}
    path.mkdir()
    (path / "config.json").write_text(json.dumps(config))
    model = models.Llama(hf.shape_of(config), seed)
    hf.save(model, path, path)
    return path


def test_a_hugging_face_folder_comes_back_as_it_was(tmp_path):
    folder = tiny_folder(tmp_path / "a", 2, 3)
    model = hf.load(folder)
    hf.save(model, tmp_path / "b", folder)
    first, again = (hf.read_safetensors(tmp_path / n / "model.safetensors") for n in "ab")
    assert first.keys() == again.keys() and all(np.array_equal(first[k], again[k]) for k in first)


def test_rotation_in_halves_and_in_pairs_is_the_same_attention():
    rng = np.random.default_rng(1)
    weight = rng.normal(size=(16, 8)).astype(np.float32)  # two heads of eight
    x, angle = rng.normal(size=8), np.array([0.1, 0.2, 0.3, 0.4])
    halves = (weight @ x).reshape(2, 2, 4)
    a = np.stack([halves[:, 0] * np.cos(angle) - halves[:, 1] * np.sin(angle),
                  halves[:, 1] * np.cos(angle) + halves[:, 0] * np.sin(angle)], 1)
    pairs = (hf.to_pairs(weight, 2) @ x).reshape(2, 4, 2)
    b = np.stack([pairs[..., 0] * np.cos(angle) - pairs[..., 1] * np.sin(angle),
                  pairs[..., 1] * np.cos(angle) + pairs[..., 0] * np.sin(angle)], -1)
    assert np.allclose(a, b.swapaxes(1, 2)) and np.array_equal(hf.to_halves(hf.to_pairs(weight, 2), 2), weight)


@pytest.mark.parametrize("kind", ["kl", "mse"])
def test_a_pair_of_folders_is_distilled(tmp_path, capsys, kind):
    teacher, student = tiny_folder(tmp_path / "teacher", 2, 4), tiny_folder(tmp_path / "student", 1, 5)
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"ids": [i, i + 1, i + 2]}) + "\n" for i in range(1, 9)))

    class Args:
        lr, matrix_lr, rows, seed, seconds, curve, every = 5e-3, 0.02, 1, "1", None, None, 1
        temperature, hard, answer_tokens = 2.0, 0.0, 6
        steps, loss = 4, kind
    Args.teacher, Args.student, Args.prompts, Args.out = teacher, student, str(prompts), tmp_path / "out"
    pair.distil(Args, CPU, distill.distil_loss)
    losses = [float(line.split("loss=")[1].split()[0]) for line in capsys.readouterr().out.splitlines() if "loss=" in line]
    assert losses[-1] < losses[0]
    assert hf.load(tmp_path / "out").shape == hf.load(student).shape


def test_a_short_run_lowers_the_loss():
    model = models.Llama(models.Shape(32, 1, 2, 1, 64), seed=6)
    batch = data.Maker("fit", "none", 1).batch()

    class Same:
        next = staticmethod(lambda: batch)
    from distill.train import plain_loss
    loss = plain_loss(CPU)
    before = float(loss(model, batch).detach())
    loop.run(model, Same, loss, loop.Budget(steps=6), CPU, 5e-3, 0.02, loop.Curve(None, 100))
    assert float(loss(model, batch).detach()) < before
