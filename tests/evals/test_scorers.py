"""Both scorers: hand-labelled completions, and the released rule written a second time."""

import json
import re
from collections import Counter

import pytest
from hypothesis import given, settings

from caugym_jax.evals.scorers import published, published_numbers, strict
from caugym_jax.types import Problem
from tests.problems import from_text, with_effect
from tests.rewards.test_answer import HOSTILE, hostile
from tests.shared import ROOT

LABELLED = [
    json.loads(line)
    for line in (ROOT / "tests/golden/completions.jsonl").read_text("utf-8").splitlines()
]
# Base item 0 of the notes' table: the label's verdict is not what `published` looks at.
BASE = with_effect('{"ANSWER": "Yes", "PROB": "0.3847"}')
LACKING = Problem(text="", answer="LACK_CONDITION", task="PN", variant="insufficient")


@pytest.mark.parametrize("row", LABELLED, ids=lambda row: row["why"][:60])
def test_hand_labelled(row):
    problem = from_text(row["problem"], row["answer"], row["Type"], variant=row["variant"])
    completion, truncated = row["completion"], row["truncated"]
    assert published(completion, problem) == row["published"], row["why"]
    assert strict(completion, problem, truncated) == row["strict"], row["why"]


def test_the_labelled_set_is_large_and_varied():
    assert len(LABELLED) >= 500
    kinds = Counter((row["published"], row["strict"]) for row in LABELLED)
    assert min(kinds[True, True], kinds[True, False], kinds[False, False]) >= 40
    assert kinds[False, True] >= 15
    assert {row["Type"] for row in LABELLED} == {"ATE", "CDE", "ETT", "NDE", "NIE", "PN", "PS"}
    assert len({(row["problem"], row["completion"], row["truncated"]) for row in LABELLED}) == len(
        LABELLED
    )


@pytest.mark.parametrize(
    ("text", "by_published", "by_strict"),
    [
        ('{"ANSWER":"No","PROB":"0.3847"}', True, False),
        (
            '{"PROB":"0.1"} hmm {"PROB":"0.3847"} final: {"ANSWER":"No","PROB":"-0.9"}',
            True,
            False,
        ),
        ("".join(f'{{"PROB":"{k * 0.0009 - 1:.4f}"}}' for k in range(2224)), True, False),
        ("{'ANSWER': 'Yes', 'PROB': '0.3847'}", False, False),
        ('{"Answer": "Yes", "Prob": "0.3847"}', False, False),
        ('{"ANSWER": "Yes", "PROB": "38.47%"}', False, False),
        ('{"ANSWER":"Yes","PROB":0.3847}', True, True),
    ],
)
def test_the_published_table_of_loopholes(text, by_published, by_strict):
    assert (published(text, BASE), strict(text, BASE)) == (by_published, by_strict)


def test_a_ladder_of_guesses_is_right_everywhere_by_the_published_rule_only():
    ladder = "".join(f'{{"PROB":"{k * 0.0009 - 1:.4f}"}}' for k in range(2224))
    for prob in ("-1", "-0.3333", "0", "0.1234", "1.0000"):
        problem = Problem(text="", answer=json.dumps({"PROB": prob}), task="PS")
        assert published(ladder, problem) and not strict(ladder, problem)


def second_writing(text: str) -> list[float]:
    """The released rule from its description, without regard to time or to what may be raised."""
    numbers = []
    for match in re.findall(r'\{"(?:ANSWER|PROB)":.*?\}', re.sub(r"\s+", "", text), re.DOTALL):
        try:
            numbers.append(float(str(json.loads(match.lower())["prob"])))
        except (ValueError, KeyError):
            continue
    return numbers


@settings(max_examples=600)
@given(hostile)
def test_published_sees_the_numbers_of_the_released_rule(text):
    assert list(map(repr, published_numbers(text))) == list(map(repr, second_writing(text)))
    assert published(text, BASE) == any(abs(0.3847 - n) < 0.0005 for n in second_writing(text))
    assert published(text, LACKING) == ("LACK_CONDITION" in text)


def test_white_space_is_what_the_pattern_calls_white_space():
    for code in range(0x110000):
        character = chr(code)
        assert (not character.split()) == bool(re.fullmatch(r"\s", character)), hex(code)


@settings(max_examples=300)
@given(hostile)
def test_strict_never_raises_and_lack_is_stricter(text):
    assert strict(text, BASE) in (True, False)
    if strict(text, LACKING) and "LACK\\_" not in text:
        assert published(text, LACKING)


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_hostile_text_is_scored(text):
    for part in (text, text + "}" * 50, text + '{"ANSWER":"Yes","PROB":"0.3847"}'):
        for problem in (BASE, LACKING):
            assert published(part, problem) in (True, False)
            assert strict(part, problem) in (True, False)


def test_integers_without_end_and_deep_nesting_do_not_stop_the_published_rule():
    right = '{"PROB":"0.3847"}'
    assert published('{"PROB":' + "9" * 10_000 + "}" + right, BASE)
    assert published('{"PROB":' + "[" * 100_000 + "}" + right, BASE)
    assert not published('{"PROB":' * 100_000, BASE)
