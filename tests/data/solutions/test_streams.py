"""Rows of every stream: a function of their place, made of the right tokens, learned where due."""

import pytest

from caugym_jax.data.solutions import checking, notation, vocabulary
from caugym_jax.data.solutions.streams import STREAMS, Hardness, example
from tests.data.solutions.reading import plan_in

SMALL, LARGE = Hardness(0.0, 0.6), Hardness()
TOKENS = list(vocabulary.vocabulary())
TOKENIZER = vocabulary.build()


def text(ids: list[int]) -> str:
    return TOKENIZER.decode(ids, skip_special_tokens=False)


@pytest.mark.parametrize("name", STREAMS)
@pytest.mark.parametrize("hardness", [SMALL, LARGE])
def test_a_row_is_a_function_of_its_place(name, hardness):
    rows = [example(name, 3, i, hardness) for i in range(8)]
    assert example(name, 3, 7, hardness) == rows[7]
    assert len({tuple(row.completion) for row in rows}) > 5
    for row in rows:
        assert max(row.completion) < vocabulary.solution_size()
        assert row.mask is None or len(row.mask) == len(row.completion)
        assert row.mask is None or any(row.mask)


@pytest.mark.parametrize("name", ["usual", "shuffled", "reading"])
def test_prompts_are_as_the_tokenizer_reads_them(name):
    for i in range(10):
        row = example(name, 1, i, LARGE)
        assert TOKENIZER.encode(text(row.prompt)).ids == row.prompt
        assert TOKENIZER.encode(text(row.completion)).ids == row.completion


def test_lists_learn_all_but_conditions():
    row = example("lists", 0, 0, SMALL)
    learned = {TOKENS[t] for t, m in zip(row.completion, row.mask, strict=True) if m}
    assert notation.role(notation.IDLE) not in learned
    assert notation.tag(1) in learned
    numbers = [t for t in text(row.prompt).split() if t.startswith("0.")]
    assert len(numbers) == text(row.completion).count("#")


def test_reading_counts_conditions_most():
    row = example("reading", 0, 0, SMALL)
    heavy = [TOKENS[t] for t, m in zip(row.completion, row.mask, strict=True) if m == 3]
    assert len(heavy) == text(row.completion).count("#") > 0
    assert all(token.endswith(":") for token in heavy)


def test_given_and_digits_are_right_arithmetic():
    for i in range(20):
        row = example("given", 0, i, LARGE)
        solution = text(row.prompt).removeprefix("<|assistant|>") + text(row.completion[:-1])
        assert checking.failure(checking.check(solution, plan_in(solution))) is None
    row = example("digits", 0, 1, SMALL)
    assert row.mask is None or sum(row.mask) == 8


def test_graph_has_no_numbers_and_both_answers():
    rows = [example("graph", 0, i, LARGE) for i in range(20)]
    assert not any(" is 0." in text(row.prompt) for row in rows)
    answers = [text(row.completion) for row in rows]
    assert 4 < sum("LACK_CONDITION" in answer for answer in answers) < 16
    assert all("=> zero" in answer or "missing" in answer for answer in answers)


def test_sentences_are_shuffled_and_idle_numbers_join_them():
    rows = [text(example("shuffled", 2, i, LARGE).completion) for i in range(30)]
    assert any(" o:" in row for row in rows)
    assert any("lacking" in row or "missing" in row for row in rows)
