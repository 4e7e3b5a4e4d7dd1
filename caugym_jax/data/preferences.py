"""Preferences: pairs of completions (DPO) and completions judged one by one (KTO), as tokens.

Rows have TRL's columns, from a file (.json, .jsonl, .parquet, hf:owner/name) or generated
(`preference_sources`):

    DPO   prompt, chosen, rejected
    KTO   prompt, completion, label (true: desirable)

Each column is a text, or a list of {"role", "content"} messages. Texts stand as they are; messages
go through the chat template (`conversations`). Where a row of DPO has no prompt, chosen and
rejected are whole conversations which differ in their last message, or texts that begin alike.
Other columns are ignored.

A row that cannot be learnt from is never cut and never passed over silently: see `sift`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from caugym_jax.data.conversations import desirable, exchange_of, pair_of, text_of
from caugym_jax.data.prompts import prompt_tokens, reply_tokens
from caugym_jax.data.raw import BadRow, read_rows
from caugym_jax.data.tokenizer import Tokenizer
from caugym_jax.errors import UserError
from caugym_jax.types import Conversation, Judged, Preference

Row = Mapping[str, Any]
Made = TypeVar("Made", bound=Preference | Judged)
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
    prompt, chosen, rejected = pair_of(row)
    for reply in (chosen, rejected):
        _refuse_empty(reply)
    pair = Preference(
        prompt_tokens(prompt, tokenizer),
        _reply(prompt, chosen, tokenizer),
        _reply(prompt, rejected, tokenizer),
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
    prompt, completion, _ = exchange_of({key: row[key] for key in ("prompt", "completion")})
    if completion is None:
        raise Unusable("an empty completion")
    label = desirable(row["label"])
    _refuse_empty(completion)
    tokens = _reply(prompt, completion, tokenizer)
    return Judged(prompt_tokens(prompt, tokenizer), tokens, label, [])


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
    kept = []
    found: dict[str, dict[str, list[int]]] = {"too_long": {}, "unusable": {}}
    rows = read_rows(name)
    for i, row in enumerate(rows):
        try:
            item = _made(row, make, tokenizer)
        except Unusable as kind:
            found["unusable"].setdefault(str(kind), []).append(i)
        except (KeyError, ValueError, TypeError, UserError) as error:
            why: Any = error
            if isinstance(error, KeyError):
                why = f"no {error} (it has {', '.join(row)}): docs/data.md shows what rows have"
            raise UserError(f"{name}, item {i} (counting from 0): {why}") from error
        else:
            if longest(item) <= max_length:
                kept.append(item)
            else:
                over = f"more than data.max_length={max_length} tokens"
                found["too_long"].setdefault(over, []).append(i)
    for key, rule in (("unusable", unusable), ("too_long", too_long)):
        if found[key] and rule == "refuse":
            dropped = Sifted([], len(rows), found[key]).report(name) or ""
            raise UserError(f"{dropped.removeprefix('dropped ')}: fix them, or set data.{key}=drop")
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
            paired[i] = mismatched(items[i], items[other], max_length)
        start += len(block)
    return paired


def mismatched(item: Judged, other: Judged, max_length: int) -> Judged:
    """`item` with the completion of `other`, as much of it as max_length tokens hold."""
    return dataclasses.replace(item, other=other.completion[: max_length - len(item.prompt)])


def longest(item: Preference | Judged) -> int:
    """Tokens of the prompt with its longer own completion."""
    own = (item.chosen, item.rejected) if isinstance(item, Preference) else (item.completion,)
    return len(item.prompt) + max(map(len, own))


def _made(row: Any, make: Callable[[Row, Tokenizer], Made], tokenizer: Tokenizer) -> Made:
    if isinstance(row, BadRow):
        raise ValueError(str(row))
    if not isinstance(row, Mapping):
        raise TypeError(f"expected a JSON object, found {type(row).__name__}")
    return make(row, tokenizer)


def _reply(
    prompt: Conversation | str, reply: Conversation | str, tokenizer: Tokenizer
) -> list[int]:
    """The assistant's one message, or text."""
    if isinstance(reply, str):
        return reply_tokens(prompt, reply, tokenizer)
    if len(reply) != 1:
        roles = [m["role"] for m in reply]
        raise ValueError(f"expected one assistant message, found {roles}")
    return reply_tokens(prompt, reply[0], tokenizer)


def _refuse_empty(reply: Conversation | str) -> None:
    plain = isinstance(reply, str) or reply[-1].keys() <= {"role", "content"}
    if plain and not text_of(reply).strip():
        raise Unusable("an empty completion")


def _places(places: Sequence[int]) -> str:
    more = ", ..." if len(places) > LISTED else ""
    return f"item{'s' * (len(places) > 1)} {', '.join(map(str, places[:LISTED]))}{more}"
