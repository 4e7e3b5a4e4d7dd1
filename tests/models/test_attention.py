"""Attention in blocks of queries against the formula in float64."""

import jax
import numpy as np
import pytest

from caugym_jax.models.attention import BLOCK, MAX_BLOCKS, attention, visible

B, N, K, H = 2, 4, 2, 8


def reference(q, k, v, mask):
    """softmax(q k^T / sqrt(H)) v, one row and head at a time; a row that sees nothing is nan."""
    q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
    out = np.empty(q.shape)
    for b in range(q.shape[0]):
        for n in range(N):
            scores = q[b, :, n] @ k[b, :, n // (N // K)].T / np.sqrt(H)
            weights = np.where(mask[b], np.exp(scores), 0.0)
            total = weights.sum(axis=-1, keepdims=True)
            with np.errstate(invalid="ignore"):
                out[b, :, n] = weights / total @ v[b, :, n // (N // K)]
    return out


@pytest.mark.parametrize("length", [BLOCK - 1, 2 * BLOCK + 5, MAX_BLOCKS * BLOCK + 3])
@pytest.mark.parametrize("window", [None, 40])
def test_blocks_give_the_whole_softmax(length, window):
    rng = np.random.default_rng(length)
    q = rng.normal(size=(B, length, N, H)).astype(np.float32)
    k, v = rng.normal(size=(2, B, length, K, H)).astype(np.float32)
    # Row 0: left padding and one document; row 1: two packed documents and right padding.
    segments = np.ones((B, length), np.int32)
    positions = np.tile(np.arange(length, dtype=np.int32), (B, 1))
    segments[0, :7], positions[0] = 0, positions[0] - 7
    cut = length // 2 + 3
    segments[1, cut:], segments[1, -9:] = 2, 0
    positions[1, cut:] -= cut
    mask = np.asarray(visible(positions, segments, positions, segments, window))
    got = np.asarray(jax.jit(attention, static_argnums=5)(q, k, v, positions, segments, window))
    real = segments > 0
    np.testing.assert_allclose(got[real], reference(q, k, v, mask)[real], atol=2e-6)
