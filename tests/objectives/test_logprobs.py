"""Scores against a dense computation, padding, packing, chunking and precision."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from caugym_jax.models.config import ModelConfig
from caugym_jax.models.transformer import Model
from caugym_jax.objectives import logprobs as module
from caugym_jax.objectives.logprobs import score
from caugym_jax.objectives.sft import nll

CONFIG = ModelConfig(
    family="qwen3", vocab_size=61, d_model=32, num_layers=2, num_heads=4, num_kv_heads=2,
    head_dim=8, d_ff=48, qk_norm="head", sliding_window=7,
)  # fmt: skip
MODEL = Model(CONFIG)
PARAMS = MODEL.init(jax.random.key(0))


def row(tokens, left=0, right=0):
    """One padded row: tokens, positions, segments, each [1, T]."""
    n = len(tokens)
    return (
        np.array([[0] * left + list(tokens) + [0] * right], np.int32),
        np.array([[0] * left + list(range(n)) + [0] * right], np.int32),
        np.array([[0] * left + [1] * n + [0] * right], np.int32),
    )


def text(seed, n):
    return np.random.default_rng(seed).integers(1, CONFIG.vocab_size, n)


def dense(tokens):
    t, p, s = row(tokens)
    hidden, _ = MODEL.hidden(PARAMS, t, p, s)
    logits = np.asarray(MODEL.logits(PARAMS, hidden), np.float64)[0, :-1]
    logits -= logits.max(axis=-1, keepdims=True)
    logits -= np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    return logits[np.arange(len(tokens) - 1), tokens[1:]], -(np.exp(logits) * logits).sum(-1)


@pytest.mark.parametrize("chunk", [61, 61 * 4, 2**24])
def test_scores_are_the_dense_ones_for_any_chunk(monkeypatch, chunk):
    monkeypatch.setattr(module, "CHUNK_LOGITS", chunk)
    tokens = text(1, 14)
    got = score(MODEL, PARAMS, *row(tokens))
    want, entropy = dense(tokens)
    np.testing.assert_allclose(got.logprobs[0], want, atol=1e-5)
    np.testing.assert_allclose(got.entropy[0], entropy, atol=1e-5)
    assert np.all(got.entropy >= 0)


def test_t14_chunked_gradient_is_the_dense_one(monkeypatch):
    tokens = row(text(2, 14))

    def loss(params):
        return score(MODEL, params, *tokens).logprobs.sum()

    whole = jax.grad(loss)(PARAMS)
    monkeypatch.setattr(module, "CHUNK_LOGITS", 61 * 3)
    chunked = jax.grad(loss)(PARAMS)
    norm = np.sqrt(sum(np.sum(np.square(w)) for w in jax.tree.leaves(whole)))
    difference = jax.tree.map(lambda a, b: np.sum(np.square(a - b)), whole, chunked)
    assert np.sqrt(sum(jax.tree.leaves(difference))) <= 1e-5 * norm


@pytest.mark.parametrize("left,right", [(0, 0), (5, 0), (0, 9), (3, 4)])
def test_t08_padding_on_either_side_changes_nothing(left, right):
    tokens = text(3, 11)
    got = score(MODEL, PARAMS, *row(tokens, left, right)).logprobs[0, left : left + 10]
    np.testing.assert_allclose(got, dense(tokens)[0], atol=1e-5)


def test_t08_batch_composition_changes_nothing():
    rows = [row(text(i, 10)) for i in range(4)]
    batch = [np.concatenate(x) for x in zip(*rows, strict=True)]
    together = score(MODEL, PARAMS, *batch).logprobs
    for i, one in enumerate(rows):
        np.testing.assert_allclose(together[i], score(MODEL, PARAMS, *one).logprobs[0], atol=1e-5)


def test_t19_packed_documents_do_not_see_each_other():
    """Packed loss = sum of the separate losses (T19)."""
    a, b = text(4, 9), text(5, 7)
    packed = [
        np.array([[*a, *b]], np.int32),
        np.array([[*range(9), *range(7)]], np.int32),
        np.array([[1] * 9 + [2] * 7], np.int32),
    ]
    got = score(MODEL, PARAMS, *packed).logprobs[0]
    np.testing.assert_allclose(got[:8], dense(a)[0], atol=1e-5)
    np.testing.assert_allclose(got[9:], dense(b)[0], atol=1e-5)


def test_temperature_divides_the_logits():
    tokens = row(text(6, 8))
    cold = score(MODEL, PARAMS, *tokens, temperature=0.6).logprobs
    hidden, _ = MODEL.hidden(PARAMS, *tokens)
    logits = MODEL.logits(PARAMS, hidden)[:, :-1] / 0.6
    want = jnp.take_along_axis(jax.nn.log_softmax(logits), tokens[0][:, 1:, None], -1)[..., 0]
    np.testing.assert_allclose(cold, want, atol=1e-6)


def test_start_cuts_the_prompt():
    tokens = row(text(7, 12))
    whole = score(MODEL, PARAMS, *tokens).logprobs
    np.testing.assert_allclose(
        score(MODEL, PARAMS, *tokens, start=5).logprobs, whole[:, 4:], atol=1e-6
    )
    with pytest.raises(ValueError, match="at least 1"):
        score(MODEL, PARAMS, *tokens, start=0)


def test_t15_logits_are_float32_under_bfloat16_compute():
    model = Model(CONFIG, dtype="bfloat16")
    hidden, _ = model.hidden(PARAMS, *row(text(8, 9)))
    assert hidden.dtype == jnp.bfloat16
    assert model.logits(PARAMS, hidden).dtype == jnp.float32
    scores = score(model, PARAMS, *row(text(8, 9)))
    assert all(x.dtype == jnp.float32 for x in scores)


def test_t14_no_array_of_all_logits_is_formed(monkeypatch):
    """Peak temporaries stay far below one [B, T, V] array, forward and backward (T14)."""
    B, T, V = 2, 512, 8192
    config = ModelConfig(
        family="llama", vocab_size=V, d_model=8, num_layers=1, num_heads=1, num_kv_heads=1,
        head_dim=8, d_ff=8,
    )  # fmt: skip
    model = Model(config)
    params = jax.eval_shape(model.init, jax.random.key(0))
    ints = jax.ShapeDtypeStruct((B, T), jnp.int32)
    monkeypatch.setattr(module, "CHUNK_LOGITS", B * 16 * V)

    def loss(params, *batch):
        return score(model, params, *batch).logprobs.sum()

    compiled = jax.jit(jax.grad(loss)).lower(params, ints, ints, ints).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < B * T * V * 4 / 2


def test_nll_by_hand():
    total, weight = nll(jnp.array([[-1.0, -3.0], [-2.0, -50.0]]), jnp.array([[1.0, 1], [1, 0]]))
    assert (total, weight) == (6.0, 3.0)


@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize("filled", [None, (1, 0, 1, 0)])
def test_gradients_of_chunks_are_those_of_the_formulas(kept, filled):
    """Of log-probability and entropy, with a temperature; nothing comes of what is not filled
    (here the last chunk: one before a filled one may be computed)."""
    r = np.random.default_rng(0)
    hidden, head = r.normal(size=(4, 2, 3, 8)), r.normal(size=(8, 11))
    targets = jnp.asarray(r.integers(0, 11, (4, 2, 3)), jnp.int32)
    a, b = r.normal(size=(2, 4, 2, 3))
    if filled is not None:
        a, b = (x * np.asarray(filled)[:, None, None] for x in (a, b))
    hidden, head, a, b = (jnp.asarray(x, jnp.float32) for x in (hidden, head, a, b))
    chunks = None if filled is None else jnp.asarray(filled, bool)

    def own(hidden, head):
        arguments = hidden, head, jnp.float32(0.7), targets, chunks
        scores = module._in_chunks(kept, *arguments)
        return jnp.sum(a * scores.logprobs) + jnp.sum(b * scores.entropy)

    def plain(hidden, head):
        logprobs = jax.nn.log_softmax(hidden @ head / 0.7)
        chosen = jnp.take_along_axis(logprobs, targets[..., None], -1)[..., 0]
        entropy = -jnp.sum(jnp.exp(logprobs) * logprobs, -1)
        return jnp.sum(a * chosen) + jnp.sum(b * entropy)

    value, got = jax.jit(jax.value_and_grad(own, (0, 1)))(hidden, head)
    expected, want = jax.jit(jax.value_and_grad(plain, (0, 1)))(hidden, head)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    for x, y in zip(got, want, strict=True):
        np.testing.assert_allclose(x, y, atol=1e-5)
