"""Hugging Face llama folders (config.json + *.safetensors) as our models, and back.

Hugging Face rotates the first half of a head against the second, GGUF and we neighbouring pairs: rows of Q and K are
reordered on the way in and out.
"""
import json
import shutil
import struct
from pathlib import Path

import numpy as np
import torch

from .model import Llama, Shape

DTYPES = {"F32": np.dtype("<f4"), "F16": np.dtype("<f2"), "BF16": np.dtype("<u2")}
LAYER = {
    "attn_norm.weight": "input_layernorm.weight", "attn_q.weight": "self_attn.q_proj.weight",
    "attn_k.weight": "self_attn.k_proj.weight", "attn_v.weight": "self_attn.v_proj.weight",
    "attn_output.weight": "self_attn.o_proj.weight", "ffn_norm.weight": "post_attention_layernorm.weight",
    "ffn_gate.weight": "mlp.gate_proj.weight", "ffn_up.weight": "mlp.up_proj.weight", "ffn_down.weight": "mlp.down_proj.weight",
}
OUTSIDE = {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight",
           "output.weight": "lm_head.weight"}


def hf_name(name):
    if name in OUTSIDE:
        return OUTSIDE[name]
    _, layer, rest = name.split(".", 2)
    return f"model.layers.{layer}.{LAYER[rest]}"


def widened(raw, dtype):
    """Bytes of a tensor as float32."""
    array = np.frombuffer(raw, DTYPES[dtype])
    if dtype == "BF16":
        return (array.astype(np.uint32) << 16).view(np.float32)
    return array.astype(np.float32)


def read_safetensors(path):
    raw = Path(path).read_bytes()
    (size,) = struct.unpack_from("<Q", raw)
    header = json.loads(raw[8:8 + size])
    header.pop("__metadata__", None)
    body = memoryview(raw)[8 + size:]
    return {name: widened(body[slice(*info["data_offsets"])], info["dtype"]).reshape(info["shape"])
            for name, info in header.items()}


def write_safetensors(path, tensors):
    header, at = {}, 0
    for name, array in tensors.items():
        header[name] = {"dtype": "F32", "shape": list(array.shape), "data_offsets": [at, at + array.nbytes]}
        at += array.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for array in tensors.values():
            file.write(np.ascontiguousarray(array, "<f4").tobytes())


def shape_of(config):
    heads = config["num_attention_heads"]
    odd = [key for key in ("rope_scaling", "attention_bias", "mlp_bias") if config.get(key)]
    if config.get("model_type") != "llama" or odd or config.get("head_dim") not in (None, config["hidden_size"] // heads):
        raise ValueError(f"only plain llama models can be distilled here (model_type {config.get('model_type')}, {odd})")
    return Shape(config["hidden_size"], config["num_hidden_layers"], heads, config.get("num_key_value_heads", heads),
                 config["intermediate_size"], vocab=config["vocab_size"], context=config["max_position_embeddings"],
                 rope_base=config.get("rope_theta", 10000.0), eps=config["rms_norm_eps"],
                 tied=config.get("tie_word_embeddings", False))


def to_pairs(weight, heads):
    """Halves -> neighbouring pairs."""
    rows, cols = weight.shape
    return weight.reshape(heads, 2, rows // heads // 2, cols).swapaxes(1, 2).reshape(rows, cols)


def to_halves(weight, heads):
    rows, cols = weight.shape
    return weight.reshape(heads, rows // heads // 2, 2, cols).swapaxes(1, 2).reshape(rows, cols)


def reordered(name, weight, shape, change):
    if name.endswith("attn_q.weight"):
        return change(weight, shape.heads)
    if name.endswith("attn_k.weight"):
        return change(weight, shape.kv_heads)
    return weight


def load(folder):
    folder = Path(folder)
    shape = shape_of(json.loads((folder / "config.json").read_text()))
    tensors = {}
    for path in sorted(folder.glob("*.safetensors")):
        tensors.update(read_safetensors(path))
    model = Llama(shape)
    state = {name: torch.from_numpy(np.ascontiguousarray(reordered(name, tensors[hf_name(name)], shape, to_pairs)))
             for name in model.state_dict()}
    model.load_state_dict(state)
    return model


def save(model, folder, like):
    """Write the model as a folder; configuration and tokenizer are copied from the folder `like`."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for path in Path(like).iterdir():
        if path.parent.resolve() != folder.resolve() and path.is_file() and path.suffix != ".safetensors" and "safetensors.index" not in path.name:
            shutil.copy(path, folder / path.name)
    tensors = {hf_name(n): np.ascontiguousarray(reordered(n, v.detach().cpu().float().numpy(), model.shape, to_halves))
               for n, v in model.state_dict().items()}
    write_safetensors(folder / "model.safetensors", tensors)
    config = json.loads((folder / "config.json").read_text())
    config["torch_dtype"] = "float32"
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
