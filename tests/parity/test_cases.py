"""Folders as users have them: the logits of 256 tokens are transformers', or a line refuses them.

The kinds were collected from bug reports of libraries that load models.
"""

import dataclasses
import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from caugym_jax.errors import UserError
from caugym_jax.models.config import RopeScaling
from caugym_jax.models.hf_config import from_hf_config
from caugym_jax.models.hub import load_pretrained
from tests.models.gguf_files import write_gguf
from tests.models.tiny import FAMILIES
from tests.parity.test_families import build, draw_weights, our_logits, their_logits, tokens_of
from tests.parity.test_rope import LINEAR, LLAMA3, YARN
from tests.shared import shared_path

torch = pytest.importorskip("torch", reason="requirements-parity.txt is not installed")
transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.torch

PLAIN = {"rope_type": "default", "rope_theta": 10_000.0}


@pytest.fixture
def folder(tmp_path):
    """A llama as transformers saves it, in one file."""
    build(FAMILIES["llama"]).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def settings(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def tensors(folder, change):
    path = folder / "model.safetensors"
    stored = load_file(path)
    change(stored)
    save_file(stored, path, metadata={"format": "pt"})


def agreed(folder):
    """The logits of both, which agree."""
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    config, params = load_pretrained(folder)
    theirs = their_logits(model, tokens_of(config))
    ours = our_logits(config, params, tokens_of(config))
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4)
    return theirs


@pytest.mark.parametrize("scaling", [YARN, LLAMA3, LINEAR, None])
def test_the_folder_with_both_rotary_settings(tmp_path, scaling):
    """A user's config.json, with scaling in the older key beside a plain newer one."""
    folder = shutil.copytree(shared_path("cases/01-rope-both") / "model", tmp_path / "model")
    settings(folder, rope_scaling=scaling)
    hf = transformers.AutoConfig.from_pretrained(folder)
    model = transformers.AutoModelForCausalLM.from_config(hf).float()
    draw_weights(model, from_hf_config(json.loads((folder / "config.json").read_text())))
    save_file(
        {name: weight.numpy() for name, weight in model.state_dict().items()},
        folder / "model.safetensors",
        metadata={"format": "pt"},
    )
    found = agreed(folder)
    settings(folder, rope_scaling=None)
    assert (np.abs(agreed(folder) - found).max() > 0.1) == (scaling is not None)


@pytest.mark.parametrize(
    "rope",
    [
        {"rope_parameters": PLAIN | {"rope_theta": 1e6}, "rope_theta": 500.0},
        {"rope_parameters": YARN | PLAIN | {"rope_type": "yarn"}, "rope_scaling": LINEAR},
        {"rope_parameters": YARN | {"rope_theta": 1e6}, "rope_scaling": YARN | {"factor": 2.0}},
        {"rope_parameters": LINEAR | {"rope_theta": 1e6, "type": "yarn"}},
        {"rope_scaling": {"type": "linear", "factor": 1.0}},
        {"rope_scaling": YARN | {"factor": 1.0}},
        {"rope_scaling": {"rope_type": "yarn", "factor": 4.0}},
        {"rope_scaling": {"rope_type": "llama3"} | LLAMA3, "original_max_position_embeddings": 32},
    ],
)
def test_rotary_settings_that_are_given_twice_or_in_part(folder, rope):
    settings(folder, **({"rope_parameters": None} | rope))
    agreed(folder)


@pytest.mark.parametrize(
    ("rope", "says"),
    [
        ({"rope_parameters": {"full_attention": PLAIN}}, "by layer type"),
        ({"rope_scaling": {"factor": 2.0}}, "factor of 2.0 and no rope_type"),
    ],
)
def test_rotary_settings_that_are_refused(folder, rope, says):
    settings(folder, **rope)
    with pytest.raises(UserError, match=says):
        load_pretrained(folder)


@pytest.mark.parametrize(
    ("fields", "scaling"),
    [
        ({"llama.rope.scaling.factor": 3.0}, RopeScaling("linear", 3.0)),
        ({"llama.rope.scale_linear": 3.0}, RopeScaling("linear", 3.0)),
    ],
)
def test_a_gguf_file_s_factor_without_a_type(tmp_path, monkeypatch, fields, scaling):
    """Linear, as llama.cpp reads it."""
    monkeypatch.setenv("CAUGYM_CACHE", str(tmp_path / "cache"))
    plain, model = FAMILIES["llama"], build(FAMILIES["llama-linear"])
    model.save_pretrained(tmp_path / "model")
    params = load_pretrained(tmp_path / "model")[1]
    write_gguf(tmp_path / "tiny.gguf", plain, params, fields=fields)
    config, params = load_pretrained(tmp_path / "tiny.gguf")
    assert config == dataclasses.replace(plain, rope_scaling=scaling)
    tokens = tokens_of(config)
    np.testing.assert_allclose(
        our_logits(config, params, tokens), their_logits(model, tokens), rtol=0, atol=1e-4
    )


def test_a_single_file_beside_an_index(folder, tmp_path, capsys):
    config = FAMILIES["llama"]
    other = build(config)
    with torch.no_grad():
        other.model.norm.weight.mul_(1.5)
    other.save_pretrained(tmp_path / "shards", max_shard_size="60KB")
    for file in (tmp_path / "shards").glob("*.safetensors*"):
        shutil.copy(file, folder)
    alone = agreed(folder)
    assert "model.safetensors is read, not the files of" in capsys.readouterr().err
    assert np.abs(alone - agreed(tmp_path / "shards")).max() > 0.1


def test_a_tensor_that_the_index_lacks(tmp_path):
    build(FAMILIES["llama"]).save_pretrained(tmp_path / "model", max_shard_size="60KB")
    index = tmp_path / "model" / "model.safetensors.index.json"
    listed = json.loads(index.read_text())
    del listed["weight_map"]["model.norm.weight"]
    index.write_text(json.dumps(listed))
    agreed(tmp_path / "model")


def test_a_decoder_without_its_prefix(tmp_path):
    build(FAMILIES["llama-tied"]).save_pretrained(tmp_path / "model")

    def bare(stored):
        for name in list(stored):
            stored[name.removeprefix("model.")] = stored.pop(name)

    tensors(tmp_path / "model", bare)
    agreed(tmp_path / "model")


def test_heads_beside_the_decoder(folder):
    plain = agreed(folder)
    heads = {"v_head.summary.weight": np.ones((1, 48), np.float32), "mtp.fc.weight": np.ones(3)}
    tensors(folder, lambda stored: stored.update(heads))
    np.testing.assert_array_equal(agreed(folder), plain)


def test_a_stored_head_that_is_the_embedding(tmp_path):
    folder = tmp_path / "model"
    build(FAMILIES["llama-tied"]).save_pretrained(folder)
    plain = agreed(folder)
    embed = "model.embed_tokens.weight"
    tensors(folder, lambda stored: stored.update({"lm_head.weight": stored[embed].copy()}))
    np.testing.assert_array_equal(agreed(folder), plain)
    tensors(folder, lambda stored: stored.update({"lm_head.weight": 2 * stored[embed]}))
    with pytest.raises(UserError, match="'lm_head.weight' differs from the embedding"):
        load_pretrained(folder)


def test_a_head_that_is_neither_stored_nor_tied(folder):
    tensors(folder, lambda stored: stored.pop("lm_head.weight"))
    with pytest.raises(UserError, match="'lm_head.weight' is missing.*tie_word_embeddings"):
        load_pretrained(folder)
    settings(folder, tie_word_embeddings=True)
    agreed(folder)
