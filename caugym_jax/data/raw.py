"""Rows of files and data sets as they are, as far as JSON can hold them.

A source is a .json, .jsonl, .csv, .parquet or .arrow file (any of them as .gz too), a folder that
`datasets` saved to disk, `hf:owner/name[@config][:split]` (a hub data set, or a folder of one; a
split may be a slice, `train[:10%]`), a released file by name (`released`) or `tfds:...`.

What JSON cannot hold becomes text: dates and times in ISO's form, decimals by their digits, bytes
as UTF-8 or else Base64. A row with an integer of thousands of digits, of a hundred levels or with a
character that UTF-8 cannot write is a `BadRow`, and the rest goes on.
"""

from __future__ import annotations

import base64
import csv
import datetime
import decimal
import gzip
import io
import json
import re
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from caugym_jax.data.released import is_released, released_path
from caugym_jax.errors import UserError

SUFFIXES = (".json", ".jsonl", ".csv", ".parquet", ".arrow")
DEEPEST = 100  # levels of lists and objects in a row
DIGITS = 4000  # of an integer; Python's own limit is a little higher
_LFS_POINTER = "version https://git-lfs"
_JSON_LINES = re.compile(r'\{"[^\n]*\}\s*(?:$|\n\{")')  # .json files of CaLM: an object a line
_HUB = re.compile(r"hf:([^:@]+)(?:@([^:]+))?(?::([^:\[]+(?:\[[^\]]*\])?))?")


class BadRow(str):
    """What is wrong with a row, in its place."""


class _Huge(str):
    """The first digits of an integer that is too long."""


def read_rows(name: str, answers: bool = False) -> list[Any]:
    """The rows of one source, each a mapping unless the source holds something else.

    Args:
      answers: a model's, which may hold any character.

    Raises:
      UserError: it is missing, unreadable or of an unknown kind.
    """
    if name.startswith("hf:"):
        return _hub_rows(name)
    if name.startswith("tfds:"):
        from caugym_jax.data.tfds import tfds_rows  # only here: it needs the package

        return tfds_rows(name)
    return file_rows(released_path(name) if is_released(name) else Path(name), answers)


def file_rows(path: Path, answers: bool = False) -> list[Any]:
    """The rows of a file, or of a folder that `datasets` wrote."""
    if path.is_dir() and path.suffix not in SUFFIXES:
        return _hub_rows(f"hf:{path}")
    suffixes = [suffix.lower() for suffix in path.suffixes]
    packed = suffixes[-1:] == [".gz"]
    suffix = "".join((suffixes[:-1] if packed else suffixes)[-1:])
    if suffix not in SUFFIXES:
        raise UserError(f"{path}: expected a {', '.join(SUFFIXES)} file, or one of them as .gz")
    try:
        data = path.read_bytes()
        if packed:
            data = gzip.decompress(data)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(f"{path} is not a whole .gz file ({_line(error)})") from error
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    if data.startswith(_LFS_POINTER.encode()):
        raise UserError(f"{path} is a Git LFS pointer, not the data: run `git lfs pull`")
    if suffix in (".parquet", ".arrow"):
        return _table_rows(path, data, suffix)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text (byte {error.start})") from error
    if suffix == ".csv":
        return list(csv.DictReader(io.StringIO(text, newline="")))
    return _json_rows(path, text, suffix, not answers)


def _json_rows(path: Path, text: str, suffix: str, writable: bool) -> list[Any]:
    whole = text.lstrip().startswith("[") or (suffix == ".json" and not _JSON_LINES.match(text))
    if not whole:
        lines = enumerate(text.split("\n"), 1)  # not splitlines: JSON text may hold U+2028
        return [_parse(line, path, number, writable) for number, line in lines if line.strip()]
    rows = _parse(text, path, 1, writable)
    if isinstance(rows, BadRow):
        raise UserError(f"{path}: {rows}")
    if isinstance(rows, Mapping) and isinstance(rows.get("samples"), list):
        return [rows]  # a log of Inspect
    if not isinstance(rows, list):
        raise UserError(f"{path}: expected a JSON list of items, found {type(rows).__name__}")
    escaped = writable and _escapes(text)
    return [_checked(row, escaped) for row in rows]


