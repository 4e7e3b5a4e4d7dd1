"""Picking against float64 NumPy: exact probabilities, exact filters, and what is reported."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from caugym_jax.errors import UserError
from caugym_jax.sampling.picking import Settings, pick

ROWS = 40_000


def draws(logits, settings, rows=ROWS, seed=0):
    """`rows` independent draws from one row of logits: (tokens, logprobs)."""
    logits = jnp.asarray(logits, jnp.float32)
    keys = jax.random.split(jax.random.key(seed), rows)
    wide = jnp.broadcast_to(logits, (rows, logits.size))
    return map(np.asarray, jax.jit(pick)(wide, keys, jnp.int32(3), settings.arrays()))


def softmax(x):
    e = np.exp(np.asarray(x, np.float64) - np.max(x))
    return e / e.sum()


def filtered(logits, temperature=1.0, top_k=0, top_p=1.0, min_p=0.0):
    """The distribution by sorting, as the definitions say (no ties)."""
    p = softmax(np.asarray(logits, np.float64) / temperature)
    keep = np.ones(p.size, bool)
    order = np.argsort(-p)
    if top_k:
        keep[order[top_k:]] = False
    if top_p < 1:
        mass = np.cumsum(np.where(keep, p, 0)[order]) / p[keep].sum()
        keep[order[np.searchsorted(mass, top_p) + 1 :]] = False
    if min_p:
        keep &= p >= min_p * p.max()
    return np.where(keep, p, 0) / p[keep].sum()


def assert_distribution(tokens, p):
    """Chi-squared below its mean plus 5 standard deviations; nothing outside the support."""
    counts = np.bincount(tokens, minlength=p.size)
    assert counts[p == 0].sum() == 0
    expected = p[p > 0] * tokens.size
    statistic = ((counts[p > 0] - expected) ** 2 / expected).sum()
    degrees = max((p > 0).sum() - 1, 1)
    assert statistic < degrees + 5 * np.sqrt(2 * degrees), (statistic, degrees)


LOGITS = np.random.default_rng(0).normal(0, 1.5, 300)  # more than two blocks, the last one short


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"temperature": 0.6},
        {"top_k": 7},
        {"top_p": 0.8},
        {"min_p": 0.1},
        {"temperature": 1.4, "top_k": 50, "top_p": 0.9, "min_p": 0.02},
        {"top_k": 1000},
    ],
    ids=str,
)
def test_draws_follow_the_filtered_distribution_and_report_the_unfiltered_one(settings):
    tokens, logprobs = draws(LOGITS, Settings(**settings))
    assert_distribution(tokens, filtered(LOGITS, **settings))
    expected = np.log(softmax(LOGITS / settings.get("temperature", 1.0)))[tokens]
    np.testing.assert_allclose(logprobs, expected, atol=1e-5)


def test_top_p_by_hand():
    # 0.5, 0.3, 0.15, 0.05: 0.8 needs two; 0.81 needs three; 0.5 needs one
    logits = np.log([0.3, 0.05, 0.5, 0.15])
    for top_p, kept in ((0.79, {0, 2}), (0.81, {0, 2, 3}), (0.49, {2}), (0.96, {0, 1, 2, 3})):
        tokens, _ = draws(logits, Settings(top_p=top_p), rows=2000)
        assert set(tokens.tolist()) == kept


def test_equal_tokens_at_the_edge_are_all_kept():
    tokens, _ = draws([1.0, 2.0, 1.0, 0.0], Settings(top_k=2), rows=2000)
    assert set(tokens.tolist()) == {0, 1, 2}


def test_temperature_zero_is_greedy_takes_the_first_of_equals_and_reports_temperature_one():
    logits = jnp.asarray([[0.0, 3.0, 1.0, 3.0], [5.0, 0.0, 0.0, 0.0]])
    keys = jax.random.split(jax.random.key(0), 2)
    token, logprob = pick(logits, keys, 0, Settings(temperature=0.0, top_k=1, top_p=0.1))
    assert token.tolist() == [1, 0]
    expected = [np.log(softmax(row))[i] for row, i in zip(logits, token, strict=True)]
    np.testing.assert_allclose(logprob, expected, atol=1e-6)


def test_impossible_tokens_are_never_drawn():
    """Logits of -inf, also where they fill whole blocks and both ends."""
    logits = np.full(700, -np.inf)
    logits[[130, 135, 300]] = [0.0, 1.0, 0.5]
    tokens, _ = draws(logits, Settings())
    assert_distribution(tokens, softmax(logits))


def test_a_row_depends_on_its_own_logits_and_key_only():
    rng = np.random.default_rng(1)
    logits = jnp.asarray(rng.normal(0, 2, (6, 500)), jnp.float32)
    keys = jax.random.split(jax.random.key(1), 6)
    settings = Settings(temperature=0.9, top_p=0.9)
    token, logprob = pick(logits, keys, 11, settings)
    for order in ([5, 0, 3, 1, 2, 4], [2], [4, 4, 1]):
        t, lp = pick(logits[jnp.array(order)], keys[jnp.array(order)], 11, settings)
        assert t.tolist() == token[jnp.array(order)].tolist()
        np.testing.assert_allclose(lp, logprob[jnp.array(order)], atol=1e-6)
    other, _ = pick(logits, keys, 12, settings)
    assert other.tolist() != token.tolist()
    per_row, _ = pick(logits, keys, jnp.full(6, 11), settings)
    assert per_row.tolist() == token.tolist()


def test_values_are_traced():
    traced = jax.jit(lambda *args: pick(*args))  # its own cache
    logits, keys = jnp.zeros((2, 50)), jax.random.split(jax.random.key(0), 2)
    for settings in (
        Settings(),
        Settings(0, 5, 1, 0),
        Settings(0.7, 0, 0.9, 0.1),
        Settings(np.float64(2), np.int64(3)),
    ):
        traced(logits, keys, jnp.int32(0), settings.arrays())
    assert traced._cache_size() == 1


def test_logits_that_are_not_numbers_still_give_a_token():
    keys = jax.random.split(jax.random.key(0), 1)
    for temperature in (0.0, 1.0):
        token, logprob = pick(jnp.full((1, 200), jnp.nan), keys, 0, Settings(temperature))
        assert 0 <= int(token[0]) < 200
        assert np.isnan(logprob[0])


@pytest.mark.parametrize(
    "wrong",
    [{"temperature": -0.1}, {"top_k": -1}, {"top_p": 0.0}, {"top_p": 1.1}, {"min_p": 1.5}],
    ids=str,
)
def test_values_out_of_range_are_refused_by_name(wrong):
    with pytest.raises(UserError, match=next(iter(wrong))):
        Settings(**wrong).check()
