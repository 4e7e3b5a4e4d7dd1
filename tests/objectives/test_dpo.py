"""DPO's losses against recorded numbers, float64 NumPy, by hand, and in their limits."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from caugym_jax.objectives.dpo import LOSS_TYPES, dpo, pair_losses
from tests.objectives import bigram
from tests.shared import shared_path

PAIRS = [name for name in LOSS_TYPES if name != "sft"]


@pytest.fixture(scope="module")
def oracle():
    return json.loads(shared_path("oracle/goldens.json").read_text())


def of_pairs(rows):
    """Rows 0-2 are chosen, 3-5 rejected: [6] -> [3, 2]."""
    return jnp.asarray(rows).reshape(2, 3).T


def mean_loss(inputs, W, name, lengths=None, **options):
    mask = jnp.asarray(inputs["completion_mask"])
    logps = of_pairs(bigram.logps(W, inputs["ids"], mask))
    ref_logps = of_pairs(bigram.logps(jnp.asarray(inputs["Wr"]), inputs["ids"], mask))
    lengths = of_pairs(mask.sum(axis=1)) if lengths is None else lengths
    total, weight = dpo(logps, ref_logps, lengths, [name], **options)
    return total / weight


RECORDED = {
    **{name: (("dpo", name), name, {}) for name in PAIRS},
    "robust": (("dpo", "robust"), "robust", {"label_smoothing": 0.1}),
    "sft": (("dpo", "sft"), "sft", {}),
    "openrlhf": (("openrlhf", "dpo/ls=0.0/ipo=False"), "sigmoid", {}),
    "cdpo": (("openrlhf", "dpo/ls=0.1/ipo=False"), "sigmoid", {"label_smoothing": 0.1}),
    "ipo of sums": (
        ("openrlhf", "dpo/ls=0.0/ipo=True"),
        "ipo",
        {"lengths": np.ones((3, 2), np.int32)},
    ),
}


@pytest.mark.parametrize("case", RECORDED)
def test_losses_and_gradients_equal_recorded_numbers(oracle, case):
    (library, key), name, options = RECORDED[case]
    inputs, want = oracle["inputs"], oracle[library][key]
    loss = jax.jit(jax.value_and_grad(lambda W: mean_loss(inputs, W, name, beta=0.1, **options)))
    value, gradient = loss(jnp.asarray(inputs["Wp"]))
    np.testing.assert_allclose(value, want["loss"], rtol=1e-5)
    np.testing.assert_allclose(jnp.linalg.norm(gradient), want["grad_norm"], rtol=1e-4)


def test_recorded_rewards(oracle):
    inputs, want = oracle["inputs"], oracle["dpo"]["metrics"]
    logps_of = jax.jit(
        lambda W: of_pairs(bigram.logps(W, inputs["ids"], inputs["completion_mask"]))
    )
    logps, ref = (logps_of(jnp.asarray(inputs[W])) for W in ("Wp", "Wr"))
    chosen, rejected = (0.1 * (logps - ref)).mean(axis=0)
    np.testing.assert_allclose(chosen, want["rewards/chosen"], rtol=1e-4)
    np.testing.assert_allclose(rejected, want["rewards/rejected"], rtol=1e-4)
    np.testing.assert_allclose(logps.mean(axis=0)[0], want["logps/chosen"], rtol=1e-5)


def float64_loss(chosen, rejected, n_chosen, n_rejected, name, beta, e):
    """The formulas once more, with logarithms and exponentials written out."""
    m = beta * (chosen - rejected)
    mean = chosen / n_chosen - rejected / n_rejected
    right, wrong = np.log1p(np.exp(-m)), np.log1p(np.exp(m))
    return {
        "sigmoid": (1 - e) * right + e * wrong,
        "robust": ((1 - e) * right - e * wrong) / (1 - 2 * e),
        "ipo": (mean - 0.5 / beta) ** 2,
        "hinge": np.maximum(0, 1 - m),
        "sigmoid_norm": np.log1p(np.exp(-beta * mean)),
    }[name]


@pytest.mark.parametrize("name", PAIRS)
def test_values_and_gradients_equal_float64_differences(name):
    """Sign included: by central differences of an independent float64 version."""
    rng = np.random.default_rng(0)
    r = rng.normal(size=(2, 16)) * 4
    lengths = rng.integers(1, 30, (2, 16)).astype(float)
    options = dict(beta=0.3, label_smoothing=0.2)

    def ours(r):
        losses = pair_losses(*r, *jnp.asarray(lengths), name, **options)
        return losses.sum(), losses

    gradient, got = jax.jit(jax.grad(ours, has_aux=True))(jnp.asarray(r))
    np.testing.assert_allclose(
        got, float64_loss(*r, *lengths, name, 0.3, 0.2), rtol=2e-5, atol=1e-6
    )
    for side in (0, 1):
        step = np.zeros_like(r)
        step[side] = 1e-5
        up, down = (float64_loss(*(r + s), *lengths, name, 0.3, 0.2) for s in (step, -step))
        np.testing.assert_allclose(gradient[side], (up - down) / 2e-5, rtol=1e-4, atol=1e-6)
    if name in ("sigmoid", "robust", "hinge", "sigmoid_norm"):  # one step down raises the margin
        small = np.abs(0.3 * (r[0] - r[1])) < 0.9
        assert small.any() and np.all(gradient[0, small] < 0) and np.all(gradient[1, small] > 0)


def test_by_hand():
    chosen, rejected, two, single = (jnp.array([x]) for x in (3.0, 1.0, 2.0, 1.0))
    one = functools.partial(pair_losses, chosen, rejected, two, single, beta=0.5)
    np.testing.assert_allclose(one("sigmoid"), 0.313262, rtol=1e-5)
    np.testing.assert_allclose(one("ipo"), 0.25, rtol=1e-6)
    np.testing.assert_allclose(one("sigmoid_norm"), 0.575939, rtol=1e-5)
    assert one("hinge") == 0
    # e = 0.25: 0.75 * 0.313262 + 0.25 * 1.313262; robust: (0.75 * .. - 0.25 * ..) / 0.5
    np.testing.assert_allclose(one("sigmoid", label_smoothing=0.25), 0.563262, rtol=1e-5)
    np.testing.assert_allclose(one("robust", label_smoothing=0.25), -0.186738, rtol=1e-5)


def test_sft_by_hand_and_weighted():
    logps = jnp.array([[-2.0, -9.0], [-1.0, -9.0]])
    lengths = jnp.array([[1, 5], [3, 5]])
    assert dpo(logps, logps, lengths, ["sft"]) == (1.5, 2.0)
    total, weight = dpo(logps, logps, lengths, ["sigmoid", "sft"], loss_weights=[2.0, 0.1])
    np.testing.assert_allclose(total / weight, 2 * np.log(2) + 0.1 * 0.75, rtol=1e-6)


def test_t12_at_the_reference_the_loss_is_ln_2():
    logps = jax.random.normal(jax.random.key(0), (5, 2)) * 20
    lengths = jnp.full((5, 2), 7)
    at_start = {
        name: float(np.divide(*dpo(logps, logps, lengths, [name], beta=0.2))) for name in PAIRS
    }
    ln2 = np.log(2)
    want = {"sigmoid": ln2, "robust": ln2, "sigmoid_norm": ln2, "hinge": 1.0, "ipo": 2.5**2}
    assert at_start == pytest.approx(want, rel=1e-6)
    gradient = jax.grad(lambda x: dpo(x, logps, lengths)[0])(logps)
    np.testing.assert_allclose(gradient, np.tile([-0.05, 0.05], (5, 1)), rtol=1e-5)


def test_limits():
    """A small beta is linear in the margin; robust without noise is sigmoid; far margins."""
    r = jnp.array([5.0]), jnp.array([2.0]), jnp.ones(1), jnp.ones(1)
    small = pair_losses(*r, "sigmoid", beta=1e-3)
    np.testing.assert_allclose(small, np.log(2) - 1e-3 * 3 / 2, rtol=1e-5)
    np.testing.assert_array_equal(pair_losses(*r, "robust"), pair_losses(*r, "sigmoid"))
    far = jnp.array([1e4, -1e4])
    losses = pair_losses(far, -far, jnp.ones(2), jnp.ones(2), "sigmoid", beta=1.0)
    np.testing.assert_allclose(losses, [0, 2e4])


@pytest.mark.parametrize("name", LOSS_TYPES)
def test_t05_missing_completions_count_nothing(name):
    """A pair without a chosen completion, and one with neither."""
    lengths = jnp.array([[3, 4], [0, 4], [0, 0]])

    def both(logps, lengths):
        return dpo(logps, jnp.zeros((3, 2)), lengths, [name])

    total = jax.jit(jax.value_and_grad(both, has_aux=True))
    logps = jnp.array([[-3.0, -4.0], [-9.0, 0.0], [0.0, 0.0]])
    (value, weight), gradient = total(logps, lengths)
    (other, _), _ = total(logps.at[1].set(-50.0), lengths)
    assert weight == 1 and value == other != 0
    assert np.any(gradient[0]) and not np.any(gradient[1:])
    (value, weight), gradient = total(logps, jnp.zeros((3, 2), int))
    assert value == weight == 0 and not np.any(gradient)


def test_t04_split_and_order_of_pairs_change_nothing():
    """All losses in one weighted sum; the tokens of "sft" are counted over the global batch."""
    rng = np.random.default_rng(1)
    logps, ref = rng.normal(size=(2, 8, 2)).astype(np.float32) * 9
    lengths = rng.integers(0, 9, (8, 2))
    counted = np.all(lengths > 0, axis=1)
    share = counted.sum() / lengths[counted, 0].sum()
    weights = [1.0, 0.7, 0.01, 0.5, 0.9, 0.3]
    loss = jax.jit(functools.partial(dpo, loss_type=LOSS_TYPES, loss_weights=weights))

    def of(rows):
        return np.array(loss(logps[rows], ref[rows], lengths[rows], pairs_per_token=share))

    whole = of(np.arange(8))
    np.testing.assert_allclose(loss(logps, ref, lengths), whole, rtol=1e-6)
    np.testing.assert_allclose(of(rng.permutation(8)), whole, rtol=1e-6)
    for parts in (2, 4, 8):
        pieces = sum(of(rows) for rows in np.split(np.arange(8), parts))
        np.testing.assert_allclose(pieces, whole, rtol=1e-6)


def test_unknown_losses_are_refused():
    with pytest.raises(ValueError, match="one of sigmoid, robust, ipo, hinge, sigmoid_norm, not x"):
        pair_losses(*jnp.ones((4, 1)), "x")
