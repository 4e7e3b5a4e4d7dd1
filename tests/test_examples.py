"""The scripts in examples/ run, and show what they promise."""

import os
import re
import subprocess
import sys

import pytest

from tests.shared import ROOT


def run(folder, *arguments):
    """What a command prints, run from another folder than the checkout."""
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    environment |= {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_grpo(tmp_path):
    said = run(tmp_path, ROOT / "examples/grpo.py")
    assert "step 6: mean reward" in said and "before: " in said and "after: " in said


@pytest.mark.slow
def test_own_reward(tmp_path):
    said = run(tmp_path, ROOT / "examples/own_reward.py").splitlines()
    figures = [[int(x) for x in re.findall(r"(\d+)%", line)] for line in said]
    assert len(figures) == 6 and all(0 < right <= near <= 100 for right, near in figures), said


@pytest.mark.slow
def test_own_config(tmp_path):
    (tmp_path / "mine.py").write_text((ROOT / "examples/own_config.py").read_text())
    said = run(tmp_path, "-m", "caugym_jax.train", "--config=mine.py:quick")
    assert "Strict accuracy" in said
    assert (tmp_path / "runs/mine-quick/summary.json").exists()
