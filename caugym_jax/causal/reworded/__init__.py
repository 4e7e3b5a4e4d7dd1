"""Reads problems in other people's words, as far as it can be sure of them.

Three kinds of sentences are told apart: what affects what, probabilities, and the question. A
variable is known by the stems of its content words, its states by whether they say little or much
of it: "poor", "bad" and "low" are one state. A phrase that is no known variable, a number without
an event, a variable without a state and a graph in two pieces (a variable under two names) make the
text Unread; and `solving.solve` refuses an answer that does not rest on every number told.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import NamedTuple

from caugym_jax.causal.reworded.effects import (
    EFFECT,
    WAYS,
    Edges,
    Phrases,
    Told,
    more_namings,
    namings,
    told,
)
from caugym_jax.causal.reworded.learning import learned_states
from caugym_jax.causal.reworded.probabilities import NUMBER, probabilities
from caugym_jax.causal.reworded.questions import read_question
from caugym_jax.causal.reworded.states import HIGH, LOW
from caugym_jax.causal.reworded.words import Meaning, Unclear, Words
from caugym_jax.causal.solving import Solved, solve
from caugym_jax.causal.vocabulary import BadProblem, Reading, Unread, Vocabulary

MAX_REWORDED = 6_000  # characters; the longest released one has 4,000
GUESSES = 2  # about unknown words and names, at most
MAX_WAYS = 120  # of reading that are tried at once

_PLAIN = str.maketrans({"’": "'", "‘": "'", "“": '"', "”": '"', "–": "-", "—": "-", "*": ""})
_SENTENCE = re.compile(r"(?<=[.!?])\s+|(?<=[a-z]:)\s+(?=[A-Z])(?!P\()|\n+")
_FORMAT = re.compile(
    r"(?:Please )?(?:Provide|Present|Give|Report|Return|Express|State|Output|Show|Include|Ensure)"
    r" (?:the|your|that|an?|both) (?:\w+ )?(?:calculat|comput|result|final|numer|answer)"
)
_FORM = re.compile(r"\{\s*['\"]|\bJSON\b|\b(?:four|4) decimal")
_LABEL = re.compile(r"\s*\b(Instructions?|Task|Question|Query):\s*")
_ASKS = re.compile(r"(?:question|query)\s*:\s*", re.I)
_INSTRUCTS = re.compile(r"(?:instruction|task)s?\s*:\s*", re.I)
_REQUEST = re.compile(
    r"\b(?:would|will|could)\b|\b(?:what|which) (?:is|are|was)\b"
    r"|(?:^|[,;:] )(?:determine|examine|calculate|find|compute|assess|evaluate)"
    r" (?:whether|if|the|what|how)\b"
    r"|^(?:does|do|is|are|did)\b",
    re.I,
)
_HOW = re.compile(r"(?:by )?how\b", re.I)
_CASE = re.compile(r"^(?:if|when|for|among|had|given)\b", re.I)
_SUPPOSE = re.compile(
    r"^(?:suppos\w+|assum\w+|imagin\w+|focus\w*|look\w*|take|consider\w*|in)\b", re.I
)
_TASK = re.compile(
    r"\((?:ATE|CDE|ETT|NDE|NIE|PN|PS)\)|\b(?:average treatment|controlled direct"
    r"|natural (?:in)?direct) effect|effect of (?:the )?treatment on the treated"
    r"|probability of (?:necessity|sufficiency)",
    re.I,
)
_SCENE = re.compile(r"scenario|world|setting|system|situation|context|environment|universe", re.I)
_GOVERNED = re.compile(
    r"^[^,:]*\b(?:scenario|world|setting|system|situation)\b[^,:]*\b(?:governed|determined|defined|shaped"
    r"|controlled)\b[^:]*$",
    re.I,
)
_PLAINER = [
    (
        re.compile(
            r",? (?:and )?(?:with|without|having|containing) (?:no|any|other)\b[^,.:;]{0,40}?"
            r"(?:factors?|influences?|elements?|variables?|conditions?|relationships?|links?|causes?"
            r"|effects?|connections?)(?: (?:or|and) [a-z ]{0,30}?(?:factors?|links?|relationships?"
            r"|influences?|elements?|connections?))?(?= ?[,.:;]| where| in which)",
            re.I,
        ),
        "",
    ),
    (
        re.compile(
            r"(?:^|(?<=[.\n:] ))(?:input info: )?(?:within|in|for) (?:this|such|the|an?)\b"
            r"[^,.:;]{0,100}?(?:scenario|world|setting|system|model|context|environment|situation|universe)"
            r"[^,.:;]{0,80}?(?:,| where| in which)(?: where| in which)? (?=[A-Za-z])",
            re.I,
        ),
        "",
    ),
    (re.compile(r"(?:^|(?<=\n)|(?<=[.:;] ))\s*(?:\(?\d{1,2}[.)]|[a-z]\))\s+(?=[A-Za-z])"), ""),
    (re.compile(r"\s*(?:→|->|=>)\s*"), " directly influences "),
    (re.compile(r"\bnot only\b ?", re.I), ""),
    (re.compile(r",? but also\b", re.I), " and"),
    (
        re.compile(
            r"\bthere (?:is|exists) an? (?:[a-z]+,? ){0,3}?(?:effect|impact|influence|link|relation"
            r"|relationship|connection|path|pathway) (?:of|from|between) (?P<a>[^.,;]+?)"
            r" (?:on|to|onto) (?=[^.;])",
            re.I,
        ),
        r"\g<a> directly influences ",
    ),
]


def read_reworded(text: str) -> Reading:
    """Reads a text that is not in the official sentences. Raises Unread where it is not sure.

    Where it is open which phrases name one variable, or what a word means, those ways of reading
    count under which the numbers answer the question: they must give one answer. A text without
    numbers is read only where all ways are.
    """
    if len(text) > MAX_REWORDED:
        raise Unread(f"the text has {len(text)} characters and is not in the official wording")
    sentences = parts(text.translate(_PLAIN))
    said = told(sentences.effects)
    ways = [Way(tuple(same)) for same in namings(said)]
    if len(ways) == WAYS and not sentences.numbers:
        raise Unread("the variables have too many names")
    first = tried = _try(said, ways, sentences)
    for _ in range(GUESSES):
        if tried.answered:
            break
        ways = [more for way in tried.unread for more in _guesses(said, way, sentences)]
        tried = _try(said, ways[:MAX_WAYS], sentences)
    if not tried.answered or (not sentences.numbers and not _sure(first, tried)):
        raise first.error
    if len({(solved.value, solved.verdict) for _, _, solved in tried.answered}) > 1:
        raise Unread("there is more than one way to read the text")
    return tried.answered[0][1]


class Way(NamedTuple):
    """One way of reading a text."""

    same: tuple[int, ...]  # which phrases name one variable, as `effects.namings`
    guesses: tuple[tuple[str, Meaning], ...] = ()  # what unknown words mean
    unclear: str = ""  # the clause that could not be read this way


class Tried(NamedTuple):
    """What came of some ways."""

    answered: list[tuple[Way, Reading, Solved]]
    unread: list[Way]
    error: Unread  # why the first one that was not answered was not
    refused: bool  # some way could be read, but then the question had no answer


def _try(said: Told, ways: list[Way], sentences: Sentences) -> Tried:
    answered: list[tuple[Way, Reading, Solved]] = []
    unread: list[Way] = []
    errors: list[Unread] = []
    refused = False
    for way in ways:
        reading = None
        try:
            reading = _reading(*said.graph(way.same), sentences, dict(way.guesses))
            answered.append((way, reading, solve(reading)))
        except (Unread, BadProblem) as error:
            refused = refused or reading is not None
            errors.append(Unread(str(error)))
            unread.append(way._replace(unclear=getattr(error, "clause", "")))
    error = errors[0] if errors else Unread("no way to read the text")
    return Tried(answered, unread, error, refused)


def _sure(first: Tried, last: Tried) -> bool:
    """Whether a text without numbers is 0 in all ways to read it, in one per naming."""
    namings = {way.same for way, *_ in first.answered} | {way.same for way in first.unread}
    return not last.refused and {way.same for way, *_ in last.answered} == namings


def _guesses(said: Told, way: Way, sentences: Sentences) -> list[Way]:
    """The ways with one more guess, about a word of what could not be read.

    With numbers, which tell wrong guesses, also the ways in which two more phrases name one
    variable, and where no clause is to blame, guesses about any word.
    """
    more: list[Way] = []
    unclear = way.unclear
    phrases, _ = said.graph(list(way.same))
    words = Words(phrases, dict(way.guesses))
    if not way.guesses:
        learned = learned_states(words, (*sentences.numbers, sentences.question))
        more = [way._replace(guesses=tuple(meanings.items())) for meanings in learned]
    if sentences.numbers:
        if not way.guesses:  # which speak of variables by number
            merged = more_namings(said, list(way.same))
            more += [way._replace(same=tuple(same)) for same in merged]
        unclear = unclear or " , ".join((*sentences.numbers, sentences.question))
    for stem in words.unknown(unclear):
        for meaning in (*range(len(phrases)), LOW, HIGH):
            more.append(way._replace(guesses=(*way.guesses, (stem, meaning))))
    return more


def _reading(
    phrases: Phrases, edges: Edges, sentences: Sentences, guesses: Mapping[str, Meaning]
) -> Reading:
    words = Words(phrases, guesses)
    for sentence in sentences.others:
        if len(set(words.nodes(sentence))) > 1:
            raise Unread(f"cannot place the sentence {sentence[:80]!r}")
    given = list(probabilities(sentences.numbers, words))
    try:
        asked = read_question(sentences.question, sentences.instruction, words, edges)
    except Unread as error:
        raise Unclear(str(error), sentences.question) from None
    vocabulary = Vocabulary([names[0] for names in phrases])
    for node in range(len(phrases)):
        vocabulary.words[node] = {LOW: None, HIGH: None}
    return dataclasses.replace(vocabulary.reading(edges, given, asked), reworded=True)


class Sentences(NamedTuple):
    """A text's sentences by what they are about."""

    effects: list[str]
    numbers: list[str]
    instruction: str
    question: str
    others: list[str]  # which must not be about two variables


