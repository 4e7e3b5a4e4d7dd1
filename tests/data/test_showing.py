"""Rows as they are printed before training."""

import pytest

from caugym_jax.algorithms.rollouts import Prompt
from caugym_jax.data.showing import described_row
from caugym_jax.data.tokenizer import load_tokenizer
from caugym_jax.types import Example, Item, Judged, Preference
from tests.data.byte_tokenizer import save_byte_tokenizer


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return load_tokenizer(save_byte_tokenizer(tmp_path_factory.mktemp("bytes")))


def test_learned_tokens_are_marked(tokenizer):
    ids = tokenizer.encode
    turns = Example(ids("ab"), ids("cd\n"), [1, 0, 1])
    assert described_row(3, turns, tokenizer, colour=False) == (
        "row 3: 5 tokens, 2 of them learned\n  a|b|[[c|]]d|[[\\n]]"
    )
    assert "\033[32mc|\033[0md" in described_row(0, turns, tokenizer, colour=True)
    whole = described_row(0, Example(ids("a"), ids("bc")), tokenizer, False)
    assert whole.endswith("  a|[[b|c]]")


def test_rows_of_every_method(tokenizer):
    ids = tokenizer.encode
    pair = described_row(0, Preference(ids("q"), ids("y"), ids("n")), tokenizer, False)
    assert pair.splitlines()[1:] == ["  prompt: q", "  chosen: [[y]]", "  rejected: [[n]]"]
    judged = described_row(0, Judged(ids("q"), ids("n"), False, ids("z")), tokenizer, False)
    assert judged.splitlines()[1:] == ["  prompt: q", "  undesirable: [[n]]"]
    asked = described_row(0, Prompt(Item("q", None, {"answer": "4"}), ids("q")), tokenizer, False)
    assert asked.splitlines() == ["row 0: 1 tokens, 0 of them learned", "  prompt: q",
                                  "  truth: '4'"]  # fmt: skip
