"""PPO's rollouts, updates and state."""

import functools
import itertools
from typing import NamedTuple

import jax
import numpy as np
import pytest

from caugym_jax.algorithms import ppo as module
from caugym_jax.algorithms.judging import Prompt, RolloutRewards, with_part
from caugym_jax.algorithms.ppo import Critic, Ppo, ppo
from caugym_jax.algorithms.rollouts import Rollouts
from caugym_jax.algorithms.step import Learner, gradients, state_shapes
from caugym_jax.data.items import problem_item
from caugym_jax.devices.mesh import fetch, make_mesh, put, rows, shardings
from caugym_jax.errors import UserError
from caugym_jax.models.transformer import layout
from caugym_jax.models.value import ValueModel
from caugym_jax.objectives.gae import gae, whiten
from caugym_jax.objectives.logprobs import score
from caugym_jax.objectives.optim import Optim, make_optimizer
from caugym_jax.runs.checkpoints import Checkpoints
from caugym_jax.types import Problem
from tests.algorithms.test_step import CONFIG, MODEL, PARAMS

MARK, WIDTH, VALUE = 40, 6, ValueModel(MODEL)
OPTIONS = dict(
    group_size=8, max_completion_length=WIDTH, beta=0.1, kl_target=0.05, kl_horizon=100.0, lam=0.9,
    num_iterations=2, num_minibatches=2, delta=3.0, entropy_coef=0.01,
    reward_weights={"tests.algorithms.test_ppo:marks": 1.0},
)  # fmt: skip


class Words:
    """A tokenizer whose words are numbers; many of them end a completion, so lengths differ."""

    end_ids, pad_id = tuple(range(1, 13)), 0

    def encode(self, text):
        return [int(word) for word in text.split()]

    def decode(self, ids):
        return " ".join(map(str, ids))

    def decode_completion(self, ids):
        return " ".join(str(i) for i in ids if i not in self.end_ids)


def marks(completions, problems, truncated):
    """A reward: how often the marked word occurs, and a little for every other one."""
    return [
        sum(1.0 if word == str(MARK) else 0.01 * int(word) / 64 for word in text.split())
        for text in completions
    ]


def prompts(count=4):
    return [
        Prompt(problem_item(Problem(str(i), "{}", "ATE")), [13 + i] * (3 + 5 * i % 11))
        for i in range(count)
    ]


class Made(NamedTuple):
    algorithm: object
    mesh: object
    losses: list  # policy's, critic's
    seen: list  # (what an update was given, its metrics), policy's and critic's in turn
    optimizers: tuple
    critic: Critic

    def prepare(self, state):
        with jax.set_mesh(self.mesh):
            return self.algorithm.prepare(state, prompts)

    def update(self, state, e):
        with jax.set_mesh(self.mesh):
            state, metrics = self.algorithm.update(state, e)
        return state._replace(step=state.step + 1), fetch(metrics)

    def init(self):
        with jax.set_mesh(self.mesh):
            return self.algorithm.init(jax.device_put(PARAMS))


def make(monkeypatch, mesh=None, **options) -> Made:
    losses, seen, real = [], [], module.make_step

    def spy(loss, *args, **kwargs):
        losses.append(loss)
        step = real(loss, *args, **kwargs)

        def watched(state, e):
            state, metrics = step(state, e)
            seen.append((e, metrics))
            return state, metrics

        return watched

    monkeypatch.setattr(module, "make_step", spy)
    mesh = mesh or make_mesh(devices=jax.devices()[:1])
    optimizer = make_optimizer(layout(CONFIG), 100, Optim(peak=1e-2))
    critic = Critic(VALUE, make_optimizer(VALUE.layout, 100, Optim(peak=1e-2)))
    settings = Ppo(**(OPTIONS | options))
    learner = Learner(MODEL, optimizer, mesh, reference=jax.device_put(PARAMS))
    rollouts = Rollouts(learner, settings, Words(), max_prompt_length=16)
    algorithm = ppo(learner, settings, rollouts, critic)
    return Made(algorithm, mesh, losses, seen, (optimizer, critic.optimizer), critic)


@pytest.fixture(scope="module")
def made():
    """One algorithm for all tests, as compiling takes longer than running."""
    with pytest.MonkeyPatch.context() as patch:
        yield make(patch)


@pytest.fixture(scope="module")
def begun(made):
    """(state after one step, a second step's experience and metrics)."""
    state = made.init()
    state, _ = made.update(state, made.prepare(state)[0])
    return (state, *made.prepare(state)[:2])


def copied(state):
    """The update donates its state."""
    return jax.tree.map(lambda x: jax.device_put(np.asarray(x), x.sharding), state)


# --- prepare -----------------------------------------------------------------------------------


