"""The chat template, and the same thing done by hand for training."""

TEMPLATE = (
    "{%- for message in messages -%}"
    "{%- if message['role'] == 'system' -%}<|system|>{{ message['content'] }}<|end|>"
    "{%- elif message['role'] == 'user' -%}<|user|>{{ message['content'] }}<|end|>"
    "{%- elif message['role'] == 'assistant' -%}<|assistant|>{{ message['content'].split('</think>')[-1] }}<|end|>"
    "{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}<|assistant|>{%- endif -%}"
)


def without_reasoning(text):
    return text.split("</think>")[-1]


def prompt_ids(tokenizer, messages):
    """Ids of the template's output with add_generation_prompt."""
    ids, end = [], tokenizer.special_ids["<|end|>"]
    for message in messages:
        content = message["content"]
        if message["role"] == "assistant":
            content = without_reasoning(content)
        ids.append(tokenizer.special_ids[f"<|{message['role']}|>"])
        ids += tokenizer.encode_text(content)
        ids.append(end)
    ids.append(tokenizer.special_ids["<|assistant|>"])
    return ids


def reply_ids(tokenizer, work, answer):
    """Ids of a reply: working (None for none), answer, end."""
    special = tokenizer.special_ids
    thinking = [] if work is None else [special["<think>"], *tokenizer.encode_text(work), special["</think>"]]
    return thinking + tokenizer.encode_text(answer) + [special["<|end|>"]]
