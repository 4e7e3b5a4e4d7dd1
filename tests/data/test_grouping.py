"""Batches of like length: nothing lost, the same with workers, and resumable anywhere."""

import functools
import random

import numpy as np
import pytest

from caugym_jax.data.grouping import Batches, drawn, places_used, sorted_batches, stage_at
from caugym_jax.types import Example


def examples(seed: int, n: int = 50) -> list[Example]:
    rng = random.Random(seed)
    lengths = [(rng.randrange(1, 200), rng.randrange(1, 60)) for _ in range(n)]
    return [Example([i + 1] * p, [i + 1] * c) for i, (p, c) in enumerate(lengths)]


def make(group: int, places: int = 512) -> list:
    return sorted_batches(examples(group), places, 0, random.Random(group))


def test_every_example_is_in_one_row():
    batches = make(0)
    seen = [
        int(row[0]) for b in batches for row, s in zip(b.tokens, b.segment_ids, strict=True) if s[0]
    ]
    assert sorted(seen) == list(range(1, 51))
    assert all(b.tokens.size <= 512 for b in batches)
    assert np.mean([places_used(b) for b in batches]) > 0.75
    assert sum(int(b.loss_mask.sum()) for b in batches) == sum(
        len(e.completion) for e in examples(0)
    )


def test_what_no_row_holds_is_left_out():
    long = Example([1] * 5_000, [1])
    assert sorted_batches([long], 512, 0, random.Random(0)) == []


def same(a, b) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("after", [0, 1, 7, 30])
def test_it_goes_on_where_it_stopped(after):
    first, second = Batches(make), Batches(make)
    for _ in range(after):
        next(first)
    second.set_state(first.get_state())
    for _ in range(25):
        assert same(next(first), next(second))


def test_workers_change_nothing():
    alone, helped = Batches(make), Batches(functools.partial(make, places=512), workers=1)
    try:
        for _ in range(30):
            assert same(next(alone), next(helped))
        assert helped.waited > 0
        helped.set_state(alone.get_state())
        assert same(next(alone), next(helped))
    finally:
        helped.close()


def test_stages_follow_each_other():
    stages = [(10, "a"), (20, "b")]
    assert stage_at(stages, 0) == ("a", 0)
    assert stage_at(stages, 9) == ("a", 0.9)
    assert stage_at(stages, 20) == ("b", 0.5)
    assert stage_at(stages, 1_000) == ("b", 1)


def test_drawn_follows_weights():
    rng = random.Random(0)
    names = [drawn({"a": 3.0, "b": 1.0}, rng) for _ in range(400)]
    assert 270 < names.count("a") < 330