def test_an_experience_is_what_its_own_rows_say(made, begun):
    """Log-probs, values, rewards and advantages, recomputed row by row from the tokens alone, so
    that none has been left behind when the rows were shuffled."""
    state, e, metrics = begun
    params, critic, coef = fetch((state.params, state.critic.params, state.kl_coef))
    e = fetch(e)
    arguments = e.tokens, e.positions, e.segment_ids
    start = e.prompt_width
    scored = jax.jit(functools.partial(score, MODEL, start=start))
    mask = e.mask > 0
    logprobs, reference = (np.asarray(scored(p, *arguments).logprobs) for p in (params, PARAMS))
    values = np.asarray(jax.jit(VALUE.values, static_argnames="start")(
        critic, *arguments, start=start))  # fmt: skip
    np.testing.assert_allclose(e.old_logprobs[mask], logprobs[mask], atol=1e-5)
    np.testing.assert_allclose(e.values[mask], values[mask], atol=1e-5)
    texts = [
        Words().decode_completion(row[start:][m]) for row, m in zip(e.tokens, mask, strict=True)
    ]
    scores = np.array(marks(texts, None, None))
    kl = (logprobs - reference) * mask
    rewards = -coef * kl
    rewards[np.arange(len(mask)), mask.sum(axis=1) - 1] += scores
    advantages, returns = gae(rewards, values, mask, gamma=1.0, lam=0.9)
    np.testing.assert_allclose(e.returns, returns, atol=1e-5)
    np.testing.assert_allclose(e.advantages, whiten(advantages, mask), atol=1e-4)
    # and what is told about them, as TRL defines it
    assert metrics["objective/kl"] == pytest.approx(kl.sum(axis=1).mean(), abs=1e-5)
    assert metrics["objective/scores"] == pytest.approx(scores.mean(), abs=1e-6)
    entropy = -(logprobs * mask).sum(axis=1).mean()
    assert metrics["objective/entropy"] == pytest.approx(entropy, rel=1e-5)
    penalty = -coef * kl.sum(axis=1).mean()
    assert metrics["objective/non_score_reward"] == pytest.approx(penalty, abs=1e-6)
    assert metrics["objective/rlhf_reward"] == pytest.approx(scores.mean() + penalty, abs=1e-6)
    explained = 1 - (returns - values)[mask].var() / returns[mask].var()
    assert metrics["critic/vf_explained_var"] == pytest.approx(explained, abs=1e-5)


def test_t09_kl_is_exactly_zero_at_the_reference_and_entropy_is_not_negative(made, begun):
    first = made.prepare(made.init())[1]
    assert first["objective/kl"] == 0 == first["objective/non_score_reward"]
    assert first["objective/entropy"] > 0
    assert first["objective/scores"] == pytest.approx(first["reward"], abs=1e-6)
    state, _, later = begun
    assert later["objective/kl"] != 0 and later["objective/kl_coef"] == float(state.kl_coef)


def test_a_missing_end_costs():
    judged = RolloutRewards(
        np.array([1, 0.5], np.float32), ("a",), np.array([[1], [0.5]], np.float32),
        np.array([3, 6]), 9, np.array([True, False]), [{"reward": 1.0}, {"reward": 0.5}],
    )  # fmt: skip
    name, part = Ppo(missing_eos_penalty=2.0).part
    found = with_part(judged, name, part(judged))
    np.testing.assert_allclose(found.total, [1, -1.5])
    np.testing.assert_allclose(found.values, [[1, 0], [0.5, -2]])
    assert found.names == ("a", "missing_eos")
    assert [row["reward"] for row in found.rows] == [1, -1.5]


def test_what_cannot_be_is_refused():
    for options, words in (
        ({"loss_type": "mean"}, "loss_type='mean': must be one of dapo, grpo, dr_grpo"),
        ({"beta": 0.0, "kl_target": 1.0}, "kl_target=1.0 adapts beta, which is 0"),
        ({"gamma": 1.5}, "gamma=1.5: must be at least 0 and at most 1"),
        ({"lam": -0.1}, "lam=-0.1: must be at least 0 and at most 1"),
        ({"epsilon": -0.1}, "epsilon=-0.1: must be at least 0"),
        ({"cliprange_value": 0.0}, "cliprange_value=0.0: must be above 0"),
        ({"num_iterations": 0}, "num_iterations=0: must be at least 1"),
    ):
        with pytest.raises(UserError, match=words):
            Ppo(**options)
    with pytest.raises(UserError, match="needs reference"):
        ppo(Learner(MODEL, None, None), Ppo(beta=0.1), None, None)


# --- update ------------------------------------------------------------------------------------


