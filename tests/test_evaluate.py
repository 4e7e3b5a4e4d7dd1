"""The evaluate command with a random model: files, figures, going on, and bad input."""

import dataclasses
import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

from caugym_jax import evaluate
from caugym_jax.data.tokenizer import load_tokenizer
from caugym_jax.errors import UserError
from caugym_jax.grade import main as grade
from caugym_jax.models.save import save_pretrained
from caugym_jax.runs.lock import alone
from caugym_jax.sampling.sampler import Sampler
from tests.data.byte_tokenizer import CHAT, save_byte_tokenizer
from tests.models.tiny import FAMILIES, random_params
from tests.shared import ROOT

CONFIG = dataclasses.replace(FAMILIES["qwen2-tied"], vocab_size=300, num_layers=1, max_position=256)
ANSWER = '{"ANSWER": "Yes", "PROB": "0.3847"}'


def item(i, length=1):
    text = f"relationships:A has a direct effect on b{'b' * length}.\nQuestion: {i}?"
    return {"Reason": {"Step 1": "x"}, "Type": "ATE", "answer": ANSWER, "idx": i, "problem": text}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    root = tmp_path_factory.mktemp("model")
    tokenizer = load_tokenizer(save_byte_tokenizer(root / "tokenizer", chat_template=CHAT))
    params = jax.tree.map(jnp.asarray, random_params(CONFIG))
    return save_pretrained(root / "hf", CONFIG, params, tokenizer=tokenizer)


@pytest.fixture
def data(tmp_path):
    path = tmp_path / "base_dataset.json"
    path.write_text(json.dumps([item(i, 7 * i) for i in range(5)]))
    return path


