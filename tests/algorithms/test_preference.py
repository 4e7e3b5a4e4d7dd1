"""Completions scored as sequences, the reference kept beside the run, and both losses as wired."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from caugym_jax.algorithms import dpo as dpo_module
from caugym_jax.algorithms import kto as kto_module
from caugym_jax.algorithms.preference import (
    Placing,
    cached_reference,
    reference_scorer,
    score_sequences,
    triple_scorer,
    weights_digest,
)
from caugym_jax.algorithms.sft import Targets
from caugym_jax.algorithms.step import Learner, gradients, in_parts
from caugym_jax.devices.mesh import make_mesh, shardings
from caugym_jax.errors import UserError
from caugym_jax.models.config import ModelConfig
from caugym_jax.models.transformer import Model, layout
from caugym_jax.objectives.dpo import LOSS_TYPES
from caugym_jax.objectives.logprobs import score
from caugym_jax.objectives.optim import Optim, make_optimizer
from caugym_jax.types import Batch, Judged, Preference, TrainState
from tests.glossary import unexplained

CONFIG = ModelConfig(
    family="qwen3", vocab_size=64, d_model=16, num_layers=1, num_heads=2, num_kv_heads=1,
    head_dim=8, d_ff=16, qk_norm="head",
)  # fmt: skip
MODEL = Model(CONFIG)
PARAMS = jax.device_get(MODEL.init(jax.random.key(0)))
REFERENCE = jax.device_get(MODEL.init(jax.random.key(1)))
ONE = make_mesh(devices=jax.devices()[:1])


@functools.cache
def triples():
    """Eight prompts with two completions each, of uneven lengths."""
    rng = np.random.default_rng(0)
    return [tuple(rng.integers(1, 64, n).tolist() for n in rng.integers(1, 9, 3)) for _ in range(8)]


def pairs():
    return [Preference(*triple) for triple in triples()]


def judged():
    return [Judged(p, a, i % 3 > 0, b) for i, (p, a, b) in enumerate(triples())]


@jax.jit
def _logprobs(params, tokens):
    places = jnp.arange(tokens.shape[1])[None]
    return score(MODEL, params, tokens, places, jnp.sign(tokens)).logprobs[0]


def sum_of(params, prompt, completion):
    """The log-probability of one completion, from a row of its own (token 0 is padding)."""
    tokens = np.zeros((1, 16), np.int32)
    tokens[0, : len(prompt + completion)] = prompt + completion
    logprobs = np.asarray(_logprobs(params, tokens), np.float64)
    return float(logprobs[len(prompt) - 1 :][: len(completion)].sum())


@functools.cache
def sums(which):
    return np.array(
        [[sum_of({"own": PARAMS, "reference": REFERENCE}[which], p, y) for y in both]
         for p, *both in triples()], np.float32,
    )  # fmt: skip


@jax.jit
def scored(targets):
    return in_parts(lambda part: score_sequences(MODEL, PARAMS, part), targets, 1, 1)


def items():
    return [(prompt, both) for prompt, *both in triples()]


def place(packed):
    return Placing(ONE, "plain", packed, 1, 32, 0)


@pytest.mark.parametrize("packed", [False, True])
def test_sequences_are_the_sums_of_rows_alone(packed):
    placed = place(packed)(items())
    s = jax.tree.map(placed.fetch, scored(placed.targets))
    np.testing.assert_allclose(s.logps, sums("own"), rtol=1e-5)
    np.testing.assert_array_equal(s.lengths, [[len(a), len(b)] for _, a, b in triples()])
    assert np.all(s.entropy > 0) and np.all((s.correct >= 0) & (s.correct <= s.lengths))
    np.testing.assert_array_equal(placed.lengths, s.lengths)
    assert placed.tokens == sum(2 * len(p) + len(a) + len(b) for p, a, b in triples())


@pytest.mark.parametrize("packed", [False, True])
def test_without_a_prompt_a_completion_s_first_token_is_not_counted(packed):
    (_, a, b), *others = triples()
    placed = place(packed)([([], (a, b)), ([], ([5], [7, 8])), *items()[2:]])
    s = jax.tree.map(placed.fetch, scored(placed.targets))
    np.testing.assert_array_equal(s.lengths[:2], [[len(a) - 1, len(b) - 1], [0, 1]])
    wanted = [[sum_of(PARAMS, x[:1], x[1:]) for x in (a, b)], [0, sum_of(PARAMS, [7], [8])]]
    np.testing.assert_allclose(s.logps[:2], wanted, rtol=1e-5)
    np.testing.assert_allclose(s.logps[2:], sums("own")[2:], rtol=1e-5)
    np.testing.assert_array_equal(placed.lengths, s.lengths)


@pytest.mark.parametrize("left,right", [(7, 0), (0, 7), (4, 3)])
def test_t08_padding_on_either_side_changes_nothing(left, right):
    plain = jax.device_get(place(False)(items()).targets)
    widths = [(0, 0), (0, 0), (left, right)]
    batch = Batch(*(np.pad(x, widths) for x in plain.batch))
    moved = Targets(batch, plain.places + left, plain.mask)
    for a, b in zip(scored(moved), scored(plain), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)


# Both methods as they are wired: every DPO loss at once, with different weights ----------------

EVERY = dict(
    loss_type=LOSS_TYPES,
    loss_weights=(1.0, 0.7, 0.01, 0.5, 0.9, 0.3),
    label_smoothing=0.1,
    beta=0.3,
)
METHODS = {
    "dpo": (dpo_module, dpo_module.dpo, dpo_module.Dpo, pairs, EVERY),
    "kto": (
        kto_module,
        kto_module.kto,
        kto_module.Kto,
        judged,
        dict(beta=0.3, undesirable_weight=1.5),
    ),
}


QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


class Wired:
    """A method with its loss laid bare."""

    def __init__(self, method, mesh=ONE, known=True, microbatches=1, params=PARAMS, **options):
        module, make, settings, items, defaults = METHODS[method]
        self.mesh, self.microbatches = mesh, microbatches
        original = module.make_step

        def spy(loss, *args, **settings):
            self.loss = loss
            return original(loss, *args, **settings)

        module.make_step = spy
        try:
            with jax.set_mesh(mesh):
                params = jax.device_put(params, shardings(layout(CONFIG), mesh))
                reference = None if known else jax.device_put(REFERENCE)
                optimizer = make_optimizer(layout(CONFIG), 100, Optim(peak=3e-2))
                self.algorithm = make(
                    Learner(MODEL, optimizer, mesh, reference=reference),
                    settings(microbatches=microbatches, **{**defaults, **options}),
                    max_length=32,
                )
        finally:
            module.make_step = original
        self.state = TrainState(0, params, None, 0)  # as far as `prepare` reads it
        told = sums("reference") if known else [None] * 8
        self.items = list(zip(items(), told, strict=True))

    def prepare(self, order=range(8)):
        with jax.set_mesh(self.mesh):
            return self.algorithm.prepare(self.state, lambda: [self.items[i] for i in order])[0]

    def gradients(self, order=range(8)):
        """(gradient, loss, metrics)."""
        experience = self.prepare(order)

        def both(params, e):
            return gradients(self.loss, params, e, self.microbatches)

        with jax.set_mesh(self.mesh):
            step = jax.jit(both, compiler_options=QUICK)
            gradient, value, reported = jax.device_get(step(self.state.params, experience))
        return gradient, value, {k: s / max(w, 1) for k, (s, w) in reported.items()}

    def begin(self, params):
        """From step 0 with these weights."""
        with jax.set_mesh(self.mesh):
            self.state = self.algorithm.init(jax.device_put(params))

    def step(self):
        experience = self.prepare()
        with jax.set_mesh(self.mesh):
            self.state, metrics = self.algorithm.update(self.state, experience)
            assert not unexplained(metrics)
            return jax.device_get(metrics)


@functools.cache
def whole(method):
    return Wired(method, packed=False).gradients()


WAYS = {  # mesh sizes, microbatches, whether items bring their reference, order, packed
    "8 microbatches": ((1, 1, 1), 8, True, range(8), False),
    "packed": ((1, 1, 1), 8, True, range(8), True),
    "2 devices, a row each, other order": ((2, 1, 1), None, False, [*range(7, -1, -1)], True),
    "4 devices, 2 microbatches": ((1, 4, 1), 2, True, range(8), True),
    "8 devices": ((2, 2, 2), 1, True, range(8), True),
    "8 devices, data alone": ((8, 1, 1), 1, True, range(8), True),
    "8 devices, data alone, padded": ((8, 1, 1), 1, True, range(8), False),
    "8 devices, 2 microbatches": ((1, 4, 2), 2, True, range(8), True),
    "8 devices, places split": ((1, 2, 2, 2), 4, False, range(8), True),
    "8 devices, places split, padded": ((1, 2, 2, 2), 4, False, range(8), False),
}  # fmt: skip
FAST = ("packed", "2 devices, a row each, other order", "8 devices, places split, padded")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "way", [pytest.param(way, marks=[pytest.mark.slow] * (way not in FAST)) for way in WAYS]
)
def test_t04_any_split_mesh_and_order_give_the_same(method, way):
    """Loss, gradient and metrics; the first model's log-probabilities given or computed."""
    sizes, microbatches, known, order, packed = WAYS[way]
    mesh = make_mesh(*sizes, devices=jax.devices()[: np.prod(sizes)])
    got = Wired(method, mesh, known, microbatches, packed=packed).gradients(order)
    want = whole(method)
    np.testing.assert_allclose(got[1], want[1], rtol=1e-6)
    difference = jax.tree.map(lambda a, b: np.sum((a - b) ** 2), got[0], want[0])
    size = sum(np.sum(w**2) for w in jax.tree.leaves(want[0]))
    assert np.sqrt(sum(jax.tree.leaves(difference)) / size) <= 1e-5
    assert set(got[2]) == set(want[2])
    for key, value in want[2].items():
        np.testing.assert_allclose(got[2][key], value, rtol=2e-5, atol=1e-6, err_msg=key)


