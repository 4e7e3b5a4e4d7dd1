"""The solve command: what it prints and writes, bad input, a quick start without jax."""

import json
import subprocess
import sys

import pytest

from caugym_jax.causal.engine.generating import generate_problems
from caugym_jax.data.files import problem_record, write_json
from caugym_jax.errors import UserError
from caugym_jax.solve import main as solve
from caugym_jax.types import TASKS
from tests.shared import ROOT, shared_path


def written(path, n: int = 14, **options) -> list[dict]:
    rows = [problem_record(problem) for problem in generate_problems(TASKS, n, 7, **options)]
    write_json(path, rows)
    return rows


def solved(path, out) -> dict:
    solve([f"--data={path}", f"--out={out}"])
    return json.loads(out.read_text())


def test_figures_of_generated_problems(tmp_path, capsys):
    data = tmp_path / "base.json"
    written(data)
    found = solved(data, tmp_path / "out.json")
    assert found["n"] == 14 and found["unread"] == 0 and found["defects"] == []
    assert found["prob"] == {"all": 1.0, "by_task": dict.fromkeys(TASKS, 1.0)}
    assert found["verdict"]["all"] == 1.0 and set(found["verdict"]["by_task"]) == set(TASKS[:5])
    assert 0 <= found["constant"] <= 1 and found["shortcut"] == 1.0
    printed = capsys.readouterr().out
    assert "14 items, 0 unread" in printed and "100.0" in printed and "graph-free" in printed


def test_figures_are_the_same_whatever_the_number_of_workers(tmp_path):
    data = tmp_path / "hard.json"
    written(data, 450, variant="redundant")
    for workers in (1, 2):
        solve([f"--data={data}", f"--out={tmp_path}/{workers}.json", f"--workers={workers}"])
    one, two = ((tmp_path / f"{workers}.json").read_text() for workers in (1, 2))
    assert one == two and json.loads(one)["prob"]["all"] == 1


def test_a_wrong_label_is_named_with_its_place(tmp_path, capsys):
    data = tmp_path / "base.json"
    rows = written(data)
    rows[3]["answer"] = json.dumps(json.loads(rows[3]["answer"]) | {"PROB": "0.9999"})
    write_json(data, rows)
    found = solved(data, tmp_path / "out.json")
    assert [(d["item"], d["kind"]) for d in found["defects"]][0] == (3, "wrong number")
    assert found["prob"]["all"] == 13 / 14
    assert "item 3: label 0.9999" in capsys.readouterr().out


def test_several_files(tmp_path):
    written(tmp_path / "a.json")
    written(tmp_path / "insufficient.json", 7, variant="insufficient")
    found = solved(f"{tmp_path / 'a.json'},{tmp_path / 'insufficient.json'}", tmp_path / "out.json")
    assert found["n"] == 21 and found["prob"]["all"] == 1
    assert found["files"]["insufficient.json"]["constant"] == 1
    assert found["files"]["a.json"]["n"] == 14


def test_bad_items_are_named_and_the_rest_goes_on(tmp_path, capsys):
    data = tmp_path / "base.json"
    rows = written(data)
    rows[1] = {"problem": "?", "answer": "?", "Type": "XYZ"}
    rows[2]["problem"] = rows[2]["problem"].replace("Question: ", "Question: Whether ")
    rows[4] = "not an object"
    write_json(data, rows)
    with pytest.raises(UserError, match="3 broken items"):
        solved(data, tmp_path / "out.json")
    printed = capsys.readouterr()
    assert "item 1" in printed.err and "item 4" in printed.err
    assert "item 2: the question is none of the seven" in printed.out
    found = json.loads((tmp_path / "out.json").read_text())
    assert found["n"] == 12 and found["unread"] == 1 and found["prob"]["all"] == 1
    assert len(found["bad_rows"]) == 2


def test_explain(tmp_path, capsys):
    data = tmp_path / "base.json"
    rows = written(data, zero_fraction=0.0)
    for i, row in enumerate(rows):
        solve([f"--data={data}", f"--explain={i}"])
        printed = capsys.readouterr().out
        assert "Step 1: " in printed and row["answer"] in printed
        assert "Adjusts for: {" in printed and "Answer: " in printed
    with pytest.raises(UserError, match="items 0 to 13"):
        solve([f"--data={data}", "--explain=14"])


def test_released_files(tmp_path):
    names = ["base", "deconfounding", "redundant", "insufficient"]
    paths = [str(shared_path(f"data/caugym/test_dev/{name}_dataset.json")) for name in names]
    found = solved(",".join(paths), tmp_path / "out.json")
    assert found["n"] == 560 and found["unread"] == 0
    assert found["files"]["base_dataset.json"]["prob"]["all"] >= 0.995
    assert found["files"]["insufficient_dataset.json"]["prob"]["all"] >= 0.995
    assert found["prob"]["all"] >= 0.98


@pytest.mark.parametrize("name", ["rephrased", "omitted"])
def test_released_rewritings_are_read_by_position(name, tmp_path):
    path = shared_path(f"data/caugym/test_dev/{name}_dataset.json")
    found = solved(path, tmp_path / "out.json")
    assert found["n"] == found["read"] == 140 and found["prob"]["all"] == 1
    alone = tmp_path / path.name  # without the base file: unread, and said so
    alone.write_bytes(path.read_bytes())
    found = solved(alone, tmp_path / "out.json")
    assert found["unread"] == {"rephrased": 140, "omitted": 132}[name]


def test_starts_without_jax():
    code = "import sys, caugym_jax.solve; print([m for m in sys.modules if m in ('jax', 'torch')])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


def test_exit_status():
    def status(*args):
        command = [sys.executable, "-m", "caugym_jax.solve", *args]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)

    assert status().returncode == 2
    missing = status("--data=nowhere.json")
    assert missing.returncode == 1 and missing.stderr.startswith("error: cannot read nowhere.json")
