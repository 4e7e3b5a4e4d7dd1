"""Rows of preferences as tokens: their layouts, what is refused, and KTO's mismatched pairs."""

import collections
import dataclasses
import json
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from caugym_jax import generate
from caugym_jax.causal.engine.generating import generate_problem
from caugym_jax.data.preference_sources import (
    PreferenceData,
    file_preferences,
    generated_preferences,
    generated_rows,
)
from caugym_jax.data.preferences import judged, preference, sift, with_others
from caugym_jax.data.prompts import prompt_tokens, reply_tokens
from caugym_jax.data.solutions.mistakes import solution
from caugym_jax.data.tokenizer import load_tokenizer
from caugym_jax.errors import UserError
from caugym_jax.rewards.answer import answer_reward
from caugym_jax.types import Judged
from tests.data.byte_tokenizer import CHAT, save_byte_tokenizer

WORKED = PreferenceData(max_length=3000, solutions="worked")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return load_tokenizer(save_byte_tokenizer(tmp_path_factory.mktemp("chat"), chat_template=CHAT))


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    folder = save_byte_tokenizer(tmp_path_factory.mktemp("plain"), adds_bos=True)
    return load_tokenizer(folder)


def said(role, content):
    return {"role": role, "content": content}


def test_messages_and_whole_conversations_are_the_same_pair(tokenizer):
    asked, good, bad = (
        said("user", "Why?"),
        said("assistant", "So."),
        said("assistant", "No."),
    )
    text = preference({"prompt": [asked], "chosen": "So.", "rejected": "No."}, tokenizer)
    assert text == preference({"prompt": [asked], "chosen": [good], "rejected": [bad]}, tokenizer)
    h4 = {"prompt": "Why?", "chosen": [asked, good], "rejected": [asked, bad]}
    assert text == preference(h4, tokenizer)
    assert text == preference({"prompt": "Why?", "chosen": [good], "rejected": [bad]}, tokenizer)
    assert text == preference({"chosen": [asked, good], "rejected": [asked, bad]}, tokenizer)
    assert tokenizer.decode(text.prompt) == "<s><turn>user\nWhy?</s><turn>assistant\n"
    assert tokenizer.decode(text.chosen) == "So.</s>"
    one = judged({"prompt": [asked], "completion": [good], "label": True}, tokenizer)
    assert one == Judged(text.prompt, text.chosen, True, [])


def test_t13_one_beginning_one_end_and_a_prefix(tokenizer, plain):
    """Prompt and completion are the tokens of both together; several turns keep theirs."""
    talk = [said("user", "Hi"), said("assistant", "Yes?"), said("user", "Why?")]
    prompt, reply = prompt_tokens(talk, tokenizer), reply_tokens(talk, "So.</s>", tokenizer)
    assert tokenizer.decode(prompt + reply) == (
        "<s><turn>user\nHi</s><turn>assistant\nYes?</s><turn>user\nWhy?</s><turn>assistant\nSo.</s>"
    )
    assert prompt + reply == tokenizer.encode(tokenizer.decode(prompt + reply))
    assert (prompt + reply).count(tokenizer.raw.bos_token_id) == 1
    assert reply.count(tokenizer.end_id) == 1 and reply[-1] == tokenizer.end_id
    with pytest.raises(UserError, match="needs a tokenizer with a chat template"):
        prompt_tokens(talk, plain)
    with pytest.raises(UserError, match="holds the special token '<s>'"):
        preference({"prompt": "Why?", "chosen": "So", "rejected": "<s>No."}, plain)


GOOD = {"prompt": "Why?", "chosen": "So.", "rejected": "No."}


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture
def mixed(tmp_path):
    """Ten rows: four good, two identical, two empty, two too long."""
    same, empty, long = (
        GOOD | {"rejected": "So."},
        GOOD | {"chosen": "  \n"},
        GOOD | {"rejected": "x" * 100},
    )
    rows = [GOOD, same, empty, long, GOOD, long, GOOD | {"chosen": ""}, same, GOOD, GOOD]
    return write(tmp_path / "mixed.jsonl", rows)


