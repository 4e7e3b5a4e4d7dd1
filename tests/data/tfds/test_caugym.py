"""The TensorFlow Datasets builder writes what the generator makes, and all ends in one Problem."""

import json
import subprocess
import sys
from collections import Counter

import pytest

pytest.importorskip("tensorflow_datasets")
pytest.importorskip("importlib_resources")  # which tensorflow-datasets needs but does not ask for

from caugym_jax.causal.engine.generating import generate_problems
from caugym_jax.data.files import read_problems, read_rows
from caugym_jax.data.rows import PURPOSES, make_row, wording_options
from caugym_jax.data.tfds import caugym
from caugym_jax.errors import UserError
from caugym_jax.types import TASKS


@pytest.fixture(autouse=True)
def small(tmp_path, monkeypatch):
    """Small sets in a folder of the test's own."""
    monkeypatch.setattr(caugym, "TRAIN", 4)
    monkeypatch.setattr(caugym, "TEST", 2)
    monkeypatch.setattr("tensorflow_datasets.core.constants.DATA_DIR", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("purpose", PURPOSES)
def test_the_same_problems_as_from_a_file(tmp_path, purpose):
    n = 8 if purpose == "kto" else 4
    problems = generate_problems(["NIE"], n, 0, variant="redundant", **wording_options(purpose))
    rows = [make_row(purpose, problem, i, seed=0) for i, problem in enumerate(problems)]
    (tmp_path / "redundant_dataset.json").write_text(json.dumps(rows))
    expected = read_problems(tmp_path / "redundant_dataset.json")
    assert read_problems(f"tfds:caugym/nie_redundant_{purpose}") == expected
    assert len(expected) == n and {p.variant for p in expected} == {"redundant"}


def test_splits_and_all_tasks(small, capsys):
    train = read_problems("tfds:caugym/all_base_problems")
    test = read_problems("tfds:caugym/all_base_problems:test")
    assert Counter(p.task for p in train) == dict.fromkeys(TASKS, 4)
    assert Counter(p.task for p in test) == dict.fromkeys(TASKS, 2)
    assert not {p.text for p in train} & {p.text for p in test}
    assert read_problems("tfds:caugym/all_base_problems:train[3:5]") == train[3:5]
    assert list(small.rglob("caugym-train.array_record*"))
    assert capsys.readouterr().out == ""


def test_rows_keep_their_types():
    rows = read_rows("tfds:caugym/ate_base_kto")
    assert [type(row["label"]) for row in rows] == [bool] * 8
    assert sum(row["label"] for row in rows[:4]) == 2
    assert all(isinstance(row["prompt"], str) for row in rows)


def test_grain_reads_the_files(small):
    grain = pytest.importorskip("grain")
    tfds = pytest.importorskip("tensorflow_datasets")
    rows = read_rows("tfds:caugym/ate_base_sft")
    source = tfds.builder("caugym/ate_base_sft").as_data_source("train")
    batches = grain.MapDataset.source(source).shuffle(seed=0).batch(4)
    prompts = {p.decode() for batch in batches for p in batch["prompt"]}
    assert prompts == {row["prompt"] for row in rows}
    (file,) = small.rglob("ate_base_sft/*/caugym-train.array_record*")
    assert len(grain.sources.ArrayRecordDataSource([str(file)])) == 4


def test_there_is_a_config_for_every_task_variant_and_method():
    names = {config.name for config in caugym.Caugym.BUILDER_CONFIGS}
    assert {"ate_base_sft", "all_base_rl", "pn_insufficient_dpo", "cde_omitted_kto"} <= names
    assert (
        len(names)
        == len(caugym.Caugym.BUILDER_CONFIGS)
        == 8 * len(PURPOSES) * (len({config.variant for config in caugym.Caugym.BUILDER_CONFIGS}))
    )


@pytest.mark.parametrize(
    "name, words",
    [
        ("tfds:", "expected tfds:NAME/CONFIG"),
        ("tfds:caugym/ate_easy_sft", "cannot read .*ate_easy_sft"),
        ("tfds:caugym/ate_base_sft:dev", "cannot read .*dev"),
        ("tfds:not_there/at_all", "cannot read tfds:not_there/at_all"),
    ],
)
def test_what_is_not_there_is_said_in_one_line(name, words):
    with pytest.raises(UserError, match=words) as error:
        read_problems(name)
    assert "\n" not in str(error.value)


def test_no_tensorflow():
    code = "import sys, caugym_jax.data.tfds.caugym; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
