"""The grammar of wordings: its halves share nothing, and what it writes is read back."""

import functools
import re
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from caugym_jax.causal.engine.generating import generate_problem
from caugym_jax.causal.engine.solving import solve
from caugym_jax.causal.text.reading import BadProblem, Unread, read
from caugym_jax.causal.text.rephrasing import is_rephrased, rephrased_text
from caugym_jax.causal.text.rephrasing.grammar import SLOT, matchers
from caugym_jax.causal.text.rephrasing.reading import _both
from caugym_jax.causal.text.rephrasing.writing import HALVES
from caugym_jax.causal.text.wording import HEADER
from caugym_jax.errors import UserError
from caugym_jax.types import TASKS, Query, Story, Term

TRAIN, TEST = HALVES["train"], HALVES["test"]
LEAST = {
    "headers": 4,
    "edges": 8,
    "conditionals": 10,
    "marginals": 6,
    "joints": 4,
    "instructions": 4,
    "formats": 4,
    "bound_formats": 4,
    **{f"questions {task}": 8 for task in TASKS},
}


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def plain(story: Story) -> tuple:
    """What a story says, whatever the numbering of its nodes and states."""
    names, states, query = story.names, story.states, story.query

    def told(event):
        return tuple((names[v], states[v][value]) for v, value in event)

    return (
        {(names[a], names[b]) for a, b in story.edges},
        [(told(term.target), told(term.given), p) for term, p in story.given],
        (query.task, query.bound, *told((*query.to, *query.outcome)), set(told(query.held))),
    )


def official(seed: int, task: str, **options) -> Story:
    """A generated problem's story, in its own names and states."""
    problem = generate_problem(seed, 0, (task,), codes=False, instruction=True, **options)
    return read(problem.text)


# Halves ---------------------------------------------------------------------------------------


def test_every_slot_has_many_templates_and_the_halves_share_none():
    for (slot, ours), (same, theirs) in zip(TRAIN.slots(), TEST.slots(), strict=True):
        assert slot == same
        assert min(len(ours), len(theirs)) >= LEAST.get(slot, 2)
        assert len(set(map(_bare, ours))) == len(ours)
        assert not set(map(_bare, ours)) & set(map(_bare, theirs))
    assert not _all_templates(TRAIN) & _all_templates(TEST)


def test_no_sentence_of_one_half_fits_a_template_of_the_other():
    """The bare slot aside, as in "{state} {name}" and "{name} = {state}", matching is exclusive."""
    for slot in ("edges", "fan_outs", "fan_ins", "chains", "conditionals", "marginals", "joints"):
        for half, other in ((TRAIN, TEST), (TEST, TRAIN)):
            for template in getattr(half, slot):
                sentence = SLOT.sub(_filler, template)
                assert matchers((template,))[0].match(sentence)
                assert not any(m.match(sentence) for m in matchers(getattr(other, slot)))


def _bare(template: str) -> str:
    """A template without what could hide that it is the same as another."""
    return re.sub(r"[^\w{}]+", " ", template.casefold()).strip()


def _all_templates(half) -> set[str]:
    return {template for _, templates in half.slots() for template in templates}


def _filler(slot: re.Match) -> str:
    name = slot[1]
    fillers = {"causes": "fog and ice", "effects": "sun and tea", "p": "0.1", "q": "0.2"}
    events = {"given": "\ue000 is low", "target": "\ue001 is high", "other": "\ue000 is high"}
    return fillers.get(name) or events.get(name.partition("_")[0], name)


def test_a_template_read_is_the_template_written():
    """The most specific template that fits a sentence is its own."""
    for slots in (("edges", "fan_outs", "fan_ins", "chains"), ("conditionals", "pairs")):
        everything = matchers(tuple(t for slot in slots for t in _both(slot)))
        for template in (m.template for m in everything):
            sentence = SLOT.sub(_filler, template)
            assert next(m for m in everything if m.match(sentence)).template == template


