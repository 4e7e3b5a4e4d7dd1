"""Which rows wait: by hand, and whatever rows end when."""

import math
import random

import numpy as np

from caugym_jax.planning.stretches import stretches
from caugym_jax.sampling import parking
from caugym_jax.sampling.parking import Memory, Parked, Room, least_rows, sizes


def test_sizes_by_hand():
    assert sizes(50, 1, 64) == [50, 25, 13]
    assert sizes(64, 4, 64) == [16, 8, 4]  # of each of 4 shards
    assert sizes(50, 1, 63) == [50]
    assert sizes(16, 1, 4096) == [16]
    assert sizes(32, 32, 4096) == [1]
    assert sizes(64, 1, 256, least=4) == [64, 32, 16, 8, 4]
    assert [least_rows(new, cpu=True) for new in (128, 256)] == [16, 4]
    assert least_rows(8192, cpu=False) == 16


def test_a_wave_is_described():
    room = Room.of(1.0, (8, 100), 8, 2, 250, 128)
    assert room == Room(1.0, 400, 100, (128, 122), (32, 16, 8), 2)
    assert Room.of(1.0, (8, 100), 1, 2, 250, 128) == Room(1.0, 0, 100, (128, 122), (4,), 2)


# 8 rows of a shard that share 2 prompts of 10 tokens; two pieces of 20; sizes 8, 4, 2.
SMALL = Room(math.inf, 20, 10, (20, 20), (8, 4, 2))


def test_what_a_wave_needs_by_hand():
    # To the end: 20 shared, 8 rows x 40; of one piece keys or values are twice there: 8 x 10.
    assert SMALL.to_the_end() == 20 + 320 + 80
    # Two rows with their prompts, 2 x 50 + 2 x 10, beside the shared piece of those that wait.
    assert SMALL.least() == 20 + 120
    # After the first piece of all (160) all but two are parked: 8 x 10 twice there; then 6 x 20
    # wait and two go to the end with their prompts. Or else they halve: 4 x (20 + 10), and are
    # parked then: 2 x 30 wait.
    assert SMALL.need(8, 8, 0, False, []) == 20 + max(160 + 80, 6 * 20 + 120)
    # Four go on with their prompts, 4 x 30 + 4 x 10, four wait with nothing but the shared piece.
    assert SMALL.need(4, 8, 0, False, []) == 20 + max(120 + 40, 2 * 30 + 120)


def test_who_goes_on_by_hand():
    for total, rows in ((420, 8), (260, 8), (259, 4), (200, 4), (199, 2), (140, 2)):
        assert SMALL._replace(total=total).going(8, 0, False, [], False) == rows
    # Five live rows after the first piece: all to the end, 420; or 4 with their prompts, 4 x 50 and
    # 4 x 10 twice, beside one (two, as two is the least size) that waits with 20 slots.
    assert SMALL.held([Parked(2, 1, False)], True) == 20 + 40
    for total, rows in ((420, 8), (419, 4), (300, 4), (299, 2)):
        assert SMALL._replace(total=total).going(5, 1, False, [], False) == rows


def test_memory_by_hand():
    """1,000 slots of 2 bytes, 3 rows with 5 logits and 7 tokens: 3 x (40 + 112) bytes beside them;
    12% stay free."""
    memory = Memory(2.0, 3, 5, 7)
    assert memory.bytes(1000) == (2000 + 456) / 0.88
    assert memory.slots(memory.bytes(1000)) == 1000


def test_a_wave_starts_well_with_room_for_a_quarter_to_the_end():
    """20 shared + 16 x 20 of the first of 8 pieces + 4 x (7 x 20 + 10) to the end."""
    room = Room(math.inf, 20, 10, (20,) * 8, (16, 8, 4, 2))
    assert not room._replace(total=939).starts_well()
    assert room._replace(total=940).starts_well()
    # Here it takes as much to park all but two rows after the first piece: see above.
    assert not SMALL._replace(total=259).starts_well()
    assert SMALL._replace(total=260).starts_well()


def random_wave(rng: random.Random) -> tuple[Room, np.ndarray]:
    """A wave with the least room, or some more, and completions' lengths."""
    shards, samples, prompts = rng.choice([1, 2, 3]), rng.choice([1, 2, 8]), rng.randint(1, 12)
    new, piece = rng.choice([64, 100, 256]), rng.choice([16, 25, 64, 256])
    shape = prompts * shards, rng.choice([8, 32, 128])
    room = Room.of(math.inf, shape, samples, shards, new, min(piece, new))
    least, most = room.least(), room.to_the_end()
    longest = rng.choice([new, rng.randint(1, new)])
    lengths = [
        [rng.choice([new, rng.randint(1, longest)]) for _ in range(prompts * samples)]
        for _ in range(shards)
    ]
    share = rng.choice([0, rng.random()])
    return room._replace(total=least + share * (most - least)), np.array(lengths)


def test_nothing_exceeds_its_room_and_every_row_ends(monkeypatch):
    rng, parked = random.Random(0), 0
    for _ in range(120):
        monkeypatch.setattr(parking, "LEAST_ROWS", rng.choice([1, 4, 16]))
        room, lengths = random_wave(rng)
        places, halved = 0, None
        for one in stretches(room, lengths):
            held = room.held(one.waiting, one.own)
            here = held + one.rows * (one.slots + one.own * room.width)
            assert one.rows in room.ladder and one.start < one.stop <= one.slots
            assert here <= room.total
            if halved is not None and one.start < halved.slots:  # in the middle of a piece
                before = halved.rows * (halved.slots + halved.own * room.width)
                # Of one piece, keys or values are twice there.
                assert held + before + halved.rows * min(room.pieces) / 2 <= room.total
            parked += len(one.waiting)
            places += (one.stop - one.start) * one.rows * len(lengths)
            halved = one if one.stop < one.slots and one.rows > room.ladder[-1] else None
        assert places >= lengths.sum()
    assert parked > 100


def test_with_room_for_all_nobody_waits():
    rng = random.Random(1)
    for _ in range(20):
        room, lengths = random_wave(rng)
        room = room._replace(total=room.to_the_end())
        assert not any(one.waiting for one in stretches(room, lengths))
