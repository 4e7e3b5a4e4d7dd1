"""Every loss and its gradient are the same for every split of the batch and number of devices."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from caugym_jax.algorithms.step import gradients
from caugym_jax.devices.mesh import make_mesh, put, rows
from caugym_jax.objectives.policy import PolicyLoss, policy_loss
from caugym_jax.objectives.sft import nll
from tests.objectives.bigram_rows import experience, scores, table


def sft_loss(W, e):
    return nll(scores(W, e.tokens)[0], e.mask), {}


QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
LOSSES = {
    "sft": sft_loss,
    "grpo": {"beta": 0.04, "entropy_coef": 0.01},
    "bnpo": {"loss_type": "bnpo", "importance_sampling_correction": "token"},
    "dapo": {"loss_type": "dapo", "delta": 1.5},
    "dr_grpo": {"loss_type": "dr_grpo", "horizon": 9},
    "gspo": {"importance_sampling_level": "sequence", "epsilon": 0.05, "epsilon_high": 0.05},
    "cispo": {"loss_type": "cispo", "epsilon_high": 1.2},
    "sequence correction": {"importance_sampling_correction": "sequence", "beta": 0.04},
}


def loss_of(name, W, e):
    if callable(LOSSES[name]):
        return LOSSES[name](W, e)
    settings = dict(LOSSES[name])
    horizon = settings.pop("horizon", None)
    return policy_loss(*scores(W, e.tokens), e, PolicyLoss(**settings), horizon)


@functools.cache
def program(microbatches):
    def step(W, e):
        return {
            name: gradients(functools.partial(loss_of, name), W, e, microbatches)[:2]
            for name in LOSSES
        }

    return jax.jit(step, compiler_options=QUICK)


def found(batch, microbatches=1):
    """{loss: (gradient, value)} of all losses, in one program."""
    return jax.device_get(program(microbatches)(jnp.asarray(table()), batch))


def assert_same(got, whole):
    for name, (gradient, value) in whole.items():
        assert np.linalg.norm(gradient) > 1e-3
        np.testing.assert_allclose(got[name][1], value, rtol=1e-6, atol=1e-8, err_msg=name)
        off = np.linalg.norm(got[name][0] - gradient)
        assert off <= 1e-5 * np.linalg.norm(gradient), name


@pytest.fixture(scope="module")
def whole():
    return found(experience())


@pytest.mark.parametrize("microbatches,devices", [(2, 1), (8, 1), (1, 2), (2, 4), (1, 8)])
def test_t04_microbatches_and_devices_change_no_loss_and_no_gradient(whole, microbatches, devices):
    """1 x 8, 2 x 4 and 8 x 1 rows; 1, 2, 4 and 8 devices; uneven lengths, one row empty."""
    mesh = make_mesh(devices, devices=jax.devices()[:devices])
    with jax.set_mesh(mesh):
        assert_same(found(put(experience(), rows(mesh)), microbatches), whole)


def test_row_order_changes_no_loss_and_no_gradient(whole):
    order = np.random.default_rng(5).permutation(8)
    assert_same(found(jax.tree.map(lambda x: x[order], experience())), whole)


def test_t05_nothing_but_masked_rows_give_zero_and_not_nan():
    e = experience()
    for gradient, value in found(e._replace(mask=np.zeros_like(e.mask)), 2).values():
        assert value == 0 and not np.any(gradient)