def test_t22_old_logprobs_are_frozen_and_the_first_ratio_is_one(made):
    """Four updates on one rollout: all are measured from where it was sampled."""
    state = made.init()
    e, _, _ = made.prepare(state)
    made.seen.clear()
    state, metrics = made.update(state, e)
    seen = fetch(made.seen[::2])
    assert len(seen) == 4 and metrics["val/first_ratio"] == pytest.approx(1, abs=1e-6)
    changes = [m["policy/approxkl_avg"] for _, m in seen]
    assert changes[0] < 1e-10 and min(changes[1:]) > 1e-5

    def table(*parts):
        """Every row with all that is known about it."""
        return np.concatenate([np.concatenate(jax.tree.leaves(p), axis=1) for p in parts])

    def in_order(rows):
        return rows[np.lexsort(rows.T)]

    parts = [part for part, _ in seen]
    passes = table(*parts[:2]), table(*parts[2:])
    whole = table(fetch(e._replace(ref_logprobs=None)))
    np.testing.assert_array_equal(passes[0][:16], whole[::2])
    for one in passes:  # each pass takes every row once, with what was known before the first
        np.testing.assert_array_equal(in_order(one), in_order(whole))
    assert np.any(passes[0] != passes[1])


@pytest.fixture(scope="module")
def uneven(made, begun):
    """(experience, losses with weights) to differentiate: 8 rows of uneven lengths, one of which
    does not count, moved off the ratio 1."""
    e, rng = fetch(begun[1])._replace(ref_logprobs=None), np.random.default_rng(0)
    e = jax.tree.map(lambda x: x[:8], e)
    assert len(set(e.mask.sum(axis=1))) > 2
    noise = rng.normal(size=e.mask.shape).astype(np.float32) / 2
    e = e._replace(
        old_logprobs=e.old_logprobs + noise,
        values=e.values + noise,
        mask=e.mask * (np.arange(8)[:, None] != 3),
    )
    critic = VALUE.init(PARAMS) | {"value_head": rng.normal(size=32).astype(np.float32) / 4}
    return e, {"policy": (made.losses[0], PARAMS), "value": (made.losses[1], critic)}


def compiled(loss, microbatches):
    return jax.jit(lambda params, e: gradients(loss, params, e, microbatches)[:2])


def assert_same(got, want):
    np.testing.assert_allclose(got[1], want[1], rtol=1e-6, atol=2e-7)  # terms of both signs
    square = jax.tree.map(
        lambda a, b: np.sum((a - b) ** 2), *map(jax.device_get, (got[0], want[0]))
    )
    size = sum(np.sum(np.square(w)) for w in jax.tree.leaves(jax.device_get(want[0])))
    assert np.sqrt(sum(jax.tree.leaves(square)) / size) <= 1e-5


BOTH = pytest.mark.parametrize("name", ["policy", "value"])
FEW = ("cut, in another order", "padded", "on eight devices")


@BOTH
@pytest.mark.parametrize(
    "meshes", [FEW, pytest.param(("batch", "tensor", "context"), marks=pytest.mark.slow)]
)
def test_t04_splits_order_padding_and_devices_change_no_gradient(uneven, name, meshes):
    """On two devices cut and in another order, on four padded, on eight in every way."""
    e, losses = uneven
    loss, params = losses[name]
    want = compiled(loss, 1)(params, e)
    shuffled = jax.tree.map(lambda x: x[np.random.default_rng(1).permutation(8)], e)

    def padded(x):  # two places before the prompt, three after the completion
        completion = x.shape[1] == e.mask.shape[1]
        return np.pad(x, ((0, 0), (0, 3) if completion else (2, 3)), constant_values=completion * 5)

    wide = jax.tree.map(padded, e)._replace(mask=np.pad(e.mask, ((0, 0), (0, 3))))
    where = layout(CONFIG) if name == "policy" else VALUE.layout
    cases = {
        "cut, in another order": ((2, 1, 1), 4, shuffled),
        "padded": ((1, 4, 1), 1, wide),
        "on eight devices": ((2, 2, 2), 1, e),
        "batch": ((8,), 1, e),
        "tensor": ((1, 4, 2), 2, wide),
        "context": ((1, 2, 2, 2), 1, e),
    }
    for sizes, microbatches, same in map(cases.get, meshes):
        mesh = make_mesh(*sizes, devices=jax.devices()[: np.prod(sizes)])
        with jax.set_mesh(mesh):
            placed = jax.device_put(params, shardings(where, mesh))
            assert_same(compiled(loss, microbatches)(placed, put(same, rows(mesh))), want)


