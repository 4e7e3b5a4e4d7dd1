"""Which runs go on in a workdir: those whose settings mean the same."""

import json
import shutil
from pathlib import Path

import pytest

from caugym_jax.devices import processes
from caugym_jax.errors import UserError
from caugym_jax.runs import identity
from caugym_jax.runs.session import agree, beyond_horizon, claim
from caugym_jax.runs.settings import METHODS, load

OLD_RUNS = Path(__file__).parent / "old_runs"


@pytest.mark.parametrize("method", METHODS)
def test_a_run_of_the_first_release_goes_on(tmp_path, method):
    """Its config.json has other names for some keys, and lacks newer ones."""
    (tmp_path / "checkpoints" / "2").mkdir(parents=True)
    shutil.copy(OLD_RUNS / f"{method}.json", tmp_path / "config.json")
    claim(load(f"{method}.py", ["steps=1000"]), tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["steps"] == 1000
    with pytest.raises(UserError, match="optim.peak"):
        claim(load(f"{method}.py", ["optim.peak=0.5"]), tmp_path)


def test_more_steps_keep_the_learning_rate_s_horizon(tmp_path):
    first = claim(load("grpo.py", ["steps=30"]), tmp_path)
    assert first.optim.horizon == 30 and beyond_horizon(first) is None
    longer = load("grpo.py", ["steps=50"])
    assert claim(longer, tmp_path).optim.horizon == 50  # nothing was saved: a new run
    (tmp_path / "checkpoints" / "2").mkdir(parents=True)
    longer = claim(load("grpo.py", ["steps=90"]), tmp_path)
    assert longer.optim.horizon == 50
    assert claim(load("grpo.py", ["steps=99"]), tmp_path).optim.horizon == 50  # the first run's
    assert beyond_horizon(longer) == (
        "the learning rate's decay ends at step 50 (config.optim.horizon): later steps keep its "
        "last rate, 4e-05; config.optim.horizon=90 spreads it over all steps"
    )
    chosen = claim(load("grpo.py", ["steps=90", "optim.horizon=90"]), tmp_path)
    assert chosen.optim.horizon == 90 and beyond_horizon(chosen) is None
    assert claim(load("grpo.py", ["steps=95"]), tmp_path).optim.horizon == 90


def test_other_settings_with_one_meaning(tmp_path, monkeypatch, capsys):
    data = tmp_path / "data.jsonl"
    data.write_text('{"a": 1}')
    run = tmp_path / "run"
    (run / "checkpoints" / "2").mkdir(parents=True)

    def go_on(*overrides):
        claim(load("sft.py", overrides), run)

    go_on(f"data.path={data}")
    for name in ("before.json", "summary.json"):
        (run / name).write_text("{}")
    monkeypatch.chdir(tmp_path)
    more = ("evaluation.every=7", "model.remat=full", "mesh.fsdp=2", "sft.microbatches=4")
    go_on("data.path=data.jsonl", "model.dtype=float32", *more)
    assert (run / "before.json").exists() and (run / "summary.json").exists()
    go_on("data.path=data.jsonl", "evaluation.n=7")  # other problems: the first model answers again
    assert not (run / "before.json").exists() and not (run / "summary.json").exists()
    data.rename("moved.jsonl")
    go_on("data.path=moved.jsonl")
    assert capsys.readouterr().err == ""
    Path("moved.jsonl").write_text('{"a": 2}')
    go_on("data.path=moved.jsonl")
    assert "moved.jsonl has changed since this run began" in capsys.readouterr().err
    Path("other.jsonl").write_text('{"a": 3}')
    with pytest.raises(UserError, match="data.path: .*moved.jsonl -> .*other.jsonl"):
        go_on("data.path=other.jsonl")
    for change in ("model.dtype=bfloat16", "seed=1"):
        with pytest.raises(UserError, match=r"with --config.model.name=\S+ a run there starts"):
            go_on("data.path=moved.jsonl", change)


def test_files_of_a_mixture_that_change_are_reported_and_weights_are_settings(tmp_path, capsys):
    (tmp_path / "run" / "checkpoints" / "2").mkdir(parents=True)
    data = tmp_path / "data.jsonl"
    data.write_text("1")

    def go_on(key, text):
        claim(load("sft.py", [f"{key}={text}"]), tmp_path / "run")

    go_on("data.mixture", f"100 usual=1 {data}=1")
    data.write_text("2")
    go_on("data.mixture", f"100 usual=1 {data}=1")
    told = "a file of config.data.mixture has changed since this run began\n"
    assert capsys.readouterr().err == told
    with pytest.raises(UserError, match="data.mixture: 100 usual=1"):
        go_on("data.mixture", f"100 usual=2 {data}=1")
    (tmp_path / "run" / "config.json").unlink()
    go_on("data.path", f"{data}=1,{data}=2")
    with pytest.raises(UserError, match="data.path: .*=2 -> .*=3"):
        go_on("data.path", f"{data}=1,{data}=3")


@pytest.mark.parametrize(
    "other",
    [
        "optim.peak=0.5",
        "data.batch_size=5",
        "grpo.reward_weights=answer=0.5",
        "steps=7",
        "grpo.max_completion_length=9",
    ],
)
def test_two_processes_whose_settings_differ_both_end_naming_key_and_process(
    monkeypatch, tmp_path, other
):
    theirs = {}
    with monkeypatch.context() as patch:
        patch.setattr(identity, "agree", theirs.update)
        agree(load("grpo.py", [other]), tmp_path)
    monkeypatch.setattr(
        processes, "share", lambda x: [x, theirs] if isinstance(x, dict) else [x, "another digest"]
    )
    with pytest.raises(UserError, match=f"^config.{other.partition('=')[0]} is .* in process 1 "):
        agree(load("grpo.py"), tmp_path)
