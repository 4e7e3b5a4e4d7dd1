"""GRPO's rollouts, groups and updates."""

import math
import zlib

import jax
import numpy as np
import pytest

from caugym_jax.algorithms import grpo as module
from caugym_jax.algorithms import rollouts as rollouts_module
from caugym_jax.algorithms.grpo import Grpo, grpo
from caugym_jax.algorithms.judging import Prompt, overlong_reward
from caugym_jax.algorithms.rollouts import Group, Rollouts, lay_out, refill_size
from caugym_jax.algorithms.step import Learner
from caugym_jax.causal.engine.generating import generate_problems
from caugym_jax.data.items import asked, problem_item
from caugym_jax.data.prompts import prompt_tokens
from caugym_jax.devices.mesh import make_mesh
from caugym_jax.errors import UserError
from caugym_jax.models.transformer import layout
from caugym_jax.objectives.advantages import group_advantages, informative_groups
from caugym_jax.objectives.optim import Optim, make_optimizer
from caugym_jax.runs.opening import ModelSettings, open_model
from caugym_jax.types import Rollout
from tests.glossary import unexplained
from tests.tiny_model import tiny_model  # noqa: F401

MARK = 3274  # a token that the test rewards: "an", which stands in longer ones too


def likes_mark(completions, problems, truncated):
    """A reward: how often the marked token's text occurs (at most 4 times counted)."""
    return [float(min(text.count(likes_mark.text), 4)) for text in completions]


def any_spread(completions, problems, truncated):
    """A reward that differs between nearly all completions."""
    return [zlib.crc32(text.encode()) % 100 / 100 for text in completions]


SPREAD = {"tests.algorithms.test_grpo:any_spread": 1.0}


class Setup:
    def __init__(self, folder, **options):
        self.mesh = make_mesh(devices=jax.devices()[:1])
        with jax.set_mesh(self.mesh):
            opened = open_model(ModelSettings(str(folder)), self.mesh)
            self.model, self.params, self.tokenizer = opened
            likes_mark.text = self.tokenizer.decode([MARK])
            trained = layout(self.model.config)
            optimizer = make_optimizer(trained, 50, Optim(peak=options.pop("peak", 1e-2)))
            options = {
                "group_size": 4,
                "max_completion_length": 6,
                "reward_weights": {"tests.algorithms.test_grpo:likes_mark": 1.0},
                "dynamic_sampling": False,
                "packed": False,
            } | options
            reference, settings = jax.tree.map(np.array, self.params), Grpo(**options)
            learner = Learner(self.model, optimizer, self.mesh, reference=reference)
            rollouts = Rollouts(learner, settings, self.tokenizer, max_prompt_length=128)
            self.algorithm = grpo(learner, settings, rollouts)
            self.state = self.algorithm.init(self.params)
        self.index = 0
        self.problems = list(generate_problems(["ATE", "ETT"], 64, 0, adjusters=(0,)))

    def draw(self):
        chosen = [self.problems[(self.index + i) % 64] for i in range(4)]
        self.index += 4
        items = map(problem_item, chosen)
        return [Prompt(x, prompt_tokens(x.prompt, self.tokenizer)) for x in items]

    def prepare(self):
        with jax.set_mesh(self.mesh):
            experience, metrics, samples = self.algorithm.prepare(self.state, self.draw)
            assert not unexplained(metrics)
            return experience, metrics, samples

    def update(self, experience):
        with jax.set_mesh(self.mesh):
            self.state, metrics = self.algorithm.update(self.state, experience)
            assert not unexplained(metrics)
            return jax.device_get(metrics)


def test_reward_rises(tiny_model):  # noqa: F811
    """Forty small steps teach the policy the token that is rewarded."""
    setup = Setup(tiny_model, group_size=8, peak=2e-2)
    rewards = []
    for _ in range(40):
        experience, metrics, _ = setup.prepare()
        rewards.append(metrics["reward"])
        setup.update(experience)
        setup.state = setup.state._replace(step=setup.state.step + 1)
    assert np.mean(rewards[-5:]) > np.mean(rewards[:5]) + 1