def test_what_cannot_be_learnt_from_is_dropped_counted_and_listed(mixed, tokenizer):
    found = sift(mixed, preference, tokenizer, 60, "drop", "drop")
    assert len(found.kept) == 4 and len({tuple(x.chosen) for x in found.kept}) == 1
    assert found.report("mixed") == (
        "dropped 6 of 10 rows of mixed: 2 with an empty completion (items 2, 6), 2 with an "
        "identical pair (items 1, 7), 2 with more than data.max_length=60 tokens (items 3, 5)"
    )
    assert sift(mixed, preference, tokenizer, 600, "refuse", "drop").report("x").count("with") == 2


def test_or_refused_counted_and_listed(mixed, tokenizer, tmp_path):
    with pytest.raises(UserError) as error:
        sift(mixed, preference, tokenizer, 60, "drop", "refuse")
    assert str(error.value) == (
        f"4 of 10 rows of {mixed}: 2 with an empty completion (items 2, 6), 2 with an identical "
        "pair (items 1, 7): fix them, or set data.unusable=drop"
    )
    with pytest.raises(UserError, match=r"2 of 10 .* \(items 3, 5\): fix .*data.too_long=drop"):
        sift(mixed, preference, tokenizer, 60, "refuse", "drop")
    many = write(tmp_path / "many.jsonl", [GOOD | {"rejected": ""}] * 9)
    with pytest.raises(UserError, match=r"9 with an empty .*\(items 0, 1, 2, 3, 4, \.\.\.\)"):
        sift(many, preference, tokenizer, 60, "drop", "drop")


MALFORMED = [
    ("pair", {"prompt": "Why?", "chosen": "So."}, "item 1 (counting from 0): no 'rejected'"),
    ("pair", GOOD | {"chosen": 3}, "'chosen' must be a text or a list of messages"),
    ("pair", GOOD | {"chosen": [{"role": "assistant"}]}, "no 'content' in message 0 of 'chosen'"),
    ("pair", GOOD | {"chosen": [said("user", "So.")]}, "expected one assistant message"),
    ("pair", ["Why?"], "expected a JSON object, found list"),
    (
        "pair",
        {"chosen": [said("user", "a"), said("assistant", "b")], "rejected": [said("user", "c")]},
        "without a 'prompt', chosen and rejected differ in the last message",
    ),
    ("judged", {"prompt": "Why?", "completion": "So."}, "no 'label'"),
    ("judged", {"prompt": "Why?", "completion": "So.", "label": "yes"}, "true or false, found 'ye"),
]


@pytest.mark.parametrize("kind,row,told", MALFORMED)
def test_malformed_rows_are_named(kind, row, told, tokenizer, tmp_path):
    first = GOOD if kind == "pair" else {"prompt": "Why?", "completion": "So.", "label": 1}
    path = write(tmp_path / "rows.jsonl", [first, row])
    with pytest.raises(UserError) as error:
        sift(path, preference if kind == "pair" else judged, tokenizer, 600, "drop", "drop")
    assert told in str(error.value) and "item 1" in str(error.value)


# Mismatched pairs -------------------------------------------------------------------------------


def examples(prompts):
    return [Judged([p], [100 + i], True, []) for i, p in enumerate(prompts)]


def partners(prompts):
    return [x.other[0] - 100 for x in with_others(examples(prompts), 10)]


