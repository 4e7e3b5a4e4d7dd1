"""Adapters against `peft`'s own, both ways: the same file, the same logits."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from caugym_jax.errors import UserError
from caugym_jax.models.hub import load_pretrained
from caugym_jax.models.lora import Lora, attach, merge
from caugym_jax.models.peft import load_adapter, save_adapter
from tests.models.test_lora import random_adapters
from tests.models.tiny import FAMILIES
from tests.parity.test_families import build, our_logits, their_logits, tokens_of

torch = pytest.importorskip("torch", reason="requirements-parity.txt is not installed")
peft = pytest.importorskip("peft", reason="requirements-parity.txt is not installed")

pytestmark = pytest.mark.torch

CASES = {
    "llama": Lora(rank=4, alpha=8.0),
    "qwen2-tied": Lora(rank=3, alpha=2.0, rslora=True, targets="attention"),
    "qwen3": Lora(rank=8, alpha=4.0, targets="q,v,mlp"),
}
MODULES = {
    "q": "q_proj", "k": "k_proj", "v": "v_proj", "o": "o_proj", "gate": "gate_proj",
    "up": "up_proj", "down": "down_proj",
}  # fmt: skip


@pytest.fixture(params=CASES)
def case(request, tmp_path):
    """(config, settings, transformers' model, our parameters of it)."""
    config = FAMILIES[request.param]
    model = build(config)
    model.save_pretrained(tmp_path / "base")
    return config, CASES[request.param], model, load_pretrained(tmp_path / "base")[1]


def made_by_peft(model, lora, folder, **options):
    """A PEFT model with a B that is not zero, saved."""
    settings = peft.LoraConfig(
        r=lora.rank, lora_alpha=lora.alpha, use_rslora=lora.rslora, task_type="CAUSAL_LM",
        target_modules=[MODULES[name] for name in lora.matrices], **options,
    )  # fmt: skip
    adapted = peft.get_peft_model(model, settings).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_B" in name:
                weight.copy_(0.1 * torch.randn(weight.shape, generator=generator))
    adapted.save_pretrained(folder)
    return adapted


def test_peft_loads_ours(case, tmp_path):
    config, lora, model, params = case
    adapters, tokens = random_adapters(config, lora), tokens_of(config)
    plain = their_logits(model, tokens)
    save_adapter(tmp_path / "ours", config, lora, adapters, "base")
    adapted = peft.PeftModel.from_pretrained(model, tmp_path / "ours").eval()
    theirs = their_logits(adapted, tokens)
    assert np.abs(theirs - plain).max() >= 0.1
    for weights in (attach(adapters, params, lora.scale), merge(adapters, params, lora.scale)):
        np.testing.assert_allclose(our_logits(config, weights, tokens), theirs, rtol=0, atol=1e-4)
    stored = json.loads((tmp_path / "ours" / "adapter_config.json").read_text())
    assert {**adapted.peft_config["default"].to_dict(), **stored}["r"] == lora.rank


def test_we_load_peft(case, tmp_path):
    config, lora, model, params = case
    tokens = tokens_of(config)
    plain = their_logits(model, tokens)
    adapted = made_by_peft(model, lora, tmp_path / "theirs")
    theirs = their_logits(adapted, tokens)
    assert np.abs(theirs - plain).max() >= 0.1
    adapters = load_adapter(tmp_path / "theirs", config, lora)
    ours = our_logits(config, attach(adapters, params, lora.scale), tokens)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4)
    # and written again it is the same file
    save_adapter(tmp_path / "again", config, lora, adapters, "base")
    from safetensors.numpy import load_file

    first, second = (
        load_file(tmp_path / d / "adapter_model.safetensors") for d in ("theirs", "again")
    )
    assert first.keys() == second.keys()
    jax.tree.map(np.testing.assert_array_equal, dict(first), dict(second))


@pytest.mark.parametrize("rslora", [False, True])
def test_ranks_and_strengths_by_module(tmp_path, rslora):
    """Smaller ranks stand in the largest with zeros, strengths go into B."""
    config = FAMILIES["llama"]
    lora = Lora(rank=6, alpha=8.0, rslora=rslora, targets="q,v,down")
    model = build(config)
    model.save_pretrained(tmp_path / "base")
    params = load_pretrained(tmp_path / "base")[1]
    adapted = made_by_peft(
        model, dataclasses.replace(lora, rank=4), tmp_path / "theirs",
        rank_pattern={"q_proj": 6, "layers.1.mlp.down_proj": 2}, alpha_pattern={"v_proj": 3},
    )  # fmt: skip
    tokens = tokens_of(config)
    theirs = their_logits(adapted, tokens)
    adapters = load_adapter(tmp_path / "theirs", config, lora)
    ours = our_logits(config, attach(adapters, params, lora.scale), tokens)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4)
    with pytest.raises(UserError, match="set --config.lora.rank=6"):
        load_adapter(tmp_path / "theirs", config, dataclasses.replace(lora, rank=4))


INITS = {"gaussian": True, "orthogonal": True, "mica": True, "pissa": False, "pissa_niter_4": False,
         "olora": False}  # fmt: skip


@pytest.mark.parametrize("init", INITS)
def test_how_an_adapter_was_drawn(init, tmp_path):
    """What leaves the base alone is loaded; what changes it is refused by name."""
    config, lora = FAMILIES["llama"], CASES["llama"]
    model = build(config)
    model.save_pretrained(tmp_path / "base")
    params = load_pretrained(tmp_path / "base")[1]
    adapted = made_by_peft(model, lora, tmp_path / "theirs", init_lora_weights=init)
    if not INITS[init]:
        with pytest.raises(UserError, match=f"init_lora_weights='{init}' changes the base"):
            load_adapter(tmp_path / "theirs", config, lora)
        return
    adapters = load_adapter(tmp_path / "theirs", config, lora)
    tokens = tokens_of(config)
    ours = our_logits(config, attach(adapters, params, lora.scale), tokens)
    np.testing.assert_allclose(ours, their_logits(adapted, tokens), rtol=0, atol=1e-4)


def test_what_we_do_not_support_is_refused(tmp_path):
    config, lora = FAMILIES["llama"], CASES["llama"]
    for name, options in {
        "use_dora": {"use_dora": True},
        "modules_to_save": {"modules_to_save": ["lm_head"]},
    }.items():
        made_by_peft(build(config), lora, tmp_path / name, **options)
        with pytest.raises(UserError, match=f"{name}=.* (is|are) not supported"):
            load_adapter(tmp_path / name, config, lora)
    made_by_peft(build(config), lora, tmp_path / "plain")
    with pytest.raises(UserError, match="set --config.lora.alpha=8"):
        load_adapter(tmp_path / "plain", config, dataclasses.replace(lora, alpha=16.0))
    with pytest.raises(UserError, match="belongs to another model"):
        load_adapter(tmp_path / "plain", dataclasses.replace(config, d_model=64), lora)
