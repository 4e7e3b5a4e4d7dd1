"""Defects are found where they were put, and the known ones of the released files."""

import dataclasses
import functools
import json
from decimal import Decimal

import pytest

from caugym_jax.causal.engine.answers import labelled
from caugym_jax.causal.engine.audit import check, defects, marks, score, shortcut, summary
from caugym_jax.causal.engine.generating import generate_problems
from caugym_jax.data.files import read_problems
from caugym_jax.types import BOUND_TASKS, LACK, TASKS, Problem, Query, Term
from tests.causal.engine.test_solving import ALL, TRIANGLE, X, Y, Z, ask, given_z
from tests.problems import from_text
from tests.shared import shared_path


@functools.cache
def audited(name: str) -> dict:
    problems = read_problems(shared_path(f"data/caugym/{name}"))
    return summary([marks(check(problem, i)) for i, problem in enumerate(problems)])


def kinds(found: dict) -> dict[str, list[int]]:
    result: dict[str, list[int]] = {}
    for defect in found["defects"]:
        result.setdefault(defect["kind"], []).append(defect["item"])
    return result


def changed(problem: Problem, **fields) -> dict[str, list[int]]:
    texts = {"text": problem.text, "answer": problem.answer} | fields
    checked = check(from_text(texts["text"], texts["answer"], problem.task))
    return {defect.kind: defect.why for defect in defects(checked)}


def relabeled(problem: Problem, **fields) -> str:
    return json.dumps(json.loads(problem.answer) | fields)


def test_generated_problems_have_no_defects():
    for variant in ("base", "redundant", "insufficient"):
        items = [
            marks(check(p, i))
            for i, p in enumerate(generate_problems(TASKS, 42, 3, variant=variant))
        ]
        found = summary(items)
        assert not found["defects"] and found["unread"] == 0
        assert found["prob"]["all"] == 1 and found["verdict"]["all"] in (1, None)


@pytest.mark.parametrize("task", ["ATE", "ETT", "NIE"])
def test_defects_put_into_a_problem_are_named(task):
    problem = next(iter(generate_problems([task], 1, 4, adjusters=(1,), zero_fraction=0.0)))
    assert changed(problem) == {}
    verdict = {"Yes": "No", "No": "Yes"}[problem.verdict]
    assert list(changed(problem, answer=relabeled(problem, ANSWER=verdict))) == ["inverted verdict"]
    wrong = relabeled(problem, PROB=f"{problem.prob + 0.01:.4f}")
    assert list(changed(problem, answer=wrong)) == ["wrong number"]
    assert list(changed(problem, answer=LACK)) == ["answerable"]
    numbers = problem.text.split("\n")[1]
    without = problem.text.replace(numbers, numbers.split(". ")[0] + ". ")
    assert list(changed(problem, text=without)) == ["unanswerable"]


def test_a_cell_of_one_is_named():
    text = (
        "Input Info: Imagine a self-contained, hypothetical world with only the following "
        "conditions, and without any unmentioned factors or causal relationships: A has a direct "
        "effect on b.\nFor those with a being high, the probability of b being high is 1.0000. For "
        "those with a being low, the probability of b being high is 0.5000. \nInstruction: "
        "Consider the average treatment effect (ATE) of a on b.\nQuestion: If a is changed to be "
        "high, will b be more likely to be high?\n"
    )
    problem = from_text(text, '{"ANSWER": "Yes", "PROB": "0.5"}', "ATE")
    assert changed(problem) == {"degenerate cell": "P(b high | a high) is 1.0000"}
    checked = check(from_text(text, problem.answer, "CDE"))
    assert checked.broken and "asks for ATE" in checked.unread


def test_a_condition_that_the_graph_supplies_is_not_missing():
    """As in the one released item that is labelled LACK_CONDITION and has an answer."""
    # z -> x -> y: y depends on x alone, so that P(y|x,z=1) is P(y|x,z=0).
    chain = dataclasses.replace(TRIANGLE, edges=((X, Y), (Z, X)))
    numbers = [("0.8000", given_z(1, 0)), ("0.5000", given_z(0, 1))]
    problem = from_text(ask(chain, *numbers), LACK, "ATE")
    why = "the answer is 0.3000: P(y high | x high) = 0.8000 by the graph's independencies"
    assert changed(problem) == {"answerable": why}


