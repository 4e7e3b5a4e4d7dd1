import json
from collections import Counter

import pytest

from caugym_jax.data.loader import Mixed, make_loader
from caugym_jax.errors import UserError


def take(loader, n):
    return [next(loader) for _ in range(n)]


def test_each_epoch_holds_every_item_once_in_a_new_order():
    loader = make_loader(list(range(10)), 4, seed=1)  # 5 batches are two epochs
    stream = sum(take(loader, 10), [])
    epochs = [stream[i : i + 10] for i in range(0, 40, 10)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4
    assert list(range(10)) not in epochs


def test_the_seed_decides_the_order():
    orders = [sum(take(make_loader(list(range(50)), 5, seed), 10), []) for seed in (1, 1, 2)]
    assert orders[0] == orders[1] != orders[2]
    plain = make_loader(list(range(3)), 2, 0, shuffle=False)
    assert take(plain, 3) == [[0, 1], [2, 0], [1, 2]]


@pytest.mark.parametrize("stop", range(8))
def test_resume_is_exact_in_the_middle_of_an_epoch(stop):
    items = [f"item {i}" for i in range(11)]
    uninterrupted = take(make_loader(items, 3, seed=7), 12)
    loader = make_loader(items, 3, seed=7)
    assert take(loader, stop) == uninterrupted[:stop]
    state = json.loads(json.dumps(loader.get_state()))
    resumed = make_loader(items, 3, seed=7)
    resumed.set_state(state)
    assert take(resumed, 12 - stop) == uninterrupted[stop:]


@pytest.mark.parametrize("count", [1, 2, 3, 6])
def test_shards_are_disjoint_and_cover_the_same_global_batches(count):
    whole = take(make_loader(list(range(14)), 6, seed=3), 7)
    shards = [
        take(make_loader(list(range(14)), 6, seed=3, process_index=p, process_count=count), 7)
        for p in range(count)
    ]
    for k, batch in enumerate(whole):
        assert all(len(shard[k]) == 6 // count for shard in shards)
        assert [shards[i % count][k][i // count] for i in range(6)] == batch
    once = Counter(item for shard in shards for batch in shard for item in batch)
    assert set(once.values()) == {3}  # 42 rows are three epochs of 14


def test_an_unlimited_source_is_read_by_index():
    calls = []

    def problem(i):
        calls.append(i)
        return i * i

    loader = make_loader(problem, 4, seed=0, process_index=1, process_count=2)
    assert take(loader, 2) == [[1, 9], [25, 49]]
    assert calls == [1, 3, 5, 7]  # nothing is made ahead of time
    state = loader.get_state()
    fresh = make_loader(problem, 4, seed=0, process_index=1, process_count=2)
    fresh.set_state(state)
    assert next(fresh) == [81, 121]


def test_transform_makes_the_batch():
    loader = make_loader([1, 2, 3], 3, 0, transform=sum)
    assert take(loader, 2) == [6, 6]


def test_what_cannot_be_loaded():
    with pytest.raises(UserError, match="batch of 4 does not divide into 3"):
        make_loader([1], 4, 0, process_count=3)
    with pytest.raises(UserError, match="no items"):
        make_loader([], 4, 0)
    with pytest.raises(UserError, match="batch of 0"):
        make_loader([1], 0, 0)


@pytest.mark.parametrize("batch_size", [1, 3])
def test_small_batches_of_a_few_items_go_on_and_on(batch_size):
    loader = make_loader(list(range(20)), batch_size, seed=0)
    first = [next(loader) for _ in range(45)]
    assert sorted(x for batch in first[:20] for x in batch)[:1] == [0]
    loader.set_state({"next_index": 10**6})
    assert len(next(loader)) == batch_size


def test_sources_are_drawn_by_their_weights_and_whole():
    a, b = [f"a{i}" for i in range(30)], [f"b{i}" for i in range(10)]
    loader = make_loader(Mixed([a, b], [1.0, 3.0]), 4, 0)
    drawn = [x for _ in range(40) for x in next(loader)]
    assert sum(x[0] == "b" for x in drawn) == 120
    first = [x for x in drawn if x[0] == "a"][:30]
    assert sorted(first) == sorted(a) and first != a
    plain = make_loader(Mixed([a, b], [1.0, 3.0]), 4, 0, shuffle=False)
    assert [x for _ in range(20) for x in next(plain) if x[0] == "a"] == a[:20]