def parts(text: str) -> Sentences:
    """Raises Unread where nothing is asked."""
    text = _FORMAT.split(text, maxsplit=1)[0].removeprefix("Input Info:").strip()
    if form := _FORM.search(text):  # the sentence about the answer's form, in other words
        text = text[: 1 + max(text.rfind(stop, 0, form.start()) for stop in ".?!\n")]
    text = _LABEL.sub(r"\n\1: ", text)
    for pattern, plain in _PLAINER:
        text = pattern.sub(plain, text)
    effects: list[str] = []
    numbers: list[str] = []
    others: list[str] = []
    instruction = question = label = before = ""
    for i, sentence in enumerate(s.strip(" -\t") for s in _SENTENCE.split(text)):
        if i == 0 and _SCENE.search(sentence.partition(":")[0]):
            sentence = sentence.partition(":")[2].strip(" -\t") or sentence
        has_number = NUMBER.search(sentence) is not None
        if _ASKS.match(sentence) or _INSTRUCTS.match(sentence):
            label, _, sentence = sentence.partition(":")
            sentence = sentence.strip()
        if not sentence or (sentence.endswith(":") and not has_number):
            continue  # "Given these conditions:"
        asks = sentence.endswith("?") or _REQUEST.search(sentence) is not None
        asks = asks or (_HOW.match(sentence) is not None and not EFFECT.search(sentence))
        if has_number:
            numbers.append(sentence)
        elif label[:1] in ("I", "T"):
            instruction, label = sentence, ""
        elif not (asks or question) and _TASK.search(sentence):
            instruction = sentence
        elif label or question or asks or (_CASE.match(sentence) and not EFFECT.search(sentence)):
            if not question and others and others[-1] == before and _SUPPOSE.match(before):
                question = others.pop()
            question = f"{question} {sentence}".strip()
        elif EFFECT.search(sentence) and not _GOVERNED.search(sentence):
            effects.append(sentence)
        elif not _SCENE.search(sentence):
            others.append(sentence)
        before = sentence
    if not question:
        raise Unread("no question found")
    return Sentences(effects, numbers, instruction, question, others)