@pytest.mark.slow
def test_t04_a_whole_step_is_the_same_in_packed_rows(monkeypatch):
    after = []
    for options in ({"packed": False}, {"packed": True, "microbatches": 2}):
        made = make(monkeypatch, **options, num_iterations=1)
        state, metrics = made.init(), []
        for _ in range(2):  # the critic starts at zero: its values count in the second step
            experience, prepared, _ = made.prepare(state)
            state, report = made.update(state, experience)
            metrics.append(prepared | jax.device_get(report))
        after.append((metrics, jax.device_get((state.params, state.critic.params))))
    assert isinstance(experience, list) and experience[0].share is not None
    (padded, a), (packed, b) = after
    for one, other in zip(padded, packed, strict=True):
        for name in one.keys() - {n for n in one if n.startswith("time/")}:
            np.testing.assert_allclose(other[name], one[name], rtol=2e-4, atol=2e-5, err_msg=name)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert np.mean(np.abs(x - y)) < 1e-5  # Adam turns rounding of tiny gradients into steps


def test_t04_a_whole_step_is_the_same_on_eight_devices(made, monkeypatch):
    """Sampled, scored, whitened, shuffled and updated; in the same order, so that rows agree."""
    spread, found = make(monkeypatch, make_mesh(2, 2, 2), microbatches=2), []
    for one in (made, spread):
        state = one.init()
        e, metrics, _ = one.prepare(state)
        state, report = one.update(state, e)
        found.append((fetch(e), metrics | report))
    (e, metrics), (other, same) = found
    for name in ("tokens", "mask", "old_logprobs", "values", "advantages", "returns"):
        np.testing.assert_allclose(getattr(other, name), getattr(e, name), atol=1e-4)
    for name in ("objective/kl", "critic/grad_norm", "grad_norm", "loss/value_avg", "val/ratio"):
        np.testing.assert_allclose(same[name], metrics[name], rtol=1e-3, atol=1e-4)


# --- state ---------------------------------------------------------------------------------------


class Killed(Exception):
    pass


def test_t18_killed_between_the_updates_of_a_rollout(made, tmp_path, monkeypatch):
    """The step is made again from the checkpoint before it: policy, critic and KL controller end
    bit for bit as they would have."""
    state, checkpoints = made.init(), Checkpoints(tmp_path)
    coefs = []
    for _ in range(3):
        if int(state.step) == 1:
            checkpoints.save(copied(state), {})
            checkpoints.wait()
        e, metrics, _ = made.prepare(state)
        coefs.append(metrics["objective/kl_coef"])
        state, _ = made.update(state, e)
    assert len(set(coefs)) == 3, "the coefficient must move"
    want = fetch(state)

    shapes = state_shapes(made.algorithm.init, layout(CONFIG), made.mesh)

    def restored():
        return checkpoints.restore(shapes)[0]

    state = restored()
    calls, real = itertools.count(1), module.Program.__call__

    def dying(self, *arguments):
        if self.name == "critic update" and next(calls) == 2:  # of four
            raise Killed
        return real(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(module.Program, "__call__", dying)
        with pytest.raises(Killed):
            made.update(state, made.prepare(state)[0])
    state = restored()
    assert int(state.step) == 1 and type(state.critic) is type(state)
    for _ in range(2):
        state, _ = made.update(state, made.prepare(state)[0])
    jax.tree.map(np.testing.assert_array_equal, fetch(state), want)
    assert int(state.step) == 3 and int(state.critic.skipped) == 0

    alone = checkpoints.restore_params(shapes.params)  # to evaluate and export, without the critic
    checkpoints.close()
    assert jax.tree.structure(alone) == jax.tree.structure(PARAMS)


def test_a_critic_that_is_not_finite_is_left_alone_and_counted(made, begun):
    state, e, _ = begun
    state = copied(state)
    before = fetch(state.critic.params)
    bad = e._replace(returns=e.returns * np.float32(np.nan))
    state, metrics = made.update(state, bad)
    assert metrics["critic/skipped_updates"] == 4 and int(state.skipped) == 0
    jax.tree.map(np.testing.assert_array_equal, fetch(state.critic.params), before)


def test_reward_rises_and_the_critic_learns_to_expect_it(made):
    """Twenty steps teach the policy the word that is rewarded (no KL term: 0 stays 0)."""
    state, told = made.init(), []
    state = state._replace(kl_coef=state.kl_coef * 0)
    for _ in range(20):
        e, metrics, _ = made.prepare(state)
        told.append(metrics)
        state, _ = made.update(state, e)
    rewards = [m["reward"] for m in told]
    assert np.mean(rewards[:3]) < 1 and np.mean(rewards[-3:]) > 3  # of at most 6
    assert told[0]["critic/vf_explained_var"] == 0
    assert max(m["critic/vf_explained_var"] for m in told) > 0.05
    assert told[-1]["critic/vpred_mean"] > 2 and told[-1]["objective/kl_coef"] == 0
    assert max(m["sampling/sampling_logp_difference/mean"] for m in told) < 1e-4
