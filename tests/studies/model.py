"""A random one-layer decoder with the tokenizer of worked solutions, as a folder."""

from pathlib import Path

import jax

from caugym_jax.data.tokenizer import load_tokenizer
from caugym_jax.models.config import ModelConfig
from caugym_jax.models.hub import PACKAGED
from caugym_jax.models.save import save_pretrained
from caugym_jax.models.transformer import Model


def make_model(folder: Path) -> Path:
    tokenizer = load_tokenizer(PACKAGED["embedded-start"])
    config = ModelConfig(
        family="qwen3", vocab_size=tokenizer.vocab_size, d_model=16, num_layers=1, num_heads=1,
        num_kv_heads=1, head_dim=16, d_ff=16, qk_norm="head", tied=True, max_position=1024,
    )  # fmt: skip
    params = Model(config).init(jax.random.key(0))
    ends = {"eos_token_id": list(tokenizer.end_ids), "pad_token_id": tokenizer.pad_id}
    return save_pretrained(folder, config, params, tokenizer=tokenizer, generation=ends)
