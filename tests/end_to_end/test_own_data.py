"""Every method trains a step on rows that are no causal problems, and on nothing else."""

import json
import math
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

    def go(method, *more, name="run"):
        path = tmp_path / "mine.jsonl"
        path.write_text("".join(json.dumps(ROWS[method](i)) + "\n" for i in range(40)))
        train(
            [
                f"--config={HERE / 'tiny_config.py'}:{method}",
                f"--workdir={tmp_path / name}",
                f"--config.model.name={tiny_model}",
                f"--config.data.path={path}",
                "--config.steps=1",
                *more,
            ]
        )
        return tmp_path / name

    return go


FIGURES = {
    "sft": {"loss", "mean_token_accuracy", "entropy"},
    "dpo": {"loss", "mean_token_accuracy", "rewards/accuracies", "rewards/margins"},
    "kto": {"loss", "rewards/chosen", "rewards/margins", "kl"},
    "grpo": {"reward", "rewards/math", "rewards/length", "truncated", "completions/mean_length"},
    "ppo": {"reward", "rewards/math", "rewards/length", "truncated", "completions/mean_length"},
}


@pytest.mark.parametrize(
    "method",
    [pytest.param(m, marks=[pytest.mark.slow] * (m in ("kto", "ppo"))) for m in ROWS],
)
def test_a_step_on_rows_of_ones_own_of_which_some_are_held_out(run, method, capsys):
    sampled = method in ("grpo", "ppo")
    best, key = ("rewards/length", "reward") if sampled else ("loss", "loss")
    weights = [f"--config.{method}.reward_weights=math=1,length=1"] * sampled
    workdir = run(method, "--config.data.held_out=0.25", f"--config.checkpoint.best=eval/{best}",
                  "--config.evaluation.n=9", "--config.data.show=1", *weights)  # fmt: skip
    first, step, last = metrics(workdir)
    for line in (first, last):
        assert {f"eval/{key}" for key in FIGURES[method]} <= line.keys()
    told = capsys.readouterr()
    assert "held-out rows" in told.out.lower() and "Best checkpoint: step 1" in told.out
    assert "row 0: " in told.err and "What" in told.err.replace("|", "")
    assert json.loads((workdir / "after.json").read_text())["figures"][key] == last[f"eval/{key}"]
    if method == "dpo":
        assert abs(first["eval/loss"] - math.log(2)) < 1e-5
    if sampled:
        assert step["rewards/length/mean"] <= 0 and 0 <= step["rewards/math/mean"] <= 1
        samples = [json.loads(x) for x in (workdir / "samples.jsonl").read_text().splitlines()]
        assert all(row["prompt"].startswith("What is") and row["answer"] for row in samples)
        assert "truth: " in told.out
    else:
        assert step["loss"] > 0


def test_without_rows_to_measure_there_is_no_evaluation(run, capsys):
    workdir = run("sft")
    (line,) = metrics(workdir)
    told = capsys.readouterr()
    assert not any(key.startswith("eval/") for key in line)
    assert "Trained without evaluation" in told.out and "or data.held_out to a share" in told.err
    assert not (workdir / "before.json").exists()


def test_rewards_of_causal_problems_are_refused_before_the_run(run):
    with pytest.raises(UserError, match="item 0 .*none of the rewards answer, form applies"):
        run("grpo", "--config.grpo.reward_weights=answer=1,form=0.1")


def test_the_held_out_loss_is_that_of_the_rows_and_not_of_their_batches(run):
    """Nine rows in batches of eight and of four: the mean over tokens is the same."""
    options = ["--config.data.held_out=0.25", "--config.evaluation.n=9"]
    by_eight = metrics(run("sft", *options))[0]
    by_four = metrics(run("sft", *options, "--config.data.batch_size=4", name="four"))[0]
    assert by_eight["eval/loss"] == pytest.approx(by_four["eval/loss"], rel=1e-6)


def test_another_file_is_measured_and_a_wrong_figure_is_refused(run, tmp_path):
    other = tmp_path / "other.jsonl"
    other.write_text("".join(json.dumps(ROWS["dpo"](i)) + "\n" for i in range(50, 55)))
    more = tmp_path / "more.jsonl"
    more.write_text(json.dumps(ROWS["dpo"](60)) + "\n")
    first = metrics(run("dpo", f"--config.evaluation.path={other},{more}"))[0]
    assert abs(first["eval/loss"] - math.log(2)) < 1e-5
    with pytest.raises(UserError, match="best=eval/strict: must be one of .*rewards/margins"):
        run("dpo", f"--config.evaluation.path={other}", "--config.checkpoint.best=eval/strict",
            name="wrong")  # fmt: skip


