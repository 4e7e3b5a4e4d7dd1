r"""Benchmarks other than CauGym, known by the keys of their rows: how they are asked and graded.

    MATH-500, AMC, Minerva, GSM8K   problem or question, with answer or solution
    CLadder                         given_info, question, answer (yes, no), and background, or the
                                    number of its model in test-model-meta.json beside the file
    CLEAR                           description, question, answer, question_type; FA and FO, which
                                    people judged, are left out
    CausalProbe                     context, question, choice_1 to choice_4, answer (1 to 4)

Graded is the final text alone (see `rewards.answer.final_text`): a mathematical answer by
`rewards.plain.math_reward`; of yes or no, letters and numbers the one that the last line states.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import json
import random
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from caugym_jax.data import files
from caugym_jax.data.layouts import is_causal
from caugym_jax.data.raw import BadRow, read_rows
from caugym_jax.errors import UserError
from caugym_jax.rewards.answer import final_text
from caugym_jax.rewards.plain import math_reward, stated
from caugym_jax.types import Item, Problem

STEPS = "Let's think step by step, and end with a line that holds the answer alone: "
BOXED = r"Please reason step by step, and put your final answer within \boxed{}."
OBJECTIVE = {"YN": "yes_no", "EX": "yes_no", "MC": "letter", "HM": "number"}  # of CLEAR
_ASKED = {
    "yes_no": "yes or no.",
    "letter": "the letter of the right choice.",
    "number": "a number.",
}
_STATED = {
    "yes_no": re.compile(r"\b(yes|no)\b", re.IGNORECASE),
    "letter": re.compile(r"\b([A-D])\b"),
    "number": re.compile(r"(?<![\d.])(-?\d+)(?![\d.]*\d)"),
}
_GIVEN = ("all_generated_answers", "truncated", "num_tokens", "thinking")  # of answers
# By a part of a file's path or of its set's name.
NAMES = ("gsm8k", "minerva", "amc", "math", "cladder", "clear", "causalprobe")


@dataclasses.dataclass(frozen=True)
class Question:
    """An item of one of these benchmarks."""

    text: str  # the whole message of the user
    answer: str  # the right one
    kind: str  # of math, yes_no, letter, number
    task: str  # what figures are given by
    suite: str  # one of NAMES
    extra: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # answers and their counts
    row: int = dataclasses.field(default=0, compare=False)  # its place in the file

    @property
    def record(self) -> dict[str, Any]:
        """The row of an answers file, without the answers."""
        fields = {"problem": self.text, "answer": self.answer, "kind": self.kind}
        return fields | {"task": self.task, "suite": self.suite}


def read_items(path: str) -> tuple[Sequence[Problem | Question], int]:
    """(the items of a file: causal problems or a suite's questions; how many rows were left out).

    Raises:
      UserError: a missing, unreadable or unknown file, or a bad row of it.
    """
    return items_of(read_rows(path), path)


def items_of(rows: list[Any], path: str) -> tuple[Sequence[Problem | Question], int]:
    """`read_items` of the rows of a file."""
    if not rows or not _is_suite(rows[0]):
        return files.good(files.read_items(path, rows=rows)), 0
    found: list[Question] = []
    left_out = 0
    for i, row in enumerate(rows):
        try:
            if isinstance(row, BadRow):
                raise ValueError(str(row))
            question = question_of(row, path)
        except (KeyError, ValueError, TypeError) as error:
            why = f"no {error}" if isinstance(error, KeyError) else error
            raise UserError(f"{path}, item {i} (counting from 0): {why}") from error
        if question is None:
            left_out += 1
        else:
            given = {key: row[key] for key in _GIVEN if key in row}
            found.append(dataclasses.replace(question, extra=given, row=i))
    if not found:
        raise UserError(f"{path}: none of its {len(rows)} rows can be graded without a person")
    return found, left_out


def _is_suite(row: Any) -> bool:
    if not isinstance(row, Mapping):
        return False
    if "suite" in row or {"given_info", "question"} <= row.keys():
        return True
    asked, known = {"problem", "question"} & row.keys(), {"answer", "solution"} & row.keys()
    return bool(asked and known) and not is_causal(row)


def question_of(row: Mapping[str, Any], path: str) -> Question | None:
    """The question of a row; None where no right answer of it is known.

    Args:
      path: of its file, which may name the suite.

    Raises:
      KeyError, ValueError, TypeError: it is malformed.
    """
    if "suite" in row:
        asked, answer, kind, task, suite = (
            str(row[key]) for key in ("problem", "answer", "kind", "task", "suite")
        )
        return Question(asked, answer, kind, task, suite)
    if "choice_1" in row:
        return _causal_probe(row)
    if "question_type" in row:
        return _clear(row)
    if "given_info" in row:
        return _cladder(row, path)
    question = str(row.get("problem") or row["question"])
    known = row["answer"] if row.get("answer") is not None else row["solution"]
    if isinstance(known, list):
        known = known[0]
    answer = stated(str(known)) or str(known).strip()
    place = path.lower()
    suite = next((name for name in NAMES[:4] if name in place), "math")
    task = str(row.get("subject") or row.get("type") or suite)
    return Question(f"{question}\n{BOXED}", answer, "math", task, suite)


def _causal_probe(row: Mapping[str, Any]) -> Question | None:
    if str(row["answer"]) not in "1234":
        return None  # two rows of the published file
    choices = "\n".join(f"{'ABCD'[i - 1]}. {row[f'choice_{i}']}" for i in range(1, 5))
    text = f"{row['context']}\n{row['question']}\n{choices}\n{STEPS}{_ASKED['letter']}"
    letter = "ABCD"[int(row["answer"]) - 1]
    return Question(text, letter, "letter", "causalprobe", "causalprobe")


def _clear(row: Mapping[str, Any]) -> Question | None:
    kind = OBJECTIVE.get(row["question_type"])
    if kind is None:
        return None
    text = f"{row['description']}\n{row['question']}\n{STEPS}{_ASKED[kind]}"
    return Question(text, str(row["answer"]).strip(" ."), kind, row["question_type"], "clear")


def _cladder(row: Mapping[str, Any], path: str) -> Question:
    meta = row.get("meta") or {}
    if isinstance(meta, str):  # of .csv files
        meta = ast.literal_eval(meta)
    background = row.get("background") or _backgrounds(path)[int(meta["model_id"])]
    parts = [background, row["given_info"], row["question"], f"{STEPS}{_ASKED['yes_no']}"]
    text = "\n".join(str(part).strip() for part in parts if part)
    return Question(text, str(row["answer"]), "yes_no", f"rung {meta.get('rung')}", "cladder")


@functools.cache
def _backgrounds(path: str) -> dict[int, str]:
    """What the models of CLadder's generated sets are about."""
    from caugym_jax.data.released import is_released, released_path

    place = released_path(path) if is_released(path) else Path(path)
    beside = place.with_name("test-model-meta.json")
    try:
        return {model["model_id"]: model["background"] for model in json.loads(beside.read_text())}
    except OSError as error:
        raise ValueError(f"no 'background', and no {beside} that would tell it") from error


# Grading ----------------------------------------------------------------------------------------


def right(question: Question, text: str, truncated: bool = False) -> bool:
    """Whether a completion gives the right answer. Never raises."""
    if question.kind == "math":
        return math_reward(text, Item("", None, {"answer": question.answer}), truncated) == 1
    given = answer_of(question.kind, text, truncated)
    return given is not None and given.lower() == question.answer.lower()


def answer_of(kind: str, text: str, truncated: bool = False) -> str | None:
    r"""The yes or no, letter or number that the last line of a completion states; None: none.

    What the last \boxed{} holds, else a line's first word if it is one, else the line's last.
    """
    final = "" if truncated else final_text(text) or ""
    line = stated(final) or final.strip().rpartition("\n")[2]
    found = list(_STATED[kind].finditer(line))
    if not found:
        return None
    leads = not re.search(r"\w", line[: found[0].start()])
    return (found[0] if leads and kind == "yes_no" else found[-1])[1]


def drawn(items: Sequence[Any], limit: int, seed: int) -> list[int]:
    """The places of `limit` items, of all tasks equally many as far as they have them, by the seed.

    A larger limit adds to what a smaller one draws.
    """
    by_task: dict[str, list[int]] = defaultdict(list)
    for i, item in enumerate(items):
        by_task[item.task].append(i)
    for task, places in by_task.items():
        random.Random(f"limit {seed} {task}").shuffle(places)
    queues = [by_task[task] for task in sorted(by_task)]
    rounds = max(map(len, queues), default=0)
    return [queue[i] for i in range(rounds) for queue in queues if i < len(queue)][:limit]
