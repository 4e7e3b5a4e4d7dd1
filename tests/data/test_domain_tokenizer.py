"""The domain tokenizer loses nothing, stays short on its own problems, and loads anywhere."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import caugym_jax
from caugym_jax.causal.engine.generating import generate_problems
from caugym_jax.data.domain_tokenizer import (
    ASSISTANT,
    END,
    PAD,
    USER,
    build_tokenizer,
    save_tokenizer,
)
from caugym_jax.data.texts.worked import work
from tests.shared import shared_path

TOKENIZER = build_tokenizer()


def round_trip(text: str) -> str:
    return TOKENIZER.decode(TOKENIZER.encode(text).ids, skip_special_tokens=False)


def assert_survive(texts: list[str]) -> None:
    texts = sorted(set(texts))
    ids = [encoding.ids for encoding in TOKENIZER.encode_batch(texts)]
    assert TOKENIZER.decode_batch(ids, skip_special_tokens=False) == texts


def strings(value) -> list[str]:
    """Every string inside a JSON-like value."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        value = value.values()
    return [s for v in value for s in strings(v)] if hasattr(value, "__iter__") else []


@pytest.mark.parametrize(
    "name", ["base", "rephrased", "omitted", "deconfounding", "redundant", "insufficient"]
)
def test_official_test_sets_survive(name):
    path = shared_path(f"data/caugym/test_dev/{name}_dataset.json")
    assert_survive(strings(json.loads(path.read_text())))


@pytest.mark.parametrize("name", ["online_RL", "cold_start_sft"])
def test_official_training_sets_survive(name):
    path = shared_path(f"data/caugym/train/{name}.parquet")
    assert_survive(strings(pq.read_table(path).to_pylist()))


@settings(deadline=None)
@given(st.text())
def test_any_text_survives(text):
    assert round_trip(text) == text


@settings(deadline=None)
@given(st.text(alphabet='abcXYZ 0123456789.,(|*)\n{}":-é'))
def test_texts_near_the_phrases_survive(text):
    assert round_trip(text) == text


def test_generated_problems_are_short_and_numbers_are_digits():
    for problem in generate_problems(("ATE", "ETT"), 200, 3, nodes=(3, 4), adjusters=(0,)):
        assert len(TOKENIZER.encode(problem.text).ids) <= 90
        solution = TOKENIZER.encode(work(problem))
        assert len(solution.ids) <= 32
        for token in solution.tokens:
            assert sum(c.isdigit() for c in token) <= 1 or token.endswith("0.")


def test_made_up_names_are_two_pairs():
    assert TOKENIZER.encode("smku").tokens == ["sm", "ku"]
    assert TOKENIZER.encode("Smku").tokens == ["Sm", "ku"]


def test_loads_in_transformers(tmp_path):
    from transformers import AutoTokenizer

    save_tokenizer(TOKENIZER, tmp_path, 512)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert loaded.eos_token == END
    assert loaded.pad_token == PAD
    assert loaded.eos_token_id != loaded.pad_token_id
    text = "If smku is changed to be low, will eons be more likely to be low?\n naïve 0.8445. "
    ids = loaded(text)["input_ids"]
    assert ids == TOKENIZER.encode(text).ids
    assert loaded.decode(ids) == text
    chat = loaded.apply_chat_template(
        [{"role": "user", "content": "a"}], add_generation_prompt=True, tokenize=False
    )
    assert chat == f"{USER}a{ASSISTANT}"


EMBEDDED = Path(caugym_jax.__file__).parent / "models" / "embedded"


def test_shipped_tokenizer_is_lossless_and_small():
    from transformers import AutoTokenizer

    shipped = AutoTokenizer.from_pretrained(EMBEDDED)
    assert shipped.eos_token_id != shipped.pad_token_id
    for problem in generate_problems(("ATE", "ETT"), 50, 4, nodes=(3, 5), adjusters=(0,)):
        for text in (problem.text, work(problem), problem.answer):
            ids = shipped(text)["input_ids"]
            assert shipped.decode(ids, skip_special_tokens=False) == text
    assert sum(f.stat().st_size for f in EMBEDDED.iterdir()) < 6e6
