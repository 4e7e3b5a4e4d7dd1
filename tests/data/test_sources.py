"""Files and the generator give the same kinds of items."""

import json

import numpy as np
import pytest

from caugym_jax.causal.engine.generating import generate_problems
from caugym_jax.data.files import problem_record, write_jsonl
from caugym_jax.data.prompts import prompt_tokens
from caugym_jax.data.sources import Problems, item_source, problem_stream, prompt_items, sft_batches
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
    items, make, dropped = sft_batches(source, tokenizer, 256, packing=False)
    batch = make([items(0), items(1)])
    assert dropped == 0 and batch.tokens.shape[0] == 2 and batch.tokens.shape[1] in (128, 192, 256)
    for row in range(2):
        target = batch.tokens[row][batch.loss_mask[row] == 1].tolist()
        assert tokenizer.decode_completion(target) == source(row).problem.solution
        assert target[-1] in tokenizer.end_ids
    with pytest.raises(UserError, match="raise data.max_length=20"):
        sft_batches(source, tokenizer, 20, packing=False)
    with pytest.raises(UserError, match="set data.path"):
        sft_batches(source, tokenizer, 256, packing=True)

    rows = [
        problem_record(p) | {"solution": p.solution}
        for p in map(problem_stream(simple, seed=0, solutions=True), range(9))
    ]
    (tmp_path / "base.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    file = item_source(Problems(str(tmp_path / "base.jsonl")))
    packed, stack, dropped = sft_batches(file, tokenizer, 256, packing=True)
    batch = stack(list(packed))
    assert dropped == 0 and len(packed) < 9 and batch.segment_ids.max() > 1
    assert sum(len(set(r) - {0}) for r in batch.segment_ids.tolist()) == 9
