"""Every method trains a step on rows that are no causal problems, and on nothing else."""

import json
from pathlib import Path

import jax
import pytest

from caugym_jax.errors import UserError
from caugym_jax.train import main as train
from tests.end_to_end.runs import metrics
from tests.tiny_model import tiny_model  # noqa: F401

HERE = Path(__file__).parent


def asked(i):
    return {"role": "user", "content": f"What is {i} + {i % 7}?"}


def told(i, wrong=0):
    return {"role": "assistant", "content": f"It is {i + i % 7 + wrong}"}


ROWS = {
    "sft": lambda i: {"messages": [asked(i), told(i)]},
    "dpo": lambda i: {"prompt": [asked(i)], "chosen": [told(i)], "rejected": [told(i, 1)]},
    "kto": lambda i: {"prompt": [asked(i)], "completion": [told(i, i % 2)], "label": 1 - i % 2},
    "grpo": lambda i: {"question": asked(i)["content"], "answer": f"So\n#### {i + i % 7}"},
    "ppo": lambda i: {"prompt": [asked(i)], "reward_model": {"ground_truth": f"{i + i % 7}"}},
}


@pytest.fixture
def run(tiny_model, tmp_path, monkeypatch):  # noqa: F811
    devices = jax.devices()[:1]
    monkeypatch.setattr(jax, "devices", lambda *_: devices)

    def go(method, *more):
        path = tmp_path / "mine.jsonl"
        path.write_text("".join(json.dumps(ROWS[method](i)) + "\n" for i in range(40)))
        train(
            [
                f"--config={HERE / 'tiny_config.py'}:{method}",
                f"--workdir={tmp_path / 'run'}",
                f"--config.model.name={tiny_model}",
                f"--config.data.path={path}",
                "--config.evaluation.every=0",
                "--config.steps=1",
                *more,
            ]
        )
        return tmp_path / "run"

    return go


@pytest.mark.parametrize("method", ROWS)
def test_a_step_on_rows_of_ones_own(run, method, capsys):
    sampled = method in ("grpo", "ppo")
    workdir = run(method, *[f"--config.{method}.reward_weights=math=1,length=1"] * sampled)
    (line,) = metrics(workdir)
    assert not any(key.startswith("eval/") for key in line)
    assert "Trained without evaluation" in capsys.readouterr().out
    assert not (workdir / "before.json").exists()
    if sampled:
        assert line["rewards/length/mean"] <= 0 and 0 <= line["rewards/math/mean"] <= 1
        samples = [json.loads(x) for x in (workdir / "samples.jsonl").read_text().splitlines()]
        assert all(row["prompt"].startswith("What is") and row["answer"] for row in samples)
    else:
        assert line["loss"] > 0


def test_rewards_of_causal_problems_are_refused_before_the_run(run):
    with pytest.raises(UserError, match="item 0 .*none of the rewards answer, form applies"):
        run("grpo", "--config.grpo.reward_weights=answer=1,form=0.1")
