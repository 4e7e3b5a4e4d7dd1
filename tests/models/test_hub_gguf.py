"""GGUF files written here in llama.cpp's layout, read back."""

import dataclasses
import math

import jax
import numpy as np
import pytest

from caugym_jax.errors import UserError
from caugym_jax.models import gguf
from caugym_jax.models.config import RopeScaling
from caugym_jax.models.hub import load_config, load_pretrained
from tests.models.gguf_files import write_gguf
from tests.models.test_hub import assert_same
from tests.models.tiny import FAMILIES, random_params

SCALED = dataclasses.replace(FAMILIES["llama-scaled"], rope_scaling=RopeScaling("llama3", 32, 8192))
CASES = {
    **{name: FAMILIES[name] for name in ("llama", "llama-tied", "qwen2", "qwen2-tied", "qwen3")},
    "llama-scaled": SCALED,
}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CAUGYM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.mark.parametrize("name", CASES)
def test_float32_files_are_read_bit_for_bit(tmp_path, name):
    params = random_params(CASES[name])
    path = write_gguf(tmp_path / "tiny.gguf", CASES[name], params)
    assert load_config(path) == CASES[name]
    config, loaded = load_pretrained(path)
    assert config == CASES[name]
    assert_same(loaded, params)


FACTOR, TYPE = "llama.rope.scaling.factor", "llama.rope.scaling.type"
CONTEXT = "llama.rope.scaling.original_context_length"


@pytest.mark.parametrize(
    ("fields", "scaling"),
    [
        ({FACTOR: 4.0}, RopeScaling("linear", 4.0)),
        ({"llama.rope.scale_linear": 4.0}, RopeScaling("linear", 4.0)),
        ({FACTOR: 2.0, "llama.rope.scale_linear": 4.0}, RopeScaling("linear", 2.0)),
        ({TYPE: "linear", FACTOR: 4.0}, RopeScaling("linear", 4.0)),
        ({TYPE: "none", FACTOR: 4.0}, None),
        ({TYPE: "linear"}, None),
        ({FACTOR: 1.0}, None),
        (
            {TYPE: "yarn", FACTOR: 4.0, CONTEXT: 128},
            RopeScaling("yarn", 4.0, 128, attention_factor=1 + 0.1 * math.log(4.0)),
        ),
    ],
)
def test_rope_scaling_is_read_as_llama_cpp_reads_it(tmp_path, fields, scaling):
    config = dataclasses.replace(FAMILIES["llama"], rope_scaling=scaling)
    path = write_gguf(tmp_path / "tiny.gguf", config, random_params(config), fields=fields)
    assert load_config(path) == config
    assert load_pretrained(path)[0] == config


def test_other_rope_scaling_is_refused(tmp_path):
    params = random_params(SCALED)
    path = tmp_path / "tiny.gguf"
    write_gguf(path, SCALED, params, fields={TYPE: "longrope", FACTOR: 4.0})
    with pytest.raises(UserError, match="rope scaling 'longrope' is not supported"):
        load_config(path)
    write_gguf(path, SCALED, params, fields={FACTOR: 4.0})
    with pytest.raises(UserError, match="beside a linear factor"):
        load_config(path)


def test_quantised_files_are_near(tmp_path):
    config = dataclasses.replace(FAMILIES["llama"], d_model=96, d_ff=64)
    params = random_params(config)
    path = write_gguf(tmp_path / "tiny.gguf", config, params, quantized=True)
    loaded = load_pretrained(path)[1]
    error = jax.tree.map(lambda a, b: float(abs(a - b).max()), loaded, params)
    assert 0 < max(jax.tree.leaves(error)) < 0.02


def test_the_second_load_reads_the_converted_copy(tmp_path, cache, monkeypatch, capsys):
    """Each reports the file, the types of its weights and where the copy lies."""
    config = dataclasses.replace(FAMILIES["llama"], d_model=96, d_ff=64)
    path = write_gguf(tmp_path / "tiny.gguf", config, random_params(config), quantized=True)
    folder = gguf.convert(path)
    assert folder.is_relative_to(cache)
    said = capsys.readouterr().err
    assert said == f"{path} (Q8_0, F32) is converted to float32, once, in {folder}\n"
    with monkeypatch.context() as patch:
        patch.setattr(gguf, "_open", None)  # reading the GGUF file again would fail
        assert gguf.convert(path) == folder
    said = capsys.readouterr().err
    assert said == f"{path} (Q8_0, F32) is read from its float32 copy in {folder}\n"
    other = random_params(FAMILIES["llama"], seed=1)
    write_gguf(path, FAMILIES["llama"], other)  # another content under the same name
    assert gguf.convert(path) != folder
    assert_same(load_pretrained(path)[1], other)


def test_bad_files_get_one_clear_line(tmp_path):
    params = random_params(FAMILIES["llama"])
    path = tmp_path / "tiny.gguf"
    write_gguf(path, FAMILIES["llama"], params, drop="blk.1.ffn_up.weight")
    with pytest.raises(UserError, match=r"'blk\.1\.ffn_up\.weight' is missing"):
        load_pretrained(path)
    write_gguf(path, SCALED, random_params(SCALED), rope=np.linspace(1, 8, 8))
    with pytest.raises(UserError, match="'rope_freqs.weight' is not Llama 3.1's"):
        load_pretrained(path)
    whole = write_gguf(path, FAMILIES["llama"], params).read_bytes()
    for broken in (b"not a model", whole[:1000], whole[: len(whole) // 2], whole[:-64]):
        path.write_bytes(broken)
        with pytest.raises(UserError, match="not a whole GGUF file"):
            load_pretrained(path)
    write_gguf(path, dataclasses.replace(FAMILIES["llama"], family="gemma2"), params)
    with pytest.raises(UserError, match="architecture 'gemma2' is not supported"):
        load_pretrained(path)
