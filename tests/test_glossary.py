"""docs/metrics.md explains every number that a run of any method logs."""

import json
import re

import jax
import pytest

from caugym_jax import train
from tests.end_to_end.runs import command
from tests.shared import ROOT
from tests.tiny_model import tiny_model  # noqa: F401

RUNS = {
    "sft": [],
    "grpo": [
        "--config.grpo.beta=0.1",
        "--config.grpo.overlong_buffer=2",
        "--config.grpo.importance_sampling_correction=token",
    ],
}


def explained():
    """The glossary's keys as patterns; a word in capitals stands for any name."""
    text = (ROOT / "docs/metrics.md").read_text()
    keys = re.findall(r"^\| `([^`]+)` \| \S", text, re.MULTILINE)
    return {key: re.compile(re.sub(r"[A-Z]{3,}", r"[^|]+", key)) for key in keys}


@pytest.mark.parametrize("method", RUNS)
def test_every_key_is_in_the_glossary(tiny_model, tmp_path, monkeypatch, method):  # noqa: F811
    one = jax.devices()[:1]
    monkeypatch.setattr(jax, "devices", lambda *_: one)
    run = tmp_path / "run"
    train.main(command(method, tiny_model, run, "--config.steps=2", *RUNS[method]))
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    logged = {key for line in lines for key in line}
    assert {"loss", "time/update", "time/evaluate", "num_tokens", "memory/peak_gib"} <= logged
    strange = {k for k in logged if not any(p.fullmatch(k) for p in explained().values())}
    assert not strange, "explain them in docs/metrics.md"


def test_no_key_is_explained_twice_in_a_table():
    for table in (ROOT / "docs/metrics.md").read_text().split("\n#"):
        keys = re.findall(r"^\| `([^`]+)` \|", table, re.MULTILINE)
        assert len(keys) == len(set(keys))
