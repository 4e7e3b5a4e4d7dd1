from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from caugym_jax.data.packing import pack, pad
from caugym_jax.errors import UserError
from caugym_jax.types import Example

PAD = 9  # also a legal token: masks must not depend on it
tokens = st.lists(st.integers(0, 9), max_size=12)
examples_of = st.lists(
    st.builds(Example, prompt=tokens, completion=tokens.filter(bool)), max_size=25
)


def documents(batch):
    """(tokens, loss mask, positions) of every document of every row."""
    found = []
    for row in range(len(batch.tokens)):
        for segment in range(1, batch.segment_ids[row].max(initial=0) + 1):
            places = np.flatnonzero(batch.segment_ids[row] == segment)
            assert np.array_equal(places, np.arange(places[0], places[-1] + 1))  # one run
            found.append(tuple(tuple(field[row, places].tolist()) for field in batch[:2]))
            assert batch.positions[row, places].tolist() == list(range(len(places)))
    return found


def expected(examples):
    return [
        (
            tuple(e.prompt + e.completion),
            tuple([0.0] * max(len(e.prompt), 1) + [1.0] * (len(e.completion) - (not e.prompt))),
        )
        for e in examples
    ]


@given(examples_of, st.integers(1, 30))
def test_packing_keeps_every_document_whole(examples, width):
    batch, dropped = pack(examples, width, PAD)
    fitting = [e for e in examples if len(e.prompt) + len(e.completion) <= width]
    assert dropped == len(examples) - len(fitting)
    assert Counter(documents(batch)) == Counter(expected(fitting))
    empty = batch.segment_ids == 0
    assert (batch.tokens[empty] == PAD).all()
    assert not batch.loss_mask[empty].any() and not batch.positions[empty].any()
    assert all(field.shape == (len(batch.tokens), width) for field in batch)
    filled = (~empty).sum(1)
    if len(filled) > 1:  # no two rows could have been one
        assert np.sort(filled)[:2].sum() > width
    assert [batch.tokens.dtype, batch.segment_ids.dtype, batch.positions.dtype] == [np.int32] * 3
    assert batch.loss_mask.dtype == np.float32


@given(examples_of.filter(bool))
def test_padding_keeps_order_one_a_row(examples):
    batch = pad(examples, 24, PAD, rows=30)
    assert documents(batch) == expected(examples)
    assert batch.segment_ids.max() == 1
    assert batch.tokens.shape == (30, 24)
    assert batch.loss_mask[len(examples) :].sum() == 0


def test_packing_by_hand():
    batch, dropped = pack(
        [Example([1, 2], [3]), Example([4], [5, 6]), Example([1] * 3, [2] * 2), Example([7], [8])],
        width=6,
        pad_id=0,
    )
    assert dropped == 0
    assert batch.tokens.tolist() == [[1, 1, 1, 2, 2, 0], [1, 2, 3, 4, 5, 6], [7, 8, 0, 0, 0, 0]]
    assert batch.segment_ids.tolist() == [[1] * 5 + [0], [1, 1, 1, 2, 2, 2], [1, 1, 0, 0, 0, 0]]
    assert batch.loss_mask.tolist() == [[0, 0, 0, 1, 1, 0], [0, 0, 1, 0, 1, 1], [0, 1, 0, 0, 0, 0]]
    assert batch.positions.tolist() == [[0, 1, 2, 3, 4, 0], [0, 1, 2, 0, 1, 2], [0, 1, 0, 0, 0, 0]]


def test_too_long_or_too_many_is_refused():
    with pytest.raises(UserError, match=r"example 1 .* has 3 tokens, a row holds 2"):
        pad([Example([1], [2]), Example([1, 2], [3])], 2)
    with pytest.raises(UserError, match="2 examples do not fit 1 rows"):
        pad([Example([1], [2])] * 2, 2, rows=1)
    assert pack([Example([1, 2], [3])], 2)[1] == 1
