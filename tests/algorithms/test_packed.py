"""Packed rows give the losses and gradients of padded ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from caugym_jax.algorithms.packed import Shape, pack_rows, pack_together, shape_for
from caugym_jax.algorithms.rollouts import Group, Placed, lay_out
from caugym_jax.algorithms.step import gradients, in_filled_parts, split_rows
from caugym_jax.devices.mesh import make_mesh, put, rows
from caugym_jax.objectives.logprobs import score, score_places
from caugym_jax.objectives.policy import PolicyLoss, policy_loss
from tests.algorithms.test_step import MODEL, PARAMS

ONE = make_mesh(devices=jax.devices()[:1])
G, P, C = 4, 7, 9
TREES = Shape(width=24, rows=2, microbatches=8, shards=1, trees=True)


def experience(groups=4, missing=1):
    """Completions of 1 to C tokens, prompts of 2 to P; some are not counted."""
    r = np.random.default_rng(2)
    made = []
    for _ in range(groups):
        lengths = r.integers(1, C + 1, G)
        made.append(
            Group(
                r.integers(1, 64, r.integers(2, P + 1)).tolist(),
                [r.integers(1, 64, n) for n in lengths],
                [r.normal(-2, 0.3, n).astype(np.float32) for n in lengths],
                r.random(G) < 0.8,
                np.zeros(G, np.float32),
            )
        )
    size = (groups + missing) * G
    e = lay_out(made, r.normal(size=groups * G).astype(np.float32), size, P, C)
    shape = e.mask.shape
    old, reference = (r.normal(-2, 0.3, shape).astype(np.float32) for _ in range(2))
    return e._replace(old_logprobs=old, ref_logprobs=reference)


def placed(e, shape, mesh, updates=1):
    """The experience packed, every field of it."""
    out = Placed(e, mesh, shape, updates)
    for name in ("advantages", "old_logprobs", "ref_logprobs"):
        out.set(name, getattr(e, name))
    return out


def scores_of(params, e):
    if e.share is None:
        how = e.tokens, e.positions, e.segment_ids
        return score(MODEL, params, *how, start=e.prompt_width, temperature=0.7)
    return score_places(MODEL, params, e, 0.7)


def loss(params, e):
    s = scores_of(params, e)
    return policy_loss(s.logprobs, s.entropy, e, SETTINGS["gspo"], horizon=C)


def found(e, mesh):
    with jax.set_mesh(mesh):
        both = jax.jit(lambda p, e: gradients(loss, p, e, 1))(PARAMS, put(e, rows(mesh)))
        return jax.device_get(both)


@pytest.fixture(scope="module")
def padded():
    return found(experience(), ONE)


def assert_same(got, want):
    for name, (total, weight) in got[2].items():
        np.testing.assert_allclose(total, want[2][name][0], rtol=2e-5, atol=1e-5, err_msg=name)
        np.testing.assert_allclose(weight, want[2][name][1], rtol=1e-6, err_msg=name)
    np.testing.assert_allclose(got[1], want[1], rtol=1e-5, atol=1e-6)
    for a, b in zip(jax.tree.leaves(got[0]), jax.tree.leaves(want[0]), strict=True):
        assert np.linalg.norm(a - b) <= 1e-5 * max(np.linalg.norm(b), 1e-3)


SETTINGS = {
    "paper": PolicyLoss(),
    "dapo": PolicyLoss("dapo", beta=0.1),
    "dr_grpo": PolicyLoss("dr_grpo", entropy_coef=0.01, delta=1.5),
    "gspo": PolicyLoss(
        importance_sampling_level="sequence", importance_sampling_correction="sequence"
    ),
    "cispo": PolicyLoss("cispo", epsilon_high=2.0, importance_sampling_correction="token"),
    "cispo by sequence": PolicyLoss(
        "cispo",
        epsilon_high=2.0,
        importance_sampling_level="sequence",
        beta=0.1,
        use_bias_correction_kl=True,
    ),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_every_loss_is_that_of_padded_rows(name):
    """Total, weight, reports, and the gradient by each token's log-prob and entropy."""
    e = experience()
    packed, packing = pack_rows(e, TREES)
    more = {n: packing.pack(getattr(e, n)) for n in ("old_logprobs", "ref_logprobs")}
    packed = packed._replace(**more)
    real = e.segment_ids[:, P:]
    r = np.random.default_rng(3)
    logprobs, entropy = (r.normal(-2, 0.5, real.shape).astype(np.float32) for _ in range(2))

    def both(e, logprobs, entropy):
        def total(*x):
            (total, weight), sums = policy_loss(*x, e, SETTINGS[name], horizon=C)
            return total, (weight, sums)

        return jax.value_and_grad(total, (0, 1), has_aux=True)(logprobs, entropy)

    (want, (weight, sums)), gradient = both(e, logprobs, entropy)
    lists = packing.pack(logprobs), packing.pack(entropy)
    (got, (own_weight, own_sums)), own_gradient = both(packed, *lists)
    np.testing.assert_allclose([got, own_weight], [want, weight], rtol=1e-5)
    for key, pair in sums.items():
        np.testing.assert_allclose(own_sums[key], pair, rtol=1e-5, atol=1e-5, err_msg=key)
    for x, y in zip(own_gradient, gradient, strict=True):
        np.testing.assert_allclose(
            packing.unpack(np.asarray(x), real.shape), y * real, rtol=1e-5, atol=1e-6
        )


