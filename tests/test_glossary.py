"""docs/metrics.md explains every number that a run of any method logs.

The fast tests check it where they see metrics anyway: those of the algorithms, and the end-to-end
ones.
"""

import json
import re

import jax
import pytest

from caugym_jax.train import main as train
from tests.glossary import unexplained
from tests.shared import ROOT
from tests.tiny_model import tiny_model  # noqa: F401

POLICY = ("max_completion_length=4", "group_size=4")
RUNS = {  # what to log as much as possible with
    "sft": (),
    "dpo": (),
    "kto": (),
    "ppo": (*POLICY, "missing_eos_penalty=1.0", "num_iterations=2"),
    "grpo": (
        *POLICY, "dynamic_sampling=false", "beta=0.1", "overlong_buffer=2",
        "importance_sampling_correction=token",
    ),
}  # fmt: skip
SMALL = (
    "steps=2", "data.batch_size=4", "evaluation.every=2", "evaluation.n=4", "checkpoint.every=2",
    "evaluation.max_new_tokens=4",
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("method", RUNS)
def test_every_key_is_in_the_glossary(tiny_model, tmp_path, monkeypatch, method):  # noqa: F811
    one = jax.devices()[:1]
    monkeypatch.setattr(jax, "devices", lambda *_: one)
    run = tmp_path / "run"
    settings = (*SMALL, f"model.name={tiny_model}", *(f"{method}.{x}" for x in RUNS[method]))
    options = [f"--config.{setting}" for setting in settings]
    train([f"--config={method}.py", f"--workdir={run}", *options])
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    logged = {key for line in lines for key in line}
    assert {"loss", "time/update", "time/evaluate", "num_tokens", "memory/peak_gib"} <= logged
    assert not unexplained(logged)


def test_a_new_key_is_noticed():
    assert unexplained({"loss": 1, "rewards/any:name/mean": 1, "eval/strict_ATE": 1}) == set()
    assert unexplained(["los", "rewards/mean/x", "loss"]) == {"los", "rewards/mean/x"}


def test_no_key_is_explained_twice_in_a_table():
    for table in (ROOT / "docs/metrics.md").read_text().split("\n#"):
        keys = re.findall(r"^\| `([^`]+)` \|", table, re.MULTILINE)
        assert len(keys) == len(set(keys))
