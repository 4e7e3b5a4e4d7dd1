"""The door from a problem's text to its structure."""

from __future__ import annotations

import functools

from caugym_jax.causal.rephrasing import is_rephrased, read_rephrased
from caugym_jax.causal.reworded import read_reworded
from caugym_jax.causal.templated import is_templated, read_templated
from caugym_jax.causal.vocabulary import BadProblem, Reading, Unread

MAX_TEXT = 100_000  # characters; the longest released problem has 6,000

__all__ = ["BadProblem", "Reading", "Unread", "read"]


@functools.lru_cache(maxsize=4096)
def read(text: str) -> Reading:
    """The structure of a problem's text, in the official wording or reworded.

    Raises BadProblem where an official wording does not make a problem (a cycle, a name that the
    graph does not have, a probability above 1) and Unread where another wording is not understood
    for certain; both say why in one line.
    """
    if len(text) > MAX_TEXT:
        raise Unread(f"the text has {len(text)} characters: more than {MAX_TEXT}")
    if is_templated(text):
        return read_templated(text)
    return read_rephrased(text) if is_rephrased(text) else read_reworded(text)