def _parse(text: str, path: Path, first_line: int, writable: bool) -> Any:
    try:
        found = json.loads(text, parse_int=_integer)
    except json.JSONDecodeError as error:
        line = first_line + error.lineno - 1
        raise UserError(f"{path}, line {line}: not valid JSON ({error.msg})") from error
    except RecursionError:
        return BadRow(f"nested deeper than {DEEPEST} levels")
    if isinstance(found, list):  # whose rows are checked one by one
        return found
    return _checked(found, writable and _escapes(text))


def _integer(digits: str) -> int | _Huge:
    return int(digits) if len(digits) <= DIGITS else _Huge(digits[:20])


def _escapes(text: str) -> bool:
    """Whether a text of JSON may hold a character that UTF-8 cannot write: it is escaped."""
    return "\\ud" in text or "\\uD" in text


def _checked(row: Any, surrogates: bool) -> Any:
    """The row, or what no file of answers could hold of it; `surrogates`: see `_escapes`."""
    level = [row]
    for _ in range(DEEPEST):
        inner: list[Any] = []
        for value in level:
            if isinstance(value, _Huge):
                return BadRow(f"the integer {value}... has more than {DIGITS} digits")
            if isinstance(value, str) and surrogates and not _writable(value):
                return BadRow("half of a surrogate pair, which is no character")
            if isinstance(value, Mapping):
                inner += [*value, *value.values()]
            elif isinstance(value, list):
                inner += value
        level = inner
        if not level:
            return row
    return BadRow(f"nested deeper than {DEEPEST} levels")


def _writable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _table_rows(path: Path, data: bytes, suffix: str) -> list[Any]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    source = pa.BufferReader(data)
    try:
        table = pq.read_table(source) if suffix == ".parquet" else pa.ipc.open_stream(source)
        rows = (table if suffix == ".parquet" else table.read_all()).to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path} is not a readable {suffix[1:]} file ({_line(error)})") from error
    return [_plain(row) for row in rows]


def _hub_rows(name: str) -> list[Any]:
    """All rows of a split of a hub data set, or of a folder with the files of one."""
    folder, config, split = Path(name.removeprefix("hf:")), None, None
    source = str(folder)
    if not folder.is_dir():
        found = _HUB.fullmatch(name)
        if found is not None:
            source, config, split = found.groups()
        if found is None or not (re.fullmatch(r"[^/]+/[^/]+", source) or Path(source).is_dir()):
            raise UserError(
                f"'{name}': expected hf:owner/name, hf:owner/name@config:split or hf:FOLDER"
            )
    import datasets

    try:
        if any((Path(source) / x).exists() for x in ("state.json", "dataset_dict.json")):
            found = datasets.load_from_disk(source)
            rows = found[split or "train"] if isinstance(found, datasets.DatasetDict) else found
        else:
            rows = datasets.load_dataset(
                source, *([config] if config else []), split=split or "train"
            )
        return [_plain(row) for row in rows.to_list()]
    except Exception as error:  # network, permission, name, split: the hub has one type for each
        raise UserError(f"cannot load {name} ({_line(error)})") from error


def _plain(value: Any) -> Any:
    """A value as JSON can hold it."""
    if value is None or isinstance(value, str | int | float):  # and true, false
        return value
    if isinstance(value, Mapping):
        return {str(key): _plain(child) for key, child in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(child) for child in value]
    if isinstance(value, datetime.date | datetime.time):  # and datetime
        return value.isoformat()
    if isinstance(value, decimal.Decimal | datetime.timedelta):
        return str(value)
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return base64.b64encode(value).decode()
    return str(value)


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
