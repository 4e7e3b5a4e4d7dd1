"""Texts in other people's words: by hand, and the released rewrites.

The reader was developed on the even positions of the released samples; what it makes of the odd
ones is its true read rate.
"""

import time
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from caugym_jax.causal.audit import check
from caugym_jax.causal.reading import Unread, read
from caugym_jax.causal.reworded import MAX_REWORDED
from caugym_jax.causal.reworded.effects import namings, told
from caugym_jax.causal.reworded.probabilities import probabilities
from caugym_jax.causal.reworded.states import HIGH, LOW, state_of
from caugym_jax.causal.reworded.words import Words
from caugym_jax.causal.solving import solve
from caugym_jax.data.files import read_problems
from tests.shared import shared_path

WORLD = "Picture a closed, imaginary scenario with these links only: "
EFFECTS = "Sun directly influences both tea and ice. Tea has a direct effect on ice. "
NUMBERS = (
    "When tea is low and sun is low, the chance of ice being high is 0.2000. With high tea and low "
    "sun, the probability of high ice is 0.5000. When tea is low and sun is high, this probability "
    "becomes 0.4000. If both tea and sun are high, the likelihood of ice being high is 0.6000. The "
    "probability of low sun is 0.2500.\n"
)


@pytest.mark.parametrize(
    "question, value, verdict",
    [
        ("Does raising tea to high increase the probability of ice being high?", "0.225", "Yes"),
        ("Would reducing tea to low make high ice more likely?", "-0.225", "No"),
        ("Would reducing tea to low make high ice less likely?", "-0.225", "Yes"),
        ("If tea is set to high, is the probability of ice being low reduced?", "-0.225", None),
        ("If tea is set to high, would ice be more likely to be low?", "-0.225", "No"),
        ("Would a change of tea from high to low lower the chance of high ice?", "-0.225", "Yes"),
        ("If tea were high, would the probability of ice being high be different?", "0.225", None),
    ],
)
def test_one_effect_asked_in_many_ways(question, value, verdict):
    reading = read(WORLD + EFFECTS + NUMBERS + "Question: " + question)
    solved = solve(reading)
    assert solved.value == Decimal(value)
    if verdict is not None or reading.polarity is None:
        assert solved.verdict == verdict
    assert [reading.story.names[v] for v in solved.query.adjusters] == ["Sun"]


def test_effects_in_many_forms():
    def effects(*sentences):
        said = told(sentences)
        names, edges = said.graph(*namings(said))
        return [(names[a][0].lower(), names[b][0].lower()) for a, b in edges]

    assert effects("Tea affects ice, which in turn affects sun.") == [
        ("tea", "ice"),
        ("ice", "sun"),
    ]
    assert effects("Ice is directly influenced by tea and sun.") == [("tea", "ice"), ("sun", "ice")]
    assert effects("Tea has direct effects on ice and sun.") == [("tea", "ice"), ("tea", "sun")]
    assert effects("Tea drives ice, and ice drives sun.") == [("tea", "ice"), ("ice", "sun")]
    assert effects("Tea level affects ice.", "Additionally, the tea affects sun levels.") == [
        ("tea level", "ice"),
        ("tea level", "sun levels"),
    ]
    with pytest.raises(Unread):
        effects("Tea is nice.")


def test_probabilities_in_many_forms():
    words = Words([("tea",), ("ice",), ("the sun",)])

    def read_back(sentence):
        return list(probabilities([sentence], words))

    tea, ice, sun = ((0, "low"),), ((1, "high"),), ((2, "low"),)
    assert read_back("P(ice=high | tea=low) = 0.5") == [(ice, tea, "0.5")]
    assert read_back("When tea is low, P(ice=high) = 0.5") == [(ice, tea, "0.5")]
    assert read_back("The joint probability of low tea and high ice is 0.5") == [
        (tea + ice, (), "0.5")
    ]
    assert read_back("The probability of weak sun is 25%, and that of ... is") == [
        (sun, (), "0.25")
    ]
    assert read_back("If tea is poor, there's a 0.5 chance that ice is abundant") == [
        (ice, tea, "0.5")
    ]
    assert read_back("The chance of high ice is 0.5 when tea is low.") == [(ice, tea, "0.5")]
    for unclear in ("When tea, the chance of high ice is 0.5", "Some number is 0.5", "Ice is 0.5"):
        with pytest.raises(Unread):
            read_back(unclear)


