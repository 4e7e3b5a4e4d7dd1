"""The tokenizer loses nothing, reads solutions as they are written, and loads anywhere."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from caugym_jax.data.solutions import notation, vocabulary
from caugym_jax.data.solutions.vocabulary import SPECIAL
from caugym_jax.data.tokenizer import load_tokenizer
from tests.data.solutions.problems import VARIANTS, problems, tokens
from tests.shared import shared_path

TOKENIZER = vocabulary.build()
PLAIN = vocabulary.build(numbering=False)
IDS = {text: i for i, text in enumerate(vocabulary.vocabulary())}


def round_trip(text: str) -> str:
    return TOKENIZER.decode(TOKENIZER.encode(text).ids, skip_special_tokens=False)


@pytest.mark.parametrize("variant", VARIANTS)
def test_problems_and_solutions_survive(variant):
    for problem, plan in problems(variant):
        assert round_trip(problem.text) == problem.text
        said = tokens(plan)
        ids = TOKENIZER.encode("".join(said)).ids
        assert ids == [IDS[t] for t in said]
        assert max(ids) < vocabulary.solution_size()
        assert TOKENIZER.decode(ids) == "".join(said)


@pytest.mark.parametrize("variant", VARIANTS)
def test_marking_is_what_the_normalizers_do(variant):
    path = shared_path(f"data/caugym/test_dev/{variant}_dataset.json")
    for row in json.loads(path.read_text())[:20]:
        text = row["problem"]
        assert round_trip(text) == text
        assert PLAIN.encode(vocabulary.marked(text)).ids == TOKENIZER.encode(text).ids


def test_numbers_and_sentences_are_numbered():
    text = (
        "For those with a being low, the probability of b being high is 0.1234. "
        "The probability of a being low is 0.5000. \nQuestion: For those with a being low"
    )
    found = TOKENIZER.encode(text).tokens
    marked = [t for t in found if "<n" in t]
    assert marked == ["For those with<n1>", " is<n1> ", "The probability of<n2>", " is<n2> "]
    assert found[-3] == "\nQuestion: For those with"


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=80))
def test_any_text_survives(text):
    if "<n" not in text and not any(t in text for t in SPECIAL):
        assert round_trip(text) == text


def test_ids_are_those_of_the_vocabulary():
    assert TOKENIZER.get_vocab_size() == len(IDS)
    for text in notation.solution_tokens():
        assert TOKENIZER.encode(text).ids == [IDS[text]], text
    assert len(IDS) <= 4_400  # two tables of 160 columns leave a model of 3M weights its layers


def test_it_loads_from_its_file(tmp_path):
    vocabulary.save(TOKENIZER, tmp_path, 2048)
    loaded = load_tokenizer(tmp_path)
    problem, _ = problems("redundant")[3]
    assert loaded.encode(problem.text) == TOKENIZER.encode(problem.text).ids
    assert loaded.decode(loaded.encode(problem.text)) == problem.text
