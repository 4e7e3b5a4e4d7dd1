"""Every wrong solution is wrong, in the way that its kind says, and consistent but for that."""

import json
import random
import re
from collections import defaultdict

import pytest

from caugym_jax.causal.engine.estimands import ingredients
from caugym_jax.causal.engine.generating import (
    GENERATED_VARIANTS,
    generate_problem,
    generate_problems,
)
from caugym_jax.data.files import read_problems
from caugym_jax.data.rows import make_row, write_rows
from caugym_jax.data.texts.mistakes import KINDS, mistaken
from caugym_jax.data.texts.solution import steps_of
from caugym_jax.errors import UserError
from caugym_jax.evals.scorers import strict
from caugym_jax.types import BOUND_TASKS, TASKS, Problem, Query, Story

DIFFERENCES = [task for task in TASKS if task not in BOUND_TASKS]
SETS = [  # variant, options
    *((variant, {}) for variant in GENERATED_VARIANTS),
    ("base", {"adjusters": (2,), "max_mediators": 2, "nodes": (6, 8), "zero_fraction": 0.0}),
    ("insufficient", {"adjusters": (1, 2), "max_mediators": 2}),
]
APPLIES = {  # the tasks in which a kind must occur
    "sign_flip": TASKS,
    "wrong_formula": ("ATE", "ETT", "NDE", "PN", "PS"),
    "ignored_confounder": TASKS,
    "ignored_mediator": ("NDE", "NIE"),
    "missing_step": TASKS,
    "arithmetic_slip": TASKS,
    "misread_number": TASKS,
    "wrong_verdict": DIFFERENCES,
    "false_zero": DIFFERENCES,
    "false_path": DIFFERENCES,
    "invented_number": TASKS,
    "false_lack": TASKS,
}


def said(reason, answer):
    return "\n".join([*(f"{name}: {step}" for name, step in reason.items()), answer])


@pytest.fixture(scope="module")
def samples():
    """kind -> [(problem, mistake)]: every kind that applies to each of many problems."""
    made = defaultdict(list)
    for variant, options in SETS:
        problems = generate_problems(TASKS, 49, 11, variant=variant, **options)
        for i, problem in enumerate(problems):
            for kind in KINDS:
                try:
                    mistake = mistaken(problem, random.Random(f"{variant} {i}"), [kind])
                except UserError:
                    continue
                assert mistake.kind == kind
                made[kind].append((problem, mistake))
    return made


def test_the_strict_scorer_calls_right_what_is_right_and_wrong_what_is_wrong(samples):
    for pairs in samples.values():
        for problem, mistake in pairs:
            assert strict(said(steps_of(problem), problem.answer), problem)
            assert not strict(said(mistake.reason, mistake.answer), problem), mistake


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_occurs_in_every_task_it_applies_to(samples, kind):
    assert {problem.task for problem, _ in samples[kind]} == set(APPLIES[kind])


def prob(answer):
    return float(json.loads(answer)["PROB"])


def verdict(answer):
    return json.loads(answer).get("ANSWER")


def evaluated(expression):
    return eval(expression.replace("[", "(").replace("]", ")").replace("{", "(").replace("}", ")"))


def arithmetic(mistake):
    """(the numbers put together, the result) of a difference's sixth step."""
    expression, _, result = mistake.reason["Step 6"].partition("=")[2].rpartition("=")
    return (evaluated(expression), float(result)) if expression else (float(result),) * 2


def test_wrong_differences_follow_from_the_numbers_they_show(samples):
    checked = 0
    for kind, pairs in samples.items():
        for problem, mistake in pairs:
            if len(mistake.reason) != 7 or kind == "arithmetic_slip":
                continue
            value, result = arithmetic(mistake)
            assert value == pytest.approx(result, abs=5.1e-5), (kind, mistake)
            assert prob(mistake.answer) == pytest.approx(result, abs=1e-9)
            shown = dict(v.rsplit("=", 1) for v in mistake.reason["Step 5"].split("\t"))
            formula = mistake.reason["Step 4"]
            assert all(symbol in formula for symbol in shown)
            if kind not in ("wrong_verdict", "wrong_formula"):
                yes = result < 0 if problem.task == "ETT" else result > 0
                assert verdict(mistake.answer) == ("Yes" if yes else "No"), (kind, mistake)
            checked += 1
    assert checked > 500