def test_t01_sampler_and_trainer_agree(tiny_model):  # noqa: F811
    for temperature in (0.6, 1.0):
        setup = Setup(tiny_model, temperature=temperature)
        experience, _, _ = setup.prepare()
        metrics = setup.update(experience)
        assert metrics["sampling/sampling_logp_difference/mean"] < 1e-4
        assert metrics["entropy"] > 0


def test_t22_old_logprobs_stay_frozen_over_iterations(tiny_model, monkeypatch):  # noqa: F811
    """mu = 2: the ratio is 1 in the first pass and not in the second (T22)."""
    seen = []
    real = module.make_step

    def spying(loss, *args, **kwargs):
        step = real(loss, *args, **kwargs)

        def spy(state, e):
            mean = loss(state.params, e)[1]
            seen.append((np.array(e.old_logprobs), mean))
            return step(state, e)

        return spy

    monkeypatch.setattr(module, "make_step", spying)
    setup = Setup(
        tiny_model, num_iterations=2, epsilon=1e-4, epsilon_high=1e-4, reward_weights=SPREAD
    )
    experience, _, _ = setup.prepare()
    setup.update(experience)
    np.testing.assert_array_equal(seen[0][0], seen[1][0])
    clipped = [float(m["clip_ratio/region_mean"][0]) for _, m in seen]
    assert clipped[0] == 0 and clipped[1] > 0


def test_t09_kl_is_zero_at_the_reference_and_grows(tiny_model):  # noqa: F811
    setup = Setup(tiny_model, beta=0.1, reward_weights=SPREAD)
    experience, _, _ = setup.prepare()
    first = setup.update(experience)["kl"]
    experience, _, _ = setup.prepare()
    second = setup.update(experience)["kl"]
    assert abs(first) < 1e-6 and second > first
    with pytest.raises(UserError, match="needs reference"):
        grpo(Learner(setup.model, None, setup.mesh), Grpo(beta=0.1), None)


def test_t03_equal_rewards_give_no_gradient(tiny_model):  # noqa: F811
    setup = Setup(tiny_model, reward_weights={"form": 1.0})
    experience, metrics, _ = setup.prepare()
    assert metrics["frac_reward_zero_std"] == 1
    assert setup.update(experience)["grad_norm"] == 0


