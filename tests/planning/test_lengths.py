"""Seconds of stated lengths, against counts by hand."""

import dataclasses

import numpy as np
import pytest

from caugym_jax.devices.chips import Chip
from caugym_jax.devices.shapes import Call
from caugym_jax.errors import UserError
from caugym_jax.models.config import ModelConfig
from caugym_jax.models.work import Work
from caugym_jax.planning import lengths
from caugym_jax.planning.roofline import Efficiency, predict
from caugym_jax.types import Experience

SHAPE = ModelConfig(
    vocab_size=8, d_model=4, num_layers=1, num_heads=1, num_kv_heads=1, head_dim=4, d_ff=4,
    tied=True, family="qwen2",
)  # fmt: skip
# Memory alone counts: one byte a second.
EFFICIENCY = Efficiency(1.0, 1.0, 1.0, 1.0, 0.0, True)
PLACE = lengths.Place(
    Chip(1e30, 1.0, 1.0, 1.0, 1, "made up"), EFFICIENCY, {"data": 1, "fsdp": 1, "tensor": 1}, ()
)


def test_two_medians_are_read():
    assert lengths.parse("2500,400") == (2500.0, 400.0)
    for text in ("2500", "a,b", "0,5", "1,2,3"):
        with pytest.raises(UserError, match=f"--lengths={text}: give two medians in tokens"):
            lengths.parse(text)


def test_lengths_have_the_stated_median_and_limit():
    drawn = lengths.Lengths(2500, 400).draw(512, 8, 8192)
    assert drawn.shape == (512, 8) and drawn.max() == 8192 and drawn.min() >= 1
    assert 2250 < np.median(drawn) < 2750
    within = np.log(drawn).std(axis=1).mean()
    assert 0.4 < within < 0.6  # sqrt(0.5) x 0.8 = 0.57 of a group of 8, less what is cut


def test_a_wave_costs_what_its_rows_hold(monkeypatch):
    """32 rows of 256 and of 512 tokens, half and half: 256 tokens of 32 rows, then 256 of 16. A
    slot is 2 x 4 numbers of 2 bytes; weights are 4 x 4 x 4 + 3 x 4 x 4 + 8 x 4 = 144 numbers."""
    work = Work(SHAPE, 32, 16, 0, drawn=512, piece=256)
    half = np.repeat([256, 512], 16).reshape(32, 1)
    monkeypatch.setattr(lengths.Lengths, "draw", lambda *_: half.copy())
    found = lengths.sampled(work, lengths.Lengths(256, 8), [], PLACE)
    first = 256 * (2 * 144 + 32 * (256 + 16) * 16)
    second = 256 * (2 * 144 + 16 * (512 + 16) * 16)
    assert found == pytest.approx(first + second)


def test_rows_that_wait_are_counted_one_part_after_the_other():
    """As above, all of 512 tokens, with room for 32 rows to 256 and for 16 of them to 512 beside
    16 that wait: 16 x 272 + 16 x (528 + 128 twice) slots."""
    work = Work(SHAPE, 32, 16, 0, drawn=512, piece=256, room=14_848)
    call = Call("sample", None, (), work, ())
    whole = predict(work, PLACE.chip, EFFICIENCY, 1)
    found = lengths.all_full(call, whole, [], PLACE)
    first = 256 * (2 * 144 + 32 * (256 + 16) * 16)
    second = 256 * (2 * 144 + 16 * (512 + 16) * 16)
    assert found.seconds == found.decode == pytest.approx(first + 2 * second)
    assert found.memory == pytest.approx(found.seconds) and found.exchange == 0
    assert found.tokens_per_second == pytest.approx(32 * 512 / found.seconds)
    roomy = lengths.all_full(call._replace(work=work._replace(room=1e9)), whole, [], PLACE)
    longer = 256 * (2 * 144 + 32 * (512 + 16) * 16)
    assert roomy.seconds == pytest.approx(first + longer)


def test_packed_rows_are_counted_as_they_are_filled(monkeypatch):
    """8 completions of 40 tokens after prompts of 10, rows of 100: two a row, 4 of 8 microbatches.
    Splash skips the tiles where nothing is seen: none of these rows' single tile."""
    tokens = np.zeros((8, 100), np.int32)
    experience = Experience(*[tokens] * 6, None, None, places=tokens, share=tokens)
    work = Work(SHAPE, 8, 100, 50, train=True)
    call = Call("update", None, (experience,), work, ())
    stated = lengths.Lengths(40, 10)
    monkeypatch.setattr(lengths.Lengths, "draw", lambda *_: np.full((8, 1), 40))
    assert lengths.filled(call, stated, 1, PLACE) == (0.5, 0.5)
    splash = call._replace(work=work._replace(kernel="splash"))
    assert lengths.filled(splash, stated, 1, PLACE) == (0.5, 0.5)
    padded = call._replace(arguments=(experience._replace(share=None),))
    assert lengths.filled(padded, stated, 1, PLACE) == (1.0, 1.0)


def test_tiles_of_packed_rows_by_hand():
    """Rows of 2048 have 4 tiles of 512 queries over 2 of 1024 keys, of which the diagonal leaves
    2 + 4. Two documents of 1024 see 2 + 2; a microbatch lasts as long as its fullest row. A window
    of 512 leaves 2 + 3, of which the documents see 4."""
    whole, halves = np.array([2048]), np.array([1024, 1024])
    assert lengths.tiles_done([whole], 2048, SHAPE, 1) == (6, 6)
    assert lengths.tiles_done([halves], 2048, SHAPE, 1) == (4, 6)
    assert lengths.tiles_done([whole, halves], 2048, SHAPE, 2) == (6, 6)
    assert lengths.tiles_done([whole, halves, halves], 2048, SHAPE, 1) == (14, 6)
    near = dataclasses.replace(SHAPE, sliding_window=512)
    assert lengths.tiles_done([whole, halves], 2048, near, 1) == (9, 5)


def test_attention_is_counted_as_it_is_done(monkeypatch):
    """Half of the microbatches, in which a quarter of all tiles are done."""
    monkeypatch.setattr(lengths, "filled", lambda *_: (0.5, 0.25))
    work = Work(SHAPE, 8, 100, 50, train=True, kernel="splash")
    chip = Chip(1.0, 1e30, 1e30, 1.0, 1, "made up")
    full = predict(work, chip, EFFICIENCY, 1)
    call, place = Call("update", None, (), work, ()), PLACE._replace(chip=chip)
    found = lengths.seconds(call, full, [], place, lengths.Lengths(40, 10), 1)
    assert found == pytest.approx(0.5 * full.flops.matmul + 0.25 * full.flops.attention)
