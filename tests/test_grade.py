"""The grade command: figures, files, bad input, and a quick start."""

import json
import subprocess
import sys

import pytest

from caugym_jax.errors import UserError
from caugym_jax.grade import main as grade
from tests.problems import dose_text
from tests.shared import ROOT, shared_path

RIGHT = '{"ANSWER": "Yes", "PROB": "0.3847"}'
ITEM = {"problem": dose_text("0.3847"), "answer": RIGHT, "Type": "ATE"}


def write(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def graded(path, out):
    grade([f"--data={path}", f"--out={out}"])
    return json.loads(out.read_text())["sets"][path.stem]


def test_figures_of_a_file(tmp_path, capsys):
    data = write(
        tmp_path / "base_dataset.jsonl",
        ITEM | {"all_generated_answers": [RIGHT, "?"], "truncated": [False, True]},
        ITEM | {"all_generated_answers": []},
        ITEM | {"all_generated_answers": [None, RIGHT], "num_tokens": [3, 5]},
    )
    entry = graded(data, tmp_path / "out" / "results.json")
    assert entry["n"] == 3
    assert entry["published"]["all"] == entry["strict"]["all"] == 1 / 3
    assert entry["truncated"] == 0.5
    assert entry["mean_tokens"] == 4
    printed = capsys.readouterr().out
    assert "base_dataset" in printed and "strict" in printed and "33.3" in printed


def test_verdicts_count_where_the_problem_can_be_read(tmp_path, capsys):
    wrong = ITEM | {"all_generated_answers": [RIGHT.replace("Yes", "No")]}
    words = wrong | {"problem": "Dose works on height. Does a high dose make it taller?"}
    readable = graded(write(tmp_path / "base.jsonl", wrong), tmp_path / "r")["strict"]
    unread = graded(write(tmp_path / "omitted_dataset.jsonl", words), tmp_path / "r")["strict"]
    assert (readable["all"], readable["n_verdict"], readable["n_unread"]) == (0, 1, 0)
    assert (unread["all"], unread["n_verdict"], unread["n_unread"]) == (1, 0, 1)
    printed = capsys.readouterr().out
    assert "omitted_dataset: 1 of 1 items unread" in printed and "base: " not in printed


def test_an_answer_cut_off_in_a_thought_that_the_prompt_opened_is_none(tmp_path):
    cut = write(tmp_path / "cut.jsonl", ITEM | {"all_generated_answers": [f"So {RIGHT}, or"]})
    assert graded(cut, tmp_path / "r")["strict"]["all"] == 1
    grade([f"--data={cut}", f"--out={tmp_path / 't'}", "--thinking"])
    assert json.loads((tmp_path / "t").read_text())["sets"]["cut"]["strict"]["all"] == 0
    write(cut, ITEM | {"all_generated_answers": [f"So {RIGHT}, or"], "thinking": True})
    assert graded(cut, tmp_path / "r")["strict"]["all"] == 0


def test_two_files_in_one_go(tmp_path):
    row = ITEM | {"all_generated_answers": [RIGHT] * 5}
    first, second = write(tmp_path / "a.jsonl", row), write(tmp_path / "b.jsonl", row)
    grade([f"--data={first},{second}", f"--out={tmp_path / 'r.json'}"])
    content = json.loads((tmp_path / "r.json").read_text())
    assert list(content["sets"]) == ["a", "b"]
    assert content["settings"]["samples"] == 5 and content["settings"]["scorer_version"]
    with pytest.raises(UserError, match="different names"):
        grade([f"--data={first},{first}", f"--out={tmp_path / 'r.json'}"])


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (ITEM, "item 1 .*no all_generated_answers"),
        (ITEM | {"all_generated_answers": "text"}, "item 1 .*must be a list"),
        (ITEM | {"all_generated_answers": [1]}, "item 1 .*must be a list of texts"),
        (ITEM | {"all_generated_answers": ["a"], "truncated": [0]}, "item 1 .*list of bool"),
        (ITEM | {"all_generated_answers": ["a"], "num_tokens": []}, "item 1 .*0 values for 1"),
        (ITEM | {"all_generated_answers": ["a"], "Type": "ABC"}, "item 1 "),
        (ITEM | {"all_generated_answers": ["a"], "answer": "?"}, "item 1 "),
        (ITEM | {"all_generated_answers": [], "answer": '{"PROB": "1_0"}'}, "item 1 .*the label"),
        ("text", "item 1 "),
    ],
)
def test_a_bad_row_is_named_and_nothing_is_written(tmp_path, row, message):
    data = write(tmp_path / "base.jsonl", ITEM | {"all_generated_answers": []}, row)
    out = write(tmp_path / "results.json", "as it was")
    with pytest.raises(UserError, match=rf"base\.jsonl, {message}"):
        grade([f"--data={data}", f"--out={out}"])
    assert json.loads(out.read_text()) == "as it was"


def run(*arguments):
    command = [sys.executable, "-m", "caugym_jax.grade", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_exit_statuses(tmp_path):
    missing = run(f"--data={tmp_path / 'none.jsonl'}", f"--out={tmp_path / 'r.json'}")
    assert missing.returncode == 1
    assert missing.stderr.count("\n") == 1 and "none.jsonl" in missing.stderr
    assert run("--dat=x").returncode == 2
    assert run("--help").returncode == 0


def test_grading_imports_no_jax_and_little_else():
    code = (
        "import sys, caugym_jax.grade, caugym_jax.rewards.combination; "
        "print([m for m in ('jax', 'flax', 'transformers', 'torch') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


@pytest.mark.parametrize("name", ["base", "deconfounding", "redundant", "insufficient", "omitted"])
def test_official_items_with_ideal_answers(name, tmp_path):
    """The label itself is right by both rules but for verdicts that its own text contradicts.

    These are the inverted ETT ones, and six omitted items whose question was turned round (which
    puts one of the ETT ones right).
    """
    items = json.loads(shared_path(f"data/caugym/test_dev/{name}_dataset.json").read_text())
    data = write(
        tmp_path / f"{name}_dataset.jsonl",
        *(item | {"all_generated_answers": [item["answer"]]} for item in items),
    )
    base = shared_path("data/caugym/test_dev/base_dataset.json")
    (tmp_path / "base_dataset.json").write_bytes(base.read_bytes())
    entry = graded(data, tmp_path / "results.json")
    assert entry["published"]["all"] == 1
    inverted = {
        i
        for i, item in enumerate(items if name in ("base", "omitted") else [])
        if item["Type"] == "ETT" and abs(float(json.loads(item["answer"])["PROB"])) >= 0.001
    }
    wrong = round((1 - entry["strict"]["all"]) * len(items))
    assert wrong == (13 + 6 if name == "omitted" else len(inverted))
    assert entry["wellformed"] == 1