def test_trees_in_microbatches_give_the_same_gradient(padded):
    assert_same(found(placed(experience(), TREES, ONE).experience[0], ONE), padded)


def test_documents_on_two_devices_give_the_same_gradient(padded):
    mesh, e = make_mesh(2, devices=jax.devices()[:2]), experience()
    how = {"shards": 2, "microbatches": 5, "kernel": "splash", "platform": "cpu"}
    shape = shape_for(len(e.tokens), P + C, P + G * C // 2, **how)
    assert shape == Shape(P + C, 2, 5, 2, False)
    assert_same(found(placed(e, shape, mesh).experience[0], mesh), padded)


def test_shapes_by_hand():
    """Rows of trees hold a prompt and half of the longest group; documents' rows the longest."""
    how = {"shards": 1, "microbatches": 1, "platform": "cpu"}
    assert shape_for(128, 232, 352, kernel="plain", **how) == Shape(384, 3, 43, 1, True)
    big = {"shards": 16, "microbatches": None, "kernel": "splash", "platform": "tpu"}
    assert shape_for(1024, 10240, 34816, **big) == Shape(10240, 1, 64, 16, False)


def test_a_packing_holds_every_token_once():
    e = experience()
    packed, packing = pack_rows(e, TREES)
    real = e.segment_ids[:, P:]
    places = np.stack([packing.rows, packing.columns], -1)[packing.rows >= 0]
    assert len(places) == real.sum() == len(np.unique(places, axis=0))
    np.testing.assert_array_equal(
        packing.unpack(packed.targets, real.shape), e.tokens[:, P:] * real
    )
    np.testing.assert_allclose(packed.share.sum(), (e.mask.sum(axis=1) > 0).sum(), rtol=1e-6)
    prompts = e.segment_ids[::G, :P].sum()
    assert (packed.segment_ids > 0).sum() < real.sum() + 2 * prompts  # not once a completion
    parts = split_rows(packed, TREES.microbatches)
    filled = np.any(parts.segment_ids > 0, axis=(1, 2))
    assert filled.sum() < TREES.microbatches and not np.any(np.diff(filled.astype(int)) > 0)


def test_minibatches_hold_the_completions_of_padded_ones():
    """Scores come back to where they belong, whatever the microbatches; the rest is 0."""
    e = experience()
    out = placed(e, TREES, ONE, updates=2)
    with jax.set_mesh(ONE):
        program = jax.jit(lambda e: in_filled_parts(lambda x: scores_of(PARAMS, x).logprobs, e))
        out.compute("old_logprobs", program)
        want = scores_of(PARAMS, e).logprobs
    real = e.segment_ids[:, P:]
    np.testing.assert_allclose(out.fetch("old_logprobs") * real, want * real, atol=1e-5)
    np.testing.assert_array_equal(out.fetch("ref_logprobs"), e.ref_logprobs * real)
    second = out.experience[1]
    np.testing.assert_allclose(jnp.sum(second.mask), e.mask[1::2].sum())


def pairs(count, prompt, reply):
    """Pairs with prompts and completions of these lengths, from and to."""
    r = np.random.default_rng(4)
    tokens = iter(range(1, 10**6))

    def text(lengths):
        return [next(tokens) for _ in range(r.integers(lengths[0], lengths[1] + 1))]

    return [(text(prompt), (text(reply), text(reply))) for _ in range(count)]


WIDE, DOCUMENTS, NARROW = (
    Shape(64, 4, 4, 2, True),
    Shape(32, 8, 2, 2, False),
    Shape(32, 2, 8, 2, True),
)
ONE_ROW = Shape(64, 1, 8, 2, False)


@pytest.mark.parametrize(
    ("items", "shape"),
    [
        (pairs(16, (2, 6), (1, 9)), WIDE),
        (pairs(16, (2, 6), (1, 9)), DOCUMENTS),
        (pairs(16, (1, 1), (1, 1)), NARROW),  # more than a list has entries
        (pairs(16, (8, 8), (24, 24)), NARROW),  # each in two rows
        (pairs(16, (8, 8), (24, 24)), ONE_ROW),
        (pairs(16, (0, 2), (0, 30)), NARROW),
    ],
)
def test_pairs_lie_whole_in_one_list(items, shape):
    """Every token once, behind the one that it follows in its prompt or completion."""
    e, members = pack_together(items, shape)
    counted = [sum(max(0, len(said) - (not p)) for said in both) for p, both in items]
    np.testing.assert_array_equal(np.sort(members[members >= 0]), np.flatnonzero(counted))
    assert e.lengths.sum() == (e.sequences > 0).sum() == sum(counted)
    rows = split_rows(e, shape.microbatches)
    slots, each = members.shape[1], 2
    for listed, (places, targets, sequences) in enumerate(
        zip(e.places, e.targets, e.sequences, strict=True)
    ):
        device, part = divmod(listed, shape.microbatches)
        mine = slice(device * shape.rows, (device + 1) * shape.rows)
        seen = [rows.tokens[part][mine].ravel(), rows.positions[part][mine].ravel()]
        segments = rows.segment_ids[part][mine].ravel()
        for number in range(slots * each):
            slot, which = divmod(number, each)
            at = sequences == 1 + number
            assert at.sum() == e.lengths[listed, slot, which]
            if members[listed, slot] < 0:
                assert not at.any()
                continue
            prompt, replies = items[members[listed, slot]]
            said = [*prompt, *replies[which]]
            first = max(1, len(prompt))
            assert targets[at].tolist() == said[first:]
            assert seen[0][places[at]].tolist() == said[first - 1 : -1]
            assert seen[1][places[at]].tolist() == list(range(first - 1, len(said) - 1))
            assert segments[places[at]].all()
    filled = np.any(rows.segment_ids > 0, axis=(1, 2))
    assert not np.any(np.diff(filled.astype(int)) > 0)


def test_shapes_of_pairs_by_hand():
    """Short rows hold two completions of a prompt; else there are two rows for them, or one of
    splash's that holds both."""
    how = {"shards": 1, "platform": "cpu", "together": 2}
    plain = {"microbatches": 1, "kernel": "plain"}
    assert shape_for(64, 256, 512, **plain, **how) == Shape(384, 2, 32, 1, True)
    assert shape_for(64, 2048, 4096, **plain, **how) == Shape(2048, 2, 32, 1, True)
    one = {"microbatches": None, "kernel": "splash"}
    assert shape_for(64, 256, 512, **one, **how) == Shape(512, 1, 32, 1, False)
