"""The sampler against teacher forcing, and what may not change a sample."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from caugym_jax.data.packing import width_for
from caugym_jax.devices.mesh import Sampling, make_mesh, sampling_mesh, shardings
from caugym_jax.errors import UserError
from caugym_jax.models.transformer import Model, layout
from caugym_jax.objectives.logprobs import score
from caugym_jax.sampling import decoding
from caugym_jax.sampling.decoding import generate, row_keys
from caugym_jax.sampling.picking import Settings
from caugym_jax.sampling.sampler import Sampler
from tests.models.tiny import FAMILIES as THREE_LAYERS
from tests.models.tiny import random_params

FAMILIES = {k: dataclasses.replace(c, num_layers=2) for k, c in THREE_LAYERS.items()}
VOCAB = 200
ENDS = tuple(range(7, VOCAB, 25))  # so that some rows end early and some do not
PROMPTS = [np.random.default_rng(n).integers(0, VOCAB, n).tolist() for n in (5, 40, 1, 17, 23)]
IDS = [3, 1, 4, 15, 2**40 + 9]


@functools.lru_cache
def setup(family="qwen3-tied", new=24, end_ids=ENDS, **options):
    """(model, parameters, sampler); shared between tests, so that programs are compiled once."""
    model = Model(FAMILIES[family])
    options = {"max_prompt_length": 48, "pad_id": 7} | options
    sampler = Sampler(model, end_ids=end_ids, max_new_tokens=new, **options)
    return model, jax.tree.map(jnp.asarray, random_params(model.config)), sampler


def completions(rollout):
    """(tokens, logprobs) of every row, cut at its end."""
    P = rollout.prompt_width
    rows = zip(rollout.tokens[:, P:], rollout.logprobs, rollout.completion_length, strict=True)
    return [(tokens[:n].tolist(), logprobs[:n]) for tokens, logprobs, n in rows]


def assert_same(a, b, atol=1e-4):
    for (tokens, logprobs), (other, other_logprobs) in zip(a, b, strict=True):
        assert tokens == other
        np.testing.assert_allclose(logprobs, other_logprobs, atol=atol)


@functools.partial(jax.jit, static_argnames=("model", "start"))
def _score(model, params, tokens, positions, segment_ids, temperature, start=1):
    arguments = model, params, tokens, positions, segment_ids
    return score(*arguments, start=start, temperature=temperature).logprobs


def forced(model, params, prompts, answers, temperature=1.0):
    """The log-probs of each answer behind its prompt, rows padded on the right."""
    width = 16 * -(-max(len(p) + len(a) for p, a in zip(prompts, answers, strict=True)) // 16)
    tokens = np.zeros((len(prompts), width), np.int32)
    for row, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        tokens[row, : len(prompt) + len(answer)] = [*prompt, *answer]
    lengths = np.asarray([[len(p) + len(a)] for p, a in zip(prompts, answers, strict=True)])
    places = np.broadcast_to(np.arange(width, dtype=np.int32), tokens.shape)
    real = (places < lengths).astype(np.int32)
    scores = np.asarray(_score(model, params, tokens, places, real, np.float32(temperature)))
    return [
        scores[row, len(prompt) - 1 : len(prompt) - 1 + len(answer)]
        for row, (prompt, answer) in enumerate(zip(prompts, answers, strict=True))
    ]


@pytest.mark.parametrize("family", ["qwen2-tied", "qwen3", "llama-scaled", "mistral-window"])
@pytest.mark.parametrize("how", [(1.0, 1.0), (0.6, 1.0), (1.0, 0.8)], ids=str)
def test_t01_reported_logprobs_are_the_teacher_forced_ones(family, how):
    """Ragged prompts, early ends, several samples; the nucleus does not enter the log-probs."""
    temperature, top_p = how
    model, params, sampler = setup(family, 48)
    rollout = sampler(
        params, PROMPTS, ids=IDS, samples_per_prompt=2, temperature=temperature, top_p=top_p
    )
    assert 0 < rollout.ended.sum() < len(rollout.ended)
    tokens, logprobs = zip(*completions(rollout), strict=True)
    prompts = [prompt for prompt in PROMPTS for _ in range(2)]
    expected = forced(model, params, prompts, tokens, temperature)
    np.testing.assert_allclose(np.concatenate(logprobs), np.concatenate(expected), atol=1e-4)


def test_the_rollouts_own_rows_score_to_its_logprobs():
    """What the trainer does: the same array, left-padded, with positions and segments."""
    model, params, sampler = setup()
    r = sampler(params, PROMPTS, ids=IDS, temperature=0.6)
    place = np.arange(r.tokens.shape[1]) - (r.prompt_width - r.prompt_length[:, None])
    real = (place >= 0) & (place < (r.prompt_length + r.completion_length)[:, None])
    arrays = r.tokens, np.maximum(place, 0).astype(np.int32), real.astype(np.int32)
    scores = _score(model, params, *arrays, np.float32(0.6), start=r.prompt_width)
    counts = np.arange(r.logprobs.shape[1]) < r.completion_length[:, None]
    np.testing.assert_allclose(scores * counts, r.logprobs, atol=1e-4)


def test_rows_have_the_layout_that_types_promise():
    _, params, sampler = setup()
    rollout = sampler(params, PROMPTS, ids=IDS, samples_per_prompt=2)
    P, C = rollout.prompt_width, 24
    assert rollout.tokens.shape == (10, P + C)
    assert rollout.tokens.dtype == np.int32
    assert rollout.logprobs.shape == (10, C)
    for row, (tokens, _) in enumerate(completions(rollout)):
        prompt = PROMPTS[row // 2]
        assert rollout.tokens[row].tolist() == (
            [7] * (P - len(prompt)) + prompt + tokens + [7] * (C - len(tokens))
        )
        assert rollout.prompt_length[row] == len(prompt)
        assert (rollout.logprobs[row, len(tokens) :] == 0).all()


def test_t07_every_end_id_stops_is_kept_and_is_counted_and_pad_may_be_one_of_them():
    _, params, sampler = setup()  # pads with 7, which is an end
    rollout = sampler(params, PROMPTS, ids=IDS, samples_per_prompt=40, temperature=1.5)
    seen = set()
    for (tokens, _), ended in zip(completions(rollout), rollout.ended, strict=True):
        assert not set(tokens[:-1]) & set(ENDS)
        assert ended == (tokens[-1] in ENDS)
        assert ended or len(tokens) == 24
        seen.add(tokens[-1])
    assert len(seen & set(ENDS)) > 2


def test_greedy_is_the_argmax_of_the_whole_forward_pass():
    model, params, sampler = setup("llama-tied", 24, (VOCAB + 1,))
    rollout = sampler(params, PROMPTS, ids=IDS, temperature=0.0)
    place = np.arange(rollout.tokens.shape[1]) - (
        rollout.prompt_width - rollout.prompt_length[:, None]
    )
    hidden, _ = jax.jit(model.hidden)(
        params, rollout.tokens, np.maximum(place, 0), (place >= 0).astype(np.int32)
    )
    logits = np.asarray(model.logits(params, hidden[:, rollout.prompt_width - 1 : -1]))
    best = np.sort(logits, axis=-1)
    clear = best[..., -1] - best[..., -2] > 1e-4
    tokens, logprobs = zip(*completions(rollout), strict=True)
    assert clear.mean() > 0.9
    assert (logits.argmax(-1) == tokens)[clear].all()
    np.testing.assert_allclose(logprobs, forced(model, params, PROMPTS, tokens), atol=1e-4)


@pytest.mark.parametrize("top_p", [1.0, 0.8])
def test_t02_importance_ratios_average_to_the_mass_that_was_kept(top_p):
    """E[p(y) / q(y)] = 1 for samples y of q and any p: here p is the model at temperature 1.3.

    With top-p, y comes from q restricted to a nucleus and renormalised: the reported log-prob is
    that of q itself, so E[p(y) / q(y)] = p(nucleus) / q(nucleus), and E[q(y) / q(y)] = 1 exactly.
    """
    model, params, _ = setup("llama", 2)
    sampler = Sampler(model, end_ids=ENDS, pad_id=0, max_new_tokens=1)
    rollout = sampler(params, [PROMPTS[0]], ids=[0], samples_per_prompt=4000, top_p=top_p)
    drawn = rollout.tokens[:, -1]
    everything = [PROMPTS[0]] * VOCAB, [[token] for token in range(VOCAB)]
    q = np.concatenate(forced(model, params, *everything))
    p = np.concatenate(forced(model, params, *everything, temperature=1.3))
    np.testing.assert_allclose(rollout.logprobs[:, 0], q[drawn], atol=1e-4)
    order = np.argsort(-q)
    size = VOCAB if top_p == 1 else np.searchsorted(np.cumsum(np.exp(q[order])), top_p) + 1
    nucleus = order[:size]
    assert set(drawn) <= set(nucleus)
    ratios = np.exp(p[drawn] - rollout.logprobs[:, 0])
    expected = np.exp(p[nucleus]).sum() / np.exp(q[nucleus]).sum()
    assert abs(ratios.mean() - expected) < 4 * ratios.std() / np.sqrt(len(ratios))


def test_two_halves_beside_each_other_are_one_wave(monkeypatch):
    """Five prompts: three and two of them, of unlike lengths, padded to one width."""
    _, params, sampler = setup()
    arguments = {"ids": IDS, "samples_per_prompt": 2}
    wanted = sampler(params, PROMPTS, **arguments)
    monkeypatch.setattr("caugym_jax.sampling.sampler.BESIDE", 10)
    got = sampler(params, PROMPTS, **arguments)
    assert_same(completions(got), completions(wanted))
    for name in ("tokens", "prompt_length", "completion_length", "ended"):
        np.testing.assert_array_equal(getattr(got, name), getattr(wanted, name))


def test_prompts_have_limits_of_their_own():
    """A limit cuts a completion short and changes nothing before."""
    _, params, sampler = setup()
    whole = completions(sampler(params, PROMPTS, ids=IDS))
    limits = [0, 1, 3, 2, 1000]
    got = completions(sampler(params, PROMPTS, ids=IDS, limits=limits))
    assert [len(tokens) for tokens, *_ in got] == [
        min(limit, len(tokens)) for limit, (tokens, *_) in zip(limits, whole, strict=True)
    ]
    for (short, *_), (long, *_) in zip(got, whole, strict=True):
        assert list(short) == list(long[: len(short)])


def test_other_rows_their_order_and_the_batch_size_change_no_sample():
    _, params, sampler = setup()
    _, _, by_two = setup(batch_size=2)
    arguments = {"samples_per_prompt": 2, "seed": 5, "step": 9, "temperature": 0.9}
    whole = completions(sampler(params, PROMPTS, ids=IDS, **arguments))
    for order in ([4, 2, 0, 1, 3], [3, 0]):
        part = completions(
            sampler(params, [PROMPTS[i] for i in order], ids=[IDS[i] for i in order], **arguments)
        )
        assert_same(part, [whole[2 * i + g] for i in order for g in range(2)])
    assert_same(completions(by_two(params, PROMPTS, ids=IDS, **arguments)), whole)


@pytest.mark.parametrize(
    ("sizes", "tensor"),
    [((2, 2, 2), None), ((8, 1, 1), None), ((1, 4, 2), None), ((1, 2, 1, 4), 2)],
    ids=str,
)
def test_a_mesh_changes_no_sample(sizes, tensor):
    """Weights as training splits them, laid out anew for sampling, against one device."""
    model, params, sampler = setup()
    mesh = make_mesh(*sizes)
    spread = jax.device_put(params, shardings(layout(model.config), mesh))
    _, _, over_mesh = setup(mesh=sampling_mesh(mesh, Sampling(tensor)))
    for temperature in (0.0, 0.9):
        arguments = {"samples_per_prompt": 2, "seed": 5, "step": 9, "temperature": temperature}
        wanted = sampler(params, PROMPTS, ids=IDS, **arguments)
        got = over_mesh(spread, PROMPTS, ids=IDS, **arguments)
        assert_same(completions(got), completions(wanted))


def test_weights_are_laid_out_for_sampling_once():
    model, params, _ = setup()
    mesh = make_mesh(2, 2, 2)
    spread = jax.device_put(params, shardings(layout(model.config), mesh))
    sampler = setup(mesh=sampling_mesh(mesh))[2]
    placed = sampler.place(spread)
    up = placed["layers"]["up"]
    assert up.addressable_shards[0].data.shape[-1] * 2 == up.shape[-1]  # over tensor alone
    assert up.addressable_shards[0].data.shape[:-1] == up.shape[:-1]
    assert sampler.place(placed) is placed
    alone = make_mesh(8)
    whole = jax.device_put(params, shardings(layout(model.config), alone))
    assert setup(mesh=sampling_mesh(alone))[2].place(whole) is whole  # nothing to do, no copy


def test_more_samples_only_add_samples():
    _, params, sampler = setup()
    one = completions(sampler(params, PROMPTS, ids=IDS))
    two = completions(sampler(params, PROMPTS, ids=IDS, samples_per_prompt=2))
    assert_same(one, two[::2])
    assert two[0][0] != two[1][0]


def test_shared_prefill_equals_separate_prefill():
    """Four samples of one prefilled prompt against the prompt given four times over."""
    model, params, _ = setup("mistral-window")
    prompt = jnp.asarray([PROMPTS[1]])
    keys = row_keys(np.uint32(0), np.uint32(0), np.uint32([6]), samples_per_prompt=4)
    run = jax.jit(functools.partial(generate, model, max_new_tokens=24))
    ends, length = jnp.asarray(ENDS), jnp.asarray([40])
    settings = Settings().arrays()
    shared = run(params, prompt, length, keys, settings, ends)
    apart = run(params, jnp.repeat(prompt, 4, 0), jnp.repeat(length, 4), keys, settings, ends)
    np.testing.assert_array_equal(shared.tokens, apart.tokens)
    np.testing.assert_allclose(shared.logprobs, apart.logprobs, atol=1e-5)


def test_seed_step_and_id_each_change_the_samples():
    _, params, sampler = setup()
    base = {"ids": [1], "seed": 0, "step": 0}
    seen = [
        completions(sampler(params, [PROMPTS[1]], **(base | change)))[0][0]
        for change in ({}, {"seed": 1}, {"step": 1}, {"ids": [2]})
    ]
    assert len(set(map(tuple, seen))) == 4
    assert completions(sampler(params, [PROMPTS[1]], **base))[0][0] == seen[0]


def test_t08_padding_changes_nothing():
    """Wider left padding, filled with any token."""
    model, params, _ = setup()
    run = jax.jit(functools.partial(generate, model, max_new_tokens=24))
    keys = row_keys(np.uint32(0), np.uint32(0), np.uint32([6]))
    narrow = run(params, jnp.asarray([PROMPTS[3]]), jnp.asarray([17]), keys, Settings().arrays(),
                 jnp.asarray(ENDS))  # fmt: skip
    for filling in (0, 199):
        wide = jnp.asarray([[filling] * 30 + PROMPTS[3]])
        rollout = run(params, wide, jnp.asarray([17]), keys, Settings().arrays(),
                      jnp.asarray(ENDS))  # fmt: skip
        np.testing.assert_array_equal(rollout.tokens[:, 47:], narrow.tokens[:, 17:])
        np.testing.assert_allclose(rollout.logprobs, narrow.logprobs, atol=1e-5)


def test_cache_in_pieces_and_stacked_layers_change_no_sample(monkeypatch):
    model, params, sampler = setup("mistral-window", 48)
    whole = completions(sampler(params, PROMPTS, ids=IDS))
    prompts = np.zeros((5, 40), np.int32)
    for row, prompt in enumerate(PROMPTS):
        prompts[row, 40 - len(prompt) :] = prompt
    keys = row_keys(np.uint32(0), np.uint32(0), np.asarray(IDS).astype(np.uint32))
    lengths = jnp.asarray([len(p) for p in PROMPTS])
    monkeypatch.setattr(decoding, "_PIECE", 13)  # 48 = 13 + 13 + 13 + 9
    run = jax.jit(generate, static_argnames=("model", "max_new_tokens", "unstacked"))
    for unstacked in (True, False):
        rollout = run(
            model, params, prompts, lengths, keys, Settings().arrays(), jnp.asarray(ENDS), 7,
            max_new_tokens=48, unstacked=unstacked,
        )  # fmt: skip
        assert_same(completions(jax.device_get(rollout)), whole)


def test_limits_stop_single_rows():
    model, params, _ = setup()
    run = jax.jit(functools.partial(generate, model, max_new_tokens=24))
    prompts = jnp.asarray([PROMPTS[3]] * 4)
    arguments = (
        params, prompts, jnp.full(4, 17), row_keys(np.uint32(0), np.uint32(0), np.uint32([6] * 4)),
        Settings().arrays(), jnp.asarray([VOCAB + 1]), 0,
    )  # fmt: skip
    rollout = run(*arguments, jnp.asarray([0, 1, 10, 99]))
    assert rollout.completion_length.tolist() == [0, 1, 10, 24]
    assert not rollout.ended.any()
    tokens = np.asarray(rollout.tokens[:, 17:])
    for row, n in enumerate([0, 1, 10]):
        assert tokens[row, :n].tolist() == tokens[3, :n].tolist()
        assert not tokens[row, n:].any()


def test_one_program_per_width_whatever_else_changes():
    """An epoch of ragged batches (the last one short), with settings that change every step."""
    model, params, _ = setup()
    sampler = Sampler(model, end_ids=ENDS, pad_id=0, max_new_tokens=4, batch_size=4)
    rng = np.random.default_rng(0)
    widths = set()
    for step in range(12):
        lengths = rng.integers(1, 16 if step % 2 else 24, 4 if step % 3 else 3)
        widths.add(width_for(max(lengths)))
        prompts = [rng.integers(0, VOCAB, n).tolist() for n in lengths]
        sampler(
            params, prompts, ids=range(len(prompts)), seed=step, step=step,
            temperature=[0, 1, 0.6][step % 3], top_p=[1, 0.9][step % 2], top_k=step,
        )  # fmt: skip
    assert len(widths) == 2
    assert sampler.compilations == len(widths)


def test_nothing_crosses_to_the_device_unasked():
    model, params, sampler = setup()
    with jax.transfer_guard("disallow"):
        sampler(params, PROMPTS, ids=IDS)


def test_bfloat16_reports_what_it_computes():
    model = Model(FAMILIES["qwen3-tied"], dtype="bfloat16")
    _, params, _ = setup()
    sampler = Sampler(model, end_ids=ENDS, pad_id=0, max_new_tokens=24)
    rollout = sampler(params, PROMPTS, ids=IDS)
    tokens, logprobs = zip(*completions(rollout), strict=True)
    expected = forced(model, params, PROMPTS, tokens)
    gaps = np.concatenate(logprobs) - np.concatenate(expected)
    assert np.abs(gaps).mean() < 0.05


def test_a_row_ends_where_the_models_positions_do():
    config = dataclasses.replace(FAMILIES["qwen3-tied"], max_position=41)
    sampler = Sampler(Model(config), end_ids=(VOCAB + 1,), pad_id=0, max_new_tokens=24)
    rollout = sampler(setup()[1], PROMPTS, ids=IDS)
    assert rollout.completion_length.tolist() == [24, 1, 24, 24, 18]
    assert not rollout.ended.any()
    with pytest.raises(UserError, match="has 41 tokens, more than the 40 allowed"):
        sampler(setup()[1], [[1] * 41], ids=[0])


def test_bad_input_is_named():
    model, params, sampler = setup()
    with pytest.raises(UserError, match="prompt 1 is empty"):
        sampler(params, [[1], []], ids=[0, 1])
    with pytest.raises(UserError, match="prompt 1 has 49 tokens, more than the 48 allowed"):
        sampler(params, [[1], [1] * 49], ids=[0, 1])
    with pytest.raises(UserError, match="no prompts"):
        sampler(params, [], ids=[])
    with pytest.raises(UserError, match="top_p=2"):
        sampler(params, [[1]], ids=[0], top_p=2)
    with pytest.raises(UserError, match="max_new_tokens=512 leaves no room"):
        Sampler(model, end_ids=ENDS, pad_id=0, max_new_tokens=512)
    with pytest.raises(UserError, match="max_new_tokens=0"):
        Sampler(model, end_ids=ENDS, pad_id=0, max_new_tokens=0)
    with pytest.raises(UserError, match="no end token"):
        Sampler(model, end_ids=(), pad_id=0, max_new_tokens=5)