@functools.cache
def trainer(method):
    """With plain settings, on four devices, two rows at a time on each; compiled once."""
    options = {}
    if method == "dpo":
        options = dict(loss_type=("sigmoid",), loss_weights=None, label_smoothing=0.0)
    mesh = make_mesh(4, 1, 1, devices=jax.devices()[:4])
    return Wired(method, mesh, known=False, **options)


@pytest.mark.parametrize("method", METHODS)
def test_t12_at_the_first_step_rewards_are_0_and_margins_rise_from_there(method):
    wired = trainer(method)
    wired.begin(REFERENCE)
    first = wired.step()
    for key in ("rewards/chosen", "rewards/rejected", "rewards/margins"):
        assert abs(first[key]) < 1e-6, key
    start = np.log(2) if method == "dpo" else (3 * 0.5 * 1.5 + 5 * 0.5) / 8
    np.testing.assert_allclose(first["loss"], start, rtol=1e-6)
    assert first["grad_norm"] > 0
    for _ in range(15):
        last = wired.step()
    assert last["rewards/margins"] > 0.1 and last["loss"] < 0.95 * first["loss"]
    if method == "dpo":
        assert last["rewards/accuracies"] > 0.8
    else:
        assert first["kl"] < 1e-5


# The reference of a file ------------------------------------------------------------------------


