"""docs/data.md, "Your own data": every example runs as it is written, on a tiny model."""

import json
import re
import shlex

import jax
import pytest

from caugym_jax.train import main as train
from tests.end_to_end.runs import metrics
from tests.shared import ROOT
from tests.tiny_model import tiny_model  # noqa: F401

TEXT = (ROOT / "docs/data.md").read_text().partition("## Your own data")[2].partition("\n## ")[0]
EXAMPLE = re.compile(r"### (\w+)\n\n`(\S+)`.*?```json\n(.*?)```\n\n```bash\n(.*?)```", re.DOTALL)
EXAMPLES = {match[1].lower(): match.groups()[1:] for match in EXAMPLE.finditer(TEXT)}
NUMBERED = re.compile(r'([.?]")')
FEWER = ("steps=1", "data.batch_size=2", "evaluation.n=2")


def test_there_is_one_example_of_each_method():
    assert set(EXAMPLES) == {"sft", "dpo", "kto", "grpo", "ppo"}


@pytest.mark.parametrize("method", ["grpo", *(pytest.param(m, marks=pytest.mark.slow)
                                              for m in ("sft", "dpo", "kto", "ppo"))])  # fmt: skip
def test_examples_run_as_written(method, tiny_model, tmp_path, monkeypatch):  # noqa: F811
    """With a smaller batch and fewer steps; the rows come ten times, each time with a number."""
    devices = jax.devices()[:1]
    monkeypatch.setattr(jax, "devices", lambda *_: devices)
    monkeypatch.chdir(tmp_path)
    name, rows, command = EXAMPLES[method]
    assert [json.loads(row) for row in rows.splitlines()]
    (tmp_path / name).write_text("".join(NUMBERED.sub(rf" {i}\1", rows) for i in range(10)))
    python, m, module, *arguments = shlex.split(command.replace("\\\n", " "))
    assert (python, m, module) == ("python", "-m", "caugym_jax.train")
    arguments = [a.replace("smollm2-135m", str(tiny_model)) for a in arguments]
    fewer = [f"--config.{x}" for x in FEWER if x.partition("=")[0] not in command]
    if method in ("grpo", "ppo"):
        fewer += [f"--config.{method}.max_completion_length=8", f"--config.{method}.group_size=2",
                  "--config.evaluation.max_new_tokens=8"]  # fmt: skip
    if "epochs" in command:
        fewer += ["--config.data.epochs=0.1"]
    train([*arguments, "--workdir=run", *fewer])
    last = metrics(tmp_path / "run")[-1]
    assert ("eval/reward" if method in ("grpo", "ppo") else "eval/loss") in last
