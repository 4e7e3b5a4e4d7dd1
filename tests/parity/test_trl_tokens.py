"""Prompts and replies as tokens against TRL's trainers, for tokenizers of three kinds."""

import datasets
import pytest

from caugym_jax.data.prompts import prompt_tokens, reply_tokens
from caugym_jax.data.tokenizer import load_tokenizer
from tests.data.byte_tokenizer import CHAT, save_byte_tokenizer
from tests.data.metaspace_tokenizer import INST, TURNS, save_metaspace_tokenizer

transformers = pytest.importorskip("transformers")
trl = pytest.importorskip("trl", reason="requirements-parity.txt is not installed")

pytestmark = pytest.mark.torch

ASKED = [{"role": "user", "content": "Why is it so?"}]
REPLIES = ["Because it is so.", "[so]", "é 1.5", "is\nit  so"]
MADE = {
    "mistral-normaliser": lambda folder: save_metaspace_tokenizer(folder, INST, normalizer=True),
    "mistral-metaspace": lambda folder: save_metaspace_tokenizer(folder, INST, normalizer=False),
    "gemma": lambda folder: save_metaspace_tokenizer(folder, TURNS, normalizer=False),
    "bytes": lambda folder: save_byte_tokenizer(folder, chat_template=CHAT),
}


@pytest.fixture(params=MADE)
def folder(request, tmp_path):
    return MADE[request.param](tmp_path / "tokens")


def told(text):
    return [{"role": "assistant", "content": text}]


def trainer(folder, method, rows):
    """TRL's trainer of a tiny model, which has tokenized its rows."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=8,
            intermediate_size=8,
            num_hidden_layers=1,
            num_attention_heads=1,
        )  # fmt: skip
    )
    settings = getattr(trl, f"{method}Config")(
        output_dir=folder / "out", report_to="none", use_cpu=True, bf16=False, max_length=None
    )
    return getattr(trl, f"{method}Trainer")(
        model=model, args=settings, train_dataset=datasets.Dataset.from_list(rows),
        processing_class=tokenizer,
    )  # fmt: skip


def assert_same(ours, theirs):
    """TRL also learns what the template writes behind the end of the turn (Gemma's newline)."""
    assert theirs[: len(ours)] == ours and len(theirs) - len(ours) <= 2


def test_sft(folder):
    tokenizer = load_tokenizer(folder)
    made = trainer(folder, "SFT", [{"prompt": ASKED, "completion": told(r)} for r in REPLIES])
    prompt = prompt_tokens(ASKED, tokenizer)
    for reply, row in zip(REPLIES, made.train_dataset, strict=True):
        assert_same(prompt + reply_tokens(ASKED, reply, tokenizer), row["input_ids"])
        assert row["completion_mask"].index(1) == len(prompt)


def test_dpo(folder):
    tokenizer = load_tokenizer(folder)
    pairs = list(zip(REPLIES, REPLIES[1:], strict=False))
    rows = [{"prompt": ASKED, "chosen": told(a), "rejected": told(b)} for a, b in pairs]
    made = trainer(folder, "DPO", rows).train_dataset
    for pair, row in zip(pairs, made, strict=True):
        assert row["prompt_ids"] == prompt_tokens(ASKED, tokenizer)
        for reply, key in zip(pair, ("chosen_ids", "rejected_ids"), strict=True):
            assert_same(reply_tokens(ASKED, reply, tokenizer), row[key])
