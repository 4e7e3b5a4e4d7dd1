"""From text to structure: round trips, the released slips, and texts that are not problems."""

import dataclasses
import random
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from caugym_jax.causal.engine.generating import GENERATED_VARIANTS, generate_problems
from caugym_jax.causal.text.reading import BadProblem, Unread, read
from caugym_jax.causal.text.wording import HEADER, problem_text
from caugym_jax.data.files import read_problems
from caugym_jax.errors import UserError
from caugym_jax.types import TASKS, Query, Story, Term
from tests.causal import official
from tests.shared import shared_path

Y1 = ((1, 1),)
RAIN = Story(
    names=("rain", "traffic"),
    states=(("low", "high"), ("light", "heavy")),
    edges=((0, 1),),
    given=((Term(Y1, ((0, 0),)), "0.2500"), (Term(Y1, ((0, 1),)), "0.7500")),
    query=Query("ETT", 0, 1, x_value=1, y_value=1),
)
TEXT = problem_text(RAIN)


@pytest.mark.parametrize("codes", [False, True])
@pytest.mark.parametrize("instruction", [False, True])
def test_what_is_written_is_read(codes, instruction):
    rain = dataclasses.replace(RAIN, codes=codes)
    assert read(problem_text(rain, instruction=instruction)) == rain


@pytest.mark.parametrize("variant", GENERATED_VARIANTS)
@pytest.mark.parametrize("codes", [False, True])
def test_generated_problems_are_read_back(variant, codes):
    options = {"variant": variant, "codes": codes, "nodes": (8, 8)}
    for problem in generate_problems(TASKS, 28, 5, **options):
        story, made = read(problem.text), problem.story
        query, asked = story.query, made.query
        assert query.task == problem.task
        assert story.names[query.x] == made.names[asked.x]
        assert story.names[query.y] == made.names[asked.y]
        edges = {(made.names[a], made.names[b]) for a, b in made.edges}
        assert {(story.names[a], story.names[b]) for a, b in story.edges} == edges
        assert [p for _, p in story.given] == [p for _, p in made.given]
        assert story.codes == (codes and variant != "rephrased" and bool(made.given))
        if codes and made.given:
            assert story.states[query.x][query.x_value] == made.states[asked.x][asked.x_value]
            assert story.states[query.y][query.y_value] == made.states[asked.y][asked.y_value]


@pytest.mark.parametrize("name", ["base", "deconfounding", "redundant", "insufficient"])
def test_released_texts_are_rebuilt_from_what_was_read(name):
    for item in official.items(name):
        story = dataclasses.replace(read(item["problem"]), codes=name != "base")
        text = problem_text(story, stop=name != "insufficient")
        assert text.casefold() == item["problem"].casefold()


def test_every_released_training_text_is_read():
    for name, least in (("online_RL", 3500), ("cold_start_sft", 75)):
        problems = read_problems(shared_path(f"data/caugym/train/{name}.parquet"))
        assert len(problems) == least
        assert all(p.story.query.task == p.task for p in problems)


# Names and states that are easy to read wrongly ------------------------------------------------


def story(names, states, task="ATE") -> Story:
    held = {"mediators": (1,), "mediator_values": (0,)} if task == "CDE" else {}
    query = Query(task, 0, 2, 1, 1, bound="lower" if task in ("PN", "PS") else None, **held)
    given = (
        (Term(((2, 1),), ((0, 1), (1, 0))), "0.1000"),
        (Term(((2, 0),), ((0, 0), (1, 1))), "0.2000"),
        (Term(((1, 1), (0, 1))), "0.3000"),
    )
    return Story(names, states, ((0, 1), (1, 2)), given, query)


LOW_HIGH = ("low", "high")
HARD_NAMES = [
    (("rain", "rain and wind", "wind"), (LOW_HIGH,) * 3),
    (("supply and demand", "demand", "supply"), (LOW_HIGH,) * 3),
    (("well", "mental well being", "well being"), (LOW_HIGH,) * 3),
    (("the price", "price", "price on Monday"), (LOW_HIGH,) * 3),
    (("IQ level", "use on site", "A level"), (LOW_HIGH,) * 3),
    (("exercise", "sleep", "mood"), (("a lot", "a little"), ("on time", "late"), ("so, so", "ok"))),
    (("tea", "milk", "cup"), (("hot and strong", "cold, weak"), LOW_HIGH, ("not full", "full"))),
    (("age", "image", "manage"), (LOW_HIGH,) * 3),
]


@pytest.mark.parametrize("names, states", HARD_NAMES)
@pytest.mark.parametrize("task", TASKS)
def test_names_within_names_and_states_of_many_words(names, states, task):
    if task == "PN":
        states = tuple(pair[::-1] for pair in states)
    hard = story(names, states, task)
    if task == "PN":
        query = dataclasses.replace(hard.query, x_value=0, y_value=0)
        hard = dataclasses.replace(hard, query=query)
    hard = dataclasses.replace(hard, codes=True)
    assert read(problem_text(hard)) == hard
    assert read(problem_text(hard, instruction=False)) == hard


