"""Mixtures: stages as text, examples by weight, the right refusals."""

import json
import pickle

import numpy as np
import pytest

from caugym_jax.data.mixing import open_mixture, read_stages
from caugym_jax.data.solutions import vocabulary
from caugym_jax.data.tokenizer import load_tokenizer
from caugym_jax.errors import UserError
from tests.data.byte_tokenizer import save_byte_tokenizer


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    vocabulary.save(vocabulary.build(), folder, 2048)
    return load_tokenizer(folder)


def mixture(text, tokenizer, **options):
    options = {"seed": 1, "places": 1024, "multiple": 2, "max_length": 400} | options
    return open_mixture(text, tokenizer, **options)


def test_stages():
    first, second = read_stages("10 lists=3 given=1 large=0..1; 20 usual=1 thin=.5")
    assert (first.examples, second.examples) == (10, 20)
    assert first.weights == {"lists": 3, "given": 1}
    assert first.hardness_at(0.25).large == 0.25
    assert second.hardness_at(0.25).thin == 0.5
    assert second.hardness_at(0.0).large == 1


@pytest.mark.parametrize(
    "text",
    ["", "lists=1", "0 lists=1", "5 lists", "5 lists=x", "5 lists=1..2", "5 large=1", "5 usual=-1"],
)
def test_what_is_no_mixture_is_refused(text):
    with pytest.raises(UserError, match="data.mixture"):
        read_stages(text)


def test_groups_are_functions_of_their_number(tokenizer):
    one = mixture("100 lists=1; 1000 digits=1", tokenizer)
    two = pickle.loads(pickle.dumps(one))  # as a worker gets it
    for g in (0, 1):
        for a, b in zip(one.group(g), two.group(g), strict=True):
            assert all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))
    assert all(b.tokens.shape[0] % 2 == 0 for b in one.group(0))
    assert len(one.example(0).prompt) > 5
    assert len(one.example(150).prompt) < 20  # a drill of digits


def test_a_file_is_a_source(tokenizer, tmp_path):
    path = tmp_path / "mine.jsonl"
    ask = {"role": "user", "content": "a"}
    answers = [f'{{"ANSWER": "No", "PROB": "-0.{i}"}}' for i in range(3)]
    said = [{"role": "assistant", "content": answer} for answer in answers]
    rows = [json.dumps({"messages": [ask, message], "Type": "ATE"}) for message in said]
    path.write_text("\n".join(rows) + "\n")
    found = mixture(f"10 {path}=1", tokenizer)
    seen = {tokenizer.decode_completion(found.example(i).completion) for i in range(30)}
    assert seen == set(answers)


def test_streams_need_their_own_tokens(tokenizer, tmp_path):
    with pytest.raises(UserError, match="model.name"):
        mixture("10 usual=1", load_tokenizer(save_byte_tokenizer(tmp_path)))
    with pytest.raises(UserError, match="no source 'usuall'"):
        mixture("10 usuall=1", tokenizer)
