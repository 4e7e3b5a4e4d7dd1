"""The command: a study of a tiny model, killed and gone on with, and what it refuses."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from caugym_jax import study
from caugym_jax.errors import UserError
from tests.shared import ROOT
from tests.studies.model import make_model

SMALL = [
    "problems=2", "batch_size=2", "seeds=0", "tries=1", "held_out=2", "evaluations=1",
    "max_completion_length=128", "tests.variants=base", "tests.n=2", "tests.samples=2",
    "tests.max_new_tokens=16", "options.ppo.ppo.group_size=4",
]  # fmt: skip


def command(out, model, *more):
    settings = [f"--config.{text}" for text in (f"model={model}", *SMALL, *more)]
    return [
        *(sys.executable, "-m", "caugym_jax.study", "--config=study.py", f"--out={out}"),
        *settings,
    ]


def environment():
    kept = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}  # one device
    return kept | {"JAX_PLATFORMS": "cpu"}


def run(arguments):
    done = subprocess.run(
        arguments, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=1800
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def killed_when(arguments, path):
    """Starts the command and kills it as soon as a file is there."""
    with subprocess.Popen(
        arguments,
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        while not path.exists():
            assert process.poll() is None, "it ended before"
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL


def study_killed_and_resumed(tmp_path, methods):
    out, model = tmp_path / "out", make_model(tmp_path / "model")
    arguments = command(out, model, f"methods={','.join(methods)}")
    killed_when(arguments, out / f"{methods[-1]}-0" / "before.json")
    first = (out / "start/sampled/grades.json").stat().st_mtime_ns
    text = run(arguments)
    assert (out / "start/sampled/grades.json").stat().st_mtime_ns == first  # not asked again
    assert (out / "tables.md").read_text() in text
    for name in methods:
        assert f"| {name} | " in text
        for kind in ("sampled", "greedy"):
            stored = json.loads((out / f"{name}-0" / kind / "results.json").read_text())
            assert stored["sets"]["base"]["n"] == 2
    costs = json.loads((out / "compute.json").read_text())
    assert set(costs["cost"]) == set(methods)
    for name, steps in costs["steps"].items():
        assert json.loads((out / f"{name}-0-compute/summary.json").read_text())["steps"] == steps
    stamps = {path: path.stat().st_mtime_ns for path in out.rglob("*.json")}
    again = run(arguments)
    changed = [path for path, stamp in stamps.items() if path.stat().st_mtime_ns != stamp]
    assert changed == [out / "study.json"] and again == text
    return out


def test_killed_and_resumed(tmp_path):
    out = study_killed_and_resumed(tmp_path, ("sft", "kto"))
    with pytest.raises(UserError, match=r"other settings \(problems: 2 -> 4\)"):
        study.main(["--config=study.py", f"--out={out}", "--config.problems=4", *same(out)])


def same(out):
    """The stored settings as overrides, the number of problems apart."""
    stored = json.loads((out / "study.json").read_text())
    names = ("model", "batch_size", "tests.n", "tests.samples", "tests.max_new_tokens")
    names += ("tries", "held_out", "evaluations", "max_completion_length")
    return [f"--config.{name}={stored[name]}" for name in names] + [
        "--config.tests.variants=base",
        "--config.seeds=0,",
        "--config.options.ppo.ppo.group_size=4",
    ]


@pytest.mark.slow
def test_all_methods_killed_and_resumed(tmp_path):
    study_killed_and_resumed(tmp_path, ("sft", "dpo", "kto", "ppo", "grpo"))


def test_what_models_would_run(capsys):
    study.main(
        ["--config=study.py", "--models=smollm2-135m", "--out=s", "--config.methods=sft,grpo"]
    )
    out = capsys.readouterr().out
    assert "--config=grpo.py:smollm2-135m --workdir=s/grpo-0" in out
    assert "--config.model.name=s/cold-start" in out and "planned on shapes: update x 1" in out


def test_a_configuration_that_cannot_run_is_refused(capsys):
    with pytest.raises(UserError, match="microbatches"):
        study.main(
            ["--config=study.py", "--models=smollm2-135m", "--config.methods=sft"]
            + ["--config.options.sft.sft.microbatches=7"]
        )


def test_a_model_is_named_once():
    with pytest.raises(UserError, match="name it in --models alone"):
        study.main(["--config=study.py:smollm2-135m", "--models=smollm2-135m"])
