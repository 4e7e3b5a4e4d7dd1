"""What a rewriting's question changes of the story of the problem that it rewrites."""

import dataclasses

import pytest

from caugym_jax.causal.text.reading import read
from caugym_jax.causal.text.rewrites import direction, rewritten
from tests.problems import dose_text

STORY = read(dose_text().replace("tall", "high").replace("short", "low"))  # dose high, height high


@pytest.mark.parametrize(
    ("question", "asked"),
    [
        ("Would a high dose make high height more likely?", 1),
        ("Would a high dose make high height less likely?", -1),
        ("Does it raise the probability of height being high?", 1),
        ("Will a high dose lead to a lower chance of high height?", -1),
        ("Would the probability of height being high decrease?", -1),
        ("Would the probability of height being high be different?", None),
        ("Does the likelihood increase or decrease?", None),
        ("Determine whether the likelihood of high height would increase.", 1),
        ("Dose lowers the chance of frost. Would high height become more probable?", 1),
        ("What is the probability of high height?", None),
    ],
)
def test_direction(question, asked):
    assert direction(f"Dose affects height. {question}") == asked
    assert rewritten(STORY, question).direction == asked


@pytest.mark.parametrize(
    ("question", "asked"),
    [
        ("Does changing dose from low to high raise the probability of height being high?", 1),
        ("Does changing dose from high to low raise the probability of height being high?", -1),
        ("Does changing dose from high to a low level reduce the chance of high height?", 1),
        ("With a high dose, is height more likely to be low?", -1),
        ("Does it bring a higher chance of height being low rather than high?", 1),
        ("With a high dose, is height less likely to be low?", 1),
    ],
)
def test_other_states_turn_the_direction_round(question, asked):
    assert rewritten(STORY, question).direction == asked


def test_all_else_is_kept():
    story = rewritten(dataclasses.replace(STORY, codes=True), "Is high height less likely?")
    assert story == dataclasses.replace(STORY, direction=-1)
    bound = dataclasses.replace(STORY.query, task="PN", bound="upper")
    bound = dataclasses.replace(STORY, query=bound)
    assert rewritten(bound, "What is the greatest chance?") == bound
