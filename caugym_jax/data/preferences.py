"""Preferences: pairs of completions (DPO) and completions judged one by one (KTO), as tokens.

Rows have TRL's columns, from a file (.json, .jsonl, .parquet, hf:owner/name) or generated:

    DPO   prompt, chosen, rejected
    KTO   prompt, completion, label (true: desirable)

Each column is a text, or a list of {"role", "content"} messages. A text prompt is the user's
message. Where a row of DPO has no prompt, chosen and rejected are whole conversations which differ
in their last message. Other columns are ignored.

A row that cannot be learnt from is never cut and never passed over silently: see `sift`.
"""

from __future__ import annotations

import dataclasses
import functools
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from caugym_jax.causal.mistakes import WORK_KINDS, mistaken_work
from caugym_jax.causal.worked import work
from caugym_jax.data.files import read_rows
from caugym_jax.data.prompts import Message, chat_tokens, reply_tokens, user_message
from caugym_jax.data.rows import make_row
from caugym_jax.data.sources import ATTEMPTS, ELSEWHERE
from caugym_jax.data.tokenizer import Tokenizer
from caugym_jax.errors import UserError
from caugym_jax.types import Judged, Preference, Problem

Row = Mapping[str, Any]
Made = TypeVar("Made")
SOLUTIONS = ("worked", "steps")
LISTED = 5  # of the dropped rows of a kind, these many are named


class Unusable(Exception):
    """A well-formed row that nothing can be learnt from; the text is the kind, as reported."""


class Sifted(NamedTuple):
    """What is left of a file, and what is not."""

    kept: list[Any]
    rows: int
    dropped: dict[str, list[int]]  # kind -> places in the file, from 0

    def report(self, name: str) -> str | None:
        """One line that counts and lists what was dropped; None where nothing was."""
        if not self.dropped:
            return None
        kinds = ", ".join(
            f"{len(places)} with {kind} ({_places(places)})"
            for kind, places in sorted(self.dropped.items())
        )
        count = sum(map(len, self.dropped.values()))
        return f"dropped {count} of {self.rows} rows of {name}: {kinds}"


def preference(row: Row, tokenizer: Tokenizer) -> Preference:
    """A row of prompt, chosen and rejected as tokens.

    Raises:
      ValueError, TypeError, KeyError: it is no such row.
      Unusable: an empty completion, or the two are the same.
    """
    if row.get("prompt") is None:
        *prompt, chosen = _conversation(row["chosen"], "chosen")
        *other, rejected = _conversation(row["rejected"], "rejected")
        if prompt != other or not prompt:
            raise ValueError("without a 'prompt', chosen and rejected differ in the last message")
        chosen, rejected = _reply([chosen], "chosen"), _reply([rejected], "rejected")
    else:
        prompt = _conversation(row["prompt"], "prompt")
        chosen, rejected = (_reply(row[key], key) for key in ("chosen", "rejected"))
    pair = Preference(
        chat_tokens(prompt, tokenizer),
        reply_tokens(prompt, chosen, tokenizer),
        reply_tokens(prompt, rejected, tokenizer),
    )
    if pair.chosen == pair.rejected:
        raise Unusable("an identical pair")
    return pair


def judged(row: Row, tokenizer: Tokenizer) -> Judged:
    """A row of prompt, completion and label as tokens; `other` is left to `with_others`.

    Raises:
      ValueError, TypeError, KeyError: it is no such row.
      Unusable: an empty completion.
    """
    prompt, label = _conversation(row["prompt"], "prompt"), row["label"]
    if not isinstance(label, bool) and label not in (0, 1):
        raise ValueError(f"'label' must be true or false, found {label!r:.40}")
    completion = reply_tokens(prompt, _reply(row["completion"], "completion"), tokenizer)
    return Judged(chat_tokens(prompt, tokenizer), completion, bool(label), [])


