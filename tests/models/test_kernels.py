"""Accelerators' attention kernels against the plain path, and what that keeps in memory."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from caugym_jax.models.attention import LONG, attention
from caugym_jax.models.kernels import cudnn, near_tiles, splash
from caugym_jax.models.transformer import REMAT, Model, abstract_params
from caugym_jax.objectives.logprobs import score
from tests.models.tiny import FAMILIES, random_params

B, N, K, H = 2, 4, 2, 16


def rows(T, documents=2, seed=0):
    """(q, k, v, positions, segments): row 0 padded on the left, row 1 of several documents."""
    rng = np.random.default_rng(seed)
    q = rng.normal(size=(B, T, N, H)).astype(np.float32)
    k, v = rng.normal(size=(2, B, T, K, H)).astype(np.float32)
    segments = np.ones((B, T), np.int32)
    positions = np.tile(np.arange(T, dtype=np.int32), (B, 1))
    segments[0, :9], positions[0] = 0, np.maximum(positions[0] - 9, 0)
    if documents > 1:
        cut = T // 3
        segments[1, cut:], positions[1, cut:] = 2, positions[1, cut:] - cut
    segments[1, -5:] = 0
    return q, k, v, positions, segments


def value_and_grads(attend, q, k, v, segments):
    """Of a weighted sum over real tokens: nothing that padding holds may matter."""
    weights = np.random.default_rng(9).normal(size=q.shape) * (segments > 0)[..., None, None]

    def total(q, k, v):
        return jnp.sum(attend(q, k, v).astype(jnp.float32) * weights)

    return jax.jit(jax.value_and_grad(total, (0, 1, 2)))(q, k, v)


def assert_same(got, want, tolerance=2e-5):
    np.testing.assert_allclose(got[0], want[0], rtol=tolerance, atol=100 * tolerance)
    for a, b in zip(got[1], want[1], strict=True):
        assert np.linalg.norm(np.asarray(a - b, np.float64)) <= tolerance * np.linalg.norm(b)


@pytest.mark.parametrize("window", [None, 50])
def test_splash_is_the_plain_path(window):
    q, k, v, positions, segments = rows(200)
    plain = functools.partial(
        attention, positions=positions, segment_ids=segments, window=window, kernel="plain"
    )
    kernel = functools.partial(
        splash, q_segments=segments, k_segments=segments, window=window, interpret=True
    )
    wanted = value_and_grads(plain, q, k, v, segments)
    assert_same(value_and_grads(kernel, q, k, v, segments), wanted)


def test_splash_of_a_part_of_the_queries():
    """What each device of a context axis runs: its queries over the whole row's keys."""
    q, k, v, positions, segments = rows(512)
    plain = functools.partial(attention, positions=positions, segment_ids=segments)

    def in_parts(q, k, v):
        parts = [
            splash(q[:, i : i + 128], k, v, segments[:, i : i + 128], segments, None, jnp.int32(i),
                   interpret=True)
            for i in range(0, 512, 128)
        ]  # fmt: skip
        return jnp.concatenate(parts, axis=1)

    wanted = value_and_grads(plain, q, k, v, segments)
    assert_same(value_and_grads(in_parts, q, k, v, segments), wanted)


@pytest.fixture
def documents(monkeypatch):
    """A row of three documents and padding; 6 tiles of queries over 3 of keys."""
    monkeypatch.setattr("caugym_jax.models.kernels.TILE", 128)
    rng = np.random.default_rng(3)
    q, (k, v) = rng.normal(size=(1, 768, 2, H)), rng.normal(size=(2, 1, 768, 1, H))
    lengths = (200, 300, 200, 68)
    segments = np.repeat(np.int32([1, 2, 3, 0]), lengths)[None]
    positions = np.concatenate([np.arange(n, dtype=np.int32) for n in lengths])[None]
    return *(x.astype(np.float32) for x in (q, k, v)), positions, segments


@pytest.mark.parametrize(
    ("window", "fused", "parts"),
    [
        (None, 16, 1),
        pytest.param(None, 0, 2, marks=pytest.mark.slow),
        pytest.param(300, 16, 1, marks=pytest.mark.slow),
    ],
)
def test_splash_skips_other_documents(documents, window, fused, parts, monkeypatch):
    """Of a single row, whole or in parts, with a backward pass of one kernel or of two."""
    monkeypatch.setattr("caugym_jax.models.kernels.FUSED", fused)
    q, k, v, positions, segments = documents
    plain = functools.partial(attention, positions=positions, segment_ids=segments, window=window)
    T = q.shape[1] // parts

    def kernel(q, k, v):
        own = [slice(i * T, (i + 1) * T) for i in range(parts)]
        mixed = [
            splash(q[:, at], k, v, segments[:, at], segments, window, at.start, interpret=True)
            for at in own
        ]
        return jnp.concatenate(mixed, axis=1)

    wanted = value_and_grads(plain, q, k, v, segments)
    assert_same(value_and_grads(kernel, q, k, v, segments), wanted, 1e-5)


