"""The tokenizer and the chat template that all three models share."""
import random

import pytest
import tools_path  # noqa: F401
from distill import chat
from distill.tokenizer import SPECIALS, VOCAB, Tokenizer, train


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.load()


def test_the_vocabulary_has_the_promised_size(tokenizer):
    assert len(tokenizer.tokens) == len(set(tokenizer.tokens)) == VOCAB


@pytest.mark.parametrize("text", ["", "a", "Hey 12  34\n\n a", "你好，世界12.5 °C", "don't we'll", "\t\r\n x", "🙂 café ½ ①", "  7", "<|end|>"])
def test_text_comes_back(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode_text(text)) == text


def test_random_text_comes_back(tokenizer):
    rng = random.Random(1)
    for _ in range(200):
        text = "".join(chr(rng.choice([rng.randint(32, 126), rng.randint(0x4e00, 0x9fff), rng.randint(0xa0, 0x2ff), 10, 32]))
                       for _ in range(40))
        assert tokenizer.decode(tokenizer.encode_text(text)) == text


def test_each_digit_is_a_token_of_its_own(tokenizer):
    assert [tokenizer.tokens[i] for i in tokenizer.encode_text("2026")] == list("2026")
    assert not any(c.isdigit() for t in tokenizer.tokens[len(SPECIALS):] if len(t) > 1 for c in t if c.isascii())


def test_special_tokens_are_matched_only_in_template_output(tokenizer):
    assert tokenizer.encode("<think>a</think>")[0] == tokenizer.special_ids["<think>"]
    assert not set(tokenizer.encode_text("<think>")) & set(tokenizer.special_ids.values())


def test_training_is_deterministic_and_merges_the_frequent():
    texts = ["low lower lowest", "new newer newest"] * 3
    assert train(texts, 275) == train(texts, 275)
    assert train(texts, 275)[0] == ("w", "e")  # twelve times, more than any other pair


CHATS = [
    [{"role": "user", "content": "What is 3+4?"}],
    [{"role": "system", "content": "Be precise."}, {"role": "user", "content": "你好"}],
    [{"role": "user", "content": "My code is 12."}, {"role": "assistant", "content": "<think>code:12</think>Noted."},
     {"role": "user", "content": "  What was it?\n"}],
]


@pytest.mark.parametrize("messages", CHATS)
def test_the_template_gives_what_training_used(tokenizer, messages):
    jinja2 = pytest.importorskip("jinja2")
    text = jinja2.Environment().from_string(chat.TEMPLATE).render(messages=messages, add_generation_prompt=True)
    assert tokenizer.encode(text) == chat.prompt_ids(tokenizer, messages)


def test_earlier_reasoning_is_left_out(tokenizer):
    ids = chat.prompt_ids(tokenizer, CHATS[2])
    assert tokenizer.special_ids["<think>"] not in ids


def test_a_reply_thinks_first_and_ends(tokenizer):
    ids = chat.reply_ids(tokenizer, "3+4=7", "7")
    assert tokenizer.decode(ids) == "<think>3+4=7</think>7<|end|>"
    assert tokenizer.decode(chat.reply_ids(tokenizer, None, "7")) == "7<|end|>"