def test_what_a_sentence_leaves_out():
    words = Words([("tea",), ("ice",), ("the sun",), ("employment",)])

    def read_back(*sentences):
        return list(probabilities(list(sentences), words))

    ice = ((1, "high"),)
    low, high = ((0, "low"), (2, "low")), ((0, "high"), (2, "low"))
    assert read_back(
        "When tea and sun are low, high ice has a probability of 0.1, and 0.2 if tea is high"
    ) == [
        (ice, low, "0.1"),
        (ice, high, "0.2"),
    ]
    assert read_back(
        "With low sun, the chance of high ice is 0.1 under low tea and 0.2 under high tea"
    ) == [
        (ice, (*low[1:], *low[:1]), "0.1"),
        (ice, (*high[:1], *high[1:]), "0.2"),
    ]
    assert read_back("Ice is high with probability 0.1 and low with probability 0.9") == [
        (ice, (), "0.1"),
        (((1, "low"),), (), "0.9"),
    ]
    assert read_back(
        "If tea is low, ice is high with a chance of 0.1; otherwise, with a chance of 0.2"
    ) == [
        (ice, ((0, "low"),), "0.1"),
        (ice, ((0, "high"),), "0.2"),
    ]
    assert read_back("Ice is high 25% of the time when it is unemployed") == [
        (ice, ((3, "low"),), "0.25")
    ]
    assert read_back(
        "When tea is low and sun is low, ice is high with probability 0.1",
        "When both are high, the probability is 0.2",
    )[1] == (ice, ((0, "high"), (2, "high")), "0.2")


@pytest.mark.parametrize(
    "word, state",
    [
        ("poorer", LOW),
        ("insufficiently", LOW),
        ("unfavorable", LOW),
        ("heaviest", HIGH),
        ("unlimited", HIGH),
        ("amply", HIGH),
        ("presently", None),
        ("weather", None),
        ("interest", None),
    ],
)
def test_forms_of_one_state(word, state):
    assert state_of(word) == state


def test_states_that_no_list_knows():
    text = (
        f"{WORLD}Location affects transport. Transport affects mood. In urban locations, the "
        "chance of the transport being rail is {p}. In rural locations, that of rail transport is "
        "0.4000. Question: Would a move to {to} location make {state} transport more likely?"
    )
    urban = {"p": "0.7000", "to": "an urban", "state": "rail"}
    assert solve(read(text.format(**urban))).value == Decimal("0.3")
    assert solve(read(text.format(**{**urban, "to": "a rural"}))).value == Decimal("-0.3")
    with pytest.raises(Unread):  # a third state of location
        read(text.format(**{**urban, "to": "a coastal"}))


def test_a_text_without_numbers_is_read_where_all_ways_give_zero():
    text = (
        f"{WORLD}{EFFECTS}Question: Would {{x}} being {{state}} make {{y}} more likely to be high?"
    )
    for state in ("low", "frobbed"):
        assert solve(read(text.format(x="ice", state=state, y="sun"))).value == 0
        with pytest.raises(Unread):
            read(text.format(x="sun", state=state, y="ice"))


