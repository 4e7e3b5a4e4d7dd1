"""The answer extractor: the rule case by case, a second reading of JSON, and hostile text."""

import dataclasses
import json
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from caugym_jax.errors import UserError
from caugym_jax.rewards import objects as module
from caugym_jax.rewards.answer import (
    Answer,
    expected,
    extract,
    final_text,
    is_right,
    near,
)
from caugym_jax.rewards.objects import json_answers, number
from caugym_jax.types import TASKS, Problem
from tests.problems import from_text, with_effect

RIGHT = '{"ANSWER": "Yes", "PROB": "0.3847"}'


def problem(answer: str = RIGHT, task: str = "ATE", variant: str = "base") -> Problem:
    return Problem(text="", answer=answer, task=task, variant=variant)


FRAGMENTS = [
    *'{}[]":,\\ \n\t0-.',
    *("PROB", "ANSWER", '"PROB"', '"PROB":', '"ANSWER":"Yes"', '{"PROB":', '{"ANSWER":"No",'),
    *("0.3847", '"0.3847"', '"0.1"', "NaN", '"inf"', "1e999", "-Infinity", "null", "true", "١"),
    *("<think>", "</think>", "LACK_CONDITION", "\\boxed{", '\\"', "\\u0050ROB", "answer is "),
    *("\x00", "\u00a0", "\ud800", "'", "```\n", RIGHT, '{"PROB":0.3851}', '{"a":{"PROB":"1"}}'),
]
hostile = st.lists(st.sampled_from(FRAGMENTS), max_size=40).map("".join) | st.text(max_size=60)


def test_final_text():
    assert final_text("a") == "a"
    assert final_text("<think>a</think>b") == "b"
    assert final_text("a</think>b</think>c") == "c"
    assert final_text("<think>a") is None
    assert final_text("<think>a</think>b<think>c") is None


@pytest.mark.parametrize(
    ("value", "result"),
    [
        ("0.25", "0.25"),
        (" -.5\n", "-0.5"),
        ("+1.", "1"),
        ("2.5e-1", "0.25"),
        ("1e999", "1e999"),
        ("1e1000", None),
        ("0." + "3" * 62, "0." + "3" * 62),
        ("0." + "3" * 63, None),
        ("", None),
        (".", None),
        ("1_0", None),
        ("٣", None),
        ("−1", None),
        ("nan", None),
        ("Infinity", None),
        ("50%", None),
        ("1/2", None),
        ("0,5", None),
        (None, None),
    ],
)
def test_number(value, result):
    assert number(value) == (None if result is None else Decimal(result))


def test_exactly_the_tolerance_is_too_far_whatever_floats_say():
    assert abs(0.6412 - 0.6407) < 0.0005  # binary noise
    assert not near(Decimal("0.6412"), Decimal("0.6407"))
    assert near(Decimal("0.6412"), Decimal("0.64070000000000000000000000000000000000001"))
    assert not near(Decimal("1e999"), Decimal("1"))
    assert near(Decimal("1e-999"), Decimal("0"))


@given(st.integers(-20_000, 20_000), st.integers(-20_000, 20_000))
def test_near_in_whole_numbers(a, b):
    """Against integers of size 1e-5: |a - b| < 50."""
    assert near(Decimal(a).scaleb(-5), Decimal(b).scaleb(-5)) == (abs(a - b) < 50)


def test_extract_one_answer():
    assert extract(RIGHT) == Answer(prob=Decimal("0.3847"), verdict="Yes")
    assert extract(RIGHT, truncated=True).why == "truncated"
    assert extract("<think>" + RIGHT).why == "a <think> is left open"
    assert extract(" ").why == "no text"
    assert extract("LACK_CONDITION") == Answer(lack=True)
    for pair in ('"ANSWER": "No", "ANSWER": "Yes"', '"ANSWER": "Yes", "ANSWER": "No"'):
        assert extract(f'{{{pair}, "PROB": "0.3847"}}') == Answer(prob=Decimal("0.3847"))


