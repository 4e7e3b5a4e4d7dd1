"""The DPO and KTO commands: files with bad rows, resumed runs, the reference kept or made anew."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest

from caugym_jax import generate
from caugym_jax.errors import UserError
from caugym_jax.runs.settings import load
from caugym_jax.train import main as train
from tests.end_to_end.runs import left_behind, metrics
from tests.end_to_end.test_resume import compiled, run_trials, trial  # noqa: F401
from tests.tiny_model import tiny_model  # noqa: F401

HERE = Path(__file__).parent


@pytest.fixture
def run(tiny_model, tmp_path, monkeypatch, capsys):  # noqa: F811
    """A function from a method, a folder's name and options to (the folder, what was told)."""
    devices = jax.devices()[:1]
    monkeypatch.setattr(jax, "devices", lambda *_: devices)

    def train_tiny(method, name, *more):
        capsys.readouterr()
        train(
            [
                f"--config={HERE / 'tiny_preferences.py'}:{method}",
                f"--workdir={tmp_path / name}",
                f"--config.model.name={tiny_model}",
                *more,
            ]
        )
        return tmp_path / name, capsys.readouterr().err

    return train_tiny


@pytest.fixture
def pairs(tmp_path):
    """Seven pairs that do and three that do not."""
    path = tmp_path / "pairs.jsonl"
    options = ["--tasks=ATE", "--n=10", "--seed=1", "--nodes=3..3", "--for=dpo"]
    generate.main([*options, f"--out={path}"])
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row in rows:
        row["chosen"][0]["content"] = row["chosen"][0]["content"].rpartition("\n")[2]
        row["rejected"][0]["content"] = row["rejected"][0]["content"].rpartition("\n")[2] + "."
    rows[2]["rejected"] = rows[2]["chosen"]
    rows[5]["chosen"][0]["content"] = " "
    rows[6]["chosen"][0]["content"] *= 20
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_t18_dpo_of_a_file_in_two_parts_is_one_run(run, pairs):
    """Bit for bit, with the reference found in the workdir or computed anew."""
    data = f"--config.data.path={pairs}"
    straight, told = run("dpo", "straight", data)
    assert told.count("dropped 3 of 10 rows of") == 1
    for line in ("an empty completion (item 5)", "an identical pair (item 2)", "tokens (item 6)"):
        assert line in told
    first = metrics(straight)[1]
    assert abs(first["loss"] - np.log(2)) < 1e-5 and abs(first["rewards/margins"]) < 1e-5
    assert first["grad_norm"] > 0 and metrics(straight)[-2]["rewards/margins"] != 0

    parts, _ = run("dpo", "parts", data, "--config.steps=3")
    reference = (parts / "reference.npz").read_bytes()
    assert reference == (straight / "reference.npz").read_bytes()
    (parts / "reference.npz").unlink()
    _, told = run("dpo", "parts", data)
    assert "resumed from step 3" in told
    assert (parts / "reference.npz").read_bytes() == reference
    expected, found = left_behind(straight, 6), left_behind(parts, 6)
    for key in expected:
        assert found[key] == expected[key], key

    with pytest.raises(UserError, match="2 of 10 rows of .*: fix them, or set data.unusable=drop"):
        run("dpo", "refused", data, "--config.data.unusable=refuse")


@pytest.mark.slow
def test_t18_generated_kto_below_adapters_in_two_parts_is_one_run(run):
    """The reference is the model without its adapters, in the eight bits it is kept in."""
    more = ["--config.lora.rank=2", "--config.lora.base_dtype=int8"]
    straight, _ = run("kto", "straight", *more)
    assert not (straight / "reference.npz").exists()
    first = metrics(straight)[1]
    for key in ("rewards/chosen", "rewards/rejected", "kl"):
        assert abs(first[key]) < 1e-4, key  # of log-probabilities of some hundreds
    assert abs(first["loss"] - 0.5) < 1e-5 and first["grad_norm"] > 0
    run("kto", "parts", *more, "--config.steps=3")
    parts, told = run("kto", "parts", *more)
    assert "resumed from step 3" in told
    expected, found = left_behind(straight, 6), left_behind(parts, 6)
    for key in expected:
        assert found[key] == expected[key], key


@pytest.mark.slow
def test_t18_killed_runs_end_like_others(tiny_model, tmp_path, pairs, compiled):  # noqa: F811
    file = [f"--config.data.path={pairs}"]
    trials = [
        trial("dpo", tiny_model, tmp_path, "saving", 2, file),
        trial("dpo", tiny_model, tmp_path, "updating", 5, file),
        trial("kto", tiny_model, tmp_path, "updating", 5),
        trial("kto", tiny_model, tmp_path, "terminated", 3),
    ]
    done = run_trials(trials, tmp_path, compiled)
    first, *later = [t["whole"] for t in done]
    assert first == 0  # its first save was cut short
    assert later[0] in (2, 4) and later[1] in (2, 4) and later[2] == 3


def test_losses_are_set_on_the_command_line():
    config = load(
        "dpo.py",
        ["dpo.loss_type=sigmoid,sft", "dpo.loss_weights=1,0.5"],
    )
    assert config.dpo.loss_type == ("sigmoid", "sft") and config.dpo.loss_weights == (1, 0.5)
    assert load("dpo.py", ["dpo.loss_type=ipo"]).dpo.loss_type == ("ipo",)
