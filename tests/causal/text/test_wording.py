"""The official texts, rebuilt from their structure, letter by letter."""

import dataclasses

import pytest

from caugym_jax.causal.text.wording import enumeration, problem_text
from caugym_jax.types import Query, Story, Term
from tests.causal import official


@pytest.mark.parametrize(
    "name, least",
    [("base", 140), ("deconfounding", 138), ("redundant", 137), ("insufficient", 136)],
)
def test_official_texts_are_rebuilt_exactly(name, least):
    items = official.items(name)
    assert len(items) >= least
    for item in items:
        story = dataclasses.replace(official.read(item), codes=name != "base")
        text = problem_text(story, stop=name != "insufficient")
        slip = " appearance has a direct"  # starts with a small letter in the released file
        assert text == item["problem"].replace(slip, slip.replace("a", "A", 1))


def test_text_worked_by_hand():
    story = Story(
        names=("rain", "traffic"),
        states=(("low", "high"), ("light", "heavy")),
        edges=((0, 1),),
        given=((Term(((1, 1),), ((0, 0),)), "0.2500"), (Term(((1, 1),), ((0, 1),)), "0.7500")),
        query=Query("ETT", 0, 1, x_value=1, y_value=1),
    )
    header = (
        "Input Info: Imagine a self-contained, hypothetical world with only the following "
        "conditions, and without any unmentioned factors or causal relationships:"
    )
    asked = (
        "Question: For those with rain being low, if their rain had been high, would the traffic "
        "have been more likely to be heavy?\nProvide the calculation result to four decimal places "
        'and a final "yes" or "no" answer in JSON format, like {"ANSWER": "Yes", "PROB": "0.1234"}:'
    )
    assert problem_text(story) == (
        f"{header} Rain has a direct effect on traffic.\n"
        "For those with rain being low, the probability of traffic being heavy is 0.2500. "
        "For those with rain being high, the probability of traffic being heavy is 0.7500. \n"
        "Instruction: Consider the effect of treatment on the treated (ETT) of rain on traffic.\n"
        f"{asked}"
    )
    assert problem_text(dataclasses.replace(story, codes=True), instruction=False, stop=False) == (
        f"{header}Rain has a direct effect on traffic.\n"
        "For those with rain being low (A=0), the probability of traffic being heavy (B=1) is "
        "0.2500. For those with rain being high (A=1), the probability of traffic being heavy "
        f"(B=1) is 0.7500\n\n{asked}"
    )


def test_enumeration():
    assert enumeration(["a"]) == "a"
    assert enumeration(["a", "b"]) == "a and b"
    assert enumeration(["a", "b", "c"]) == "a, b and c"
