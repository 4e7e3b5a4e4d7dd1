"""What PEFT's adapter_config.json may say: read, or refused by name."""

import json

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from caugym_jax.errors import UserError
from caugym_jax.models.lora import Lora
from caugym_jax.models.peft import load_adapter, save_adapter
from tests.models.test_lora import random_adapters
from tests.models.tiny import FAMILIES
from tests.shared import shared_path

CONFIG, LORA = FAMILIES["llama"], Lora(rank=4, alpha=8.0)


def saved(folder, **changes):
    adapters = random_adapters(CONFIG, LORA)
    save_adapter(folder, CONFIG, LORA, adapters, "base")
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return adapters


@pytest.mark.parametrize(
    "init", [True, False, None, "gaussian", "Gaussian", "eva", "orthogonal", "mica", "MiCA"]
)
def test_a_beginning_that_leaves_the_base_alone(tmp_path, init):
    adapters = saved(tmp_path / "a", init_lora_weights=init, eva_config={"rho": 2.0})
    jax.tree.map(
        np.testing.assert_array_equal, load_adapter(tmp_path / "a", CONFIG, LORA), adapters
    )


@pytest.mark.parametrize(
    "init", ["pissa", "pissa_niter_16", "olora", "OLoRA", "corda", "loftq", "lora_ga", "new"]
)
def test_a_beginning_that_changes_the_base(tmp_path, init):
    saved(tmp_path / "a", init_lora_weights=init)
    with pytest.raises(UserError, match=f"init_lora_weights='{init}' changes the base's weights"):
        load_adapter(tmp_path / "a", CONFIG, LORA)


@pytest.mark.parametrize("name", ["pissa", "olora"])
def test_files_of_users(tmp_path, name):
    given = json.loads((shared_path("cases/06-pissa-adapter") / name / "adapter_config.json")
                       .read_text())  # fmt: skip
    saved(tmp_path / "a", **given)
    with pytest.raises(UserError, match=f"init_lora_weights='{name}' changes the base's weights"):
        load_adapter(tmp_path / "a", CONFIG, LORA)
    saved(tmp_path / "b", **given | {"init_lora_weights": True})
    load_adapter(tmp_path / "b", CONFIG, LORA)


@pytest.mark.parametrize(
    "change",
    [
        {"use_dora": True}, {"modules_to_save": ["lm_head"]}, {"layers_to_transform": [0]},
        {"use_bdlora": {"nblocks": 2}}, {"a_setting_of_tomorrow": 1},
        {"rank_pattern": {"q_proj": 0}}, {"alpha_pattern": {"(": 4}}, {"rank_pattern": [4]},
    ],
)  # fmt: skip
def test_other_settings_are_refused_by_name(tmp_path, change):
    saved(tmp_path / "a", **change)
    with pytest.raises(UserError, match=next(iter(change))):
        load_adapter(tmp_path / "a", CONFIG, LORA)


def test_a_weight_that_is_not_finite_is_named(tmp_path):
    saved(tmp_path / "a")
    path = tmp_path / "a" / "adapter_model.safetensors"
    tensors = load_file(path)
    name = "base_model.model.model.layers.1.mlp.up_proj.lora_B.weight"
    tensors[name][2, 1] = np.nan
    save_file(tensors, path)
    with pytest.raises(UserError, match=f"{name}' holds NaN"):
        load_adapter(tmp_path / "a", CONFIG, LORA)
