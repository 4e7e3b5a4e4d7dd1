"""A new model trained on a mixture by the train command; stopped and resumed, it is the same."""

import dataclasses
import json

from caugym_jax import tokenizer
from caugym_jax.models.hub import load_config
from caugym_jax.train import main as train
from tests.end_to_end.runs import left_behind
from tests.end_to_end.test_resume import compiled, one_device  # noqa: F401

MIXTURE = "320 lists=1; 640 digits=3 given=1"


def command(tokens, workdir, steps):
    sets = {
        "model.name": tokens,
        "optim.shared_rows": tokens,
        "model.shape.layers": 1,
        "model.shape.width": 16,
        "model.shape.d_ff": 16,
        "steps": steps,
        "evaluation.n": 2,
        "evaluation.every": 4,
        "data.max_length": 96,  # two widths, each a program
        "evaluation.max_new_tokens": 4,
        "checkpoint.every": 2,
        "data.mixture": MIXTURE,
        "data.batch_size": 512,
        "data.workers": 0,
        "optim.warmup": 1,
        "optim.decay": "constant",
    }
    keys = [f"--config.{key}={value}" for key, value in sets.items()]
    return ["--config=reasoner.py", f"--workdir={workdir}", *keys]


def test_it_goes_on_as_if_it_had_not_stopped(tmp_path, one_device):  # noqa: F811
    tokens = tmp_path / "tokens"
    tokenizer.main([f"--out={tokens}"])
    train(command(tokens, tmp_path / "whole", 4))
    train(command(tokens, tmp_path / "parts", 2))
    train(command(tokens, tmp_path / "parts", 4))
    whole, parts = (left_behind(tmp_path / name, 4) for name in ("whole", "parts"))
    assert whole["state"] == parts["state"]
    assert whole["position"] == parts["position"]
    shape = load_config(tmp_path / "whole" / "model")
    assert (shape.num_layers, shape.d_model, shape.rope_theta) == (1, 16, 100_000)
    assert dataclasses.asdict(shape)["tied"] is False
    lines = (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()
    losses = [line for line in map(json.loads, lines) if "loss" in line]
    assert len(losses) == 4 and all("time/data" in line for line in losses)