def sift(
    name: str,
    make: Callable[[Row, Tokenizer], Made],
    tokenizer: Tokenizer,
    max_length: int,
    too_long: str = "refuse",
    unusable: str = "refuse",
) -> Sifted:
    """The rows of a file as tokens, without those that cannot be learnt from.

    Args:
      make: `preference` or `judged`.
      max_length: most tokens of a prompt with a completion.
      too_long: what to do with a longer one: "drop" it, whole, or "refuse" the file.
      unusable: the same for identical pairs and empty completions.

    Raises:
      UserError: a malformed row (named by its place from 0); one that is refused (all are counted
        and the first few listed); or none is left.
    """
    for key, value in (("too_long", too_long), ("unusable", unusable)):
        if value not in ("refuse", "drop"):
            raise UserError(f"data.{key}={value!r}: use refuse or drop")
    kept, found = [], {"too_long": {}, "unusable": {}}
    rows = read_rows(name)
    for i, row in enumerate(rows):
        try:
            item = _made(row, make, tokenizer)
        except Unusable as kind:
            found["unusable"].setdefault(str(kind), []).append(i)
        except (KeyError, ValueError, TypeError, UserError) as error:
            why = f"no {error}" if isinstance(error, KeyError) else error
            raise UserError(f"{name}, item {i} (counting from 0): {why}") from error
        else:
            if longest(item) <= max_length:
                kept.append(item)
            else:
                kind = f"more than data.max_length={max_length} tokens"
                found["too_long"].setdefault(kind, []).append(i)
    for key, rule in (("unusable", unusable), ("too_long", too_long)):
        if found[key] and rule == "refuse":
            told = Sifted([], len(rows), found[key]).report(name).removeprefix("dropped ")
            raise UserError(f"{told}: mend them, or set data.{key}=drop")
    sifted = Sifted(kept, len(rows), found["unusable"] | found["too_long"])
    if not kept:
        raise UserError(sifted.report(name) or f"{name} holds no rows")
    return sifted


def with_others(items: Sequence[Judged], max_length: int) -> list[Judged]:
    """Gives each item the completion of an item with another prompt (KTO's mismatched pairs).

    The items are put in the order in which their prompts first come up, so that equal prompts are
    neighbours, and each is paired with one before its prompt's block: the k-th of a block with the
    k-th before it, counting round the items of other prompts. Where no prompt comes twice this is
    the rotation by one that TRL uses, but over the whole data: no item ever meets its own prompt.
    What exceeds max_length tokens with the new prompt is cut off (it only serves to estimate a KL).

    By hand: prompts a, a, b, c are paired with items 3, 2, 1, 2: the first a with the last item,
    the second with the one before that; b with the item before it, which is the second a.

    Raises:
      UserError: all prompts are the same.
    """
    blocks: dict[tuple[int, ...], list[int]] = {}
    for i, item in enumerate(items):
        blocks.setdefault(tuple(item.prompt), []).append(i)
    if len(blocks) < 2:
        raise UserError("KTO compares with completions of other prompts: give at least two prompts")
    order = [i for block in blocks.values() for i in block]
    paired, start = list(items), 0
    for block in blocks.values():
        for k, i in enumerate(block):
            other = order[(start - 1 - k % (len(items) - len(block))) % len(items)]
            paired[i] = _mismatched(items[i], items[other], max_length)
        start += len(block)
    return paired


def generated_rows(
    problems: Callable[[int], Problem],
    seed: int = 0,
    solutions: str = "worked",
    rejected: Mapping[str, float] | None = None,
) -> Callable[[int], Row]:
    """Rows of DPO without end: problem i, a right solution, and a wrong one.

    Args:
      solutions: "worked" arithmetic (ATE and ETT without adjustment; `causal.worked`), or the
        "steps" of the released data (all tasks).
      rejected: the share of each kind of mistake, of `causal.mistakes.WORK_KINDS`; None: all
        evenly. A kind that does not fit a problem gives way to another of them, and a problem that
        none of them fits to another problem. Worked ones only.
    """
    if solutions not in SOLUTIONS:
        raise UserError(f"data.solutions={solutions!r}: use {' or '.join(SOLUTIONS)}")
    if solutions == "steps":
        if rejected is not None:
            raise UserError("data.rejected goes with data.solutions=worked")
        return lambda index: make_row("dpo", problems(index), index, seed=seed)
    shares = dict.fromkeys(WORK_KINDS, 1.0) if rejected is None else dict(rejected)
    wrong = [f"{k}={v}" for k, v in shares.items() if k not in WORK_KINDS or v < 0]
    if wrong or not any(shares.values()):
        raise UserError(
            f"data.rejected={', '.join(wrong) or 'nothing'}: give shares, not all of them 0, to "
            f"kinds of {', '.join(WORK_KINDS)}"
        )

    def row(index: int) -> Row:
        problem = problems(index)
        rng = random.Random(f"rejected {seed} {index}")
        return {
            "prompt": user_message(problem),
            "chosen": work(problem),
            "rejected": _mistake(problem, rng, shares),
        }

    return row


