"""Answers that other tools wrote, as rows of an answers file.

lm-eval     samples_TASK.jsonl of --log_samples: doc (the benchmark's own row), resps
Inspect     a log as JSON: samples with input, target, metadata, output.choices; its epochs of
            a sample are an item's answers
any other   rows whose answers, a text or a list, stand under a key that is given
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

ANSWERS = "all_generated_answers"


def answer_rows(rows: Sequence[Any], key: str | None = None) -> list[Any]:
    """Rows with their answers under `all_generated_answers`.

    Args:
      key: where they stand now; None: in this project's, lm-eval's or Inspect's place.

    Raises:
      ValueError: there is no such key.
    """
    if key is not None:
        return [_renamed(row, key) for row in rows]
    if len(rows) == 1 and isinstance(rows[0], Mapping) and "samples" in rows[0]:
        return _inspect(rows[0]["samples"])
    return [_lm_eval(row) if _is_lm_eval(row) else row for row in rows]


def _renamed(row: Any, key: str) -> dict[str, Any]:
    if not isinstance(row, Mapping) or key not in row:
        keys = ", ".join(map(str, row)) if isinstance(row, Mapping) else "none"
        raise ValueError(f"no {key!r}: the keys are {keys}")
    rest = {k: v for k, v in row.items() if k != key}
    return rest | {ANSWERS: list(_texts(row[key]))}


def _is_lm_eval(row: Any) -> bool:
    return isinstance(row, Mapping) and "resps" in row and isinstance(row.get("doc"), Mapping)


def _lm_eval(row: Mapping[str, Any]) -> dict[str, Any]:
    return {**row["doc"], ANSWERS: list(_texts(row["resps"]))}


def _inspect(samples: Any) -> list[dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for sample in samples:
        asked = sample["input"]
        if not isinstance(asked, str):
            asked = next(m["content"] for m in reversed(asked) if m.get("role") == "user")
        target = sample.get("target")
        row = {"question": asked, "answer": target[0] if isinstance(target, list) else target}
        row |= sample.get("metadata") or {}
        item = found.setdefault(str(sample.get("id", len(found))), row | {ANSWERS: []})
        for choice in (sample.get("output") or {}).get("choices") or []:
            item[ANSWERS].append("".join(_parts(choice["message"]["content"])))
    return list(found.values())


def _parts(content: Any) -> Iterable[str]:
    if isinstance(content, str):
        yield content
    else:
        yield from (part.get("text", "") for part in content)


def _texts(value: Any) -> Iterable[str]:
    """The texts in lists of lists."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Sequence):
        for one in value:
            yield from _texts(one)
