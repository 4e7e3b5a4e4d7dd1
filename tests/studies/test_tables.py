"""The tables: means over seeds, intervals by graph, what stands for a method at equal compute."""

import dataclasses
import json

import pytest

from caugym_jax.studies.settings import Study
from caugym_jax.studies.tables import collected, difference, folders_of, markdown, pair_table

STUDY = Study(methods=("sft", "grpo"), seeds=(0, 1))


def grades(folder, strict, kind="sampled", step_time=30.0):
    path = folder / kind
    path.mkdir(parents=True)
    entry = {
        "strict": strict,
        "published": [1.0] * len(strict),
        "nonzero": [True] * len(strict),
        "task": ["ATE"] * len(strict),
        "graph": [1, 1, 2, 2],
    }
    (path / "grades.json").write_text(json.dumps({"base": entry}))
    line = {"step": 1, "tokens": 1000, "step_time": step_time}
    (folder / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    (folder / "config.json").write_text(json.dumps({"method": folder.name.split("-")[0]}))


@pytest.fixture
def out(tmp_path):
    grades(tmp_path / "start", [1, 1, 0, 0])
    grades(tmp_path / "sft-0", [1, 1, 0, 0])
    grades(tmp_path / "sft-1", [1, 1, 1, 0])
    grades(tmp_path / "grpo-0", [1, 1, 1, 1])
    return tmp_path


def test_items_are_averaged_over_seeds_and_clustered_by_graph(out):
    rows = collected([out / "sft-0", out / "sft-1"], "sampled", "strict")
    assert rows.values == [1, 1, 0.5, 0] and rows.seeds == [0.5, 0.75]
    # residuals by graph 0.75 and -0.75: sqrt(2 * 2 * 0.75^2) / 4 = 0.375
    assert rows.half == pytest.approx(1.96 * 0.375)
    change = difference(rows, collected([out / "start"], "sampled", "strict"))
    assert change.values == [0, 0, 0.5, 0]


def test_what_is_not_tested_is_left_out(out):
    assert collected([out / "grpo-1"], "sampled", "strict") is None
    assert collected([out / "sft-0"], "greedy", "strict") is None
    assert collected([out / "sft-0"], "sampled", "strict", "hard") is None


def test_markdown(out):
    text = markdown(STUDY, out)
    lines = text.splitlines()
    assert "| cold start | 50.0 ± 98.0 |" in text
    assert any(line.startswith("| sft | 62.5 ± 73.5 | +12.5 ± ") for line in lines)
    assert any("| 50.0 to 75.0 | – | 100.0 ± 0.0 | 1 | 1k | 0.00M | 0.5 |" in x for x in lines)
    assert "| sft | 62.5, +12.5 ± " in text
    assert "[93.5]" in text and "[51.0]" in text  # the paper's, on base
    counts = {line.count("|") for line in lines if line.startswith("| ")}
    assert len(counts) <= 3  # rows are as wide as their header


def test_methods_are_compared_item_by_item(out):
    table = pair_table(STUDY, out, "problems")
    assert table.header == ["", "cold start", "sft", "grpo"]
    # differences of grpo and sft: 0, 0, 0.5, 1; by graph 0 and 1.5 around a mean of 0.375 an item:
    # residuals -0.75 and 0.75, as above
    assert table.rows[2] == ["grpo", "+50.0 ± 98.0", "+37.5 ± 73.5", ""]
    grades(out / "sft-2", [0, 0, 0, 0])
    grades(out / "grpo-2", [1, 1, 1, 1])
    assert (
        pair_table(dataclasses.replace(STUDY, seeds=(2,)), out, "problems").rows[2][2]
        == "+100.0 ± 0.0 *"
    )


def test_equal_compute_falls_back_on_the_same_runs(out):
    assert folders_of(STUDY, out, "grpo", "compute") == [out / "grpo-0"]
    grades(out / "grpo-0-compute", [0, 0, 0, 0])
    assert folders_of(STUDY, out, "grpo", "compute") == [out / "grpo-0-compute"]