def test_two_lists_are_never_told_apart_by_a_comma_alone():
    for half in (TRAIN, TEST):
        for template in _all_templates(half):
            pieces = SLOT.split(template)
            events = [i for i, p in enumerate(pieces) if i % 2 and p.endswith(("_c", "_n"))]
            for left, right in zip(events, events[1:], strict=False):
                assert re.search(r"\w", "".join(pieces[left + 1 : right]))


# Round trips ----------------------------------------------------------------------------------


@settings(max_examples=250, deadline=None)
@given(
    st.integers(0, 10**6),
    st.sampled_from(TASKS),
    st.sampled_from(["train", "test"]),
    st.integers(3, 10),
    st.sampled_from(["real", "random", "fake"]),
    st.sampled_from(["base", "redundant", "insufficient"]),
)
def test_what_is_written_is_read_back(seed, task, half, n, kind, variant):
    options = {"variant": variant, "nodes": (n, n) if n > 4 else (3, 5), "names": (kind,)}
    story = official(seed, task, **options)
    text = rephrased_text(story, rng(seed), half)
    assert is_rephrased(text) and HEADER not in text
    again = read(text)
    assert plain(again) == plain(story)
    assert again.direction == 1 and not again.set_aside


@pytest.mark.parametrize("half", ["train", "test"])
@pytest.mark.parametrize("task", TASKS)
def test_the_answer_is_the_same(half, task):
    for seed in range(10):
        problem = generate_problem(seed, 0, (task,), codes=False, instruction=True)
        story = read(problem.text)
        ours = solve(read(rephrased_text(story, rng(seed), half)))
        theirs = solve(story)
        assert (ours.value, ours.verdict) == (theirs.value, theirs.verdict)


def test_percentages_are_read_as_they_were():
    story = official(0, "ATE", zero_fraction=0.0)
    texts = [rephrased_text(story, rng(seed)) for seed in range(20)]
    assert any("%" in text for text in texts) and not all("%" in text for text in texts)
    assert all(plain(read(text)) == plain(story) for text in texts)


LOW_HIGH = ("low", "high")
HARD_NAMES = [
    (("with", "that", "when"), (LOW_HIGH,) * 3),
    (("rain", "rain and wind", "wind"), (LOW_HIGH,) * 3),
    (("supply and demand", "demand", "supply"), (LOW_HIGH,) * 3),
    (("the price", "price", "price on Monday"), (LOW_HIGH,) * 3),
    (("IQ level", "Monday mood", "A level"), (LOW_HIGH,) * 3),
    (("age", "image", "manage"), (LOW_HIGH,) * 3),
    (("tea", "U.S. exports", "wind (e.g. gusts, storms)"), (LOW_HIGH,) * 3),
    (("exercise", "sleep", "mood"), (("a lot", "a little"), ("on time", "late"), ("so, so", "ok"))),
    (("tea", "milk", "cup"), (("hot and strong", "cold, weak"), LOW_HIGH, ("not full", "full"))),
]


@pytest.mark.parametrize("names, states", HARD_NAMES)
@pytest.mark.parametrize("half", ["train", "test"])
@pytest.mark.parametrize("task", TASKS)
def test_names_like_words_and_states_of_many_words(names, states, task, half):
    held = {"mediators": (1,), "mediator_values": (0,)} if task == "CDE" else {}
    query = Query(task, 0, 2, 1, 1, bound="lower" if task in ("PN", "PS") else None, **held)
    numbers = (
        (Term(((2, 1),), ((0, 1), (1, 0))), "0.1000"),
        (Term(((2, 1),), ((0, 0), (1, 1))), "0.2000"),
        (Term(((1, 1), (0, 1))), "0.3000"),
        (Term(((1, 0),)), "0.0400"),
    )
    story = Story(names, states, ((0, 1), (1, 2), (0, 2)), numbers, query)
    for seed in range(15):
        assert plain(read(rephrased_text(story, rng(seed), half))) == plain(story)


