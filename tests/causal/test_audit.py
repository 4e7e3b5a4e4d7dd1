"""Defects are found where they were put, and the known ones of the released files."""

import json
from decimal import Decimal

import pytest

from caugym_jax.causal.audit import check, defects, label, score, shortcut, summary
from caugym_jax.causal.generating import generate_problems
from caugym_jax.data.files import read_problems
from caugym_jax.types import LACK, TASKS, Problem
from tests.shared import shared_path


def audited(name: str) -> dict:
    problems = read_problems(shared_path(f"data/caugym/{name}"))
    return summary([check(problem, i) for i, problem in enumerate(problems)])


def kinds(found: dict) -> dict[str, list[int]]:
    result: dict[str, list[int]] = {}
    for defect in found["defects"]:
        result.setdefault(defect["kind"], []).append(defect["item"])
    return result


def changed(problem: Problem, **fields) -> dict[str, list[int]]:
    texts = {"text": problem.text, "answer": problem.answer} | fields
    checked = check(Problem(task=problem.task, **texts))
    return {defect.kind: defect.why for defect in defects(checked)}


def relabeled(problem: Problem, **fields) -> str:
    return json.dumps(json.loads(problem.answer) | fields)


def test_generated_problems_have_no_defects():
    for variant in ("base", "redundant", "insufficient"):
        items = [
            check(p, i) for i, p in enumerate(generate_problems(TASKS, 42, 3, variant=variant))
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
    problem = Problem(text=text, answer='{"ANSWER": "Yes", "PROB": "0.5"}', task="ATE")
    assert changed(problem) == {"degenerate cell": "P(b high | a high) is 1.0000"}
    checked = check(Problem(text=text, answer=problem.answer, task="CDE"))
    assert checked.bad and "asks for ATE" in checked.unread


# Known of the released files (positions in the samples kept beside the checkout) ----------------


def test_known_defects_of_base():
    found = audited("test_dev/base_dataset.json")
    assert found["prob"]["all"] == 1 and found["unread"] == 0
    inverted = kinds(found).pop("inverted verdict")
    problems = read_problems(shared_path("data/caugym/test_dev/base_dataset.json"))
    ett = [i for i, p in enumerate(problems) if p.task == "ETT" and abs(p.prob) >= 0.001]
    assert inverted == ett  # all of them, and nothing else
    assert set(kinds(found)) == {"inverted verdict"}


def test_known_defects_of_the_other_sets():
    deconfounding = audited("test_dev/deconfounding_dataset.json")
    redundant = audited("test_dev/redundant_dataset.json")
    insufficient = audited("test_dev/insufficient_dataset.json")
    assert set(kinds(deconfounding)) == {"rounding", "degenerate cell"}
    assert set(kinds(redundant)) == {"rounding"}
    assert not insufficient["defects"] and insufficient["prob"]["all"] == 1
    assert min(deconfounding["prob"]["all"], redundant["prob"]["all"]) >= 0.98
    assert deconfounding["verdict"]["all"] == redundant["verdict"]["all"] == 1


def test_known_defects_of_the_training_set():
    found = audited("train/online_RL.parquet")
    assert round(found["prob"]["all"] * 3500) == 3446
    assert {kind: len(items) for kind, items in kinds(found).items()} == {
        "rounding": 54,
        "degenerate cell": 26,
    }
    assert found["verdict"]["all"] == 1
    assert found["shortcut"] == found["prob"]["all"]  # the graph is not tested at all
    assert round(found["constant"] * 3500) == 314


@pytest.mark.parametrize(
    "name, known, found",
    [
        ("rephrased", {37, 117, 123, 133, 137}, {117, 133}),
        ("omitted", {37, 106, 117, 123, 137}, {123}),
    ],
)
def test_known_turned_questions_of_the_rewrites(name, known, found):
    """Of the items known to ask "less likely" with the label kept, those that can be read."""
    audit = audited(f"test_dev/{name}_dataset.json")
    turned = set(kinds(audit)["flipped polarity"])
    assert found <= turned <= known
    ett = kinds(audit)["inverted verdict"]
    assert len(ett) >= 9 and all(item < 20 for item in ett)  # the ETT items come first


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
        ("PN", "0.5000 0.2000 0.4000 Question: upper", "0.75"),
        ("PS", "0.5000 0.2000 0.4000 Question: upper", "0.5"),
        ("PN", "0.5000 0.2000 0.4000 Question: lower", "0"),
        ("PN", "0.1000 0.2000 0.4000 Question: lower", "0.25"),
        ("NIE", "0.5000", None),
    ],
)
def test_the_shortcut_by_hand(task, numbers, value):
    assert shortcut(numbers, task) == (None if value is None else Decimal(value))


def test_score():
    yes = Problem(text="", answer='{"ANSWER": "Yes", "PROB": "0.2"}', task="ATE")
    lacking = Problem(text="", answer=LACK, task="ATE")
    assert label(yes) == Decimal("0.2")
    assert score(yes, Decimal("0.2004")) and not score(yes, Decimal("0.2005"))
    assert score(lacking, None) and not score(lacking, Decimal(0)) and not score(yes, None)


def test_nothing_to_summarize():
    found = summary([])
    assert found["n"] == 0 and found["prob"] == {"all": None, "by_task": {}}
