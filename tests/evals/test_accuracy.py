"""Aggregation: means, undefined figures, clusters, and the standard error by hand."""

import dataclasses
import math
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from caugym_jax.causal.engine.generating import generate_problem, generate_problems
from caugym_jax.causal.text.wording import HEADER
from caugym_jax.data.solutions.conditions import plan_for
from caugym_jax.data.solutions.writing import written
from caugym_jax.evals.accuracy import (
    Answered,
    clustered_stderr,
    graph_key,
    results,
    summarize,
    table,
)
from caugym_jax.types import Problem
from tests.problems import from_text, with_effect

QUESTION = "Question: If a is changed to be high, will b be more likely to be high?"
RIGHT = '{"ANSWER": "Yes", "PROB": "0.3847"}'
WRONG_VERDICT = '{"ANSWER": "No", "PROB": "0.3847"}'
ZERO = '{"ANSWER": "No", "PROB": "0"}'


def problem(answer=RIGHT, task="ATE", edges=((0, 2),), variant="base"):
    if answer == "LACK_CONDITION":
        return Problem("", answer, task, variant=variant)
    item = with_effect(answer, task, variant)
    return dataclasses.replace(item, story=dataclasses.replace(item.story, edges=edges))


def test_graph_key_is_the_set_of_edges():
    def key(edges):
        return graph_key(from_text(f"{HEADER}{edges}\n\n\n{QUESTION}\n", ZERO, "ATE"))

    one = key(" A has a direct effect on b. B has a direct effect on c.")
    assert one == key("B has a direct effect on c.A has a direct effect on b.")
    assert one == {("a", "b"), ("b", "c")}
    assert one != key("A has a direct effect on b.A has a direct effect on c.")


def test_an_unread_problem_is_a_cluster_of_its_own():
    assert graph_key(Problem("A shapes b.", ZERO, "ATE")) == "A shapes b."


def test_clustered_stderr_by_hand():
    assert clustered_stderr([1, 1, 0, 0], "aabb") == 0.5
    # residuals 1/4, 1/4, 1/4, -3/4; clusters a: 1/2, b: -1/2; sqrt(2 * 1/2) / 4
    assert clustered_stderr([1, 1, 1, 0], "aabb") == pytest.approx(0.25)
    assert clustered_stderr([1, 0, 1], "aaa") is None
    assert clustered_stderr([], "") is None


@given(st.lists(st.floats(0, 1), min_size=2, max_size=20))
def test_one_item_a_cluster_is_the_usual_standard_error(values):
    usual = statistics.stdev(values) / math.sqrt(len(values))
    assert clustered_stderr(values, range(len(values))) == pytest.approx(usual, abs=1e-12)


@given(st.lists(st.booleans(), min_size=2, max_size=20))
def test_repeating_every_item_in_its_cluster_adds_no_certainty(values):
    once = clustered_stderr(values, range(len(values)))
    twice = clustered_stderr(values * 2, [*range(len(values))] * 2)
    assert twice == pytest.approx(once, abs=1e-12)


def test_summarize_by_hand():
    entry = summarize(
        [
            # half right by both rules
            Answered(problem(), (RIGHT, "no idea"), (False, True), (10, 30)),
            # wrong verdict: published 1, strict 0, well-formed
            Answered(problem(task="NDE"), (WRONG_VERDICT,), (False,), (20,)),
            # structural zero on another graph, answered LACK_CONDITION: a false alarm
            Answered(problem(ZERO, edges=((2, 0),)), ("LACK_CONDITION",)),
            # no answer: wrong
            Answered(problem(), ()),
        ]
    )
    assert entry["n"] == 4
    assert entry["published"] == {"all": 1.5 / 4, "by_task": {"ATE": 0.5 / 3, "NDE": 1.0}}
    assert entry["strict"]["all"] == 0.5 / 4
    assert entry["strict"]["by_task"] == {"ATE": 0.5 / 3, "NDE": 0.0}
    assert entry["strict"]["nonzero"] == 0.5 / 3  # without the structural zero
    assert entry["strict"]["n_scored"] == 4
    # mean 1/8; cluster 1: 3/8 - 1/8 - 1/8 = 1/8, cluster 2: -1/8; sqrt(2 * 2/64) / 4 = 1/16
    assert entry["strict"]["stderr"] == pytest.approx(1 / 16)
    assert entry["lack"] is None
    assert entry["false_lack"] == 1 / 4
    assert entry["wellformed"] == (0.5 + 1 + 0 + 0) / 4
    assert entry["truncated"] == (0.5 + 0) / 2  # where it is known
    assert entry["mean_tokens"] == 20


def test_an_insufficient_set():
    lacking = problem("LACK_CONDITION", variant="insufficient")
    quoting = 'Told to output "LACK_CONDITION" or not. ' + ZERO
    entry = summarize([Answered(lacking, ("LACK_CONDITION", quoting, quoting, ZERO))])
    assert entry["published"]["all"] == 0.75
    assert entry["strict"]["all"] == entry["lack"] == 0.25
    assert entry["false_lack"] is entry["strict"]["nonzero"] is entry["strict"]["stderr"] is None


def test_mixed_items_by_their_own_labels():
    twin = problem(variant="insufficient")
    lacking = problem("LACK_CONDITION", variant="insufficient")
    always = [Answered(item, ("LACK_CONDITION",)) for item in (twin, lacking)]
    entry = summarize(always)
    assert (entry["lack"], entry["false_lack"], entry["strict"]["all"]) == (1.0, 1.0, 0.5)


def test_table_and_results_of_an_empty_set():
    entry = summarize([])
    assert entry["n"] == 0 and entry["strict"]["all"] is None
    content = results("m", {"samples": 5}, {"base": entry})
    assert content["settings"]["samples"] == 5 and content["settings"]["seed"] is None
    assert "base" in table(content["sets"])


def test_failures_are_told_by_kind():
    problem = next(iter(generate_problems(("ATE",), 1, 3, zero_fraction=0.0)))
    plan = plan_for(problem)
    right = "".join(written(plan.formula, plan.items, plan.x, plan.y))
    wrong = right.replace(f"X={plan.x}", f"X={1 - plan.x}", 1).replace('"PROB": "', '"PROB": "9')
    entry = summarize([Answered(problem, (right, wrong)), Answered(problem, ("no", "idea"))])
    assert entry["failures"]["task"] == 0.5
    assert sum(entry["failures"].values()) == 0.5
    assert "failures" in table({"set": entry})
    assert summarize([Answered(problem, ("no",))])["failures"] is None


def test_an_answer_cut_off_inside_a_thought_that_the_prompt_opened_is_none():
    problem = generate_problem(0, 0, ("ATE",))
    cut, whole = f"first guess {problem.answer}", f"hm</think>\n{problem.answer}"
    plain = summarize([Answered(problem, (cut, whole))])
    assert plain["strict"]["all"] == 1.0
    known = summarize([Answered(problem, (cut, whole), thinking=True)])
    assert known["strict"]["all"] == 0.5 and known["wellformed"] == 0.5
