"""Stop strings: texts at which a completion ends."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from caugym_jax.types import Rollout


def stop_ids(stops: Sequence[str], encode: Callable[[str], list[int]]) -> list[int]:
    """The tokens that are a stop string each, at which the sampler can end a completion itself."""
    return [ids[0] for ids in map(encode, stops) if len(ids) == 1]


def cut(
    rollout: Rollout, stops: Sequence[str], decode: Callable[[Sequence[int]], str], pad_id: int
) -> Rollout:
    """The rollout with every completion ended by the token that completes a stop string.

    A token depends on those before it alone, so this is what the sampler would have drawn if it had
    stopped there.

    By hand: tokens "So", " 4", "\n\n", "Q:" with the stop string "\n" are cut to the first three.
    """
    if not stops:
        return rollout
    P, (tokens, logprobs) = rollout.prompt_width, map(np.array, (rollout.tokens, rollout.logprobs))
    lengths, ended = map(np.array, (rollout.completion_length, rollout.ended))
    for row, ids in enumerate(tokens[:, P:]):
        kept = _end(ids[: lengths[row]].tolist(), stops, decode)
        if kept is not None:
            lengths[row], ended[row] = kept, True
            tokens[row, P + kept :], logprobs[row, kept:] = pad_id, 0
    return rollout._replace(
        tokens=tokens, completion_length=lengths, ended=ended, logprobs=logprobs
    )


def _end(
    ids: list[int], stops: Sequence[str], decode: Callable[[Sequence[int]], str]
) -> int | None:
    """How many tokens it takes until the text holds a stop string; None: it never does."""

    def stopped(count: int) -> bool:
        text = decode(ids[:count])
        return any(stop in text for stop in stops)

    if not stopped(len(ids)):
        return None
    low, high = 1, len(ids)  # by bisection: more tokens never hold less
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if stopped(middle) else (middle + 1, high)
    return low
