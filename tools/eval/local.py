"""Answering with a GGUF file or a checkpoint through PyTorch: the weights as shipped, many prompts at once."""
import time

import torch

from distill import chat, generate, gguf, model as models
from distill.tokenizer import Tokenizer


def shape_of(metadata, tensors):
    key = lambda name: metadata[f"llama.{name}"]
    return models.Shape(key("embedding_length"), key("block_count"), key("attention.head_count"),
                        key("attention.head_count_kv"), key("feed_forward_length"), vocab=key("vocab_size"),
                        context=key("context_length"), rope_base=key("rope.freq_base"),
                        eps=key("attention.layer_norm_rms_epsilon"), tied="output.weight" not in tensors)


def from_gguf(path, device="cpu"):
    metadata, tensors, _ = gguf.read(path)
    model = models.Llama(shape_of(metadata, tensors))
    state = {name.replace("blk.", "blocks.", 1): torch.from_numpy(value.copy()) for name, value in tensors.items()}
    model.load_state_dict(state)
    return model.to(device).eval()


def open_model(path, device):
    return from_gguf(path, device) if str(path).endswith(".gguf") else models.load(path, device).eval()


def answer_all(path, chats, device="cpu", batch=2048):
    """[(text, completion tokens, seconds)] in order; the time is the batch's share."""
    model, tokenizer = open_model(path, device), Tokenizer.load()
    prompts = [chat.prompt_ids(tokenizer, messages) for messages in chats]
    began = time.monotonic()
    replies = generate.greedy(model, prompts, stop=tokenizer.special_ids["<|end|>"], device=device, batch=batch)
    each = (time.monotonic() - began) / max(1, len(chats))
    return [(tokenizer.decode(ids), len(ids) + 1, each) for ids in replies]
