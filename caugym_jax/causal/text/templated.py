"""Reads problems in the official sentences into structure.

These are the texts that CauGym released (with and without codes such as "(A=0)", with and without
the Instruction line), CaLM's and whatever `wording` writes. Nothing is guessed: a text that does
not say what it must raises BadProblem with the reason.

Known slips of the released files that are understood: "(e.g. wind, humidity)" in two spellings
(examples in brackets belong to no name), sentences that start with a small letter, a doubled "the",
and sentences cut at "e.g.", which are set aside.

Time is linear in the text but for the question, which is limited in length.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterator
from decimal import Decimal
from typing import NamedTuple

from caugym_jax.causal.text.vocabulary import (
    Asked,
    BadProblem,
    Named,
    Vocabulary,
    check_spellings,
    decapitalized,
    key,
)
from caugym_jax.causal.text.wording import (
    AFFECTS,
    ALONE,
    ANSWER_FORMAT,
    BOUND_ANSWER_FORMAT,
    GIVEN,
    HEADER,
    QUESTIONS,
    THEN,
)
from caugym_jax.types import BOUND_TASKS, TASKS, Story

MAX_QUESTION = 2_000  # characters
_FORMAT = os.path.commonprefix([ANSWER_FORMAT, BOUND_ANSWER_FORMAT])
_EXAMPLES = re.compile(r" ?\((?:e\.g\.|i\.e\.|such as)[^()\n]*\)")


def is_templated(text: str) -> bool:
    """Whether a text is in the official sentences."""
    return text[: len(HEADER) + 100].lstrip().casefold().startswith(HEADER.casefold())


def read_templated(text: str) -> Story:
    """Reads a text in the official sentences. Raises BadProblem where it is not a problem."""
    text = _EXAMPLES.sub("", text).strip()
    body, mark, question = text[len(HEADER) :].partition("Question:")
    if not mark:
        raise BadProblem("there is no line that starts with 'Question:'")
    body, _, instruction = body.partition("Instruction:")
    starts = [place for place in map(body.find, (*_STARTS, "\n")) if place >= 0]
    cut = min(starts, default=len(body))
    sentences, others = _parted(body[cut:])
    names, edges = _edges(" ".join([body[:cut].strip(), *others]))
    vocabulary = Vocabulary(names)
    numbers, set_aside = _sentences(sentences, vocabulary)
    question = re.split(rf"\n|{_FORMAT}", question.strip(), maxsplit=1)[0].strip()
    asked = _question(question, instruction.strip(), vocabulary)
    return vocabulary.story(edges, numbers, asked, set_aside)


# Edges ----------------------------------------------------------------------------------------


def _edges(text: str) -> tuple[list[str], tuple[tuple[int, int], ...]]:
    """ "Rain has a direct effect on traffic.Fog has ..." -> names in order of appearance, edges."""
    pieces = text.strip().split(AFFECTS)
    if len(pieces) < 2:
        raise BadProblem("no sentence says that something has a direct effect on something")
    causes, effects = [pieces[0]], []
    for piece in pieces[1:-1]:
        effect, stop, cause = piece.rpartition(".")
        if not stop:
            raise BadProblem(f"two sentences about effects run together: {piece[:80]!r}")
        effects.append(effect)
        causes.append(cause)
    effects.append(pieces[-1].strip().removesuffix("."))
    names: dict[str, str] = {}
    for name in (name for pair in zip(causes, effects, strict=True) for name in pair):
        if not name.strip():
            raise BadProblem("a sentence about effects lacks a name")
        names.setdefault(key(name), " ".join(name.split()))
    for effect in effects:  # causes start with a capital letter that may not be theirs
        names[key(effect)] = " ".join(effect.split())
    caused = set(map(key, effects))
    for cause in causes:
        if names[key(cause)] == " ".join(cause.split()) and key(cause) not in caused:
            names[key(cause)] = decapitalized(names[key(cause)])
    check_spellings(names.values())
    index = {name: node for node, name in enumerate(names)}
    edges = tuple(
        dict.fromkeys((index[key(a)], index[key(b)]) for a, b in zip(causes, effects, strict=True))
    )
    return list(names.values()), edges


# Probabilities --------------------------------------------------------------------------------

_STARTS = (GIVEN, ALONE)
_NUMBER = re.compile(r" is ([-+]?\d+(?:\.\d+)?)(?=\.?(?:\s|$))")


def _parted(text: str) -> tuple[list[tuple[str, str]], list[str]]:
    """The sentences with a number, without it and beside it; and those about effects between."""
    sentences, others = [], []
    place = 0
    for number in _NUMBER.finditer(text):
        sentence = text[place : number.start()]
        place = number.end()
        start = max(0, *map(sentence.rfind, _STARTS))
        sentences.append((sentence[start:], number[1]))
        others.append(sentence[:start])
    others.append(text[place:])
    for other in others:
        start = max(map(other.rfind, _STARTS))
        if start >= 0:
            rest = other[start:].strip().rstrip(".")
            raise BadProblem(f"a probability has no number: {rest[-100:]!r}")
    return sentences, [other.strip(" .\n") + "." for other in others if AFFECTS in other]


def _sentences(
    numbered: list[tuple[str, str]], vocabulary: Vocabulary
) -> tuple[list[tuple[Named, Named, str]], tuple[str, ...]]:
    """(target, given, number) of each sentence; and those that are cut or name something else."""
    read, set_aside = [], []
    for sentence, number in numbered:
        events = _sentence(sentence, vocabulary) if sentence.startswith(_STARTS) else None
        if events is None:
            set_aside.append(f"{sentence.strip('. ')} is {number}")
            continue
        if not 0 <= Decimal(number) <= 1:
            raise BadProblem(f"a probability is {number}, which is not between 0 and 1")
        read.append((vocabulary.noted(events[0]), vocabulary.noted(events[1]), number))
    return read, tuple(set_aside)


def _sentence(text: str, vocabulary: Vocabulary) -> tuple[Named, Named] | None:
    if text.startswith(ALONE):
        target = vocabulary.events(text.removeprefix(ALONE))
        return None if target is None else (target, ())
    condition, comma, clause = text.removeprefix(GIVEN).partition(THEN)
    target, given = vocabulary.events(clause), vocabulary.events(condition)
    if not comma or target is None or given is None:
        return None
    return None if {v for v, _ in target} & {v for v, _ in given} else (target, given)


# The question ---------------------------------------------------------------------------------

_TEMPLATES = {
    task: (re.split(r"\{\w+\}", text), re.findall(r"\{(\w+)\}", text))
    for task, text in QUESTIONS.items()
}
_INSTRUCTION = re.compile(r"Consider the [^()]*\((" + "|".join(TASKS) + r")\) of ([^\n]*)")


class Filled(NamedTuple):
    """What fills the slots of a question's template."""

    nodes: dict[str, int]  # x and y
    words: dict[str, str]  # the others


