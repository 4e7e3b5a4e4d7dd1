"""Files and the generator give the same kinds of items."""

import json

import numpy as np
import pytest

from caugym_jax.causal.engine.generating import generate_problems
from caugym_jax.data.files import problem_record, write_jsonl
from caugym_jax.data.prompts import prompt_tokens, sft_examples
from caugym_jax.data.sources import (
    Problems,
    generated_examples,
    item_source,
    packed_rows,
    padded,
    problem_stream,
    prompt_items,
    set_apart,
    stacked,
)
from caugym_jax.data.tokenizer import load_tokenizer
from caugym_jax.errors import UserError
from caugym_jax.rewards.answer import answer_reward
from tests.tiny_model import tiny_model  # noqa: F401


@pytest.fixture(scope="module")
def tokenizer(tiny_model):  # noqa: F811
    return load_tokenizer(tiny_model)


def test_generated_items_depend_on_seed_and_index_alone():
    a, b, c = (problem_stream(seed=s, solutions=True) for s in (0, 0, 1))
    assert [a(i) for i in (5, 3)] == [b(i) for i in (5, 3)]
    assert a(3).text != c(3).text


def test_solutions_are_right():
    source = problem_stream(seed=0, solutions=True)
    for p in map(source, range(21)):
        assert answer_reward(p.solution, p) == 1
    assert problem_stream(seed=0)(0).solution is None


def test_an_impossible_request_fails_at_once():
    with pytest.raises(UserError, match="ATE"):
        problem_stream(Problems(tasks=("ATF",)))


def test_prompts_that_are_too_long_are_named(tokenizer):
    items, _, _ = prompt_items(item_source(), tokenizer, None, 512, 40)
    problem, tokens = items(7)
    assert problem == item_source()(7) and 0 < len(tokens) < 472
    with pytest.raises(UserError, match=r"generated problem 0 .*has \d+ tokens, 10 are allowed"):
        prompt_items(item_source(), tokenizer, 10, 512, 40)


def test_a_generated_prompt_that_is_too_long_gives_way_to_another(tokenizer):
    source = item_source()
    lengths = [len(prompt_tokens(source(i).prompt, tokenizer)) for i in range(40)]
    limit = int(np.median(lengths))
    items, _, _ = prompt_items(source, tokenizer, limit, 512, 40)
    for i, length in enumerate(lengths):
        problem, tokens = items(i)
        assert len(tokens) <= limit and (problem == source(i)) == (length <= limit)
        assert items(i)[0] == problem


def test_a_file_tells_its_longest_prompt(tokenizer, tmp_path):
    problems = list(generate_problems(["ATE"], 6, 0, adjusters=(0,)))
    write_jsonl(tmp_path / "base.jsonl", map(problem_record, problems))
    source = item_source(Problems(str(tmp_path / "base.jsonl")))
    items, longest, dropped = prompt_items(source, tokenizer, None, 512, 40)
    assert len(items) == 6 and dropped == 0 and longest == max(len(tokens) for _, tokens in items)
    with pytest.raises(UserError, match=r"item \d+ \(counting from 0\) has"):
        prompt_items(source, tokenizer, longest - 1, 512, 40)
    kept, width, dropped = prompt_items(source, tokenizer, longest - 1, 512, 40, "drop")
    assert len(kept) + dropped == 6 and dropped > 0 and width < longest
    with pytest.raises(UserError, match=r"item 0 \(counting from 0\) has"):
        prompt_items(source, tokenizer, 3, 512, 40, "drop")


def test_batches_for_fine_tuning(tokenizer, tmp_path):
    simple = Problems(adjusters=(0,))
    source = item_source(simple, seed=0, solutions=True)
    items = generated_examples(source, tokenizer, 256)
    batch = padded([items(0), items(1)], 256, 0, 3)
    assert batch.tokens.shape[0] == 3 and batch.tokens.shape[1] in (128, 192, 256)
    for row in range(2):
        target = batch.tokens[row][batch.loss_mask[row] == 1].tolist()
        assert tokenizer.decode_completion(target) == source(row).problem.solution
        assert target[-1] in tokenizer.end_ids
    assert not batch.loss_mask[2].any() and not batch.segment_ids[2].any()
    with pytest.raises(UserError, match="raise data.max_length=20"):
        generated_examples(source, tokenizer, 20)

    rows = [
        problem_record(p) | {"solution": p.solution}
        for p in map(problem_stream(simple, seed=0, solutions=True), range(9))
    ]
    (tmp_path / "base.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    examples, dropped = sft_examples(
        item_source(Problems(str(tmp_path / "base.jsonl"))), tokenizer, 256
    )
    packed = packed_rows(examples, 256, 0)
    batch = stacked(packed)
    assert not dropped and len(packed) < 9 and batch.segment_ids.max() > 1
    assert sum(len(set(r) - {0}) for r in batch.segment_ids.tolist()) == 9


def test_rows_are_set_apart_by_prompt():
    rows = [(f"p{i % 7}", i) for i in range(40)]
    kept, apart = set_apart(rows, lambda row: row[0], 0.25, seed=3)
    assert sorted(kept + apart) == sorted(rows) and kept == sorted(kept, key=lambda r: r[1])
    assert not {p for p, _ in kept} & {p for p, _ in apart} and 10 <= len(apart) <= 15
    assert set_apart(rows, lambda row: row[0], 0.25, seed=3) == (kept, apart)
    assert set_apart(rows, lambda row: row[0], 0.0, seed=3) == (rows, [])
    assert len(set_apart(rows, lambda row: row, 0.01, seed=0)[1]) == 1
    with pytest.raises(UserError, match="held_out=0.5 of 2 rows leaves none to train on"):
        set_apart([("p", 0), ("p", 1)], lambda row: row[0], 0.5, seed=0)
