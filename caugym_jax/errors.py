"""The one exception that a user is meant to read, and the checks of settings that raise it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any


class UserError(Exception):
    """Something the user can fix. Its text is one line: what is wrong and what to do.

    Commands print it to standard error and exit with status 1; library callers may catch it.
    """


def require(
    settings: Any,
    *names: str,
    above: float | None = None,
    at_least: float | None = None,
    below: float | None = None,
    at_most: float | None = None,
    among: Sequence[Any] = (),
    hint: str = "",
) -> None:
    """Checks fields of a settings dataclass; for use in its `__post_init__`.

    A field that is None passes (the annotation says whether it may be None). Each element of a
    tuple is checked, and there must be one. A number must be finite.

    Args:
      names: the fields.
      above, at_least, below, at_most: bounds of a number.
      among: the values allowed; empty: any.
      hint: what else the line says, e.g. "or none for no clipping".

    Raises:
      UserError: `NAME=VALUE: must be ...`; `cli.config.build` puts the section before the name.
    """
    bounds = {"above": above, "at least": at_least, "below": below, "at most": at_most}
    words = [f"{word} {bound:g}" for word, bound in bounds.items() if bound is not None]
    if among:
        words.append(f"one of {', '.join(map(str, among))}")
    rule = " and ".join(words) or "finite"
    for name in names:
        value = getattr(settings, name)
        if value in ((), []):
            raise UserError(f"{name}={value!r}: must be at least one value")
        for part in value if isinstance(value, tuple | list) else (value,):
            if part is None or (
                (not isinstance(part, float) or math.isfinite(part))
                and (above is None or part > above)
                and (at_least is None or part >= at_least)
                and (below is None or part < below)
                and (at_most is None or part <= at_most)
                and (not among or part in among)
            ):
                continue
            raise UserError(f"{name}={value!r}: must be {rule}{f', {hint}' * bool(hint)}")
