"""A cache in 8 bits."""

import jax
import jax.numpy as jnp
import numpy as np

from caugym_jax.models.attention import attention_over_pieces
from caugym_jax.models.rounded import rounded


def test_numbers_and_scales_by_hand():
    x = jnp.array([[0.5, -1.27], [0.0, 0.0]])
    found = rounded(x, axis=1)
    np.testing.assert_array_equal(found.numbers, [[50, -127], [0, 0]])
    np.testing.assert_allclose(found.scale[0], [0.01], rtol=1e-6)
    x = jax.random.normal(jax.random.key(0), (3, 4, 16, 5))
    found = rounded(x, axis=2)
    error = np.abs(found.numbers * found.scale - x)
    assert np.all(error <= 0.5 * found.scale + 1e-7)
    np.testing.assert_array_equal(found[1].numbers, found.numbers[1])


def test_attention_is_that_over_the_rounded_arrays():
    """In a piece of its rows' own and in one that two rows share."""
    B, N, K, H, S = 4, 4, 2, 8, 6
    keys = jax.random.split(jax.random.key(1), 5)
    q = jax.random.normal(keys[0], (B, N, H))
    pieces, plain = [], []
    for R, key in ((2, keys[1]), (4, keys[2])):
        k = rounded(jax.random.normal(key, (R, K, H, S)), axis=-2)
        v = rounded(jax.random.normal(jax.random.fold_in(key, 1), (R, K, S, H)), axis=-1)
        mask = jnp.ones((R, B // R, S), bool).at[:, :, -2:].set(False)
        pieces.append((k, v, mask))
        plain.append((k.numbers * k.scale, v.numbers * v.scale, mask))
    found, wanted = attention_over_pieces(q, pieces), attention_over_pieces(q, plain)
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)
