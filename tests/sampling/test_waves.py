"""Waves that halve draw what one program over all rows draws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from caugym_jax.devices import programs, terminal
from caugym_jax.devices.mesh import Sampling, make_mesh, sampling_mesh, shardings
from caugym_jax.errors import UserError
from caugym_jax.models.presets import PRESETS
from caugym_jax.models.transformer import cached, layout
from caugym_jax.planning.stretches import stretches
from caugym_jax.sampling import decoding, parking, waves
from caugym_jax.sampling import sampler as sampler_module
from caugym_jax.sampling.sampler import Sampler
from tests.sampling.test_sampler import (
    ENDS,
    IDS,
    PROMPTS,
    VOCAB,
    assert_same,
    completions,
    forced,
    setup,
)

SAMPLES = 8  # of each of 5 prompts: 40 rows


@pytest.fixture
def small(monkeypatch):
    """Waves and pieces as of larger runs, in small."""
    monkeypatch.setattr(parking, "LEAST_TOKENS", 1)
    monkeypatch.setattr(parking, "LEAST_ROWS", 4)
    monkeypatch.setattr(decoding, "_PIECE", 13)  # 48 = 13 + 13 + 13 + 9


def make(family="qwen3-tied", **options):
    model, params, _ = setup(family, 48)
    options = {"max_prompt_length": 48, "pad_id": 7} | options
    return params, Sampler(model, end_ids=ENDS, max_new_tokens=48, **options)


@pytest.mark.parametrize("family", ["qwen3-tied", "mistral-window"])
def test_no_sample_changes(small, family):
    """40 rows, most of which end long before the last; the last two settings compile nothing."""
    params, sampler = make(family)
    _, _, whole = setup(family, 48)
    compiled = []
    for how in ({}, {"temperature": 0.0}, {"top_p": 0.8, "top_k": 50, "min_p": 0.01}):
        arguments = {"ids": IDS, "samples_per_prompt": SAMPLES, "seed": 5, "step": 9} | how
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(parking, "LEAST_TOKENS", 1000)
            patch.setattr(decoding, "_PIECE", 512)
            wanted = whole(params, PROMPTS, **arguments)
        got = sampler(params, PROMPTS, **arguments)
        assert_same(completions(got), completions(wanted))
        for name in ("tokens", "prompt_length", "completion_length", "ended"):
            np.testing.assert_array_equal(getattr(got, name), getattr(wanted, name))
        compiled.append(sampler.compilations)
    assert compiled[0] > 3  # one to prefill, and to decode at least 40, 20 and 10 rows


def test_what_ended_is_reported_within_a_call_and_changes_no_sample(monkeypatch):
    """5 prompts, 10 tokens at a time, where no wave halves."""
    told = []
    monkeypatch.setattr(terminal, "doing", told.append)
    params, sampler = make(report_every=10)
    got = sampler(params, PROMPTS, ids=IDS)
    _, _, whole = setup(new=48)
    at = [text for text in told if text.startswith("sampling")]
    assert_same(completions(got), completions(whole(params, PROMPTS, ids=IDS)))
    assert at[0] == "sampling 0/5"
    longest, short = max(got.completion_length), sum(got.completion_length <= 10)
    assert at[1] == f"sampling {short}/5, token 10/48" and len(at) == 1 + -(-longest // 10)
    assert at[-1].startswith("sampling 5/5, token ")


def test_a_cache_in_8_bits_changes_probabilities_a_little_and_waves_not_at_all(small):
    """In arrays of all layers (as on an accelerator) and of single ones."""
    model, params, _ = setup(new=48)
    small_cache = cached(model, "int8")
    arguments = {"ids": IDS, "samples_per_prompt": SAMPLES}
    options = {"max_prompt_length": 48, "pad_id": 7, "end_ids": ENDS, "max_new_tokens": 48}
    halved = Sampler(small_cache, **options)(params, PROMPTS, **arguments)
    tokens, logprobs = zip(*completions(halved), strict=True)
    prompts = [prompt for prompt in PROMPTS for _ in range(SAMPLES)]
    gap = np.concatenate(logprobs) - np.concatenate(forced(model, params, prompts, tokens))
    assert 1e-5 < np.abs(gap).mean() < 0.02 and np.abs(gap).max() < 0.2
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parking, "LEAST_TOKENS", 1000)
        whole = Sampler(small_cache, **options)(params, PROMPTS, **arguments)
        assert_same(completions(halved), completions(whole))
        patch.setattr(sampler_module, "_unstacked", lambda mesh: False)
        stacked = Sampler(small_cache, **options)(params, PROMPTS, **arguments)
        assert_same(completions(stacked), completions(whole))


def test_no_batch_size_changes_a_sample(small):
    """Batches of 4 prompts: the second holds one and three that only fill it."""
    params, sampler = make(batch_size=4)
    _, _, whole = setup(new=48)
    arguments = {"ids": IDS, "samples_per_prompt": SAMPLES}
    got = sampler(params, PROMPTS, **arguments)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parking, "LEAST_TOKENS", 1000)
        patch.setattr(decoding, "_PIECE", 512)
        assert_same(completions(got), completions(whole(params, PROMPTS, **arguments)))


@pytest.mark.parametrize("how", [{"batch_size": 4}, {"mesh": (2, 2, 2)}], ids=str)
def test_rows_are_told_as_they_leave_each_once(small, how):
    params, sampler = make(**how | ({"mesh": make_mesh(*how["mesh"])} if "mesh" in how else {}))
    told = []
    arguments = {"samples_per_prompt": SAMPLES, "limits": [40, 1, 48, 9, 30]}
    with sampler.telling(lambda *part: told.append(part)):
        got = sampler(params, PROMPTS, ids=IDS, **arguments)
    rows = np.concatenate([rows for rows, _ in told])
    assert len(told) > 1 and sorted(rows) == list(range(40))
    for rows, rollout in told:
        expected = completions(got)
        assert_same(completions(rollout), [expected[row] for row in rows])
        for name in ("prompt_length", "completion_length", "ended"):
            np.testing.assert_array_equal(getattr(rollout, name), getattr(got, name)[rows])


def test_rows_of_a_single_program_are_told_too():
    params, sampler = make(batch_size=3)
    told = []
    with sampler.telling(lambda *part: told.append(part)):
        got = sampler(params, PROMPTS, ids=IDS)
    sampler(params, PROMPTS, ids=IDS)  # tells nobody
    assert not sampler.halves(3) and [len(rows) for rows, _ in told] == [3, 2]
    for rows, rollout in told:
        assert_same(completions(rollout), [completions(got)[row] for row in rows])


@pytest.mark.parametrize(
    ("samples", "unstacked", "cache"),
    [(8, True, None), (1, False, None), pytest.param(8, False, "int8", marks=pytest.mark.slow)],
)
def test_rows_of_full_shards_go_on_in_others(small, monkeypatch, samples, unstacked, cache):
    """64 rows over 4 shards, of which those of the first alone may grow long."""
    model, params, _ = setup(new=48)
    model, mesh = cached(model, cache), make_mesh(4, 1, 2)
    prompts = [PROMPTS[0]] * (64 // samples)
    options = {"end_ids": [VOCAB - 1], "pad_id": 7, "max_new_tokens": 48, "max_prompt_length": 48}
    arguments = {"ids": range(len(prompts)), "samples_per_prompt": samples}
    arguments["limits"] = [48 if i * samples < 16 else 5 for i in range(len(prompts))]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parking, "LEAST_TOKENS", 1000)
        wanted = Sampler(model, **options)(params, prompts, **arguments)
    sent, send = [], waves.Waves._sent
    monkeypatch.setattr(waves.Waves, "_sent", lambda *a: sent.append(a[-4]) or send(*a))
    monkeypatch.setattr(sampler_module, "_unstacked", lambda mesh: unstacked)
    spread = jax.device_put(params, shardings(layout(model.config), mesh))
    got = Sampler(model, **options, mesh=mesh)(spread, prompts, **arguments)
    assert len(sent) > 3
    # A rounding to 8 bits may fall to the other side where a mesh adds in another order.
    assert_same(completions(got), completions(wanted), atol=1e-4 if cache is None else 1e-2)
    for name in ("prompt_length", "completion_length", "ended"):
        np.testing.assert_array_equal(getattr(got, name), getattr(wanted, name))


@pytest.mark.parametrize(("sizes", "tensor"), [((2, 2, 2), None), ((8, 1, 1), None)], ids=str)
def test_a_mesh_changes_no_sample(small, sizes, tensor):
    model, params, whole = setup(new=48)
    mesh = make_mesh(*sizes)
    spread = jax.device_put(params, shardings(layout(model.config), mesh))
    _, over_mesh = make(mesh=sampling_mesh(mesh, Sampling(tensor)))
    arguments = {"ids": IDS, "samples_per_prompt": SAMPLES}
    got = over_mesh(spread, PROMPTS, **arguments)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parking, "LEAST_TOKENS", 1000)
        patch.setattr(decoding, "_PIECE", 512)
        assert_same(completions(got), completions(whole(params, PROMPTS, **arguments)))


def held():
    """Bytes of all arrays."""
    return sum(
        x.nbytes for x in jax.live_arrays() if not jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
    )


def short(patch, free):
    """Says how many bytes are free. Returns a list that fills with how many rows each call decodes,
    how many slots of their own they have and what is held by then; and what is held before."""
    patch.setattr(programs, "release_heap", lambda: None)
    patch.setattr(programs, "memory_limit", lambda device: free)
    calls, decode = [], waves.Waves._decode

    def counted(self, *arguments):
        part = arguments[-2]
        calls.append((part.live.shape[1], part.slots, held()))
        decode(self, *arguments)

    patch.setattr(waves.Waves, "_decode", counted)
    return calls, held()


@pytest.mark.slow
@pytest.mark.parametrize("cache", [None, "int8"])
def test_what_is_written_may_lie_in_another_order(small, monkeypatch, cache):
    """As on a TPU: over 4 shards of rows, keys and values of all layers in one array; then with so
    little memory that rows of every shard wait."""
    model, params, _ = setup(new=48)
    model = cached(model, cache)
    options = {"end_ids": ENDS, "max_new_tokens": 48, "max_prompt_length": 48, "pad_id": 7}
    mesh = make_mesh(4, 1, 1, 2)
    spread = jax.device_put(params, shardings(layout(model.config), mesh))
    monkeypatch.setattr(waves, "lays_out", lambda mesh: True)
    monkeypatch.setattr(sampler_module, "_unstacked", lambda mesh: False)
    over_mesh = Sampler(model, **options, mesh=mesh)
    orders, decode = set(), waves.Waves._decode

    def seen(self, *arguments):
        cache = arguments[-2].cache[1:]
        for i, piece in enumerate(cache):
            numbers = jax.tree.leaves(piece.k)[0]
            orders.add((i + 1 == len(cache), numbers.format.layout))
        decode(self, *arguments)

    monkeypatch.setattr(waves.Waves, "_decode", seen)
    arguments = {"ids": IDS, "samples_per_prompt": SAMPLES}
    got = over_mesh(spread, PROMPTS, **arguments)
    assert {(last, x.major_to_minor) for last, x in orders} == {
        (True, (0, 2, 4, 1, 3)),
        (False, (0, 1, 2, 3, 4)),
    }
    with jax.set_mesh(mesh):
        room, memory = over_mesh._waves._shape((8, 48), SAMPLES)
    least = memory.bytes(1.2 * room.least())
    with pytest.MonkeyPatch.context() as patch:
        calls, _ = short(patch, least * mesh.size)
        parked = over_mesh(spread, PROMPTS, **arguments)
    assert any(later[1] < one[1] for one, later in zip(calls, calls[1:], strict=False))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parking, "LEAST_TOKENS", 1000)
        patch.setattr(decoding, "_PIECE", 512)
        whole = Sampler(model, **options)(params, PROMPTS, **arguments)
    # A rounding to 8 bits may fall to the other side where a mesh adds in another order.
    atol = 1e-4 if cache is None else 1e-2
    assert_same(completions(got), completions(whole), atol)
    assert_same(completions(parked), completions(whole), atol)


# A slot: keys and values of 2 layers of 2 heads of 16 in float32, a position and a segment.
SLOT = 2 * 2 * 2 * 16 * 4 + 8


@pytest.mark.slow
def test_where_memory_is_short_rows_wait_and_no_sample_changes(monkeypatch):
    """40 rows in sizes of 40, 20 and 10, pieces of 24 + 24; 5 prompts of 48 tokens are 240 slots
    while they are shared. Rows wait as `stretches` counts it."""
    monkeypatch.setattr(parking, "LEAST_TOKENS", 1)
    monkeypatch.setattr(decoding, "_PIECE", 24)
    params, sampler = make()
    for samples, totals in ((8, (1900, 1440)), (1, (3000,))):
        prompts = PROMPTS * (8 // samples)
        arguments = {"ids": range(len(prompts)), "samples_per_prompt": samples, "seed": 5}
        wanted = sampler(params, prompts, **arguments)
        order = np.argsort([len(prompt) for prompt in prompts], kind="stable")
        ends = wanted.completion_length.reshape(-1, samples)[order].reshape(1, -1)
        for total in totals:
            with pytest.MonkeyPatch.context() as patch:
                memory = parking.Memory(SLOT, 40, VOCAB, 48)
                calls, before = short(patch, memory.bytes(total))
                got = sampler(params, prompts, **arguments)
            assert_same(completions(got), completions(wanted))
            for name in ("tokens", "prompt_length", "completion_length", "ended"):
                np.testing.assert_array_equal(getattr(got, name), getattr(wanted, name))
            room = parking.Room.of(total, (len(prompts), 48), samples, 1, 48, 24)
            planned = list(stretches(room, ends))
            assert [call[:2] for call in calls] == [(one.rows, one.slots) for one in planned]
            assert sum(len(one.waiting) for one in planned) > 0
            assert max(size for *_, size in calls) - before <= total * SLOT + memory.working


def test_a_wave_that_cannot_start_is_refused_before_the_first_token(small, monkeypatch):
    """5 prompts of 48 slots, and 3 rows with theirs to the end of 48, half a prompt twice."""
    params, sampler = make()
    needed = parking.Memory(SLOT, 40, VOCAB, 48).bytes(5 * 48 + 3 * (96 + 24))
    monkeypatch.setattr(programs, "release_heap", lambda: None)
    monkeypatch.setattr(programs, "memory_limit", lambda device: needed - 1)
    with pytest.raises(UserError, match="the sample program needs 0.00 GiB"):
        sampler(params, PROMPTS, ids=IDS, samples_per_prompt=SAMPLES)
    assert sampler.compilations == 0


def test_nothing_crosses_to_the_device_unasked(small):
    params, sampler = make()
    with jax.transfer_guard("disallow"):
        sampler(params, PROMPTS, ids=IDS, samples_per_prompt=SAMPLES)


def test_what_a_tpus_loop_copies_by_hand():
    """14B in bfloat16: 48 layers, queries 5,120 x 40 x 128; gate and up of 13,824 are whole tiles
    over 4 devices (27 of 128) and not over 8. 8 KV heads: two on each of 4 devices."""
    config = PRESETS["r1-distill-qwen-14b"].config
    queries = 48 * 5120 * 40 * 128 * 2
    feed_forward = 2 * 48 * 5120 * 13_824 * 2
    copied = decoding.reordered_bytes
    assert copied(config, 8, 2, 1000) == queries / 8 + feed_forward / 8
    assert copied(config, 4, 2, 1000) == queries / 4 + 500
