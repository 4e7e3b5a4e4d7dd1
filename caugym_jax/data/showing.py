"""Rows as the model sees them: token by token, with those that are learned marked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from caugym_jax.data.items import truth
from caugym_jax.data.tokenizer import Tokenizer
from caugym_jax.types import Example, Judged, Preference

_GREEN, _PLAIN = "\033[32m", "\033[0m"


def described_row(place: int, row: Any, tokenizer: Tokenizer, colour: bool) -> str:
    """A row that training draws: an Example, a Preference, a Judged, or an item with its prompt.

    Tokens are separated by bars. Those that the loss counts are green or, without colours, stand
    between double brackets.
    """
    parts: list[tuple[str, Sequence[int], Sequence[float]]] = []
    if isinstance(row, Example):
        mask = [1] * len(row.completion) if row.mask is None else row.mask
        parts = [("", [*row.prompt, *row.completion], [0] * len(row.prompt) + list(mask))]
    elif isinstance(row, Preference):
        both = (("chosen", row.chosen), ("rejected", row.rejected))
        parts = [("prompt", row.prompt, ()), *((k, x, [1] * len(x)) for k, x in both)]
    elif isinstance(row, Judged):
        name = "desirable" if row.label else "undesirable"
        own = (name, row.completion, [1] * len(row.completion))
        parts = [("prompt", row.prompt, ()), own]
    else:
        parts = [("prompt", row.tokens, ())]
    count = sum(len(ids) for _, ids, _ in parts)
    learned = sum(bool(weight) for _, _, mask in parts for weight in mask)
    lines = [f"row {place}: {count} tokens, {learned} of them learned"]
    for name, ids, mask in parts:
        text = _marked(ids, mask or [0] * len(ids), tokenizer, colour)
        lines.append(f"  {name}: {text}" if name else f"  {text}")
    if not isinstance(row, Example | Preference | Judged) and (right := truth(row.item)):
        lines.append(f"  truth: {right!r}")
    return "\n".join(lines)


def _marked(ids: Sequence[int], mask: Sequence[float], tokenizer: Tokenizer, colour: bool) -> str:
    opening, closing = (_GREEN, _PLAIN) if colour else ("[[", "]]")
    out, inside = [], False
    for token, weight in zip(ids, mask, strict=True):
        change = "" if bool(weight) == inside else closing if inside else opening
        inside = bool(weight)
        out.append(f"{change}{tokenizer.decode([int(token)])}".replace("\n", "\\n"))
    return "|".join(out) + closing * inside
