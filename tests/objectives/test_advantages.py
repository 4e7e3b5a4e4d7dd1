"""Group advantages by hand, against recorded numbers, and by their symmetries."""

import json

import numpy as np
import pytest

from caugym_jax.objectives.advantages import group_advantages, informative_groups
from tests.shared import shared_path


def rewards(*values):
    return np.array(values, float)


def test_by_hand():
    unit = 0.5 / (3**-0.5 + 1e-4)
    np.testing.assert_allclose(
        group_advantages(rewards(1, 0, 0, 1), 4), [unit, -unit, -unit, unit], rtol=1e-6
    )
    np.testing.assert_allclose(group_advantages(rewards(3, 1), 2, "none"), [1, -1])
    unit = 1 / (np.std([3, 1, 5, 5], ddof=1) + 1e-4)
    got = group_advantages(rewards(3, 1, 5, 5), 2, "batch")
    np.testing.assert_allclose(got, [unit, -unit, 0, 0], rtol=1e-6)


def test_baselines_by_hand():
    rloo = group_advantages(rewards(1, 0, 0, 1), 4, "none", baseline="leave_one_out")
    np.testing.assert_allclose(rloo, [2 / 3, -2 / 3, -2 / 3, 2 / 3], rtol=1e-6)
    plain = group_advantages(rewards(1, 0, 2, 1), 2, "none", baseline="none")
    np.testing.assert_allclose(plain, [1, 0, 2, 1])
    unit = 1 / (np.std([1, 0, 2, 1], ddof=1) + 1e-4)  # REINFORCE++
    got = group_advantages(rewards(1, 0, 2, 1), 2, "none", baseline="none", normalize=True)
    np.testing.assert_allclose(got, [0, -unit, unit, 0], atol=1e-6)
    unit = 0.5 / (np.std([0.5, -0.5, 0.5, -0.5], ddof=1) + 1e-4)  # with its baseline
    got = group_advantages(rewards(1, 0, 2, 1), 2, "none", normalize=True)
    np.testing.assert_allclose(got, [unit, -unit, unit, -unit], rtol=1e-6)


def test_leave_one_out_is_the_mean_of_the_others():
    drawn = np.random.default_rng(0).normal(size=12)
    drawn[[1, 6]] = np.nan
    got = group_advantages(drawn, 4, "none", baseline="leave_one_out")
    for i, r in enumerate(drawn):
        group = range(i // 4 * 4, i // 4 * 4 + 4)
        others = [drawn[j] for j in group if j != i and np.isfinite(drawn[j])]
        np.testing.assert_allclose(got[i], r - np.mean(others) if np.isfinite(r) else 0, rtol=1e-5)


def test_recorded_numbers():
    oracle = json.loads(shared_path("oracle/goldens.json").read_text())
    rewards = np.asarray(oracle["inputs"]["token_rewards"]).sum(axis=1)
    want = np.asarray(oracle["verl"]["grpo_adv"])
    got = group_advantages(rewards, 3, epsilon=1e-6)
    lengths = np.asarray(oracle["inputs"]["completion_mask"]).sum(axis=1)
    for row, n in enumerate(lengths):
        np.testing.assert_allclose(got[row], want[row][:n], rtol=1e-5)


def test_t21_each_group_sums_to_zero_and_permutes_with_its_rows():
    rng = np.random.default_rng(0)
    rewards = rng.normal(size=24)
    for scale in ("group", "batch", "none"):
        advantages = group_advantages(rewards, 8, scale).reshape(3, 8)
        np.testing.assert_allclose(advantages.sum(axis=1), 0, atol=1e-5)
        order = rng.permutation(8)
        shuffled = rewards.reshape(3, 8)[:, order].reshape(-1)
        np.testing.assert_allclose(
            group_advantages(shuffled, 8, scale).reshape(3, 8), advantages[:, order], rtol=1e-6
        )


def test_t21_equal_prompts_stay_separate_groups():
    """Groups are by place, never by prompt text: two copies of one prompt do not mix."""
    got = group_advantages(rewards(1, 0, 10, 10), 2, "none")
    np.testing.assert_allclose(got, [0.5, -0.5, 0, 0])


def test_equal_rewards_have_no_advantage_and_no_information():
    rewards = np.array([0.1] * 4 + [0.1, 0.1, 1.1, 0.1])
    assert not np.any(group_advantages(rewards, 4)[:4])
    np.testing.assert_array_equal(informative_groups(rewards, 4), [False, True])


def test_t24_unjudged_rows_get_zero_and_leave_the_mean():
    got = group_advantages(rewards(1.0, np.nan, 0.0, np.nan), 4, "none")
    np.testing.assert_allclose(got, [0.5, 0, -0.5, 0])
    got = group_advantages(np.array([np.nan] * 4), 4)
    assert not np.any(got)
    np.testing.assert_array_equal(
        informative_groups(np.array([np.nan] * 4 + [1, np.nan, 0, 1]), 4), [0, 1]
    )


def test_unknown_scale_is_refused():
    with pytest.raises(ValueError, match="group, batch or none"):
        group_advantages(rewards(1.0, 0.0), 2, "std")
    with pytest.raises(ValueError, match="group, leave_one_out or none"):
        group_advantages(rewards(1.0, 0.0), 2, baseline="mean")