def test_t11_mismatched_pairs_by_hand():
    assert partners([5, 6, 7]) == [2, 0, 1]  # TRL's rotation
    assert partners([1, 1, 2, 3]) == [3, 2, 1, 2]
    assert partners([1, 2, 1, 2]) == [3, 2, 1, 0]
    assert partners([1, 2]) == [1, 0]
    with pytest.raises(UserError, match="at least two prompts"):
        partners([4, 4, 4])


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 6), min_size=2, max_size=40).filter(lambda x: len(set(x)) > 1))
def test_t11_no_prompt_meets_its_own_completion(prompts):
    """Whatever the duplicates, and for any number of rows: there is no block to be short."""
    found = partners(prompts)
    assert all(prompts[i] != prompts[other] for i, other in enumerate(found))
    if len(set(prompts)) == len(prompts):  # then every completion is used once
        assert sorted(found) == list(range(len(prompts)))


def test_a_mismatched_completion_is_cut_to_the_length():
    items = [Judged([1] * 6, [7, 8, 9], True, []), Judged([2], [5] * 8, False, [])]
    first, second = with_others(items, 9)
    assert first.other == [5] * 3 and second.other == [7, 8, 9]


# Generated --------------------------------------------------------------------------------------


def problems(index):
    return generate_problem(3, index, ("ATE", "ETT"), nodes=(3, 4), adjusters=(0,))


def test_generated_pairs_are_right_and_wrong():
    rows = generated_rows(problems, 0)
    for i in range(30):
        row, problem = rows(i), problems(i)
        assert row["chosen"] == solution(problem) and problem.text in row["prompt"][0]["content"]
        assert answer_reward(row["chosen"], problem) == 1
        assert answer_reward(row["rejected"], problem) == 0
        assert rows(i) == row


def test_generated_judged_completions_are_half_good_and_have_others(tokenizer):
    items = generated_preferences(problems, tokenizer, False, WORKED)
    found = [items(i) for i in random.Random(0).sample(range(40), 20)]
    assert items(4).label and not items(5).label
    assert all(x.other for x in found) and len({tuple(x.prompt) for x in found}) == 20
    assert items(7).other == items(8).completion
    assert items(7) == generated_preferences(problems, tokenizer, False, WORKED)(7)


def test_generated_rows_that_are_too_long_give_way_or_are_named(tokenizer):
    with pytest.raises(UserError, match=r"generated row 0 \(and 15 in its place\) has \d+ tokens"):
        generated_preferences(problems, tokenizer, True, dataclasses.replace(WORKED, max_length=50))


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (dict(solutions="free"), "solutions='free': must be one of worked, steps"),
        (dict(too_long="skip"), "too_long='skip': must be one of drop, refuse"),
        (dict(unusable="skip"), "unusable='skip': must be one of drop, refuse"),
        (dict(batch_size=0), "batch_size=0: must be at least 1"),
        (dict(zero_fraction=1.5), "zero_fraction=1.5: must be at least 0 and at most 1"),
    ],
)
def test_wrong_settings_are_refused(options, told):
    with pytest.raises(UserError) as error:
        PreferenceData(**options)
    assert str(error.value).startswith(told)


@pytest.mark.parametrize("suffix", ["jsonl", "json", "parquet"])
@pytest.mark.parametrize("purpose", ["dpo", "kto"])
def test_files_of_the_generate_command_are_read(tokenizer, tmp_path, purpose, suffix):
    path = tmp_path / f"rows.{suffix}"
    options = ["--tasks=ATE,NDE,PN", "--n=8", "--seed=1", "--nodes=3..4"]
    generate.main([*options, f"--for={purpose}", f"--out={path}"])
    items, rows, dropped = file_preferences(
        str(path), tokenizer, purpose == "dpo", PreferenceData(max_length=9000)
    )
    assert len(items) == rows == 8 and not dropped
    if purpose == "dpo":
        assert all(x.chosen != x.rejected for x in items)
        rows = generated_rows(
            lambda i: generate_problem(1, i, ("ATE", "NDE", "PN"), nodes=(3, 4)), 1, "steps"
        )
        assert preference(rows(5), tokenizer) == items[5]
    else:
        assert collections.Counter(x.label for x in items) == {True: 4, False: 4}
