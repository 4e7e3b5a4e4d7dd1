"""A run's folder: what is left of an earlier run, and which weights it opens with."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from caugym_jax.data.tokenizer import load_tokenizer
from caugym_jax.devices.mesh import make_mesh
from caugym_jax.errors import UserError
from caugym_jax.models.transformer import layout
from caugym_jax.objectives.optim import Optim, evaluated, make_optimizer
from caugym_jax.runs import folder
from caugym_jax.runs.checkpoints import Checkpoints
from caugym_jax.runs.folder import claim_workdir, pinned_step, save_shape
from caugym_jax.runs.opening import ModelSettings, model_for, open_model
from caugym_jax.types import TrainState
from tests.data.byte_tokenizer import save_byte_tokenizer
from tests.models.tiny import FAMILIES, random_params
from tests.small_disk import small_disk  # noqa: F401

OF_A_RUN = ("before.json", "after.json", "summary.json")


def test_a_run_begun_anew_forgets_the_answers_and_the_summary_of_the_old_one(tmp_path):
    """Its checkpoints were removed by hand; its summary must not pass for the new run's."""
    config = {"method": "sft", "seed": 1, "steps": 5}
    claim_workdir(tmp_path, config, ("steps",))
    for name in OF_A_RUN:
        (tmp_path / name).write_text("{}")
    claim_workdir(tmp_path, config | {"steps": 4}, ("steps",))
    assert all((tmp_path / name).exists() for name in OF_A_RUN)
    claim_workdir(tmp_path, config | {"seed": 2}, ("steps",))
    assert not any((tmp_path / name).exists() for name in OF_A_RUN)


def test_a_key_that_is_new_has_its_default_in_older_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(folder, "saved_steps", lambda workdir: [2])
    claim_workdir(tmp_path, {"method": "sft", "seed": 1}, ())
    new, defaults = {"method": "sft", "seed": 1, "optim.ema": 0.0}, {"seed": 0, "optim.ema": 0.0}
    with pytest.raises(UserError, match=r"optim.ema: 0.0 -> 0.9"):
        claim_workdir(tmp_path, new | {"optim.ema": 0.9}, (), defaults)
    claim_workdir(tmp_path, new, (), defaults)
    assert json.loads((tmp_path / "config.json").read_text()) == new


@pytest.mark.parametrize("options", [{}, {"ema": 0.9}, {"name": "schedule_free"}])
def test_a_run_opens_as_its_optimiser_averages(tmp_path, options):
    """And not with the weights of its last step, where the two differ."""
    config = dataclasses.replace(FAMILIES["qwen2-tied"], vocab_size=300)
    tokenizer = load_tokenizer(save_byte_tokenizer(tmp_path / "source"))
    save_shape(tmp_path / "model", config, tokenizer)
    stored = {"method": "sft", "optim.name": "adamw", "optim.b1": 0.9, "lora.rank": 0}
    stored |= {f"optim.{k}": v for k, v in options.items()}
    (tmp_path / "config.json").write_text(json.dumps(stored))
    optimizer = make_optimizer(layout(config), 5, Optim(peak=0.1, **options))
    params = jax.tree.map(jnp.asarray, random_params(config))
    updates, opt_state = optimizer.transform.update(
        params, optimizer.transform.init(params), params
    )
    updates, opt_state = optimizer.transform.update(params, opt_state, params)
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(TrainState(jnp.int32(2), params, opt_state, jnp.int32(0)), {})
    checkpoints.close()
    opened = open_model(ModelSettings(str(tmp_path)), make_mesh(8)).params
    expected = evaluated(params, opt_state)
    for one, other in zip(jax.tree.leaves(opened), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(one, other)
    assert np.array_equal(opened["embed"], params["embed"]) == (options == {})


def test_a_base_is_pinned_to_the_checkpoint_it_had(tmp_path):
    base, run = tmp_path / "base", tmp_path / "run"
    run.mkdir()
    with Checkpoints(base) as checkpoints:
        one = {"w": jnp.ones(2)}
        checkpoints.save(TrainState(jnp.int32(3), one, (), jnp.int32(0)), {})
    assert pinned_step(run, "embedded", None) is None
    assert pinned_step(run, str(base), None) == 3
    assert pinned_step(run, str(base), 2) == 2
    stored = {"method": "sft", "model.name": str(base), "model.step": 1}
    (run / "config.json").write_text(json.dumps(stored))
    assert pinned_step(run, str(base), None) == 1  # as it was when this run began
    assert pinned_step(run, str(base), 2) == 2  # asked for: refused later, as another setting


@pytest.mark.parametrize(
    ("platform", "options", "kernel"),
    [
        ("cpu", {}, "plain"),
        ("tpu", {}, "splash"),
        ("gpu", {}, "cudnn"),
        ("gpu", {"dtype": "float32"}, "plain"),  # which cuDNN's kernel does not take
        ("tpu", {"attention": "plain"}, "plain"),
    ],
)
def test_each_machine_gets_its_own_attention_kernel(platform, options, kernel):
    class Device:
        pass

    Device.platform = platform

    class Where:
        devices = np.array([Device()])

    assert model_for(FAMILIES["llama"], Where, ModelSettings(**options)).attention == kernel


def test_a_kernel_of_another_machine_is_refused():
    with pytest.raises(UserError, match="'splash' does not fit these cpu devices, .* use plain"):
        model_for(FAMILIES["llama"], make_mesh(8), ModelSettings(attention="splash"))


def test_a_full_disk_below_the_tokenizer_is_one_line(small_disk, tmp_path):  # noqa: F811
    """Part of the library that writes it says so in an exception of no kind of its own."""
    config = dataclasses.replace(FAMILIES["qwen2-tied"], vocab_size=300)
    tokenizer = load_tokenizer(save_byte_tokenizer(tmp_path / "source"))
    disk = small_disk(1)
    (disk / "filler").write_bytes(bytes(2**20 - 2**13))
    with pytest.raises(UserError, match=r"cannot write .*model: No space left on device; fix"):
        save_shape(disk / "model", config, tokenizer)