def test_two_sets_that_disagree_are_named():
    chain = dataclasses.replace(TRIANGLE, edges=((X, Y), (Z, X)))
    direct = [("0.7000", Term(((Y, 1),), ((X, 1),))), ("0.4000", Term(((Y, 1),), ((X, 0),)))]
    problem = from_text(ask(chain, *direct, *ALL), '{"ANSWER": "Yes", "PROB": "0.3"}', "ATE")
    assert changed(problem) == {"sets disagree": "0.3000, but 0.3250 adjusting for z"}


def test_a_small_effect_is_called_either():
    chain = dataclasses.replace(TRIANGLE, edges=((X, Y), (Y, Z)))
    numbers = [("0.5003", Term(((Y, 1),), ((X, 1),))), ("0.5000", Term(((Y, 1),), ((X, 0),)))]
    for said in ("Yes", "No"):
        label = json.dumps({"ANSWER": said, "PROB": "0.0003"})
        found = changed(from_text(ask(chain, *numbers), label, "ATE"))
        assert list(found) == ["dead zone"] and found["dead zone"].endswith(f"label is {said}")


# The published defects of the released files ----------------------------------------------------
# By place in the upstream files of 700; those that the samples beside the checkout do not hold
# (positions.json) are left out by the tests themselves.

PUBLISHED = {
    # (set, kind): places
    ("base", "dead zone"): [218, 267],
    ("base", "rounding"): [321, 397, 489],
    ("deconfounding", "rounding"): [222],
    ("deconfounding", "degenerate cell"): [548],
    ("redundant", "rounding"): [564],
    ("insufficient", "answerable"): [438],
    ("rephrased", "flipped polarity"): [
        *(517, 544, 549, 565, 569, 571, 576, 593, 603, 613, 617, 663, 666, 677, 685),
        *(117, 124, 148, 180, 194),
    ],
    ("omitted", "flipped polarity"): [
        *(506, 517, 546, 549, 563, 565, 569, 571, 593, 603, 617, 659, 666, 677, 694),
        *(117, 130, 148, 180, 213),
    ],
    ("rephrased", "open verdict"): [101, 107, 112, 133, 157, 169, 171, 668],
    ("omitted", "open verdict"): [112, 124, 171, 172, 26],
}
# The reworded questions of ETT items that were turned round as well: consistent by accident.
TURNED_ETT = {"rephrased": [0, 7, 20, 26], "omitted": [0, 57, 71]}


def positions(name: str) -> list[int]:
    """The upstream place of each item of a sample."""
    found = json.loads(shared_path("data/caugym/test_dev/positions.json").read_text())
    return found[name]


@pytest.mark.parametrize(("name", "kind"), PUBLISHED)
def test_published_defects_are_found(name, kind):
    audit, places = audited(f"test_dev/{name}_dataset.json"), positions(name)
    found = {places[item] for item in kinds(audit).get(kind, [])}
    assert set(PUBLISHED[name, kind]) & set(places) <= found
    assert audit["unread"] == 0


def test_published_inverted_verdicts_are_found_and_nothing_else():
    """All non-zero ETT items of base, and of its rewrites those whose question was not turned."""
    problems = read_problems(shared_path("data/caugym/test_dev/base_dataset.json"))
    places = positions("base")
    inverted = {
        places[i] for i, p in enumerate(problems) if p.task == "ETT" and abs(p.prob) >= 0.001
    }
    for name in ("base", "rephrased", "omitted"):
        audit = audited(f"test_dev/{name}_dataset.json")
        found = {positions(name)[item] for item in kinds(audit)["inverted verdict"]}
        assert found == inverted - set(TURNED_ETT.get(name, ()))


