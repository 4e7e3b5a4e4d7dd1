"""The door from a problem's text to its structure."""

from __future__ import annotations

import functools

from caugym_jax.causal.text.rephrasing import is_rephrased, read_rephrased
from caugym_jax.causal.text.templated import is_templated, read_templated
from caugym_jax.causal.text.vocabulary import BadProblem, Unread
from caugym_jax.types import Story

MAX_TEXT = 100_000  # characters; the longest released problem has 6,000

__all__ = ["BadProblem", "Unread", "read"]


@functools.lru_cache(maxsize=1024)  # rows of one problem follow each other in some files
def read(text: str) -> Story:
    """The structure of a problem's text in the official wording or in the grammar's words.

    Raises BadProblem where an official wording does not make a problem (a cycle, a name that the
    graph does not have, a probability above 1) and Unread where the text is in other words; both
    say why in one line.
    """
    if len(text) > MAX_TEXT:
        raise Unread(f"the text has {len(text)} characters: more than {MAX_TEXT}")
    if is_templated(text):
        return read_templated(text)
    if is_rephrased(text):
        return read_rephrased(text)
    raise Unread("the text is not in a wording that can be read exactly")
