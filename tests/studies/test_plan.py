"""What a study runs: settings, costs, matched steps, overrides that the configurations take."""

from pathlib import Path

import pytest

from caugym_jax.errors import UserError
from caugym_jax.runs.settings import load as load_run
from caugym_jax.studies.plan import (
    Trial,
    cold_overrides,
    cost,
    first_trials,
    matched_steps,
    overrides,
    spec,
)
from caugym_jax.studies.settings import METHODS, Study, StudyTests, load


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("methods=sft,sgd", r"config.methods=.*must be one of sft, dpo"),
        ("methods=sft,sft", "config.methods=.*named twice"),
        ("problems=3", "config.problems=3: must be at least batch_size"),
        ("options.sgd.steps=3", "config.options.sgd: no such method"),
        ("tests.variants=basic", "config.tests.variants=.*must be one of base"),
        ("tests.samples=0", "config.tests.samples=0: must be at least 1"),
        ("problem=3", "config has no key 'problem': did you mean 'problems'"),
        ("solutions=prose", "config.solutions=prose: must be one of notation, steps"),
    ],
)
def test_a_wrong_setting_is_one_line(override, line):
    with pytest.raises(UserError, match=line):
        load("study.py", [override])


def test_a_training_configuration_is_no_study():
    with pytest.raises(UserError, match="grpo.py is no study but 'grpo'"):
        load("grpo.py")
    with pytest.raises(UserError, match="run python -m caugym_jax.study --config=study.py$"):
        load_run("study.py")


def test_tests_need_something_to_ask():
    assert StudyTests(variants=(), files=("a.json",)).files == ("a.json",)
    with pytest.raises(UserError, match="ask generated sets, or files"):
        StudyTests(variants=())


def test_first_trials_go_seed_by_seed():
    study = Study(methods=("sft", "grpo"), seeds=(3, 4), problems=64, epochs=2, batch_size=16)
    names = [trial.name for trial in first_trials(study)]
    assert names == ["sft-3", "grpo-3", "sft-4", "grpo-4"]
    assert {trial.steps for trial in first_trials(study)} == {8}
    assert Trial("sft", 0, 9, "compute").name == "sft-0-compute"


LINES = [{"tokens": 100, "tokens_updated": 80}, {"eval/strict": 1.0}, {"tokens": 100}]


@pytest.mark.parametrize(
    ("method", "config", "expected"),
    [
        ("sft", {}, 3 * 200),
        # 3 U + (T - U), and the reference of the first of the two steps
        ("dpo", {}, (240 + 20 + 100) + 300),
        ("kto", {}, (240 + 20 + 100) + 300),
        ("grpo", {"grpo.num_minibatches": 1, "grpo.num_iterations": 1}, 200 + 3 * 180),
        ("grpo", {"grpo.num_minibatches": 2, "grpo.beta": 0.1}, 200 + 5 * 180),
        ("ppo", {"ppo.beta": 0.001}, 200 + 9 * 180),
    ],
)
def test_costs_by_hand(method, config, expected):
    assert cost(method, LINES, config, epoch=1) == expected


def test_matched_steps_by_hand():
    costs = {"sft": [10.0, 10.0], "dpo": [19.5], "grpo": [20.0, 20.0]}
    assert matched_steps(8, costs) == {"sft": 16}  # dpo is within a tenth of grpo


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("recipe", [None, "smollm2-135m"])
def test_the_methods_configurations_take_the_overrides(method, recipe, tmp_path):
    more = {"optim": {"peak": 0.5}, "evaluation.tasks": ("ATE", "PN")}
    study = Study(recipe=recipe, problems=64, batch_size=8, options={method: more})
    settings = overrides(study, Trial(method, 2, study.steps), tmp_path, "m")
    config = load_run(spec(study, method), settings)
    assert (config.seed, config.steps, config.model.name) == (2, 8, "m")
    assert config.optim.peak == 0.5 and config.evaluation.tasks == ("ATE", "PN")
    data = vars(config)["data"]
    assert data.batch_size == (16 if method == "kto" else 8)
    names = {"dpo": "pairs", "kto": "judged"}
    assert data.path == str(tmp_path / f"{names.get(method, 'train')}.jsonl")
    assert config.evaluation.path == str(tmp_path / "held_out.jsonl")


@pytest.mark.parametrize("name", ["study.py:smollm2-135m", "study_paper.py"])
def test_the_cold_start_is_supervised(name, tmp_path):
    study = load(name)
    config = load_run(spec(study, "sft"), cold_overrides(study, tmp_path))
    assert config.method == "sft" and vars(config)["data"].path == str(tmp_path / "cold.jsonl")


def test_the_papers_recipe():
    study = load("study_paper.py")
    assert study.model == "r1-distill-qwen-14b"
    assert (study.problems, study.epochs, study.tests.samples) == (3500, 3, 5)
    grpo = load_run(
        "grpo.py:r1-distill-qwen-14b", overrides(study, Trial("grpo", 0, 1), Path("d"), "m")
    )
    own = vars(grpo)["grpo"]
    assert (own.beta, own.epsilon, own.epsilon_high) == (0.0, 0.2, 0.28) and own.dynamic_sampling
    ppo = load_run(
        "ppo.py:r1-distill-qwen-14b", overrides(study, Trial("ppo", 0, 1), Path("d"), "m")
    )
    assert vars(ppo)["ppo"].beta == 0.001
