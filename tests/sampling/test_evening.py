"""Rows that are gathered, and that change shards."""

import jax
import numpy as np

from caugym_jax.devices.mesh import make_mesh, rows, send_rows
from caugym_jax.sampling.evening import evened, filled, rounds


def test_rows_are_filled_up_by_hand():
    live = np.asarray([[0, 1, 1, 0], [0, 0, 0, 1]], bool)
    index, real = filled(live, 2)
    assert index.tolist() == [[1, 2], [3, 0]]
    assert real.tolist() == [[True, True], [True, False]]


def test_rows_are_evened_by_hand():
    live = np.asarray([[1, 1, 1], [0, 1, 0], [0, 0, 0]], bool)
    assert evened(live, 2) == [(0, 2, 2, 0)]
    assert evened(live, 3) == []


def test_no_shard_has_more_than_its_part_and_no_row_is_lost():
    rng = np.random.default_rng(0)
    for _ in range(50):
        shards, width = int(rng.integers(1, 9)), int(rng.integers(1, 12))
        live = rng.random((shards, width)) < rng.random((shards, 1))
        most = -(-int(live.sum()) // shards)
        names = np.where(live, np.arange(live.size).reshape(live.shape), -1)
        moves = evened(live, most)
        moved = names.copy()
        for sent, into in rounds(moves, shards):
            before = moved.copy()
            for shard, to in np.ndindex(shards, shards):
                if into[to, shard] < width:
                    assert before[to, into[to, shard]] == -1  # nobody's place
                    moved[to, into[to, shard]] = before[shard, sent[shard, to]]
                    moved[shard, sent[shard, to]] = -1
        assert (moved >= 0).sum(axis=1).max(initial=0) <= most
        assert sorted(moved[moved >= 0]) == sorted(names[live])
        assert len(moves) == np.maximum(live.sum(axis=1) - most, 0).sum()


def test_rows_are_sent_by_hand():
    mesh = make_mesh(2, 1, 1, devices=jax.devices()[:2])
    ids = np.arange(4, dtype=np.int32)
    sent, into = np.array([[0, 1], [0, 1]], np.int32), np.array([[9, 9], [1, 9]], np.int32)
    for axes, x in ((("batch",), ids), (("layers", "batch"), np.stack([ids, ids + 10]))):
        with jax.set_mesh(mesh):
            moves = jax.device_put((sent, into), rows(mesh))
            got = jax.jit(send_rows, static_argnums=4)(x, x, *moves, axes)
        np.testing.assert_array_equal(got, x[..., [0, 1, 2, 1]])
