"""Questions as YAML: they mean what they say, and a wrong one is one clear line."""

import dataclasses

import pytest

from caugym_jax.causal.engine.generating import generate_problems
from caugym_jax.causal.engine.solving import solve
from caugym_jax.data.questions import question_story, question_text
from caugym_jax.errors import UserError
from caugym_jax.types import TASKS

GOOD = """
variables: {age: [young, old], drug: [no, yes], recovery: [no, yes]}
edges: [age -> drug, age -> recovery, drug -> recovery]
given:
  - P(recovery=yes | drug=yes, age=old) = 0.5
  - P(recovery=yes | drug=no, age=old) = 0.3
  - P(recovery=yes | drug=yes, age=young) = 0.9
  - P(recovery=yes | drug=no, age=young) = 0.8
  - P(age=old) = 0.25
question: {task: ATE, x: drug=yes, y: recovery=yes}
"""
EDGES = "edges: [age -> drug, age -> recovery, drug -> recovery]"


def test_by_hand():
    # .75 (.9 - .8) + .25 (.5 - .3) = .125
    solved = solve(question_story(GOOD))
    assert (str(solved.value.normalize()), solved.verdict) == ("0.125", "Yes")


@pytest.mark.parametrize(
    "graph",
    [
        "graph: digraph { age -> drug; age -> recovery; drug -> recovery }",
        'graph: \'dag { "age" [pos="0,1"] drug [exposure] age -> drug -> recovery <- age }\'',
        "edges: [recovery <- drug <- age, age → recovery]",
        "graph: dag { age -> {drug recovery} drug -> recovery }",
        'graph: \'dag { {"age", "drug"} -> recovery; drug <- age }\'',
        "graph: |\n  digraph g {\n    age -> {XX}\n    age -> drug\n    age -> recovery\n"
        "    drug -> recovery\n  }",
    ],
)
def test_ways_to_write_a_graph(graph):
    if "{XX}" in graph:
        graph = graph.replace("    age -> {XX}\n", "    // a comment -> here\n")
    story = question_story(GOOD.replace(EDGES, graph))
    named = {(story.names[a], story.names[b]) for a, b in story.edges}
    assert named == {("age", "drug"), ("age", "recovery"), ("drug", "recovery")}
    assert solve(story).verdict == "Yes"


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("drug -> recovery]", "drug -> recovery, recovery -> age]", "cycle"),
        ("= 0.25", "= 1.25", "between 0 and 1"),
        ("= 0.25", "= a lot", "cannot read"),
        ("= 0.25", "= ,5", "not a number"),
        ("age=old) = 0.25", "age=older) = 0.25", "no state 'older'"),
        ("age=old) = 0.25", "ages=old) = 0.25", "did you mean 'age'"),
        ("[young, old]", "[young, middle, old]", "binary"),
        ("[young, old]", "[old, old]", "two different states"),
        ("  - P(age=old) = 0.25", "  - P(age=old) = 0.25\n  - P(age=young) = 0.5", "two values"),
        ("age -> drug,", "age <-> drug,", "directed edges only"),
        ("age -> drug,", "age drug,", "is no edge"),
        ("age -> drug,", "drug -> drug,", "cannot cause itself"),
        ("task: ATE", "task: ATT", "no task 'ATT'"),
        ("task: ATE", "task: PN", "bound"),
        ("task: ATE", "task: CDE", "held"),
        ("y: recovery=yes", "y: recovery", "must name a state"),
        ("y: recovery=yes", "y: drug=no", "same variable"),
        ("y: recovery=yes", "y: recovery=yes, z: 1", "unknown key 'z'"),
        ("question:", "questions:", "did you mean 'question'"),
        (EDGES, EDGES + "\ngraph: dag {a -> b}", "once"),
        (EDGES, "graph: age causes drug", "DOT"),
        (EDGES, "graph: 'dag { age -> {drug {recovery}} }'", "graph: cannot read 'age -> "),
        (EDGES, "graph: dag { age -> drug -> }", "graph: cannot read '->"),
        ("drug=yes, age=old", "drug=yes, drug=no", "twice"),
        (GOOD, "a: [", "not YAML"),
        (GOOD, "just words", "nor YAML"),
        (GOOD, "", "nor YAML"),
    ],
)
def test_a_wrong_question_is_one_line(old, new, says):
    assert old in GOOD
    with pytest.raises(UserError, match=says) as error:
        solve(question_story(GOOD.replace(old, new)))
    assert "\n" not in str(error.value)


def test_too_many_variables():
    names = [f"v{i}" for i in range(17)]
    text = f"variables: [{', '.join(names)}]\nedges: [v0 -> v1]\n"
    text += "question: {task: ATE, x: v0=1, y: v1=1}"
    with pytest.raises(UserError, match="2 to 16"):
        question_story(text)


@pytest.mark.parametrize("variant", ["base", "deconfounding", "redundant", "insufficient", "hard"])
def test_generated_problems_survive_yaml(variant):
    for problem in generate_problems(TASKS, 42, 3, variant=variant):
        story = question_story(question_text(problem.story))
        read, own = solve(story), solve(problem.story)
        assert (read.value, read.verdict, read.interval) == (own.value, own.verdict, own.interval)
        same = ("names", "states", "edges", "given")
        assert all(getattr(story, f) == getattr(problem.story, f) for f in same)
        assert dataclasses.replace(story.query, mediators=()).held == ()