class Counting:
    """A scorer that counts its batches."""

    def __init__(self, params=REFERENCE):
        program = reference_scorer(Learner(MODEL, None, ONE, reference=params), 2, 32)
        self.score, self.calls = triple_scorer(place(True), program, True), 0

    def __call__(self, triples):
        self.calls += 1
        return self.score(triples)


def kept(path, scorer, data=None, digest="weights"):
    with jax.set_mesh(ONE):
        return cached_reference(path, data or triples()[:7], scorer, digest, batch_size=4)


def test_the_reference_of_a_file_is_computed_once(tmp_path, capsys):
    path, scorer = tmp_path / "reference.npz", Counting()
    first = kept(path, scorer)
    np.testing.assert_allclose(first, sums("reference")[:7], rtol=1e-5)
    assert scorer.calls == 2  # 7 pairs, 4 at a time
    again = kept(path, scorer)
    assert scorer.calls == 2 and again.tobytes() == first.tobytes()
    capsys.readouterr()

    changed = [*triples()[:6], (*triples()[6][:2], [1])]
    assert kept(path, scorer, changed).tobytes() != first.tobytes() and scorer.calls == 4
    assert "made from other data, weights or batches; computed anew" in capsys.readouterr().err
    assert kept(path, scorer).tobytes() == first.tobytes() and scorer.calls == 6
    kept(path, scorer, digest="other weights")
    assert scorer.calls == 8
    path.write_bytes(path.read_bytes()[:100])  # cut short by something else than us
    assert kept(path, scorer).tobytes() == first.tobytes() and scorer.calls == 10
    assert [p.name for p in tmp_path.iterdir()] == ["reference.npz"]


