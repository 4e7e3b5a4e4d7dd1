"""Runs that are changed, compared and interrupted as people do it."""

import json
import os
import shutil
import signal
import time
from pathlib import Path

import jax
import pytest

from caugym_jax import export
from caugym_jax.errors import UserError
from caugym_jax.evals.held_out import HeldOut
from caugym_jax.runs import digests as digesting
from caugym_jax.runs import loop
from caugym_jax.runs.checkpoints import saved_steps
from caugym_jax.train import main as train
from tests.end_to_end.runs import command, digests, metrics
from tests.tiny_model import tiny_model  # noqa: F401


@pytest.fixture(autouse=True)
def one_device(monkeypatch):
    devices = jax.devices()[:1]
    monkeypatch.setattr(jax, "devices", lambda *_: devices)


def test_the_best_is_kept(tiny_model, tmp_path, monkeypatch, capsys):  # noqa: F811
    strict = iter([0.1, 0.9, 0.3, 0.2])
    real = HeldOut.figures
    monkeypatch.setattr(HeldOut, "figures", lambda *args: real(*args) | {"strict": next(strict)})
    more = ["--config.checkpoint.keep=1", "--config.steps=8"]  # evaluated at 3, 6
    train(command("sft", tiny_model, tmp_path / "run", *more))
    assert saved_steps(tmp_path / "run") == [3, 8]
    assert "Best checkpoint: step 3 (0.9)" in capsys.readouterr().out
    export.main([f"--workdir={tmp_path / 'run'}", f"--out={tmp_path / 'hf'}", "--step=best"])
    assert (tmp_path / "hf" / "model.safetensors").exists()


def test_what_does_not_change_the_result_may_change(tiny_model, tmp_path, monkeypatch, capsys):  # noqa: F811
    """Half a run, then the other half with other evaluation, parts and path: the same weights."""
    straight, parts = tmp_path / "straight", tmp_path / "parts"
    train(command("grpo", tiny_model, straight, "--config.steps=4"))
    train(command("grpo", tiny_model, parts, "--config.steps=2"))
    monkeypatch.chdir(tmp_path)
    copy = shutil.copytree(tiny_model, tmp_path / "copy")
    shutil.copytree(tiny_model, tmp_path / "elsewhere")
    more = ["--config.steps=4", "--config.evaluation.n=3", "--config.evaluation.every=2"]
    more += ["--config.model.dtype=float32", "--config.grpo.sample_batch_size=1"]
    more += ["--config.grpo.reward_timeout=60", "--config.sampling.tensor=1"]
    train(command("grpo", Path(copy.name), parts, *more))
    assert digests(parts, 4) == digests(straight, 4)
    assert len(json.loads((parts / "before.json").read_text())["right"]) == 3
    assert json.loads((parts / "config.json").read_text())["model.name"] == "copy"
    record = json.loads((parts / "run.json").read_text())
    assert len(record["starts"]) == 2 and record["ended"] >= record["starts"][0]["time"]
    assert "has changed" not in capsys.readouterr().err

    for change in ("--config.model.dtype=bfloat16", "--config.grpo.temperature=0.5"):
        with pytest.raises(UserError, match=r"with --config.model.name=\S+ a run there starts"):
            train(command("grpo", tiny_model, parts, *more, change))
    (tmp_path / "copy" / "tokenizer_config.json").write_text("{}")
    with pytest.raises(UserError, match="model.name"):  # another model now
        train(command("grpo", tmp_path / "elsewhere", parts, "--config.steps=5", "--config.seed=1"))


def test_a_signal_saves_and_ends_or_goes_on(tiny_model, tmp_path, monkeypatch, capsys):  # noqa: F811
    """SIGUSR1 in step 1, Ctrl-C in step 5; neither is a step of the grid of saves. Saves are slow,
    so that step 4's is under way at Ctrl-C: it is finished, too."""
    write_digests = digesting.write_digests

    def slowly(folder):
        time.sleep(0.3)
        write_digests(folder)

    monkeypatch.setattr(digesting, "write_digests", slowly)
    sent = iter([signal.SIGUSR1, 0, 0, 0, signal.SIGINT])
    real = loop._update

    def update(*args):
        if number := next(sent, 0):
            os.kill(os.getpid(), number)
        return real(*args)

    monkeypatch.setattr(loop, "_update", update)
    workdir = tmp_path / "run"
    arguments = command("sft", tiny_model, workdir, "--config.checkpoint.keep=9")
    with pytest.raises(SystemExit) as stop:
        train(arguments)
    assert stop.value.code == 130
    assert saved_steps(workdir) == [1, 2, 3, 4, 5]  # 3: an evaluation, the best so far
    assert "interrupted after step 5, which is saved" in capsys.readouterr().err
    assert not (workdir / "lock").exists()
    train(arguments)
    assert [line["step"] for line in metrics(workdir) if "loss" in line] == [1, 2, 3, 4, 5, 6]
