"""Preferences: pairs of completions (DPO) and completions judged one by one (KTO), as tokens.

Rows have TRL's columns, from a file (.json, .jsonl, .parquet, hf:owner/name) or generated
(`preference_sources`):

    DPO   prompt, chosen, rejected
    KTO   prompt, completion, label (true: desirable)

Each column is a text, or a list of {"role", "content"} messages. A text prompt is the user's
message. Where a row of DPO has no prompt, chosen and rejected are whole conversations which differ
in their last message. Other columns are ignored.

A row that cannot be learnt from is never cut and never passed over silently: see `sift`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from caugym_jax.data.files import read_rows
from caugym_jax.data.prompts import Message, chat_tokens, reply_tokens
from caugym_jax.data.tokenizer import Tokenizer
from caugym_jax.errors import UserError
from caugym_jax.types import Judged, Preference

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
    if row.get("prompt") is None:
        *prompt, better = _conversation(row["chosen"], "chosen")
        *other, worse = _conversation(row["rejected"], "rejected")
        if prompt != other or not prompt:
            raise ValueError("without a 'prompt', chosen and rejected differ in the last message")
        chosen, rejected = _reply([better], "chosen"), _reply([worse], "rejected")
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
    kept = []
    found: dict[str, dict[str, list[int]]] = {"too_long": {}, "unusable": {}}
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
    if not isinstance(row, Mapping):
        raise TypeError(f"expected a JSON object, found {type(row).__name__}")
    return make(row, tokenizer)


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
