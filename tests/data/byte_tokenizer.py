"""A tokenizer small enough to know by heart: one id a byte, one merge, a few special tokens."""

from __future__ import annotations

import json
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

BOS, END, TURN = "<s>", "</s>", "<turn>"
CHAT = (
    "{{ bos_token }}{% for m in messages %}{{ '<turn>' + m['role'] + '\n' + m['content'] }}"
    "{{ eos_token }}{% endfor %}{% if add_generation_prompt %}{{ '<turn>assistant\n' }}{% endif %}"
)
# In the manner of reasoning models: opens <think> itself, strips it from finished turns.
THINKING = (
    "{{ bos_token }}{% for m in messages %}{{ '<turn>' + m['role'] + '\n' }}"
    "{% if m['role'] == 'assistant' %}{{ m['content'].split('</think>')[-1] + eos_token }}"
    "{% else %}{{ m['content'] }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<turn>assistant\n<think>\n' }}{% endif %}"
)


def save_byte_tokenizer(
    folder: Path,
    *,
    chat_template: str | None = None,
    adds_bos: bool = False,
    pad: str | None = END,
    end_ids: list[int] | int | None = None,
) -> Path:
    """Writes a Hugging Face folder; its pad token is its end token unless told otherwise."""
    special = [BOS, END, TURN]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*special, *alphabet, "ĊĊ"]  # the merge: two newlines are one token
    backend = Tokenizer(models.BPE(vocab={t: i for i, t in enumerate(tokens)}, merges=[("Ċ", "Ċ")]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in special])
    if adds_bos:
        backend.post_processor = processors.TemplateProcessing(
            single=f"{BOS} $A", special_tokens=[(BOS, 0)]
        )
    PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=BOS,
        eos_token=END,
        pad_token=pad,
        chat_template=chat_template,
    ).save_pretrained(folder)
    if end_ids is not None:
        (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": end_ids}))
    return folder