def test_what_splash_skips_is_not_read(documents):
    """The first document's values are not numbers: the last two tiles of queries, which hold the
    third and padding, do not notice."""
    q, k, v, _, segments = documents
    near = near_tiles(segments[0], segments[0], 128, 256)
    np.testing.assert_array_equal(
        near, [[1, 0, 0], [1, 1, 0], [1, 1, 0], [1, 1, 1], [0, 1, 1], [0, 1, 1]]
    )
    v[:, :200] = np.nan
    mixed = splash(q, k, v, segments, segments, None, interpret=True)
    np.testing.assert_array_equal(np.isnan(mixed).any(axis=(0, 2, 3)), np.arange(768) < 512)


@pytest.mark.gpu
@pytest.mark.parametrize("window", [None, 50])
def test_cudnn_is_the_plain_path(window):
    q, k, v, positions, segments = rows(256, documents=1)
    q, k, v = (jnp.asarray(x, jnp.bfloat16) for x in (q, k, v))
    plain = functools.partial(attention, positions=positions, segment_ids=segments, window=window)
    kernel = functools.partial(cudnn, segment_ids=segments, window=window)
    wanted = value_and_grads(plain, q, k, v, segments)
    assert_same(value_and_grads(kernel, q, k, v, segments), wanted, 2e-2)


def test_long_rows_are_exact():
    """Beyond LONG the softmax is made again in the backward pass; against short rows' way."""
    q, k, v, positions, segments = rows(LONG + 77)
    plain = functools.partial(attention, positions=positions, segment_ids=segments)
    got = value_and_grads(plain, q, k, v, segments)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("caugym_jax.models.attention.LONG", 10_000)
        assert_same(got, value_and_grads(plain, q, k, v, segments))


def temporaries(model, B, T):
    """Bytes beside arguments and results of the gradient of a score."""
    params = abstract_params(model.config)
    row = jax.ShapeDtypeStruct((B, T), jnp.int32)

    def loss(params, tokens, positions, segments):
        return jnp.sum(score(model, params, tokens, positions, segments).logprobs)

    compiled = jax.jit(jax.grad(loss)).lower(params, row, row, row).compile()
    return compiled.memory_analysis().temp_size_in_bytes


def test_no_array_of_all_pairs_of_places_and_none_of_all_logits(monkeypatch):
    """Forward and backward together stay far below [B, N, T, T] and below [B, T, V]."""
    monkeypatch.setattr("caugym_jax.objectives.logprobs.CHUNK_LOGITS", 2**20)
    config = FAMILIES["qwen2"].__class__(**(vars(FAMILIES["qwen2"]) | {"vocab_size": 32_768}))
    T = 4096
    used = temporaries(Model(config, remat="full"), 1, T)
    assert used < 4 * config.num_heads * T * T / 3
    assert used < 4 * T * config.vocab_size / 3


@pytest.mark.parametrize("policy", REMAT)
def test_a_remat_policy_changes_no_gradient(policy):
    model = Model(FAMILIES["qwen2"], remat=policy)
    params = random_params(model.config)
    tokens = np.random.default_rng(1).integers(1, 200, (2, 24)).astype(np.int32)
    places = np.tile(np.arange(24, dtype=np.int32), (2, 1))

    def loss(model, params):
        return jnp.sum(score(model, params, tokens, places, np.ones_like(places)).logprobs)

    got, want = (jax.jit(jax.grad(functools.partial(loss, m)))(params) for m in (
        model, Model(model.config)))  # fmt: skip
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert np.linalg.norm(a - b) <= 1e-5 * np.linalg.norm(b) + 1e-7


@pytest.mark.parametrize(
    ("policy", "forward"),
    [("full", 2), ("attention", 1), ("dots", 2), ("dots_attention", 1), ("none", 1)],
)
def test_splash_runs_once_where_its_result_is_kept(policy, forward):
    """Kernels in a gradient's program for a TPU, which is not compiled: as often as the forward
    pass is made, and one for the backward pass; two where memory is short."""
    config = FAMILIES["qwen2"]
    model, params = Model(config, remat=policy, attention="splash"), abstract_params(config)
    row = jax.ShapeDtypeStruct((1, 256), jnp.int32)

    def total(params, *row):
        return jnp.sum(model.hidden(params, *row)[0])

    lowered = (
        jax.jit(jax.grad(total)).trace(params, row, row, row).lower(lowering_platforms=("tpu",))
    )
    names = re.findall(r'kernel_name = "splash_mha_(\w+?)_segmented', lowered.as_text())
    backward = ["dkv", "dq"] if policy == "full" else ["dkv"]
    assert sorted(names) == backward + ["fwd"] * forward


def test_what_is_recomputed_is_not_kept():
    config = FAMILIES["qwen2"]
    used = {name: temporaries(Model(config, remat=name), 4, 256) for name in REMAT}
    assert used["full"] < used["attention"] < used["none"]
    assert used["full"] < used["dots"] < used["none"]