def test_the_templated_samples_have_no_other_defects():
    found = {
        name: audited(f"test_dev/{name}_dataset.json")
        for name in ("base", "deconfounding", "redundant", "insufficient")
    }
    counts = {name: {k: len(v) for k, v in kinds(audit).items()} for name, audit in found.items()}
    assert counts == {
        "base": {"inverted verdict": 14, "dead zone": 1},
        "deconfounding": {"dead zone": 2, "rounding": 2, "degenerate cell": 1},
        "redundant": {"dead zone": 1, "rounding": 2},
        "insufficient": {},
    }
    assert all(audit["unread"] == 0 for audit in found.values())
    assert found["base"]["prob"]["all"] == found["insufficient"]["prob"]["all"] == 1
    for name in ("rephrased", "omitted"):  # by position: all are read, and all numbers are right
        audit = audited(f"test_dev/{name}_dataset.json")
        assert audit["unread"] == 0 and audit["prob"]["all"] == 1
    for name in ("deconfounding", "redundant"):
        assert found[name]["prob"]["all"] >= 0.98 and found[name]["verdict"]["all"] == 1


def test_known_defects_of_the_training_set():
    found = audited("train/online_RL.parquet")
    assert round(found["prob"]["all"] * 3500) == 3446
    assert {kind: len(items) for kind, items in kinds(found).items()} == {
        "rounding": 54,
        "degenerate cell": 26,
        "dead zone": 31,
    }
    assert 2828 in kinds(found)["rounding"]  # label 0.8671, the printed numbers give 1
    assert found["verdict"]["all"] == 1
    assert found["shortcut"] == found["prob"]["all"]  # the graph is not tested at all
    assert round(found["constant"] * 3500) == 314


def test_the_cold_start_set_has_no_defects():
    found = audited("train/cold_start_sft.parquet")
    assert not found["defects"] and found["prob"]["all"] == found["verdict"]["all"] == 1


# Answers without reading ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "task, numbers, value",
    [
        ("ATE", "", "0"),
        ("ATE", "0.5000 0.2000", "0.3"),
        ("ATE", "0.5000 0.2000 0.9000", "0.3"),  # what it does not know at the end, it drops
        ("CDE", "0.5000 0.2000 0.4000 0.8000 0.6000 0.6000", "0.24"),
        ("ETT", "0.5000 0.2000 0.4000 0.8000 0.6000", "-0.06"),
        ("NDE", "0.5000 0.2000 0.4000 0.8000 0.6000", "0.24"),
        ("NIE", "0.5000 0.2000 0.4000 0.8000", "0.06"),
        ("PN", "0.5000 0.2000 0.4000 upper", "0.75"),
        ("PS", "0.5000 0.2000 0.4000 upper", "0.5"),
        ("PN", "0.5000 0.2000 0.4000 lower", "0"),
        ("PN", "0.1000 0.2000 0.4000 lower", "0.25"),
        ("NIE", "0.5000", None),
    ],
)
def test_the_shortcut_by_hand(task, numbers, value):
    *numbers, bound = numbers.split() if task in BOUND_TASKS else (*numbers.split(), None)
    given = tuple((Term(((2, 1),)), number) for number in numbers)
    query = Query(task, 0, 1, 1, 1, bound=bound)
    story = dataclasses.replace(TRIANGLE, given=given, query=query)
    assert shortcut(story) == (None if value is None else Decimal(value))


def test_score():
    yes = Problem(text="", answer='{"ANSWER": "Yes", "PROB": "0.2"}', task="ATE")
    lacking = Problem(text="", answer=LACK, task="ATE")
    assert labelled(yes) == Decimal("0.2")
    assert score(yes, Decimal("0.2004")) and not score(yes, Decimal("0.2005"))
    assert score(lacking, None) and not score(lacking, Decimal(0)) and not score(yes, None)


def test_nothing_to_summarize():
    found = summary([])
    assert found["n"] == 0 and found["prob"] == {"all": None, "by_task": {}}
