"""The bigram table of the recorded numbers, and batches of uneven rows for it.

logits[b, t] = W[ids[b, t]], so that a loss is a function of one small array.
"""

import json

import jax
import jax.numpy as jnp
import numpy as np

from caugym_jax.types import Experience
from tests.shared import shared_path

V, P, C = 17, 4, 5


def goldens():
    """The recorded numbers, or a skip that says that they are absent."""
    return json.loads(shared_path("oracle/goldens.json").read_text())


def scores(W, tokens, start=P):
    """(log-probs, entropies) of tokens[:, start:], each [B, T - start]."""
    logprobs = jax.nn.log_softmax(W[tokens[:, start - 1 : -1]], axis=-1)
    entropy = -jnp.sum(jnp.exp(logprobs) * logprobs, axis=-1)
    chosen = jnp.take_along_axis(logprobs, tokens[:, start:, None], axis=-1)[..., 0]
    return chosen, entropy


def table(seed=0):
    return np.random.default_rng(seed).normal(size=(V, V)).astype(np.float32)


def experience(rows=8, *, old=True, ref=True, seed=1):
    """Rows of uneven lengths, one of them empty (as in a step that stayed short), ratios on both
    sides of the clips."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(1, V, (rows, P + C)).astype(np.int32)
    lengths = np.resize([5, 1, 3, 0, 2, 5, 4, 1], rows)
    mask = (np.arange(C) < lengths[:, None]).astype(np.float32)
    now = np.asarray(scores(jnp.asarray(table()), jnp.asarray(tokens))[0])

    def near(spread):
        return (now + rng.normal(size=now.shape) * spread).astype(np.float32)

    places = np.broadcast_to(np.arange(P + C, dtype=np.int32), tokens.shape)
    return Experience(
        tokens, places, np.ones_like(tokens), mask,
        rng.normal(size=rows).astype(np.float32),
        sampler_logprobs=near(0.3),
        old_logprobs=near(0.4) if old else None,
        ref_logprobs=near(0.5) if ref else None,
    )  # fmt: skip
