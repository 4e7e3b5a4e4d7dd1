"""Whole configurations as settings: what is shipped, own files, and what is refused."""

import dataclasses
import json

import ml_collections
import pytest

from caugym_jax.cli import config as configs
from caugym_jax.errors import UserError
from caugym_jax.runs.settings import METHODS, GrpoSettings, Settings, flat, from_values, load
from caugym_jax.studies.settings import Study
from caugym_jax.studies.settings import load as load_study
from tests.shared import ROOT

SHIPPED = sorted(
    path.stem for path in (ROOT / "configs").glob("*.py") if "def get_config(" in path.read_text()
)


@pytest.mark.parametrize("arg", ["", ":smollm2-135m", ":r1-distill-qwen-14b"])
@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_configurations_hold_only_what_differs_from_the_defaults(name, arg):
    values = configs.read(name + arg)
    if values["method"] == "study":
        settings, defaults = load_study(name + arg, []), Study()
    else:
        settings, defaults = from_values(values), METHODS[values["method"]]()
    assert isinstance(settings, type(defaults))
    defaults = flat(defaults)
    given = flat_values(values)
    restated = {key for key, value in given.items() if defaults.get(key, "none") == value}
    restated.discard("method")
    if arg == ":smollm2-135m":  # follows from the model, which happens to be the default
        restated -= {"grpo.max_completion_length", "ppo.max_completion_length"}
    assert not restated


def flat_values(values, prefix=""):
    found = {}
    for key, value in values.items():
        if isinstance(value, dict):
            found |= flat_values(value, f"{prefix}{key}.")
        else:
            found[prefix + key] = list(value) if isinstance(value, tuple) else value
    return found


def test_overrides_and_the_values_of_a_file_become_one_class():
    config = load("grpo", ["steps=3", "grpo.group_size=4", "optim.clip_norm=none", "optim.peak=1"])
    assert isinstance(config, GrpoSettings) and config.own is config.grpo
    assert (config.steps, config.grpo.group_size, config.optim.clip_norm) == (3, 4, None)
    assert type(config.optim.peak) is float and config.optim.b2 == 0.95
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.steps = 4


def test_dictionaries_and_config_dicts_are_configurations():
    values = {"method": "sft", "data": {"nodes": [4, 5]}, "optim": {"peak": 1}}
    assert from_values(values) == from_values(ml_collections.ConfigDict(values))
    assert from_values(values).data.nodes == (4, 5)


def test_flat_settings_are_json_and_complete():
    config = load("dpo", ["dpo.loss_type=sigmoid,sft"])
    found = flat(config)
    assert found == json.loads(json.dumps(found))
    assert found["data.adjusters"] == [0] and found["dpo.loss_type"] == ["sigmoid", "sft"]
    assert found["method"] == "dpo" and found["lora.init"] is None
    assert {key.partition(".")[0] for key in found} >= {"mesh", "log", "dpo", "optim", "steps"}


@pytest.mark.parametrize(
    ("name", "override", "message"),
    [
        ("grpo", "learning_rate=1", "config has no key 'learning_rate': use config.optim.peak"),
        ("sft", "lr=1", "config has no key 'lr': use config.optim.peak"),
        ("ppo", "critic_optim.lr=1", "use config.critic_optim.peak"),
        ("grpo", "num_generations=4", "use config.grpo.group_size"),
        ("grpo", "grpo.num_generations=4", "use config.grpo.group_size"),
        ("ppo", "max_steps=4", "use config.steps"),
        ("sft", "num_train_epochs=4", "use config.data.epochs"),
        ("sft", "output_dir=a", "the run's folder is --workdir"),
        ("sft", "per_device_train_batch_size=4", "use config.data.batch_size"),
        ("ppo", "ppo.kl_coef=0.1", "use config.ppo.beta"),
        ("ppo", "ppo.cliprange=0.1", "use config.ppo.epsilon"),
        ("ppo", "ppo.num_ppo_epochs=2", "use config.ppo.num_iterations"),
        ("ppo", "ppo.num_mini_batches=2", "use config.ppo.num_minibatches"),
        ("grpo", "batch_size=2", "use config.data.batch_size"),
        ("grpo", "stesp=3", "config has no key 'stesp': did you mean 'steps'?"),
        ("grpo", "dataa.tasks=ATE", "config has no key 'dataa': did you mean 'data'?"),
        ("grpo", "data.task=ATE", "config.data has no key 'task': did you mean 'tasks'?"),
        ("grpo", "data.packing=true", "config.data has no key 'packing'"),
        ("grpo", "sft.microbatches=2", "config has no key 'sft'"),
        ("grpo", "method=gpro", "config.method='gpro': must be one of sft, dpo, kto, grpo, ppo"),
        ("grpo", "steps=0", "config.steps=0: must be at least 1"),
        ("grpo", "steps=many", "config.steps=many: must be a whole number"),
        ("grpo", "data.tasks=none", "config.data.tasks=('none',): must be one of ATE, CDE"),
        ("grpo", "data.tasks=()", "config.data.tasks=(): must be at least one value"),
        ("sft", "optim.peak=-1e-4", "config.optim.peak=-0.0001: must be above 0"),
        ("sft", "optim.clip_norm=-1", "config.optim.clip_norm=-1.0: must be above 0, or none"),
        ("sft", "optim.clip_norm=0", "config.optim.clip_norm=0.0: must be above 0, or none"),
        ("sft", "optim.b2=1.0", "config.optim.b2=1.0: must be at least 0 and below 1"),
        ("grpo", "grpo.num_iterations=0", "config.grpo.num_iterations=0: must be at least 1"),
        ("grpo", "grpo.temperature=0", "config.grpo.temperature=0.0: must be above 0"),
        ("ppo", "ppo.top_p=0", "config.ppo.top_p=0.0: must be above 0 and at most 1"),
        ("grpo", "grpo.epsilon=-0.1", "config.grpo.epsilon=-0.1: must be"),
        ("sft", "data.batch_size=0", "config.data.batch_size=0: must be at least 1"),
        ("sft", "evaluation.n=0", "config.evaluation.n=0: must be at least 1"),
        ("sft", "checkpoint.every=0", "config.checkpoint.every=0: must be at least 1"),
        ("sft", "log.samples_every=0", "config.log.samples_every=0: must be at least 1"),
        ("sft", "model.dtype=float16", "config.model.dtype='float16': must be one of float32"),
        ("sft", "mesh.data=0", "config.mesh.data=0: must be at least 1, or -1"),
        ("sft", "lora.targets=x", "config.lora.targets='x': must be names among"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line_that_names_the_key(name, override, message):
    with pytest.raises(UserError) as error:
        load(name, [override])
    assert message in str(error.value) and "\n" not in str(error.value)


def test_a_configuration_says_its_method():
    with pytest.raises(UserError, match=r"config.method=None: must be one of sft, dpo"):
        from_values({"steps": 3})
    assert issubclass(METHODS["sft"], Settings)
