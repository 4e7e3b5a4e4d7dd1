"""Generated problems with their plans, drawn once for all tests of solutions."""

import functools
import random

from caugym_jax.causal.engine.generating import generate_problems
from caugym_jax.data.solutions.conditions import Plan, plan_of, story_of
from caugym_jax.data.solutions.writing import written
from caugym_jax.types import TASKS, Problem

VARIANTS = ("base", "deconfounding", "redundant", "insufficient", "omitted", "rephrased")


@functools.cache
def problems(variant: str, n: int = 70) -> list[tuple[Problem, Plan]]:
    drawn = generate_problems(TASKS, n, 5, variant=variant)
    return [(p, plan_of(story_of(p), lacks=p.lacks)) for p in drawn]


def tokens(plan: Plan, rng: random.Random | None = None) -> list[str]:
    return written(plan.formula, plan.items, plan.x, plan.y, rng, plan.missing)
