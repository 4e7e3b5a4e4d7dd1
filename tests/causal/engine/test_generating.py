import collections
import json
import pickle
import re
from decimal import Decimal

import pytest

from caugym_jax.causal.engine import variants
from caugym_jax.causal.engine.estimands import ingredients
from caugym_jax.causal.engine.generating import (
    GENERATED_VARIANTS,
    generate_problem,
    generate_problems,
)
from caugym_jax.causal.engine.graph import graph_of
from caugym_jax.causal.engine.queries import adjusters
from caugym_jax.causal.engine.solving import solve
from caugym_jax.causal.text.names import DOMAINS, POOL, STATE_PAIRS, VARIABLE_NAMES
from caugym_jax.data.rows import structure
from caugym_jax.data.texts.solution import steps_of
from caugym_jax.errors import UserError
from caugym_jax.types import BOUND_TASKS, LACK, TASKS
from tests.causal import official


@pytest.mark.parametrize("variant", GENERATED_VARIANTS)
def test_problem_is_a_function_of_seed_and_index(variant):
    options = {"variant": variant, "nodes": (5, 6)}
    stream = list(generate_problems(TASKS, 20, 7, **options))
    assert stream[13:] == list(generate_problems(TASKS, 7, 7, start=13, **options))
    assert stream[5] == generate_problem(7, 5, TASKS, **options)
    other = list(generate_problems(TASKS, 20, 8, **options))
    assert not {p.text for p in stream} & {p.text for p in other}
    assert len({p.text for p in stream}) == 20
    assert pickle.loads(pickle.dumps(stream)) == stream
    json.dumps([structure(p.story) for p in stream])


def test_tasks_and_kinds_are_balanced():
    problems = list(generate_problems(["ATE", "ETT"], 600, 0))
    assert collections.Counter(p.task for p in problems) == {"ATE": 300, "ETT": 300}
    kinds = collections.Counter(p.story.name_kind for p in problems)
    assert all(150 < kinds[kind] < 250 for kind in ("real", "random", "fake"))
    zero = sum(p.story.query.zero for p in problems)
    assert 150 < zero < 250
    sizes = collections.Counter(
        len(p.story.query.adjusters) for p in problems if not p.story.query.zero
    )
    assert all(150 < sizes[k] < 250 for k in (0, 1))


def test_base_texts_read_back_as_their_structure():
    for problem in generate_problems(TASKS, 140, 1):
        made, query = problem.story, problem.story.query
        story = official.read({"problem": problem.text, "Type": problem.task})
        nodes = made.names
        edges = {(nodes[i], nodes[j]) for i, j in made.edges}
        assert {(story.names[i], story.names[j]) for i, j in story.edges} == edges
        assert story.names[story.query.x] == nodes[query.x]
        assert story.names[story.query.y] == nodes[query.y]
        assert [p for _, p in story.given] == [p for _, p in made.given]
        x_word = story.states[story.query.x][story.query.x_value]
        assert x_word == made.states[query.x][query.x_value]


def test_truth_is_the_formula_on_the_printed_numbers():
    """Recomputed here from the text alone: sentences of ATE and ETT come in a fixed order."""
    for problem in generate_problems(["ATE", "ETT"], 200, 2):
        p = [Decimal(n) for n in re.findall(r"is (\d\.\d{4})\. ", problem.text)]
        if not p:
            value = Decimal(0)
        elif len(p) == 2:
            value = p[0] - p[1]
        elif problem.task == "ATE":
            value = (p[0] - p[1]) * p[2] + (p[3] - p[4]) * p[5]
        else:
            value = p[0] - (p[1] * p[2] + p[3] * p[4])
        assert problem.prob == float(round(value, 4))
        assert abs(float(value) - problem.story.exact) < 0.0005
        positive = value < 0 if problem.task == "ETT" else value > 0
        assert problem.verdict == ("Yes" if positive else "No")
        if p:
            assert abs(value) >= Decimal("0.001")
            assert steps_of(problem)["Step 7"].endswith(f"the answer is {problem.verdict}.")


def test_zero_problems_have_no_directed_path_and_print_nothing():
    problems = list(generate_problems(["ATE", "ETT"], 60, 3, zero_fraction=1.0))
    for problem in problems:
        query = problem.story.query
        assert query.y not in graph_of(problem.story).descendants[query.x]
        assert "probability of" not in problem.text
        assert problem.answer == '{"ANSWER": "No", "PROB": "0"}'
    for problem in generate_problems(["ATE", "ETT"], 60, 3, zero_fraction=0.0):
        query = problem.story.query
        assert query.y in graph_of(problem.story).descendants[query.x]


@pytest.mark.parametrize("size", [0, 1, 2])
def test_adjusters_are_the_smallest_valid_set(size):
    options = {"adjusters": (size,), "zero_fraction": 0.0, "nodes": (4, 6)}
    for problem in generate_problems(TASKS, 70, 4, **options):
        query = problem.story.query
        assert query.adjusters in adjusters(
            graph_of(problem.story), query.task, query.x, query.y, 2
        )
        assert len(query.adjusters) == size


def test_omitted_drops_the_instruction():
    for base, omitted in zip(
        generate_problems(TASKS, 14, 5),
        generate_problems(TASKS, 14, 5, variant="omitted"),
        strict=True,
    ):
        assert omitted.text == re.sub(r"\nInstruction: .*\n", "\n\n", base.text)
        assert omitted.answer == base.answer


def test_rephrased_tells_the_problems_of_base_in_other_words():
    options = {"variant": "rephrased"}
    base = list(generate_problems(TASKS, 28, 5))
    train = list(generate_problems(TASKS, 28, 5, **options))
    test = list(generate_problems(TASKS, 28, 5, **options, wordings="test"))
    for plain, one, other in zip(base, train, test, strict=True):
        assert plain.story == one.story == other.story
        assert plain.answer == one.answer == other.answer
        assert len({plain.text, one.text, other.text}) == 3


