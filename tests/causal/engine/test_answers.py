"""The verdict of each task, the number format, the label, each by hand."""

from decimal import Decimal

import pytest

from caugym_jax.causal.engine.answers import four_decimals, label, labelled, verdict
from caugym_jax.types import BOUND_TASKS, LACK, TASKS, Problem


@pytest.mark.parametrize("task", TASKS)
def test_the_verdict_is_the_sign_and_turned_round_for_ett(task):
    said = [verdict(task, Decimal(value)) for value in ("0.2", "0", "-0.2")]
    if task in BOUND_TASKS:
        assert said == [None] * 3
    else:
        assert said == (["No", "No", "Yes"] if task == "ETT" else ["Yes", "No", "No"])


def test_number_format():
    assert four_decimals(Decimal("-0.06")) == "-0.06"
    assert four_decimals(Decimal("0.18258800")) == "0.1826"
    assert four_decimals(Decimal(0)) == four_decimals(Decimal("-0.00001")) == "0"
    assert four_decimals(Decimal(1)) == "1"


def test_labels():
    assert label("ETT", Decimal("-0.08431")) == '{"ANSWER": "Yes", "PROB": "-0.0843"}'
    assert label("ATE", Decimal("0.1"), "No") == '{"ANSWER": "No", "PROB": "0.1"}'
    assert label("PN", Decimal("0.5")) == '{"PROB": "0.5"}'
    assert label("PN", None) == LACK
    assert labelled(Problem("?", '{"PROB": 0.35}', "PN")) == Decimal("0.35")