def test_bad_arguments():
    story = official(0, "ATE")
    with pytest.raises(UserError, match="half"):
        rephrased_text(story, rng(), "dev")
    quote = Story(('a "b" c', "d"), (LOW_HIGH,) * 2, ((0, 1),), (), Query("ATE", 0, 1, 1, 1))
    with pytest.raises(UserError, match="quotation mark"):
        rephrased_text(quote, rng())


# Texts that are not problems ------------------------------------------------------------------

WORLD = (
    "Take the following description of cause and effect to be complete. Rain directly shapes fog. "
    "{more}\nThe likelihood of fog being low is {p}. If rain is low, the chance that fog is low is "
    "0.3000.\nWould setting rain to {to} make it more likely that {y} is low?\n"
    "Answer in JSON, as in ..."
)
FINE = {"more": "Fog is a direct cause of ice.", "p": "0.5000", "to": "high", "y": "fog"}


def test_a_text_by_hand():
    story = read(WORLD.format(**FINE))
    assert story.names == ("rain", "fog", "ice") and story.edges == ((0, 1), (1, 2))
    assert story.query == Query("ATE", 0, 1, 1, 0)
    assert story.given == (
        (Term(((1, 0),)), "0.5000"),
        (Term(((1, 0),), ((0, 0),)), "0.3000"),
    )


@pytest.mark.parametrize(
    "slot, filler, kind, why",
    [
        ("more", "Fog directly shapes rain.", BadProblem, "cycle"),
        ("p", "1.5000", BadProblem, "between 0 and 1"),
        ("p", "-20%", BadProblem, "between 0 and 1"),
        ("p", "0.9. Overall, fog being high has a probability of 0.5", BadProblem, "two values"),
        ("y", "rain", BadProblem, "on itself"),
        ("y", "snow", Unread, "the question"),
        ("more", "Fog likes ice.", Unread, "the question"),
        ("more", "Ra-in is a direct cause of ice.", BadProblem, "two spellings"),
    ],
)
def test_broken_texts_say_what_is_wrong(slot, filler, kind, why):
    text = WORLD.format(**{**FINE, slot: filler})
    with pytest.raises(kind, match=why):
        solve(read(text))


@functools.cache
def _pieces() -> list[str]:
    texts = [rephrased_text(official(seed, task), rng(seed)) for seed, task in enumerate(TASKS)]
    words = sorted({word for text in texts for word in re.findall(r"\w+|\W+", text)})
    return [*words, *TRAIN.edges, *TEST.conditionals, "\n", '"', "%", "\ue000", "1e9"]


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_any_text_is_read_or_refused(data):
    pieces = data.draw(st.lists(st.sampled_from(_pieces()), max_size=40))
    text = WORLD.format(**FINE)
    for piece in pieces[:3]:
        at = data.draw(st.integers(0, len(text)))
        text = text[:at] + piece + text[at:]
    for hostile in (text, TRAIN.headers[0] + " ".join(pieces)):
        try:
            solve(read(hostile))
        except UserError as error:
            assert "\n" not in str(error)


def test_time_is_linear_in_the_text():
    seconds = []
    for n in (200, 800):
        text = WORLD.format(
            **{**FINE, "p": ". The likelihood of fog being low is ".join(["0.5"] * n)}
        )
        start = time.process_time()
        assert len(read(text).given) == n + 1
        seconds.append(time.process_time() - start)
    assert seconds[1] < 10 * seconds[0]


def test_hostile_sentences_take_no_time():
    for piece in ("rain is low, ", "the probability that ", "rain and ", "is low and ", "a" * 50):
        text = WORLD.format(**{**FINE, "more": "If " + piece * (20_000 // len(piece))})
        start = time.process_time()
        with pytest.raises(UserError):
            read(text)
        assert time.process_time() - start < 2