@settings(max_examples=400)
@given(hostile)
def test_objects_agree_with_pythons_json(text):
    """Every `{` at which Python's own reader finds an object with the keys, and no other."""
    decoder = json.JSONDecoder(
        object_pairs_hook=lambda pairs: pairs, parse_float=Decimal, parse_int=Decimal
    )
    found = []
    for start in (place for place, character in enumerate(text) if character == "{"):
        try:
            pairs, end = decoder.raw_decode(text, start)
        except ValueError:
            continue
        probs, answers = (
            tuple(
                value
                if isinstance(value, str) or (isinstance(value, Decimal) and abs(value) < 10**400)
                else None
                for name, value in pairs
                if name == key
            )
            for key in ("PROB", "ANSWER")
        )
        if probs or answers:
            found.append((end, start, probs, answers))
    read = [
        (s.end, s.start, tuple(v if v != Decimal("1e999") else None for v in s.probs), s.answers)
        for s in json_answers(text)
    ]
    assert read == sorted(found)


@settings(max_examples=400)
@given(hostile, st.booleans())
def test_never_raises_and_is_consistent(text, truncated):
    answer = extract(text, truncated)
    assert not (answer.lack and answer.prob is not None)
    assert not (answer.lack and answer.hedged)
    assert answer.prob is None or answer.prob.is_finite()
    assert bool(answer.why) == (answer.hedged or (answer.prob is None and not answer.lack))
    if truncated:
        assert not any(is_right(answer, expected(problem(a))) for a in (RIGHT, "LACK_CONDITION"))


@given(hostile.filter(lambda text: "think>" not in text and "{" not in text))
def test_what_stands_before_changes_nothing(text):
    """Prose, and any thinking, before the answer."""
    assert extract(text.replace("\\", "") + "\n" + RIGHT).prob == Decimal("0.3847")
    assert extract("<think>" + text + "</think>" + RIGHT) == extract(RIGHT)


@given(st.integers(-10_000, 10_000), st.integers(-10_000, 10_000))
def test_two_numbers_are_hedging_iff_they_differ(a, b):
    texts = [f'{{"PROB": "{n / 10_000:.4f}"}}' for n in (a, b)]
    assert extract(" ".join(texts)).hedged == (abs(a - b) >= 5)