def run(model, data, out, *more):
    evaluate.main(
        [f"--model={model}", f"--data={data}", f"--out={out}", "--samples=2", "--batch_size=2",
         "--max_new_tokens=6", *more]
    )  # fmt: skip
    lines = (out / "base_dataset.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines], json.loads((out / "results.json").read_text())


@pytest.fixture(scope="module")
def whole(model, tmp_path_factory):
    """One evaluation without interruption: (rows, results)."""
    root = tmp_path_factory.mktemp("whole")
    path = root / "base_dataset.json"
    path.write_text(json.dumps([item(i, 7 * i) for i in range(5)]))
    return run(model, path, root / "out")


def test_items_keep_their_fields_and_get_answers(whole):
    rows, _ = whole
    assert len(rows) == 5
    for i, row in enumerate(rows):
        assert item(i, 7 * i).items() <= row.items()
        assert [len(row[key]) for key in ("all_generated_answers", "truncated", "num_tokens")] == (
            [2, 2, 2]
        )
        for text, cut, tokens in zip(
            row["all_generated_answers"], row["truncated"], row["num_tokens"], strict=True
        ):
            assert isinstance(text, str)
            assert tokens == 6 if cut else 1 <= tokens <= 6
        first, second = row["all_generated_answers"]
        assert first != second


def test_results_say_how_they_were_made_and_agree_with_grade(whole, tmp_path):
    rows, results = whole
    wanted = {"samples": 2, "temperature": 0.6, "top_p": 0.95, "max_new_tokens": 6}
    wanted |= {"lack_hint": "insufficient", "seed": 0, "limit": None}
    assert wanted.items() <= results["settings"].items()
    assert results["settings"]["scorer_version"]
    path = tmp_path / "base_dataset.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    grade([f"--data={path}", f"--out={tmp_path / 'r.json'}"])
    assert json.loads((tmp_path / "r.json").read_text())["sets"] == results["sets"]
    assert results["sets"]["base_dataset"]["n"] == 5


def test_goes_on_where_it_was_killed_even_within_a_line(model, data, whole, tmp_path, monkeypatch):
    out = tmp_path / "out"
    calls = []
    sample = Sampler.__call__

    def killed_at_the_third(self, params, prompts, **more):
        calls.append(list(more["ids"]))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return sample(self, params, prompts, **more)

    monkeypatch.setattr(Sampler, "__call__", killed_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        run(model, data, out)
    assert not (out / "base_dataset.jsonl").exists() and not (out / "results.json").exists()
    partial = out / "base_dataset.partial.jsonl"
    partial.write_bytes(partial.read_bytes()[:-20])
    rows, results = run(model, data, out)
    assert calls == [[0, 1], [2, 3], [4], [3, 4]]
    assert (rows, results) == whole
    assert not partial.exists()
    assert run(model, data, out) == whole  # finished: nothing is asked again
    assert len(calls) == 4


def test_a_larger_limit_adds_items_whose_answers_do_not_depend_on_it(
    model, data, whole, tmp_path, capsys
):
    rows, results = run(model, data, tmp_path / "out", "--limit=2")
    assert results["sets"]["base_dataset"]["n"] == 2
    assert "2 of 5 items, evenly over 1 tasks, by seed 0" in capsys.readouterr().err
    more, _ = run(model, data, tmp_path / "out", "--limit=4")
    assert more[:2] == rows and all(row in whole[0] for row in more)
    rest, results = run(model, data, tmp_path / "out")
    assert rest[:4] == more and results["sets"]["base_dataset"]["n"] == 5
    assert sorted(rest, key=lambda row: row["idx"]) == whole[0]


def test_problems_that_do_not_fit_count_as_wrong(model, tmp_path, capsys):
    path = tmp_path / "base_dataset.json"
    path.write_text(json.dumps([item(0), item(1, 300)]))
    rows, results = run(model, path, tmp_path / "out")
    assert rows[1]["all_generated_answers"] == ["", ""]
    assert rows[1]["truncated"] == [True, True] and rows[1]["num_tokens"] == [0, 0]
    assert results["sets"]["base_dataset"]["n"] == 2
    assert "1 of 2 prompts do not fit the model's 256 positions" in capsys.readouterr().err


def test_one_command_at_a_time_writes_answers(model, data, tmp_path):
    out = tmp_path / "out"
    told = "out is in use by .*: stop that run, or choose another --out"
    with alone(out), pytest.raises(UserError, match=told):
        run(model, data, out)
    rows, _ = run(model, data, out)
    assert len(rows) == 5 and not (out / "lock").exists()


def test_other_settings_or_other_problems_are_refused(model, data, tmp_path):
    run(model, data, tmp_path / "out", "--limit=1")
    with pytest.raises(UserError, match="seed was 0, is 1"):
        run(model, data, tmp_path / "out", "--limit=1", "--seed=1")
    data.write_text(json.dumps([item(9)]))
    with pytest.raises(UserError, match="answers other problems than the data's .item 0"):
        run(model, data, tmp_path / "out")
    (tmp_path / "out" / "base_dataset.jsonl").write_text("{}\n")
    with pytest.raises(UserError, match="line 1 of the answers in .* is damaged"):
        run(model, data, tmp_path / "out")
    (tmp_path / "out" / "settings.json").write_text("{")
    with pytest.raises(UserError, match="settings.json is damaged"):
        run(model, data, tmp_path / "out")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--model=x", "--data=none.json", "--out=o"], "cannot read none.json"),
        (["--model=x", "--data=a.json,b/a.json", "--out=o"], "different names"),
        (["--model=x", "--data=a.json", "--out=o", "--top_p=0"], "top_p=0"),
    ],
)
def test_bad_input_is_one_line(arguments, said):
    with pytest.raises(UserError, match=said) as error:
        evaluate.main(arguments)
    assert "\n" not in str(error.value)


def test_bad_usage_exits_2_and_help_is_quick_to_say():
    def status(*arguments):
        command = [sys.executable, "-m", "caugym_jax.evaluate", *arguments]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)

    assert status("--samples=0", "--model=x", "--data=y", "--out=z").returncode == 2
    assert status("--model=x").returncode == 2
    assert "--lack_hint" in status("--help").stdout