def test_deconfounding_always_adjusts():
    for problem in generate_problems(TASKS, 35, 6, variant="deconfounding"):
        query = problem.story.query
        assert len(query.adjusters) == 1 or problem.task in BOUND_TASKS
        assert not query.zero
        assert len(problem.story.names) == 8
        assert re.search(r"being \w[\w -]* \([A-H]=[01]\)", problem.text)


def test_redundant_appends_two_idle_sentences():
    for problem in generate_problems(TASKS, 70, 7, variant="redundant", nodes=(5, 5)):
        given = problem.story.given
        assert problem.text.count(". For those") + problem.text.count(". The prob") == max(
            0, len(given) - 1
        )
        needed, idle = given[:-2], given[-2:]
        assert idle[0] != idle[1] and not any(g in needed for g in idle)
        if problem.story.query.zero:
            assert len(given) == 2 and problem.answer == '{"ANSWER": "No", "PROB": "0"}'


def test_insufficient_problems_lack():
    for problem in generate_problems(TASKS, 35, 8, variant="insufficient", nodes=(5, 6)):
        assert problem.answer == LACK and problem.lacks
        assert list(steps_of(problem).values())[-1].endswith("so the answer is LACK_CONDITION.")
        assert not problem.text.split("\nInstruction")[0].endswith(". ")


def test_words_keep_texts_readable():
    assert len(DOMAINS) >= 12
    assert all(len(domain) == 10 for domain in DOMAINS.values())
    assert len(POOL) == len(set(POOL)) and set(POOL) <= set(VARIABLE_NAMES)
    for word in [*VARIABLE_NAMES, *(state for pair in STATE_PAIRS for state in pair)]:
        assert re.fullmatch(r"[a-z]+([ -][a-z]+)*", word)
        assert not {"and", "being", "on"} & set(word.split()) or word == "on time"
    assert all(low != high for low, high in STATE_PAIRS)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"tasks": ["ATE", "EET"]}, "unknown task 'EET': did you mean 'ETT'?"),
        ({"variant": "redundent"}, "did you mean 'redundant'"),
        ({"variant": "hard", "nodes": (3, 5)}, "hard needs at least 5 nodes"),
        ({"variant": "hard", "adjusters": (0,)}, "adjusters and mediators of 1 or more"),
        ({"variant": "rephrased", "wordings": "tests"}, "did you mean 'test'"),
        ({"names": ["reel"]}, "did you mean 'real'"),
        ({"nodes": (5, 3)}, "low end first"),
        ({"nodes": (3, 40)}, "within 3..16"),
        ({"nodes": (3, 3), "adjusters": (2,)}, "reaches 4"),
        ({"adjusters": (3,)}, "sizes of adjustment sets"),
        ({"zero_fraction": 1.5}, "not between 0 and 1"),
        ({"tasks": []}, "at least one"),
    ],
)
def test_bad_options_are_named_at_once(options, message):
    with pytest.raises(UserError) as error:
        generate_problems(**{"tasks": ["ATE"], "n": 1, "seed": 0, **options})
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_rounding_the_inputs_never_decides_a_bound():
    """PN and PS with a tiny denominator are not asked: rounding would move their answer."""
    for problem in generate_problems(["PN", "PS"], 300, 9):
        assert abs(problem.prob - problem.story.exact) < 0.0005 + 0.00005


def variables(event) -> set[int]:
    return {v for v, _ in event}


def test_bounds_of_deconfounding_mostly_need_no_adjusters():
    problems = list(generate_problems(("PN", "PS", "ATE"), 120, 2, variant="deconfounding"))
    sizes = [len(p.story.query.adjusters) for p in problems if p.task != "ATE"]
    assert 0.5 < sizes.count(0) / len(sizes) < 0.85
    assert all(len(p.story.query.adjusters) == 1 for p in problems if p.task == "ATE")
    chosen = generate_problems(("PN",), 20, 2, variant="deconfounding", adjusters=(1,))
    assert all(len(p.story.query.adjusters) == 1 for p in chosen)


def test_idle_numbers_are_of_every_kind():
    kinds, about = set(), set()
    for problem in generate_problems(TASKS, 140, 2, variant="redundant"):
        query = problem.story.query
        for term, _ in problem.story.given[-variants.EXTRA_SENTENCES :]:
            kinds.add((len(term.target), len(term.given)))
            about |= {"target"} if {query.x, query.y} & variables(term.target) else set()
            about |= {"given"} if query.x in variables(term.given) else set()
    assert kinds == set(variants.KINDS)
    assert about == {"target", "given"}


@pytest.mark.parametrize("variant", ["base", "deconfounding", "insufficient"])
def test_idle_numbers_and_shuffled_sentences_change_no_answer(variant):
    options = {"variant": variant, "idle": 4, "sentences": "shuffled"}
    longer = shuffled = 0
    for problem in generate_problems(TASKS, 35, 4, **options):
        solved = solve(problem.story)
        assert solved.lacks == problem.lacks
        if not problem.lacks:
            assert abs(float(solved.value) - problem.prob) < 0.0005
        needed = ingredients(problem.story.query)
        given = [term for term, _ in problem.story.given]
        longer += len(given) > len(needed)
        shuffled += [term for term in given if term in needed] != [t for t in needed if t in given]
        assert problem.text.count(" is 0.") == len(given)
    assert longer > 10 or variant == "insufficient"
    assert shuffled > 5


def test_shared_names_begin_alike():
    for problem in generate_problems(("ATE",), 5, 1, names=("shared",)):
        assert len({name.split()[0] for name in problem.story.names}) == 1