def test_examples_in_brackets_and_a_sentence_cut_in_them():
    text = problem_text(RAIN).replace("rain", "rain (e.g. hail, snow)")
    text = text.replace("Rain", "Rain (e.g. hail and snow)", 1)
    cut = text.replace("0.2500. ", "0.2500. snow) being low is 0.1000. ")
    assert read(text) == RAIN
    set_aside = ("snow) being low is 0.1000",)
    assert read(cut) == dataclasses.replace(RAIN, set_aside=set_aside)


@settings(max_examples=50, deadline=None)
@given(
    st.integers(0, 10**6), st.sampled_from(TASKS), st.sampled_from(["redundant", "deconfounding"])
)
def test_sentences_in_any_order(seed, task, variant):
    """Edges and probabilities mixed at will: the same graph, the same set of numbers."""
    (problem,) = generate_problems((task,), 1, seed, variant=variant)
    told, numbers, *rest = problem.text.split("\n")
    parts = told.removeprefix(HEADER).strip(".").split(".")
    parts += re.split(r"\. (?=[FT])", numbers.strip(" ."))
    random.Random(seed).shuffle(parts)
    mixed = read("\n".join([HEADER + " " + ". ".join(parts) + ". ", *rest]))
    story = read(problem.text)
    names = [mixed.names.index(name) for name in story.names]
    assert {(names[a], names[b]) for a, b in story.edges} == set(mixed.edges)
    assert sorted(p for _, p in mixed.given) == sorted(p for _, p in story.given)


def test_small_first_letters_and_spaces():
    assert read(TEXT.replace("Rain has", "rain  has").replace("rain being", "Rain being"))
    assert read("\n " + TEXT + "  Let's think step by step.") == RAIN


# Texts that are not problems --------------------------------------------------------------------


EFFECT, HAS = "effect on traffic.", " has a direct effect on "


@pytest.mark.parametrize(
    "old, new, why",
    [
        (EFFECT, f"{EFFECT} Traffic{HAS}rain.", "cycle"),
        ("0.2500", "1.2500", "not between 0 and 1"),
        ("0.2500", "-0.2500", "not between 0 and 1"),
        ("would the traffic", "would the trafic", "did it mean 'traffic'"),
        (
            "effect on traffic.",
            "effect on traffic. Rain-fall has a direct effect on rain fall.",
            "two spell",
        ),
        (
            EFFECT,
            f"{EFFECT} Snow{HAS}ice. Ice{HAS}fog. Fog{HAS}snow.",
            "-> ice -> fog -> snow|-> fog -> snow -> ice|-> snow -> ice -> fog",
        ),
        (EFFECT, f"{EFFECT} Morning light{HAS}snow. Morning lights{HAS}ice.", "look like one"),
        ("0.2500", "NaN", "no number: .*NaN"),
        ("0.7500", "1e-3", "no number: .*1e-3"),
        ("(ETT)", "(XYZ)", "none of the seven tasks"),
        ("Question:", "Ask:", "Question:"),
        ("ETT) of rain on traffic", "ATE) of rain on traffic", "Instruction is about ATE"),
        ("ETT) of rain on traffic", "ETT) of traffic on rain", "different variables"),
        ("rain had been high", "rain had been low", "with itself"),
        ("rain had been high", "rain had been medium", "more than two states"),
        (" has a direct effect on ", " likes ", "direct effect"),
        ("would the traffic have been more likely", "is the traffic", "none of the seven"),
    ],
)
def test_broken_texts_say_what_is_wrong(old, new, why):
    assert old in TEXT
    with pytest.raises(BadProblem, match=why):
        read(TEXT.replace(old, new))


def test_codes_that_contradict_each_other():
    text = problem_text(dataclasses.replace(RAIN, codes=True))
    for old, new in (("low (A=0)", "low (A=1)"), ("high (A=1)", "high (B=1)")):
        with pytest.raises(BadProblem, match="code"):
            read(text.replace(old, new))


def test_other_texts_are_not_read():
    for text in ("", "What is love?", "x" * 200_000):
        with pytest.raises(Unread):
            read(text)


PIECES = [
    *("Rain", "rain", HAS, "traffic", ".", ". ", " being ", "low", " (A=0)", "\n", "\x00", "1e9"),
    *("For those with ", ", the probability of ", "The probability of ", " is 0.5", " is ", ", "),
    *("\nQuestion: ", "If ", " is changed to be ", ", will ", " be more likely to be ", "?"),
    *("(e.g. ", ")", "\nInstruction: Consider the x (ATE) of rain on traffic.", " and "),
]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=40).map("".join))
def test_any_text_is_read_or_refused(text):
    try:
        read(HEADER + text)
    except UserError as error:
        assert "\n" not in str(error)