SIZE = 20_000
HOSTILE = {
    "braces": "{" * SIZE,
    "nested": '{"PROB":' * (SIZE // 8),
    "nested, closed": '{"PROB":' * (SIZE // 10) + "1" + "}" * (SIZE // 10),
    "closed, then broken": '{"a":' * (SIZE // 10) + '{"PROB":1}' * (SIZE // 20) + "x",
    "arrays": '{"a":[' * (SIZE // 6),
    "quotes": '{"' * (SIZE // 2),
    "escapes": '{"\\"' * (SIZE // 4),
    "two phases": '{"a {"b":1,' * (SIZE // 11),
    "phases of arrays": '{"{":[' * (SIZE // 6),
    "open string": '{"a":"' + '{"' * (SIZE // 2),
    "keys": "{" + '"PROB":0.1,' * (SIZE // 11) + '"PROB":1}',
    "guesses": "".join(f'{{"PROB":"{k / 2000}"}}' for k in range(SIZE // 14)),
    "spaces": ('{"a"' + " " * 500) * (SIZE // 500),
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_characters_are_read_twice_and_braces_thrice_at_most(text, monkeypatch):
    token, read = module._TOKEN, 0

    class Counting:
        def match(self, text, position):
            nonlocal read
            found = token.match(text, position)
            read += (found.end() if found else position + 1) - position
            return found

    monkeypatch.setattr(module, "_TOKEN", Counting())
    json_answers(text)
    assert read <= 2 * len(text) + text.count("{")


def test_long_nonsense_is_read():
    size = 300_000
    for part in ("{", "<think>", "\\boxed{", "```\n", "LACK_CONDITION\n", "so ", "9", '{"PROB":'):
        text = part * (size // len(part))
        assert not is_right(extract(text), expected(problem()))
        assert extract(text + "</think>" + RIGHT).prob == Decimal("0.3847")
    assert extract('{"PROB": ' + "9" * size + "}").prob is None
    assert extract('{"PROB": "' + "٣" * size + '"}').prob is None
    assert extract('{"PROB": 1e' + "9" * size + "}").prob is None


def test_expected_verdicts():
    def verdicts(prob, task, variant="base", **changes):
        item = with_effect(json.dumps({"ANSWER": "Yes", "PROB": prob}), task, variant)
        story = dataclasses.replace(item.story, **changes)
        return expected(dataclasses.replace(item, story=story)).verdicts

    assert verdicts("0.1", "ATE") == verdicts("-0.1", "ETT") == {"Yes"}
    assert verdicts("-0.1", "NIE") == verdicts("0.1", "ETT") == {"No"}
    assert verdicts("0.001", "CDE") == {"Yes"}
    assert verdicts("0.0009", "CDE") == verdicts("-0.0009", "ETT") == {"Yes", "No"}
    assert verdicts("0", "NDE") == {"Yes", "No"}
    assert verdicts("0.1", "ATE", "rephrased") == verdicts("0.1", "ATE", "hard") == {"Yes"}
    assert verdicts("0.1", "ATE", direction=-1) == {"No"}
    assert verdicts("0.1", "ATE", direction=None) is verdicts("0", "ATE", direction=None) is None
    for task in TASKS:  # without a story the number alone counts
        assert expected(problem(RIGHT, task)).verdicts is None
    assert expected(problem("LACK_CONDITION")).prob is None


@pytest.mark.parametrize("label", ["", "0.3", '{"ANSWER": "Yes"}', '{"PROB": "many"}', "{}"])
def test_a_label_without_a_number_is_named(label):
    with pytest.raises(UserError, match="is neither LACK_CONDITION nor"):
        expected(problem(label))


# --- what is right, recomputed from the text --------------------------------------------------


def asked(task: str, answer: str, numbers: str, question: str, variant: str = "base") -> Problem:
    text = (
        "Input Info: Imagine a self-contained, hypothetical world with only the following "
        "conditions, and without any unmentioned factors or causal relationships: Dose has a "
        f"direct effect on height.\n{numbers}\n\nQuestion: {question}\n"
    )
    return from_text(text, answer, task, variant=variant)


ATE_NUMBERS = (
    "For those with dose being high, the probability of height being tall is 0.7000. For those "
    "with dose being low, the probability of height being tall is 0.4000. "
)
ATE_QUESTION = "If dose is changed to be high, will height be more likely to be tall?"


def test_the_verdict_comes_from_the_text():
    wrong = asked("ATE", '{"ANSWER": "No", "PROB": "0.3"}', ATE_NUMBERS, ATE_QUESTION)
    assert expected(wrong).verdicts == {"Yes"}
    reworded = asked("ATE", wrong.answer, ATE_NUMBERS, ATE_QUESTION, variant="rephrased")
    assert expected(reworded).verdicts == {"Yes"}


def test_a_label_that_the_text_contradicts_leaves_the_verdict_open():
    disputed = asked("ATE", '{"ANSWER": "Yes", "PROB": "0.9"}', ATE_NUMBERS, ATE_QUESTION)
    assert expected(disputed).verdicts is None
    assert is_right(extract('{"ANSWER": "No", "PROB": "0.9"}'), expected(disputed))


def test_a_bound_may_be_any_number_that_rounding_reaches():
    numbers = (
        "For those with dose being low, the probability of height being small is 0.3000. The "
        "probability of dose being low and height being small is 0.2990. The probability of dose "
        "being high and height being tall is 0.0100. "
    )
    question = (
        "Given that dose was high and height was tall, what is the upper bound of the probability "
        "of the height would have been small if the dose had been low?"
    )
    bound = asked("PN", '{"PROB": "0.1040"}', numbers, question)  # 0.1 on the printed numbers
    low, high = expected(bound).interval
    assert low == Decimal("0.0009") / Decimal("0.01005")
    assert high == Decimal("0.0011") / Decimal("0.00995")
    for prob, right in (("0.1000", True), ("0.1040", True), ("0.0890", False), ("0.1110", False)):
        answer = extract('{"PROB": "%s"}' % prob)  # noqa: UP031 - braces
        assert is_right(answer, expected(bound)) == right
    wrong = asked("PN", '{"PROB": "0.5"}', numbers, question)
    assert expected(wrong).interval is None  # the label is out of reach: it alone counts
