"""A model folder that trains in a second: the tokenizer of solutions, one random layer."""

from pathlib import Path

import jax
import pytest

from caugym_jax.data.solutions import vocabulary
from caugym_jax.data.tokenizer import load_tokenizer
from caugym_jax.models.config import ModelConfig
from caugym_jax.models.save import save_pretrained
from caugym_jax.models.transformer import Model


def make_tiny_model(folder: Path) -> Path:
    tokens = folder / "tokens"
    vocabulary.save(vocabulary.build(), tokens, 512)
    tokenizer = load_tokenizer(tokens)
    config = ModelConfig(
        family="qwen3", vocab_size=tokenizer.vocab_size, d_model=32, num_layers=1, num_heads=2,
        num_kv_heads=1, head_dim=16, d_ff=32, qk_norm="head", tied=True, max_position=512,
    )  # fmt: skip
    params = Model(config).init(jax.random.key(0))
    ends = {"eos_token_id": list(tokenizer.end_ids), "pad_token_id": tokenizer.pad_id}
    return save_pretrained(folder / "model", config, params, tokenizer=tokenizer, generation=ends)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("tiny"))