def one_of_each(pairs: Callable[[int], Row]) -> Callable[[int], Row]:
    """Rows of KTO from rows of DPO: of even ones the chosen completion, else the rejected."""

    def row(index: int) -> Row:
        pair, label = pairs(index), index % 2 == 0
        return {
            "prompt": pair["prompt"],
            "completion": pair["chosen" if label else "rejected"],
            "label": label,
        }

    return row


def generated(
    rows: Callable[[int], Row],
    make: Callable[[Row, Tokenizer], Made],
    tokenizer: Tokenizer,
    max_length: int,
) -> Callable[[int], Made]:
    """Item i as tokens; a row that is too long or unusable gives way to another.

    Raises:
      UserError: on making or at any item, where none is found.
    """

    @functools.lru_cache(maxsize=64)  # an item is asked for again as its neighbour's `other`
    def fresh(index: int) -> Made:
        for attempt in range(ATTEMPTS):
            try:
                item = make(rows(index + attempt * ELSEWHERE), tokenizer)
            except Unusable as kind:
                why = str(kind)
                continue
            if longest(item) <= max_length:
                return item
            why = f"{longest(item)} tokens, where data.max_length={max_length} are allowed"
        raise UserError(
            f"generated row {index} and {ATTEMPTS - 1} in its place: the last has {why}"
        )

    fresh(0)  # an impossible request fails here
    return fresh


def generated_with_others(
    items: Callable[[int], Judged], max_length: int
) -> Callable[[int], Judged]:
    """Gives item i the completion of the next item with another prompt."""

    def fresh(index: int) -> Judged:
        item = items(index)
        for later in range(index + 1, index + 1 + ATTEMPTS):
            if items(later).prompt != item.prompt:
                return _mismatched(item, items(later), max_length)
        raise UserError(f"generated problem {index} and the {ATTEMPTS} after it are all the same")

    return fresh


def longest(item: Preference | Judged) -> int:
    """Tokens of the prompt with its longer own completion."""
    own = (item.chosen, item.rejected) if isinstance(item, Preference) else (item.completion,)
    return len(item.prompt) + max(map(len, own))


def _made(row: Any, make: Callable[[Row, Tokenizer], Made], tokenizer: Tokenizer) -> Made:
    if not isinstance(row, Mapping):
        raise TypeError(f"expected a JSON object, found {type(row).__name__}")
    return make(row, tokenizer)


def _mismatched(item: Judged, other: Judged, max_length: int) -> Judged:
    return dataclasses.replace(item, other=other.completion[: max_length - len(item.prompt)])


def _mistake(problem: Problem, rng: random.Random, shares: Mapping[str, float]) -> str:
    """A wrong worked solution, of a kind drawn by `shares` among those that fit the problem."""
    left = {kind: share for kind, share in shares.items() if share}
    while left:
        (kind,) = rng.choices(list(left), list(left.values()))
        try:
            return mistaken_work(problem, rng, [kind])[1]
        except UserError:  # it does not fit
            del left[kind]
    raise Unusable("no fitting mistake")


def _conversation(value: Any, key: str) -> list[Message]:
    if isinstance(value, str):
        return [{"role": "user", "content": value}]
    if not isinstance(value, Sequence) or not value:
        raise TypeError(f"'{key}' must be a text or a list of messages")
    for message in value:
        if not isinstance(message, Mapping) or not isinstance(message.get("content"), str):
            raise TypeError(f"'{key}' holds a message without a text as its 'content'")
        if not isinstance(message.get("role"), str):
            raise TypeError(f"'{key}' holds a message without a 'role'")
    return [{"role": m["role"], "content": m["content"]} for m in value]


def _reply(value: Any, key: str) -> str:
    """The assistant's one message."""
    if isinstance(value, str):
        text = value
    else:
        messages = _conversation(value, key)
        if len(messages) != 1 or messages[0]["role"] != "assistant":
            roles = [m["role"] for m in messages]
            raise ValueError(f"'{key}' must be one assistant message, found {roles}")
        text = messages[0]["content"]
    if not text.strip():
        raise Unusable("an empty completion")
    return text


def _places(places: Sequence[int]) -> str:
    more = ", ..." if len(places) > LISTED else ""
    return f"item{'s' * (len(places) > 1)} {', '.join(map(str, places[:LISTED]))}{more}"