def test_epochs_of_two_files_with_weights(run, tmp_path, capsys):
    """40 rows and 20 others by 3 to 1, two epochs of all 60 in batches of 8: 15 steps."""
    other = tmp_path / "other.jsonl"
    other.write_text("".join(json.dumps(ROWS["sft"](i)) + "\n" for i in range(50, 70)))
    mine = tmp_path / "mine.jsonl"
    run("sft", f"--config.data.path={mine}=3,{other}=1", "--config.data.epochs=2",
        "--config.data.shuffle=false", "--config.evaluation.every=0")  # fmt: skip
    assert "2 epochs of 60 rows, 8 a step: 15 steps" in capsys.readouterr().err
    assert len(metrics(tmp_path / "run")) == 15


def layouts(i, wrong=1):
    """Row i in every layout: the same question and reply; `wrong`: what is rejected beside it."""
    ask, tell, other = asked(i), told(i), told(i, wrong)
    question, reply, bad = (turn["content"] for turn in (ask, tell, other))
    return {
        "messages": {"messages": [ask, tell]},
        "parts": {"messages": [ask | {"content": [{"type": "text", "text": question}]}, tell]},
        "sharegpt": {
            "conversations": [{"from": "human", "value": question}, {"from": "gpt", "value": reply}]
        },
        "prompt, completion": {"prompt": [ask], "completion": [tell]},
        "gsm8k": {"question": question, "answer": reply},
        "math": {"problem": question, "solution": reply, "answer": f"{i + i % 7}"},
        "alpaca": {"instruction": question, "input": "", "output": reply},
        "verl": {"prompt": [ask], "reward_model": {"ground_truth": "4"}, "answer": [tell]},
        "kto": {"prompt": [ask], "completion": [tell], "label": True},
        "dpo": {"prompt": [ask], "chosen": [tell], "rejected": [other]},
        "h4": {"prompt": question, "chosen": [ask, tell], "rejected": [ask, other]},
        "whole conversations": {"chosen": [ask, tell], "rejected": [ask, other]},
        "texts": {"prompt": f"{question} ", "completion": reply},
        "kto texts": {"prompt": f"{question} ", "completion": reply, "label": i % 2},
        "dpo texts": {"prompt": f"{question} ", "chosen": reply, "rejected": bad},
        "hh": {"chosen": f"{question} {reply}", "rejected": f"{question} {bad}"},
        "text": {"text": f"{question} {reply}"},
    }


PAIRED = {"dpo", "h4", "whole conversations", "dpo texts", "hh"}
FITTING = {
    "sft": set(layouts(0)),
    "dpo": PAIRED,
    "kto": {"kto", "kto texts"},
    "grpo": set(layouts(0)) - {"text"},
    "ppo": set(layouts(0)) - {"text"},
}


@pytest.mark.slow
@pytest.mark.parametrize("method", FITTING)
def test_forty_rows_of_each_layout_train_a_step(run, method, tmp_path, capsys):
    """All of them in one batch. The loss of those that are conversations is that of one alone."""
    names = [name for name in layouts(0) if name in FITTING[method]]
    for name in names:
        rows = "".join(json.dumps(layouts(i)[name]) + "\n" for i in range(40))
        (tmp_path / f"{name.replace(',', '')}.jsonl").write_text(rows)

    own = {"microbatches": 1}
    if method in ("grpo", "ppo"):
        own |= {"reward_weights": "length=1", "group_size": 2}
    if method == "ppo":
        own |= {"num_minibatches": 1}

    def step_on(names, workdir):
        paths = ",".join(str(tmp_path / f"{name.replace(',', '')}.jsonl") for name in names)
        settings = {"data.path": paths, "data.batch_size": 40 * len(names), "evaluation.every": 0}
        settings |= {f"{method}.{key}": value for key, value in own.items()}
        size = [f"--config.{key}={value}" for key, value in settings.items()]
        (step,) = metrics(run(method, *size, name=workdir))
        assert "dropped" not in capsys.readouterr().err
        assert math.isfinite(step["loss"])
        return step

    whole = step_on(names, "all")
    if method == "sft":
        alike = names[: names.index("texts")]
        one, all_alike = step_on(["messages"], "one"), step_on(alike, "alike")
        assert all_alike["loss"] == pytest.approx(one["loss"], rel=1e-5) != whole["loss"]
    if method == "dpo":
        assert whole["loss"] == pytest.approx(math.log(2), rel=1e-5)
    if method in ("grpo", "ppo"):
        assert whole["rewards/length/mean"] < 0