class Scripted:
    """A sampler whose completions are decided beforehand: row r of call c is `script[c][r]`."""

    def __init__(self, script):
        self.script, self.calls = script, []

    def place(self, params):
        return params

    def halves(self, rows):
        return False

    def __call__(self, params, prompts, *, ids, samples_per_prompt, **settings):
        rows = self.script[min(len(self.calls), len(self.script) - 1)]
        self.calls.append(list(ids))
        n = len(prompts) * samples_per_prompt
        P = max(map(len, prompts))
        tokens = np.zeros((n, P + 6), np.int32)
        for r in range(n):
            prompt = prompts[r // samples_per_prompt]
            tokens[r, P - len(prompt) : P] = prompt
            tokens[r, P] = MARK if rows[r] else 5
        ones = np.ones(n, np.int32)
        lengths = np.repeat([len(p) for p in prompts], samples_per_prompt)
        return Rollout(tokens, lengths, ones, ones == 1, np.full((n, 6), -1, np.float32))


def scripted(monkeypatch, folder, script, **options):
    sampler = Scripted(script)
    monkeypatch.setattr(rollouts_module, "Sampler", lambda *_, **__: sampler)
    return Setup(folder, dynamic_sampling=True, **options), sampler


ALL, NONE, MIXED = [1, 1, 1, 1], [0, 0, 0, 0], [1, 0, 0, 1]


def test_uninformative_groups_are_refilled(tiny_model, monkeypatch):  # noqa: F811
    """The step is filled with later prompts; surplus is dropped; prompt ids never repeat."""
    first, second = ALL + MIXED + NONE + MIXED, MIXED * 4
    setup, sampler = scripted(monkeypatch, tiny_model, [first, second])
    experience, metrics, _ = setup.prepare()
    assert metrics["sampling/refills"] == 1 and sampler.calls == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert experience.tokens.shape[0] == 16 and np.all(experience.mask.sum(axis=1) == 1)
    np.testing.assert_allclose(np.asarray(experience.advantages).reshape(4, 4).sum(1), 0, atol=1e-6)
    kept = [setup.problems[i] for i in (1, 3, 4, 5)]
    for row, problem in zip(np.asarray(experience.tokens)[::4], kept, strict=True):
        prompt = prompt_tokens(asked(problem), setup.tokenizer)
        start = experience.tokens.shape[1] - experience.mask.shape[1]
        assert row[start - len(prompt) : start].tolist() == prompt


class ById(Scripted):
    """The prompts of some ids have a signal."""

    def __init__(self, informative):
        super().__init__([])
        self.informative = informative

    def __call__(self, params, prompts, *, ids, **settings):
        self.script = [sum((MIXED if i in self.informative else ALL for i in ids), [])]
        return super().__call__(params, prompts, ids=ids, **settings)


def test_refill_sizes_by_hand():
    assert refill_size(16, 0, 0, 16, [4, 8]) == 16
    assert refill_size(16, 12, 16, 16, [4, 8]) == 8  # 4 missing, 3 of 4 have a signal
    assert refill_size(16, 12, 16, 16, []) == 16
    assert refill_size(16, 1, 16, 16, [4, 8]) == 16
    assert refill_size(16, 12, 24, 8, [4, 8]) == 8
    assert refill_size(16, 12, 28, 4, [4, 8]) == 4  # not enough, but all that wait


@pytest.mark.parametrize("informative", [{0, 1, 3, 5, 6}, {0, 2, 9, 11, 12}, {3}, {0, 1, 2, 7}])
def test_a_refill_in_parts_finds_the_same_groups(tiny_model, monkeypatch, informative):  # noqa: F811
    """As whole draws of 4 do, with the same draws, and never more prompts sampled."""
    steps = []
    for parts in (False, True):
        sampler = ById(informative)
        monkeypatch.setattr(sampler, "halves", lambda rows, parts=parts: parts)
        monkeypatch.setattr(rollouts_module, "Sampler", lambda *_, sampler=sampler, **__: sampler)
        setup = Setup(tiny_model, dynamic_sampling=True)
        experience, metrics, _ = setup.prepare()
        ids = [i for call in sampler.calls for i in call]
        assert ids == list(range(len(ids)))
        steps.append((experience, metrics["sampling/refills"], setup.index, ids))
    whole, in_parts = steps
    jax.tree.map(np.testing.assert_array_equal, whole[0], in_parts[0])
    assert whole[1:3] == in_parts[1:3]
    assert len(in_parts[3]) <= len(whole[3])
    if informative == {0, 1, 3, 5, 6}:
        assert (len(whole[3]), len(in_parts[3])) == (8, 6)


def test_a_step_without_signal_is_skipped(tiny_model, monkeypatch):  # noqa: F811
    setup, sampler = scripted(monkeypatch, tiny_model, [ALL * 4], max_refills=4)
    experience, metrics, _ = setup.prepare()
    assert experience is None and len(sampler.calls) == 5
    assert metrics["frac_reward_zero_std"] == 1


def test_a_short_step_is_padded_with_rows_that_do_not_count(tiny_model, monkeypatch):  # noqa: F811
    setup, _ = scripted(monkeypatch, tiny_model, [ALL * 3 + MIXED, ALL * 4], max_refills=1)
    experience, _, _ = setup.prepare()
    counted = np.asarray(experience.mask.sum(axis=1))
    np.testing.assert_array_equal(counted, [1] * 4 + [0] * 12)
    assert np.isfinite(setup.update(experience)["loss"])


def test_the_table_holds_the_best_and_the_worst_of_each_prompt():
    rows = [
        {"prompt": p, "reward": r} for p, r in zip("aaabbb", (1, math.nan, 3, 2, 2, 2), strict=True)
    ]
    picked = rollouts_module.best_and_worst(rows, 3)
    assert [row["prompt"] for row in picked] == ["a", "a", "b", "b"]
    assert picked[0] is rows[2] and picked[1] is rows[1]
    assert picked[2] is rows[3] and picked[3] is rows[5]
    assert rollouts_module.best_and_worst(rows, 1) == rows


def test_layout_by_hand():
    group = Group(
        [7, 8],
        [np.array([1]), np.array([2, 3, 4])],
        [np.array([-0.5], np.float32), np.array([-1, -2, -3], np.float32)],
        np.array([True, False]),
        np.array([1, 0], np.float32),
    )
    e = lay_out([group], np.array([1, -1], np.float32), 3, 2, 3)
    np.testing.assert_array_equal(e.tokens, [[7, 8, 1, 0, 0], [7, 8, 2, 3, 4], [0] * 5])
    np.testing.assert_array_equal(e.segment_ids, [[1, 1, 1, 0, 0], [1] * 5, [0] * 5])
    np.testing.assert_array_equal(e.positions, [[0, 1, 2, 0, 0], [0, 1, 2, 3, 4], [0] * 5])
    np.testing.assert_array_equal(e.mask, [[1, 0, 0], [0, 0, 0], [0, 0, 0]])
    np.testing.assert_array_equal(e.advantages, [1, -1, 0])
    np.testing.assert_array_equal(e.sampler_logprobs, [[-0.5, 0, 0], [-1, -2, -3], [0, 0, 0]])


VARIANTS = {
    "paper": {},
    "dapo": {"loss_type": "dapo"},
    "dr_grpo": {"loss_type": "dr_grpo", "scale_rewards": "none"},
    "gspo": {"importance_sampling_level": "sequence", "num_minibatches": 2},
    "cispo": {"loss_type": "cispo", "epsilon_high": 5.0, "num_iterations": 2},
    "kl": {"beta": 0.05, "delta": 1.5, "use_bias_correction_kl": True, "entropy_coef": 0.01},
    "rloo": {
        "baseline": "leave_one_out", "scale_rewards": "none", "beta": 0.05, "kl_in_reward": True,
        "importance_sampling_correction": "token",
    },
}  # fmt: skip


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(n, marks=[pytest.mark.slow] * (n not in ("paper", "gspo", "kl")))
        for n in VARIANTS
    ],
)
def test_t04_packing_and_microbatches_change_no_update(tiny_model, name):  # noqa: F811
    """Each variant as it is really wired: the same parameters whatever the split (T4)."""
    after = []
    for rows in ({"microbatches": 1}, {"microbatches": None, "packed": True}):
        setup = Setup(tiny_model, reward_weights=SPREAD, peak=1e-3, **rows, **VARIANTS[name])
        experience, _, _ = setup.prepare()
        metrics = setup.update(experience)
        assert metrics["grad_norm"] > 0 and np.isfinite(metrics["loss"])
        after.append((metrics, jax.device_get(setup.state.params)))
    (one, a), (many, b) = after
    np.testing.assert_allclose(one["loss"], many["loss"], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(one["grad_norm"], many["grad_norm"], rtol=1e-4)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert np.mean(np.abs(x - y)) < 1e-5  # Adam turns rounding of tiny gradients into steps


def test_a_batch_scale_is_that_of_the_rows_trained_on(tiny_model, monkeypatch):  # noqa: F811
    """Refilled groups are scaled together, by one standard deviation."""
    setup, _ = scripted(
        monkeypatch, tiny_model, [ALL + MIXED + NONE + MIXED, MIXED * 4], scale_rewards="batch"
    )
    experience, _, _ = setup.prepare()
    size = 0.5 / (np.std([1, 0, 0, 1] * 4, ddof=1) + 1e-4)
    np.testing.assert_allclose(np.abs(experience.advantages), size, rtol=1e-5)


def sometimes(completions, problems, truncated):
    """None for every third completion, else 1 where it holds the mark."""
    return [
        None if i % 3 == 0 else float(likes_mark.text in text) for i, text in enumerate(completions)
    ]


def failing(completions, problems, truncated):
    """No number for every third completion."""
    return [math.nan if x is None else x for x in sometimes(completions, problems, truncated)]


@pytest.mark.parametrize("name", ["sometimes", "failing"])
def test_t24_rewards_that_are_none_or_fail_are_left_out(tiny_model, monkeypatch, capsys, name):  # noqa: F811
    """Rows 0, 3, 6, ... are not judged: no advantage, no place in the loss, not in their group's
    mean. What fails is skipped and told where the configuration says so, else it stops the run."""
    options = {"reward_weights": {f"tests.algorithms.test_grpo:{name}": 1.0}, "max_refills": 0}
    script = [[1, 1, 0, 0] * 4]
    if name == "failing":
        setup, _ = scripted(monkeypatch, tiny_model, script, **options)
        with pytest.raises(UserError, match="failing' failed at item 0"):
            setup.prepare()
        options["on_reward_error"] = "skip"
    setup, _ = scripted(monkeypatch, tiny_model, script, **options)
    experience, metrics, _ = setup.prepare()
    judged = np.arange(16) % 3 != 0
    marked = np.tile([1, 1, 0, 0], 4)
    want = group_advantages(np.where(judged, marked, np.nan), 4)
    wanted = informative_groups(np.where(judged, marked, np.nan), 4).repeat(4)
    kept = np.asarray(experience.mask.sum(axis=1))
    np.testing.assert_array_equal(kept[: wanted.sum()], judged[wanted])
    np.testing.assert_allclose(np.asarray(experience.advantages)[: wanted.sum()], want[wanted])
    np.testing.assert_allclose(metrics["reward"], marked[judged].mean())
    assert metrics.get("rewards/failures", 0) == (6 if name == "failing" else 0)
    assert ("skipped item 0" in capsys.readouterr().err) == (name == "failing")


def test_long_completions_cost_reward():
    lengths = np.array([10, 80, 85, 100])
    np.testing.assert_allclose(overlong_reward(lengths, 100, 20), [0, 0, -0.25, -1])
    np.testing.assert_allclose(overlong_reward(lengths, 100, 100, 2.0), [-0.2, -1.6, -1.7, -2])


def test_the_cost_of_length_is_a_part_of_the_reward(tiny_model, monkeypatch):  # noqa: F811
    setup, _ = scripted(monkeypatch, tiny_model, [MIXED * 4], overlong_buffer=6)
    _, metrics, samples = setup.prepare()  # every completion has 1 of 6 tokens
    np.testing.assert_allclose(metrics["rewards/overlong/mean"], -1 / 6, rtol=1e-6)
    np.testing.assert_allclose(metrics["reward"], 0.5 - 1 / 6, rtol=1e-6)
    np.testing.assert_allclose(samples[0]["rewards/overlong"], -1 / 6, rtol=1e-6)


def test_kl_in_the_reward_is_taken_off_before_the_group_s_mean(tiny_model, monkeypatch):  # noqa: F811
    """At the reference it changes nothing; behind it, leave-one-out advantages are those of
    reward - beta sum k1, and the loss has no KL term."""
    settings = dict(
        beta=0.5, kl_in_reward=True, baseline="leave_one_out", scale_rewards="none", peak=1e-1
    )
    setup, _ = scripted(monkeypatch, tiny_model, [MIXED * 4], **settings)
    experience, metrics, _ = setup.prepare()
    first = np.asarray(experience.advantages)
    np.testing.assert_allclose(first, np.tile([2, -2, -2, 2], 4) / 3, atol=1e-5)
    assert abs(metrics["kl"]) < 1e-5 and experience.ref_logprobs is None
    assert "kl" not in setup.update(experience)
    setup.index = 0
    experience, metrics, _ = setup.prepare()
    assert abs(metrics["kl"]) > 1e-2
    # Completions of one token: k1 is that token's, and the same for equal samples of a prompt.
    moved = np.asarray(experience.advantages).reshape(4, 4)
    np.testing.assert_allclose(moved[:, 0], moved[:, 3], rtol=1e-5)
    np.testing.assert_allclose(moved.sum(axis=1), 0, atol=1e-5)
    assert np.abs(moved - first.reshape(4, 4)).max() > 1e-2


def test_learning_rate_follows_the_updates_done(tiny_model):  # noqa: F811
    setup = Setup(tiny_model, reward_weights=SPREAD, num_iterations=2, peak=0.25)
    experience, _, _ = setup.prepare()
    assert setup.update(experience)["learning_rate"] == 0.25


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"kl_in_reward": True}, "set beta"),
        ({"delta": 1.2}, "delta=1.2: must be above 1.28, which is 1 \\+ epsilon_high"),
        ({"importance_sampling_cap": 0.0}, "importance_sampling_cap=0.0: must be above 0"),
        ({"baseline": "mean"}, "must be one of group, leave_one_out, none"),
        ({"importance_sampling_correction": "yes"}, "must be one of none, token, sequence"),
        ({"on_reward_error": "ignore"}, "must be one of stop, skip"),
        ({"overlong_buffer": 513}, "must be at least 0 and at most 512, which is max_completion"),
        ({"epsilon": -0.1}, "epsilon=-0.1: must be at least 0"),
        ({"epsilon_high": -0.1}, "epsilon_high=-0.1: must be at least 0"),
        ({"beta": -1.0}, "beta=-1.0: must be at least 0"),
        ({"num_iterations": 0}, "num_iterations=0: must be at least 1"),
        ({"num_minibatches": 0}, "num_minibatches=0: must be at least 1"),
        ({"microbatches": 0}, "microbatches=0: must be at least 1"),
        ({"sample_batch_size": 0}, "sample_batch_size=0: must be at least 1"),
        ({"temperature": 0.0}, "temperature=0.0: must be above 0"),
        ({"top_p": 0.0}, "top_p=0.0: must be above 0 and at most 1"),
        ({"top_k": -1}, "top_k=-1: must be at least 0"),
        ({"min_p": 1.5}, "min_p=1.5: must be at least 0 and at most 1"),
        ({"max_refills": -1}, "max_refills=-1: must be at least 0"),
        ({"reward_timeout": 0.0}, "reward_timeout=0.0: must be above 0"),
        ({"max_completion_length": 0}, "max_completion_length=0: must be at least 1"),
    ],
)
def test_settings_that_cannot_work_are_refused(options, told):
    with pytest.raises(UserError, match=told):
        Grpo(**options)


def test_samples_may_be_alone_without_a_baseline(tiny_model, monkeypatch):  # noqa: F811
    """REINFORCE++ with one sample a prompt: advantages are whitened over the batch."""
    settings = dict(baseline="none", scale_rewards="none", normalize_advantages=True, group_size=1)
    with pytest.raises(UserError, match="a group needs at least 2 samples"):
        Grpo(**settings)
    sampler = Scripted([[1, 0, 0, 1]])
    monkeypatch.setattr(rollouts_module, "Sampler", lambda *_, **__: sampler)
    setup = Setup(tiny_model, **settings)
    experience, metrics, _ = setup.prepare()
    unit = 0.5 / (3**-0.5 + 1e-4)
    np.testing.assert_allclose(experience.advantages, [unit, -unit, -unit, unit], rtol=1e-6)
    assert "frac_reward_zero_std" not in metrics
