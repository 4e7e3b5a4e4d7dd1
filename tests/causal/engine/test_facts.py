"""Models drawn many at once, and what their numbers give."""

import itertools

import numpy as np
import pytest

from caugym_jax.causal.engine.estimands import by_identification, exact_probability
from caugym_jax.causal.engine.facts import draw_facts
from caugym_jax.causal.engine.routes import draw_world
from caugym_jax.types import TASKS


def worlds(task: str, count: int):
    rng = np.random.default_rng(TASKS.index(task))
    drawn = (draw_world(rng, task, (5, 7), 2, 2) for _ in range(100))
    useful = (world for world in drawn if world is not None and world.every_way)
    return rng, list(itertools.islice(useful, count))


@pytest.mark.parametrize("task", TASKS)
def test_answers_of_many_models_are_those_of_each(task):
    rng, found = worlds(task, 3)
    for world in found:
        ways = world.every_way
        drawn_facts = list(draw_facts(rng, world.base, ways, 0))
        assert len({numbers.exact[ways[0]] for numbers in drawn_facts}) > 1
        for numbers in drawn_facts[:4]:
            assert numbers.observed.sum() == pytest.approx(1.0, abs=1e-12)
            p = exact_probability(numbers.observed)
            for way in ways:
                assert numbers.exact[way] == pytest.approx(by_identification(way, p), abs=1e-12)


def test_hopeful_ways_are_answered_to_four_decimals_by_what_is_printed():
    sharp = []
    for task in TASKS:
        rng, (world,) = worlds(task, 1)
        for numbers in draw_facts(rng, world.base, world.every_way, 1):
            sharp += [numbers.answer(way).sharp for way in numbers.hopeful]
    assert np.mean(sharp) > 0.9  # all but those where a printed distribution's last number is off