def test_a_digest_of_weights_sees_every_bit_and_no_mesh():
    want = weights_digest(PARAMS)
    mesh = make_mesh(2, 2, 2)
    assert weights_digest(jax.device_put(PARAMS, shardings(layout(CONFIG), mesh))) == want
    flipped = PARAMS["layers"]["up"].copy()
    flipped.view(np.uint32)[0, 3, 5] ^= 1
    layers = PARAMS["layers"]
    assert weights_digest({**PARAMS, "layers": {**layers, "up": flipped}}) != want
    swapped = {**layers, "up": layers["up"][:, ::-1]}  # the same numbers in other places
    assert weights_digest({**PARAMS, "layers": swapped}) != want
    half = jax.tree.map(lambda x: jnp.asarray(x, jnp.bfloat16), PARAMS)
    small = jax.tree.map(lambda x: jnp.asarray(x * 9, jnp.int8), PARAMS)
    assert len({want, weights_digest(half), weights_digest(small)}) == 3


# Refusals and corners ---------------------------------------------------------------------------


@pytest.mark.parametrize("label", [True, False])
def test_t11_a_batch_of_one_class_trains(label, monkeypatch):
    wired = trainer("kto")
    wired.begin(PARAMS)
    items = [(Judged(x.prompt, x.completion, label, x.other), r) for x, r in wired.items]
    monkeypatch.setattr(wired, "items", items)
    metrics = wired.step()
    assert np.isfinite(metrics["loss"]) and metrics["grad_norm"] > 0
    missing, present = ("rejected", "chosen") if label else ("chosen", "rejected")
    assert np.isnan(metrics[f"rewards/{missing}"]) and np.isfinite(metrics[f"rewards/{present}"])


def test_t11_the_reference_point_is_that_of_the_global_batch_and_of_the_present_policy():
    def want(wired):
        params = jax.device_get(wired.state.params)
        now = np.array([sum_of(params, p, b) for p, _, b in triples()])
        return max(0.0, float(np.mean(now - sums("reference")[:, 1])))

    wired = trainer("kto")
    wired.begin(jax.tree.map(lambda x: 0.5 * x, PARAMS))
    for _ in range(2):
        baseline = wired.prepare().baseline
        assert want(wired) > 0
        np.testing.assert_allclose(baseline, want(wired), rtol=1e-4)
        wired.step()
    assert not np.any(Wired("kto", loss_type="apo_zero_unpaired").prepare().baseline)


@pytest.mark.parametrize(
    ("method", "options", "told"),
    [
        ("dpo", {"beta": 0.0}, "beta=0.0: must be above 0"),
        ("dpo", {"loss_type": ("ipo", "nca")}, "loss_type=ipo,nca: must be one or several of sig"),
        ("dpo", {"loss_weights": (1.0,)}, "loss_weights has 1 numbers for 6 losses"),
        ("dpo", {"label_smoothing": 0.5}, "label_smoothing=0.5: must be at least 0 and below 0.5"),
        ("dpo", {"loss_type": ("hinge",), "loss_weights": None}, "0.1 has no effect on hinge"),
        ("kto", {"beta": -1.0}, "beta=-1.0: must be above 0"),
        ("kto", {"loss_type": "bco"}, "loss_type='bco': must be one of kto, apo_zero_unpaired"),
        ("kto", {"desirable_weight": -1.0}, "desirable_weight=-1.0: must be at least 0"),
        ("kto", {"desirable_weight": 0.0, "undesirable_weight": 0.0}, "one must be above 0"),
    ],
)
def test_wrong_settings_are_refused(method, options, told):
    _, _, settings, _, defaults = METHODS[method]
    with pytest.raises(UserError) as error:
        settings(**(defaults | options))
    assert told in str(error.value)
