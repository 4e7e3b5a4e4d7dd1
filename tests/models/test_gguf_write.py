"""Exported GGUF files are read back equal, up to what their types round."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gguf import GGMLQuantizationType, dequantize, quantize
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from caugym_jax.data.gguf_tokenizer import SAMPLES, gguf_fields
from caugym_jax.data.tokenizer import load_tokenizer, wrap
from caugym_jax.errors import UserError
from caugym_jax.models.gguf import unpermute
from caugym_jax.models.gguf_write import permute, write_gguf
from caugym_jax.models.hub import load_config, load_pretrained
from caugym_jax.models.save import save_pretrained
from tests.models.tiny import FAMILIES, random_params

LETTERS = sorted(pre_tokenizers.ByteLevel.alphabet())


def byte_level():
    """SmolLM's way to cut texts, with two merges and a special token."""
    vocab = {letter: i for i, letter in enumerate([*LETTERS, "12", "th", "the"])}
    backend = Tokenizer(models.BPE(vocab=vocab, merges=[("t", "h"), ("th", "e")]))
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True),
         pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )  # fmt: skip
    backend.decoder = decoders.ByteLevel()
    raw = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|end|>")
    return wrap(raw, [raw.eos_token_id], "test")


@pytest.mark.parametrize("family", ["llama", "qwen2-tied", "qwen3"])
def test_weights_and_tokens_are_read_back(family, tmp_path, monkeypatch):
    monkeypatch.setenv("CAUGYM_CACHE", str(tmp_path / "cache"))
    tokenizer = byte_level()
    base = next(c for name, c in FAMILIES.items() if name == family and c.rope_scaling is None)
    config = base.__class__(**{**vars(base), "vocab_size": tokenizer.vocab_size})
    params = random_params(config)
    save_pretrained(tmp_path / "hf", config, jax.tree.map(jnp.asarray, params), tokenizer=tokenizer)
    fields = gguf_fields(tokenizer.raw, tokenizer.end_ids, tokenizer.end_id)
    for kind in ("f16", "q8_0"):
        path = tmp_path / f"{kind}.gguf"
        write_gguf(tmp_path / "hf", path, kind, fields)
        assert load_config(path) == config
        _, found = load_pretrained(path)
        worst = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max() / jnp.abs(b).max()),
                             found, params)  # fmt: skip
        assert max(jax.tree.leaves(worst)) < (1e-3 if kind == "f16" else 8e-3), worst
        if kind == "f16":
            embed = np.asarray(params["embed"]).astype(np.float16).astype(np.float32)
            np.testing.assert_array_equal(np.asarray(found["embed"]), embed)
        again = load_tokenizer(path)
        assert [again.encode(x) for x in SAMPLES] == [tokenizer.encode(x) for x in SAMPLES]
        assert again.end_ids == tokenizer.end_ids


def test_eight_bits_are_those_of_the_library():
    array = np.random.default_rng(0).normal(size=(4, 64)).astype(np.float32)
    kind = GGMLQuantizationType.Q8_0
    assert np.abs(dequantize(quantize(array, kind), kind) - array).max() < 0.02


def test_rotary_order_goes_and_comes_back():
    array = np.arange(96, dtype=np.float32).reshape(24, 4)
    np.testing.assert_array_equal(unpermute(permute(array, 8), 8), array)
    assert permute(array, 8)[:4, 0].tolist() == [0, 16, 4, 20]


def test_other_tokenizers_are_refused(tmp_path):
    backend = Tokenizer(models.WordLevel({"a": 0, "<end>": 1}, unk_token="a"))
    raw = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<end>")
    with pytest.raises(UserError, match="cannot be written as GGUF: only gpt2/smollm"):
        gguf_fields(raw, [1], 1)