def _question(question: str, instruction: str, vocabulary: Vocabulary) -> Asked:
    if len(question) > MAX_QUESTION:
        raise BadProblem(f"the question has more than {MAX_QUESTION} characters")
    said = _INSTRUCTION.match(instruction)
    if instruction and not said:
        raise BadProblem(f"the Instruction names none of the seven tasks: {instruction[:80]!r}")
    task, (nodes, found) = _asked(question, vocabulary)
    x, y = nodes["x"], nodes["y"]
    named = said[1] if said else task
    if named != task and not {named, task} <= set(BOUND_TASKS):
        raise BadProblem(f"the Instruction is about {named}, the question about {task}")
    if said and (pair := _pair(said[2], vocabulary)) and pair != (x, y):
        raise BadProblem("the Instruction and the question are about different variables")
    if x == y:
        raise BadProblem(f"the question asks for the effect of {vocabulary.names[x]!r} on itself")
    to, outcome = vocabulary.met(x, found["to"]), vocabulary.met(y, found["asked"])
    for node, slot, other in ((x, "away", to), (y, "other", outcome)):
        if slot in found and vocabulary.met(node, found[slot]) == other:
            raise BadProblem(f"the question contrasts {other!r} with itself")
    sure = said is not None or task not in BOUND_TASKS
    return Asked(
        named,
        x,
        y,
        to,
        outcome,
        vocabulary.noted(vocabulary.events(found["held"]) or ()) if "held" in found else (),
        found.get("bound"),
        wording_of=None if sure else task,
    )


def _asked(question: str, vocabulary: Vocabulary) -> tuple[str, Filled]:
    """The task whose template the question fits, and what fills it."""
    for task, (literals, slots) in _TEMPLATES.items():
        if question.startswith(literals[0]):
            found = next(_matches(literals, slots, question, vocabulary), None)
            if found is not None:
                return task, found
    raise BadProblem(_why_not(question, vocabulary))


def _matches(
    literals: list[str], slots: list[str], text: str, vocabulary: Vocabulary
) -> Iterator[Filled]:
    """All ways to fill a question's template: names are the graph's, states any words."""

    def fill(i: int, start: int, found: Filled) -> Iterator[Filled]:
        if i == len(slots):
            if start == len(text):
                yield found
            return
        slot, literal, end = slots[i], literals[i + 1], start
        while (end := text.find(literal, end + 1)) >= 0:
            more = _filled(found, slot, text[start:end], vocabulary)
            if more is not None:
                yield from fill(i + 1, end + len(literal), more)

    return fill(0, len(literals[0]), Filled({}, {}))


def _filled(found: Filled, slot: str, text: str, vocabulary: Vocabulary) -> Filled | None:
    """With one more slot filled; None where the text does not fit it or what it holds already."""
    if slot in ("x", "y"):
        node = vocabulary.node(text)
        if node is None or found.nodes.get(slot, node) != node:
            return None
        return found._replace(nodes={**found.nodes, slot: node})
    if slot == "bound" and text not in ("upper", "lower"):
        return None
    if slot == "held" and vocabulary.events(text) is None:
        return None
    if found.words.get(slot, text) != text:
        return None
    return found._replace(words={**found.words, slot: text})


def _pair(text: str, vocabulary: Vocabulary) -> tuple[int, int] | None:
    """ "X on Y." -> (node of X, node of Y)"""
    text = text.strip().removesuffix(".")
    for on in re.finditer(" on ", text):
        x, y = vocabulary.node(text[: on.start()]), vocabulary.node(text[on.end() :])
        if x is not None and y is not None:
            return x, y
    return None


def _why_not(question: str, vocabulary: Vocabulary) -> str:
    """What is wrong with a question that fits no template: a misspelt name, most often."""
    for task, (literals, slots) in _TEMPLATES.items():
        if not question.startswith(literals[0]):
            continue
        place = len(literals[0])
        for slot, literal in zip(slots, literals[1:], strict=True):
            end = question.find(literal, place)
            if end < 0:
                break
            name = question[place:end]
            if slot in ("x", "y") and vocabulary.node(name) is None:
                close = difflib.get_close_matches(key(name), vocabulary.nodes, 1)
                hint = f": did it mean {close[0]!r}?" if close else ""
                return f"the {task} question names {name!r}, which the graph does not have{hint}"
            place = end + len(literal)
    return f"the question is none of the seven: {question[:80]!r}"
