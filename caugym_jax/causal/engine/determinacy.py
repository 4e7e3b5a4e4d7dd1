"""Whether printed probabilities determine an estimand on a graph: a proof by derivatives."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from caugym_jax.causal.engine.estimands import asked, by_identification
from caugym_jax.causal.engine.scm import SCM, event_cells, joint, scm_slopes
from caugym_jax.types import Event, Query, Term

FLAT = 1e-6  # a gradient shorter than this is none
OUTSIDE = 1e-3  # share of a gradient that lies outside a span


def determined(
    scm: SCM, query: Query, printed: Sequence[Term], observed: np.ndarray | None = None
) -> bool:
    """False where the printed probabilities certainly leave the estimand open on this graph.

    A small change of the mechanisms that keeps every printed probability and moves the estimand
    proves it open: one exists iff the estimand's gradient is not in the row space of the printed
    probabilities' Jacobian with respect to the free entries of the mechanisms. (True may also
    mean that a bound is clipped here and open elsewhere.)

    observed: the joint of `scm`, where it is at hand.
    """
    observed = joint(scm) if observed is None else observed
    needed = asked(query)
    numbers = _conditionals(scm, observed, (*printed, *needed))
    rows = np.array([number.slope for number in numbers[: len(printed)]]).T
    known: dict[tuple[Event, Event], _Moving] = dict(
        zip(needed, numbers[len(printed) :], strict=True)
    )
    one = _Moving(1.0, np.zeros_like(numbers[0].slope))
    estimand = by_identification(
        query, lambda target, given: known[target, given] if target else one
    )
    gradient = estimand.slope if isinstance(estimand, _Moving) else np.zeros(1)  # clipped
    size = np.linalg.norm(gradient)
    if size < FLAT:
        return True
    if not printed:
        return False
    gradient = gradient / size
    weights, *_ = np.linalg.lstsq(rows, gradient, rcond=1e-7)
    return bool(np.linalg.norm(rows @ weights - gradient) < OUTSIDE)


def _conditionals(scm: SCM, observed: np.ndarray, terms: tuple[Term, ...]) -> list[_Moving]:
    """The terms' probabilities, with their slopes along the free entries of the mechanisms."""
    which, cells, parts, wholes = event_cells(terms, observed.ndim)
    entries, slopes = scm_slopes(scm, observed)
    size = entries[-1].max() + 1
    sums = np.bincount(which, observed.reshape(-1)[cells])[:, None]
    moved = np.bincount(
        (which * size + entries[:, cells]).reshape(-1),
        slopes[:, cells].reshape(-1),
        minlength=len(sums) * size,
    ).reshape(-1, size)
    values = sums[parts] / sums[wholes]
    slope = (moved[parts] - values * moved[wholes]) / sums[wholes]
    return list(map(_Moving, values[:, 0].tolist(), slope))


class _Moving:
    """A number and its slope along each direction, through + - * / and comparison."""

    __slots__ = ("slope", "value")

    def __init__(self, value: float, slope: np.ndarray) -> None:
        self.value = value
        self.slope = slope

    def __add__(self, other: _Moving | float) -> _Moving:
        if isinstance(other, _Moving):
            return _Moving(self.value + other.value, self.slope + other.slope)
        return _Moving(self.value + other, self.slope)

    __radd__ = __add__

    def __sub__(self, other: _Moving) -> _Moving:
        return _Moving(self.value - other.value, self.slope - other.slope)

    def __mul__(self, other: _Moving) -> _Moving:
        return _Moving(
            self.value * other.value, self.slope * other.value + self.value * other.slope
        )

    def __truediv__(self, other: _Moving) -> _Moving:
        ratio = self.value / other.value
        return _Moving(ratio, (self.slope - ratio * other.slope) / other.value)

    def __lt__(self, other: float) -> bool:
        return self.value < other

    def __gt__(self, other: float) -> bool:
        return self.value > other
