"""The figures that a run reports about itself."""

import numpy as np
import pytest

from caugym_jax.errors import UserError
from caugym_jax.evals.probe import Probed, figures, nonzero, paired_gain, require_finite, summary
from caugym_jax.types import Problem, Rollout


def problem(task, answer):
    return Problem(f"Input Info: ...\nQuestion: {task}?\n", answer, task)


PROBLEMS = [
    problem("ATE", '{"ANSWER": "Yes", "PROB": "0.2"}'),
    problem("ATE", '{"ANSWER": "No", "PROB": "0"}'),
    problem("ETT", '{"ANSWER": "No", "PROB": "0.1"}'),
    problem("PN", '{"PROB": "0.0004"}'),
    problem("PN", "LACK_CONDITION"),
]


def probed(right, completions=None):
    right = np.array(right, bool)
    n = len(right)
    return Probed(completions or ["x"] * n, right, np.ones(n, bool), np.arange(n) > 0)


def test_answers_from_logits_that_are_not_finite_are_an_error():
    tokens, logprobs = np.zeros((3, 4), np.int32), np.zeros((3, 2), np.float32)
    rollout = Rollout(tokens, *[None] * (len(Rollout._fields) - 1))._replace(logprobs=logprobs)
    assert require_finite(rollout) is rollout
    for bad in (np.nan, -np.inf):
        wrong = logprobs.copy()
        wrong[1, 0] = bad
        with pytest.raises(UserError, match="logits are not finite in 1 of 3 answers"):
            require_finite(rollout._replace(logprobs=wrong))


def test_paired_gain_by_hand():
    gain, low, high = paired_gain(np.array([0, 0, 1, 1]), np.array([1, 1, 1, 1]))
    assert gain == 0.5
    assert high - gain == pytest.approx(1.96 * 0.57735 / 2, abs=1e-4)
    assert gain - low == pytest.approx(high - gain)


def test_nonzero_leaves_out_what_a_constant_zero_gets_right():
    np.testing.assert_array_equal(nonzero(PROBLEMS), [True, False, True, False, False])


def test_figures_by_hand():
    got = figures(probed([1, 1, 0, 0, 1]), PROBLEMS)
    assert got["strict"] == pytest.approx(0.6)
    assert got["strict_nonzero"] == 0.5
    assert (got["strict_ATE"], got["strict_ETT"], got["strict_PN"]) == (1, 0, 0.5)
    assert got["truncated"] == pytest.approx(0.2)


def test_json_round_trip():
    a = probed([1, 0, 1, 0, 0])
    b = Probed.from_json(a.as_json())
    assert b.completions == a.completions
    np.testing.assert_array_equal(b.right, a.right)
    np.testing.assert_array_equal(b.ended, a.ended)


def test_summary_shows_gain_and_answers_of_each_task_in_turn():
    after = probed([1, 1, 0, 0, 0], ["first", "second", "third", "fourth", "fifth"])
    text = summary(probed([0, 1, 0, 0, 0]), after, PROBLEMS, ["five by hand"])
    assert text.splitlines()[1] == "  five by hand"
    assert "non-zero answers       2     0.0%    50.0%   +50.0" in text
    shown = text[text.index("Answered problems") :].splitlines()[1:]
    assert shown[:6] == [
        "  [ATE] Question: ATE?",
        "    before (wrong):",
        "      x",
        "    after (right):",
        "      first",
        '    engine: {"ANSWER": "Yes", "PROB": "0.2"}',
    ]
    assert shown[6].startswith("  [ETT]") and "      third" in shown and len(shown) == 12