def test_wrong_bounds_follow_from_the_numbers_they_show(samples):
    checked = 0
    for kind, pairs in samples.items():
        for problem, mistake in pairs:
            if problem.task not in BOUND_TASKS or kind in ("arithmetic_slip", "false_lack"):
                continue
            _, *lines = mistake.reason["Step 2"].split("\n=")
            clip = {"min{1, ": "min(1, ", "max{0, ": "max(0, "}
            for old, new in clip.items():
                lines = [line.replace(old, new).replace("}", ")") for line in lines]
            values = [evaluated(line) for line in lines]
            number = prob(mistake.answer)
            assert values[-1] == pytest.approx(number, abs=5.1e-5)
            slack = 6e-5 + 2e-4 * (1 + abs(number)) / 0.01  # operands are printed rounded
            assert values[0] == pytest.approx(number, abs=slack)
            checked += 1
    assert checked > 200


def of(samples, kind, *tasks):
    found = [(p, m) for p, m in samples[kind] if not tasks or p.task in tasks]
    assert found
    return found


def test_sign_flip(samples):
    for problem, mistake in of(samples, "sign_flip", *DIFFERENCES):
        # by the other outcome it may differ by the rounding of weights, which need not sum to 1
        assert prob(mistake.answer) == pytest.approx(-problem.prob, abs=2.1e-4)
    for problem, mistake in of(samples, "sign_flip", *BOUND_TASKS):
        bracket = re.compile(r"\[([^-]+)-([^-]+)\]/")
        right = bracket.search(steps_of(problem)["Step 2"]).groups()
        assert bracket.search(mistake.reason["Step 2"]).groups() == right[::-1]


def test_wrong_verdict(samples):
    for problem, mistake in of(samples, "wrong_verdict"):
        assert prob(mistake.answer) == problem.prob
        assert {verdict(mistake.answer), problem.verdict} == {"Yes", "No"}


def test_arithmetic_slip(samples):
    for problem, mistake in of(samples, "arithmetic_slip", *DIFFERENCES):
        value, result = arithmetic(mistake)
        assert value == pytest.approx(problem.prob, abs=5.1e-5)
        digits = zip(f"{abs(problem.prob):.4f}", f"{abs(result):.4f}", strict=True)
        assert sum(a != b for a, b in digits) == 1
    for problem, mistake in of(samples, "arithmetic_slip", *BOUND_TASKS):
        right, wrong = steps_of(problem)["Step 2"].split("\n"), mistake.reason["Step 2"].split("\n")
        assert right[:2] == wrong[:2] and right[2] != wrong[2]


def values_of(reason):
    found = re.findall(r"(P\([^()=]+=[^()]*\))=(\d\.\d{4})", "\n".join(reason.values()))
    return dict(found)


def test_misread_number(samples):
    for problem, mistake in of(samples, "misread_number", *DIFFERENCES):
        right, wrong = values_of(steps_of(problem)), values_of(mistake.reason)
        assert right.keys() == wrong.keys()
        off = [(right[s], wrong[s]) for s in right if right[s] != wrong[s]]
        assert 1 <= len(off) <= 2  # a misread number may also give its complement
        assert any(sum(a != b for a, b in zip(*pair, strict=True)) == 1 for pair in off)


def test_false_zero_and_false_path(samples):
    for problem, mistake in of(samples, "false_zero"):
        assert not problem.story.query.zero and mistake.answer == '{"ANSWER": "No", "PROB": "0"}'
        assert re.search("does not exist|no directed path", mistake.reason["Step 1"])
    for problem, mistake in of(samples, "false_path"):
        assert problem.story.query.zero and prob(mistake.answer) != 0
        path = re.search(r"([A-Z](?:->[A-Z])+)", mistake.reason["Step 1"])[1].split("->")
        edges = {(chr(65 + a), chr(65 + b)) for a, b in problem.story.edges}
        assert not set(zip(path, path[1:], strict=False)) <= edges
        if problem.task == "NIE":
            assert len(path) == 3


def test_lack(samples):
    for problem, mistake in of(samples, "false_lack"):
        assert not problem.lacks and mistake.answer == "LACK_CONDITION"
        assert "Not given: P(" in list(mistake.reason.values())[-1]
    for problem, mistake in of(samples, "invented_number", *DIFFERENCES):
        assert problem.lacks
        printed = {number for _, number in problem.story.given}
        printed |= {f"{1 - float(p):.4f}" for p in printed}
        assert set(values_of(mistake.reason).values()) - printed


def test_ignored_confounder(samples):
    for problem, mistake in of(samples, "ignored_confounder", *DIFFERENCES):
        assert problem.story.query.adjusters and "set: {" in steps_of(problem)["Step 3"]
        assert "adjustment set: empty set" in mistake.reason["Step 3"]
        letters = {chr(65 + v) for v in problem.story.query.adjusters}
        assert not letters & set(re.findall(r"([A-Z])=\d", mistake.reason["Step 4"]))
    for _, mistake in of(samples, "ignored_confounder", *BOUND_TASKS):
        assert "sum_" not in mistake.reason["Step 1"]


