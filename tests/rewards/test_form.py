"""The form reward, case by case, independent of being right."""

import pytest
from hypothesis import given

from caugym_jax.rewards.form import form_reward
from caugym_jax.types import Problem
from tests.rewards.test_answer import hostile

EFFECT = Problem(text="", answer='{"ANSWER": "Yes", "PROB": "0.3847"}', task="ATE")
BOUND = Problem(text="", answer='{"PROB": "0.5"}', task="PN")
LACKING = Problem(text="", answer="LACK_CONDITION", task="ATE", variant="insufficient")
GOOD = '{"ANSWER": "No", "PROB": "-1"}'


@pytest.mark.parametrize(
    "text", [GOOD, "So:\n" + GOOD, f"```json\n{GOOD}\n```", f"<think>a</think>{GOOD}", GOOD + "."]
)
def test_well_formed(text):
    assert form_reward(text, EFFECT) == 1.0


@pytest.mark.parametrize(
    "text",
    [
        "",
        "LACK_CONDITION",
        GOOD + GOOD,
        GOOD + " I hope this helps",
        "<think>" + GOOD,
        "<think>" + GOOD + "</think>",
        '{"PROB": "-1"}',
        '{"ANSWER": "No"}',
        '{"ANSWER": "Perhaps", "PROB": "1"}',
        '{"ANSWER": "No", "PROB": "one"}',
        '{"ANSWER": "No", "PROB": NaN}',
        '{"ANSWER": "No", "PROB": "1", "PROB": "1"}',
        '{"ANSWER": "No", "PROB": "1", "NOTE": ""}',
        "{'ANSWER': 'No', 'PROB': '1'}",
    ],
)
def test_ill_formed(text):
    assert form_reward(text, EFFECT) == 0.0


def test_bound_tasks_ask_for_prob_alone():
    assert form_reward('{"PROB": 0.1}', BOUND) == 1.0
    assert form_reward(GOOD, BOUND) == 0.0


def test_lack_is_a_form_where_it_is_the_answer():
    assert form_reward("LACK_CONDITION", LACKING) == 1.0
    assert form_reward(GOOD, LACKING) == 1.0
    assert form_reward(GOOD + "\nLACK_CONDITION", LACKING) == 0.0


def test_truncated_is_ill_formed():
    assert form_reward(GOOD, EFFECT, truncated=True) == 0.0


def test_a_thinking_model_closes_its_think_once():
    assert form_reward(GOOD, EFFECT, thinking=True) == 0.0
    assert form_reward("a</think>" + GOOD, EFFECT, thinking=True) == 1.0
    assert form_reward("a</think>b</think>" + GOOD, EFFECT, thinking=True) == 0.0


@given(hostile)
def test_never_raises(text):
    assert all(form_reward(text, problem) in (0.0, 1.0) for problem in (EFFECT, BOUND, LACKING))