def test_what_is_not_clear_is_not_read():
    question = "Question: Does raising tea to high increase the probability of ice being high?"
    text = WORLD + EFFECTS + NUMBERS + question
    assert solve(read(text)).value
    for old, new in [
        ("raising tea to high", "changing tea"),  # to what?
        ("the probability of ice being high?", "the probability?"),
        ("Tea has a direct effect on ice.", "Milk has a direct effect on cream."),  # in two pieces
        ("ice being high is 0.2000", "butter being high and milk being low is 0.2000"),
        (question, ""),
    ]:
        assert old in text
        with pytest.raises(Unread):
            read(text.replace(old, new))
    for old, new in [
        ("The probability of low sun is 0.2500.", ""),  # would lack, so something was misread
        ("0.2500.", "0.2500. The probability of low ice is 0.9."),  # a number without use
        ("Tea has a direct effect on ice.", ""),  # would be zero, yet numbers are told
    ]:
        assert old in text
        with pytest.raises(Unread, match="misread"):
            solve(read(text.replace(old, new)))


def test_unknown_words_mean_what_makes_the_numbers_answer():
    question = "Question: Does raising tea to high increase the probability of ice being high?"
    text = WORLD + EFFECTS + NUMBERS + question
    for old, new in [
        ("low sun", "low solar activity"),
        ("ice being high is 0.2000", "frozen stuff being high is 0.2000"),
        ("tea is low and sun is low", "tea is piffling and sun is low"),
    ]:
        assert old in text
        assert solve(read(text.replace(old, new))).value == Decimal("0.225")
    two = text.replace("The probability of low sun is 0.2500.", "")  # but they cannot make it up
    with pytest.raises(Unread):
        read(two.replace("low sun", "low solar activity"))


@pytest.mark.parametrize("name, developed, unseen", [("rephrased", 69, 57), ("omitted", 68, 56)])
def test_released_rewrites(name, developed, unseen):
    """Read rates by halves; what is read is right, but for one question that was turned round."""
    problems = read_problems(shared_path(f"data/caugym/test_dev/{name}_dataset.json"))
    checked = [check(problem, i) for i, problem in enumerate(problems)]
    halves = [[c for c in checked[half::2] if c.solved is not None] for half in (0, 1)]
    assert len(halves[0]) >= developed and len(halves[1]) >= unseen
    wrong = [c.item for half in halves for c in half if not c.prob_agrees]
    assert set(wrong) <= ({119} if name == "rephrased" else set())
    base = read_problems(shared_path("data/caugym/test_dev/base_dataset.json"))
    for c in (c for half in halves for c in half if c.item not in wrong):
        verdict = check(base[c.item]).solved.verdict
        if abs(c.solved.value) > Decimal("0.001") and verdict is not None and c.solved.verdict:
            assert (c.solved.verdict == verdict) == (c.reading.polarity == 1)


PIECES = [
    *("Tea ", "ice ", "directly influences ", "which ", "and ", "is low ", ", ", ". ", "? ", ": "),
    *("the probability of ", "0.5 ", "When ", "Question: ", "had ", "mediator ", "(ATE) ", "\n"),
    *("minimum possible ", "more likely ", "would ", "P(ice=low) ", "increase ", "\x00", "100% "),
]


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=60).map("".join))
def test_any_text_is_read_or_refused(text):
    try:
        solve(read(text))
    except Unread as error:
        assert "\n" not in str(error)


def test_hostile_texts_take_no_time():
    for piece in ("a", "both ", "the probability of ", "increase probability ", "which ", "0.5 "):
        text = "Tea influences ice. " + piece * (MAX_REWORDED // len(piece) - 20)
        start = time.process_time()
        with pytest.raises(Unread):
            read(text)
        assert time.process_time() - start < 3


def test_hostile_guesses_take_no_time():
    """Many unknown words, many pieces of a graph: tries are limited."""
    links = " ".join(f"{c}oqq influences {c}umm." for c in "abcdefghijklmnopqr")
    sky = "When quux zork blib is frobbed and glorp snarf, the probability of ice is 0.2. "
    question = "Question: Does raising tea to high increase the probability of ice being high?"
    for text in (f"{links} {sky * 40}{question}", WORLD + EFFECTS + sky * 50 + question):
        assert len(text) < MAX_REWORDED
        start = time.process_time()
        with pytest.raises(Unread):
            read(text)
        assert time.process_time() - start < 3
