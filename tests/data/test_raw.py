"""Files and data sets of every kind as rows; what JSON cannot hold; bad rows."""

import datetime
import decimal
import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from caugym_jax.data.files import names_of, read_items, read_problems, weighted
from caugym_jax.data.raw import BadRow, read_rows
from caugym_jax.errors import UserError
from tests.shared import SHARED

ROWS = [{"question": "2+2?", "answer": "4"}, {"question": "1+2?", "answer": "3"}]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS)


@pytest.mark.parametrize("name", ["a.jsonl", "A.JSONL", "a.jsonl.gz", "a.json", "list.jsonl",
                                  "a.csv", "a.csv.gz", "a.parquet"])  # fmt: skip
def test_every_kind_of_file_has_the_same_rows(tmp_path, name):
    text = {"json": json.dumps(ROWS), "csv": "question,answer\n2+2?,4\n1+2?,3\n"}
    body = text.get(name.removesuffix(".gz").rpartition(".")[2], LINES)
    data = (json.dumps(ROWS) if name == "list.jsonl" else body).encode()
    path = tmp_path / name
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    if name.endswith("parquet"):
        pq.write_table(pa.Table.from_pylist(ROWS), path)
    assert read_rows(str(path)) == ROWS


def test_a_folder_saved_to_disk_and_splits_and_configs_of_the_hub(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    whole = datasets.Dataset.from_list(ROWS)
    whole.save_to_disk(tmp_path / "one")
    datasets.DatasetDict(train=whole, test=whole.select([1])).save_to_disk(tmp_path / "two")
    assert read_rows(str(tmp_path / "one")) == read_rows(f"hf:{tmp_path / 'one'}") == ROWS
    assert read_rows(str(tmp_path / "two")) == ROWS
    assert read_rows(f"hf:{tmp_path / 'two'}:test") == ROWS[1:]
    asked = []

    def load(name, config=None, *, split):
        asked.append((name, config, split))
        return whole

    monkeypatch.setattr(datasets, "load_dataset", load)
    for name in ("hf:a/b", "hf:a/b@main", "hf:a/b:test", "hf:a/b@main:train[:10%]"):
        assert read_rows(name) == ROWS
    assert asked == [("a/b", None, "train"), ("a/b", "main", "train"), ("a/b", None, "test"),
                     ("a/b", "main", "train[:10%]")]  # fmt: skip
    with pytest.raises(UserError, match="expected hf:owner/name, hf:owner/name@config:split"):
        read_rows("hf:a:b:c")


def test_types_that_json_lacks_become_text(tmp_path):
    when = datetime.datetime(2024, 5, 6, 7, 8, 9)
    row = {
        "when": when, "day": when.date(), "price": decimal.Decimal("1.50"), "raw": b"\xff\x00",
        "text": b"abc", "inner": {"when": [when, None]}, "n": 3, "nothing": None,
    }  # fmt: skip
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "a.parquet")
    (found,) = read_rows(str(tmp_path / "a.parquet"))
    assert json.loads(json.dumps(found)) == found == {
        "when": "2024-05-06T07:08:09", "day": "2024-05-06", "price": "1.50", "raw": "/wA=",
        "text": "abc", "inner": {"when": ["2024-05-06T07:08:09", None]}, "n": 3, "nothing": None,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ("1" * 5000, r"the integer 1{20}\.\.\. has more than 4000 digits"),
        ("[" * 3000 + "]" * 3000, "nested deeper than 100 levels"),
        ("[" * 90000 + "]" * 90000, "nested deeper than 100 levels"),
        (r'"a\ud800b"', "half of a surrogate pair"),
        (r'{"\udfff": 1}', "half of a surrogate pair"),
    ],
)
def test_a_row_that_nothing_is_made_of_is_refused_and_the_rest_goes_on(tmp_path, value, why):
    path = tmp_path / "a.jsonl"
    path.write_text(f'{LINES}{{"question": "?", "answer": "1", "more": {value}}}\n{LINES}')
    rows = read_rows(str(path))
    assert rows[:2] == rows[3:] == ROWS and isinstance(rows[2], BadRow)
    items = read_items(str(path), make=lambda row, problem: row["answer"])
    assert items[:2] + items[3:] == ["4", "3", "4", "3"]
    with pytest.raises(UserError, match=f"a.jsonl, item 2 .counting from 0.: {why}"):
        raise UserError(items[2])
    whole = tmp_path / "a.json"
    whole.write_text(f"[{','.join(path.read_text().split(chr(10))[:3])}]")
    if len(value) < 6000 and "surrogate" not in why:
        assert isinstance(read_rows(str(whole))[2], BadRow)
    assert read_rows(str(path))[0] == ROWS[0]
    paired = tmp_path / "emoji.jsonl"
    paired.write_text(r'{"text": "\ud83d\ude00"}')
    assert read_rows(str(paired)) == [{"text": "\U0001f600"}]


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-1e999", "[0.5]", "1" + "0" * 400, "true"])
def test_numbers_of_calm_that_are_no_probabilities_are_refused(tmp_path, value):
    path = tmp_path / "a.jsonl"
    path.write_text(
        '{"given_info": "Imagine", "Question": "q", "Background": {"data_info": "x"}, '
        f'"Instruction": "i", "Type": "ATE", "gt_answer": {value}}}\n'
    )
    with pytest.raises(UserError, match="item 0 .*'gt_answer' must be a number between -1 and 1"):
        read_problems(str(path))
    path.write_text(path.read_text().replace('"Imagine"', "null"))
    with pytest.raises(UserError, match="item 0 .*'given_info' must be text"):
        read_problems(str(path))


@pytest.mark.skipif(not (SHARED / "cases").is_dir(), reason="no collection of cases here")
@pytest.mark.parametrize("name", ["10-huge-int", "12-calm-nan", "13-parquet-types"])
def test_collected_files_give_no_traceback(name):
    for path in sorted((SHARED / "cases" / name).iterdir()):
        rows = read_items(str(path), make=lambda row, problem: row)
        assert rows and json.dumps([str(row) if isinstance(row, BadRow) else row for row in rows])


def test_sources_with_weights():
    assert weighted("a.jsonl=2, hf:b/c=.5") == [("a.jsonl", 2.0), ("hf:b/c", 0.5)]
    assert weighted("a.jsonl,b.jsonl") == [("a.jsonl,b.jsonl", 1.0)]
    assert names_of("a.jsonl=2,b=1") == names_of("a.jsonl,b") == ["a.jsonl", "b"]
    for paths, why in (("a=1,b", "each of the files a weight"), ("a=0", "must be above 0")):
        with pytest.raises(UserError, match=why):
            weighted(paths)