def test_ignored_mediator(samples):
    for problem, mistake in of(samples, "ignored_mediator", "NDE"):
        assert problem.story.query.mediators
        assert "mediator set: empty set" in mistake.reason["Step 2"]
    for problem, mistake in of(samples, "ignored_mediator", "NIE"):
        mediator, x = chr(65 + problem.story.query.mediators[0]), chr(65 + problem.story.query.x)
        moved = re.search(r"do\(([A-Z])=1,([A-Z])=(\d)\)", mistake.reason["Step 4"]).groups()
        assert moved == (mediator, x, str(1 - problem.story.query.x_value))


def test_missing_step(samples):
    for problem, mistake in of(samples, "missing_step", *DIFFERENCES):
        assert mistake.reason["Step 4"].count("P(") < steps_of(problem)["Step 4"].count("P(")
        assert list(mistake.reason.values())[:3] == list(steps_of(problem).values())[:3]
    kept = set()
    for _, mistake in of(samples, "missing_step", *BOUND_TASKS):
        step = mistake.reason["Step 2"]
        kept.add(("/" in step, "min{" in step or "max{" in step))
    assert kept == {(True, False), (False, True)}


def test_wrong_formula(samples):
    for _, mistake in of(samples, "wrong_formula", *BOUND_TASKS):
        assert mistake.reason["Step 1"].endswith(f"={prob(mistake.answer):.4f}")
    for problem, mistake in of(samples, "wrong_formula", *DIFFERENCES):
        if not problem.lacks:
            assert abs(prob(mistake.answer) - problem.prob) >= 0.0005
        others = "|".join(task for task in DIFFERENCES if task != problem.task)
        assert mistake.reason["Step 4"].startswith(f"{problem.task}=")
        assert not re.search(rf"\b({others})=", mistake.reason["Step 4"])


def test_an_adjusted_direct_effect_by_hand():
    """P(y|x,z): .8 and .5 at z=0, .6 and .1 at z=1; P(z=1) = .25. ATE = .3*.75 + .5*.25 = .35.

    One stratum alone: .3 or .5. Without the weights: .8. The other way round: -.35.
    """
    numbers = ("0.8000", "0.5000", "0.7500", "0.6000", "0.1000", "0.2500")
    query = Query("ATE", 1, 2, 1, 1, adjusters=(0,))
    story = Story(
        ("z", "x", "y"),
        (("low", "high"),) * 3,
        ((0, 1), (0, 2), (1, 2)),
        tuple(zip(ingredients(query), numbers, strict=True)),
        query,
        exact=0.35,
    )
    problem = Problem("?", '{"ANSWER": "Yes", "PROB": "0.35"}', "ATE", story=story)

    def made(kind):
        return {mistaken(problem, random.Random(i), [kind]).answer for i in range(20)}

    assert made("ignored_confounder") == {
        '{"ANSWER": "Yes", "PROB": "0.3"}',
        '{"ANSWER": "Yes", "PROB": "0.5"}',
    }
    assert made("missing_step") == {'{"ANSWER": "Yes", "PROB": "0.8"}'}
    assert made("sign_flip") == {'{"ANSWER": "No", "PROB": "-0.35"}'}
    assert made("wrong_verdict") == {'{"ANSWER": "No", "PROB": "0.35"}'}


def test_a_problem_read_from_a_file_can_be_mistaken(tmp_path):
    problem = generate_problem(0, 3, TASKS)
    for suffix in (".jsonl", ".parquet"):
        path = tmp_path / f"base{suffix}"
        write_rows(path, [make_row("problems", problem, 3)])
        (again,) = read_problems(path)
        for seed in range(20):
            mistake = mistaken(again, random.Random(seed))
            assert not strict(said(mistake.reason, mistake.answer), again)


def test_the_same_seed_makes_the_same_mistake():
    problem = generate_problem(0, 3, TASKS)
    assert mistaken(problem, random.Random(1)) == mistaken(problem, random.Random(1))


def test_what_cannot_be_made_is_an_error():
    with pytest.raises(UserError, match="unread problem"):
        mistaken(Problem("A?", '{"PROB": "1"}', "PN"), random.Random(0))
    problem = generate_problem(0, 0, ["PN"])
    with pytest.raises(UserError, match="no mistake of the kinds wrong_verdict"):
        mistaken(problem, random.Random(0), ["wrong_verdict"])
