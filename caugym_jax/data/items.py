"""Items to train on: rows of any layout, as what is asked and what is replied.

A row that is a causal problem carries it. Any other row needs no label: a conversation with its
columns is all that training takes, and rewards find truths in columns.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

from caugym_jax.causal.text.wording import LACK_HINT, STEP_BY_STEP
from caugym_jax.data.conversations import exchange_of
from caugym_jax.data.files import good, names_of, problem_record, read_items
from caugym_jax.data.layouts import is_causal
from caugym_jax.data.raw import read_rows
from caugym_jax.errors import UserError
from caugym_jax.types import LACKING_VARIANTS, Conversation, Item, Problem

LackHint = Literal["insufficient", "all", "none"]


def user_message(problem: Problem, lack_hint: LackHint = "insufficient") -> str:
    """The user's turn: the problem, a newline, "Let's think step by step." and, maybe, the hint.

    The hint that the answer may be LACK_CONDITION goes to problems of the insufficient set (the
    published protocol) and of the hard one, to all (which measures false alarms) or to none. A
    prompt that the file fixes is used as it stands; a hint that is asked for and not in it yet is
    added at its end.

    Of a conversation that the file fixes it is the last message.
    """
    return str(asked(problem, lack_hint)[-1]["content"])


def asked(problem: Problem, lack_hint: LackHint = "insufficient") -> Conversation:
    """The conversation that asks a problem: `user_message`, behind what the file puts before it."""
    if lack_hint not in ("insufficient", "all", "none"):
        raise UserError(f"lack_hint is '{lack_hint}': choose insufficient, all or none")
    before: Conversation = ()
    message = problem.prompt or f"{problem.text}\n{STEP_BY_STEP}"
    if not isinstance(message, str):
        before, last = tuple(message[:-1]), message[-1]
        if last["role"] != "user":
            return message
        message = last["content"]
    hinted = lack_hint == "all" or (
        lack_hint == "insufficient" and problem.variant in LACKING_VARIANTS
    )
    if hinted and LACK_HINT not in message:
        message = f"{message} {LACK_HINT}"
    return (*before, {"role": "user", "content": message})


def item_of(row: Mapping[str, Any], problem: Problem | None = None) -> Item:
    """The item of a row.

    Args:
      problem: the row's, where it is one.

    Raises:
      KeyError, ValueError, TypeError: the row has no known layout.
    """
    if problem is not None and ("problem" in row or "given_info" in row):
        return problem_item(problem)
    prompt, reply, every_turn = exchange_of(row)
    if problem is not None and not isinstance(prompt, str):
        prompt = asked(problem)
    return Item(prompt, reply, dict(row), problem, every_turn)


def problem_item(problem: Problem) -> Item:
    """A problem as an item, its solution as the reply."""
    reply = None if problem.solution is None else _assistant(problem.solution)
    return Item(asked(problem), reply, problem_record(problem), problem)


def training_items(paths: str) -> list[Item]:
    """Every row of one or several sources (as of `read_problems`) as an item, in order.

    Raises:
      UserError: a missing, empty or unreadable file, or a bad row, named by its place from 0.
    """
    return [
        dataclasses.replace(item, where=f"{name}, item {i}")
        for name in map(str.strip, paths.split(","))
        for i, item in enumerate(good(read_items(name, make=item_of)))
    ]


def holds_problems(paths: str) -> bool:
    """Whether every row of these files is a causal problem (or claims to be one)."""
    return all(is_causal(row) for name in names_of(paths) for row in read_rows(name))


def shown(item: Item) -> Any:
    """What is asked, for a person or a file: a problem or a single message as its text."""
    if item.problem is not None and isinstance(item.problem.prompt, str | None):
        return item.problem.prompt or item.problem.text
    if isinstance(item.prompt, str):
        return item.prompt
    return item.prompt[0]["content"] if len(item.prompt) == 1 else list(item.prompt)


def truth(item: Item) -> str | None:
    """What a right answer is, from the row's columns; None where no column says so.

    A problem's answer; else the first of reward_model.ground_truth (verl), ground_truth, answer,
    solution and target; else the reply.
    """
    if item.problem is not None:
        return item.problem.answer
    columns = item.columns
    model = columns.get("reward_model")
    found = [model.get("ground_truth")] if isinstance(model, Mapping) else []
    found += [columns.get(key) for key in ("ground_truth", "answer", "solution", "target")]
    if item.reply is not None:
        found.append(item.reply if isinstance(item.reply, str) else item.reply[-1].get("content"))
    return next((str(x) for x in found if isinstance(x, str | int | float) and str(x)), None)


def _assistant(text: str) -> Conversation:
    return ({"role": "assistant", "content": text},)
