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

from caugym_jax.causal.reworded.effects import EFFECT, graph_told
from caugym_jax.causal.reworded.probabilities import NUMBER, probabilities
from caugym_jax.causal.reworded.questions import read_question
from caugym_jax.causal.reworded.words import HIGH, LOW, Words, stems
from caugym_jax.causal.vocabulary import BadProblem, Reading, Unread, Vocabulary

MAX_REWORDED = 6_000  # characters; the longest released one has 4,000

_PLAIN = str.maketrans({"’": "'", "‘": "'", "“": '"', "”": '"', "–": "-", "—": "-", "*": ""})
_SENTENCE = re.compile(r"(?<=[.!?])\s+|(?<=[a-z]:)\s+(?=[A-Z])(?!P\()|\n+")
_FORMAT = re.compile(
    r"(?:Please )?(?:Provide|Present|Give|Report|Return|Express|State) (?:the|your) (?:\w+ )?"
    r"(?:calculat|comput|result|final|numer|answer)"
)
_LABEL = re.compile(r"\s*\b(Instructions?|Task|Question|Query):\s*")
_ASKS = re.compile(r"(?:question|query)\s*:\s*", re.I)
_INSTRUCTS = re.compile(r"(?:instruction|task)s?\s*:\s*", re.I)
_REQUEST = re.compile(
    r"\bwould\b|\bwhat is\b|^(?:if|when|for|among|had|given)\b|(?:^|[,;:] )"
    r"(?:determine|examine|calculate|find|compute|assess) (?:whether|if|the|what|how)\b",
    re.I,
)
_SCENE = re.compile(r"scenario|world|setting|system|situation|context|environment", re.I)


def read_reworded(text: str) -> Reading:
    """Reads a text that is not in the official sentences. Raises Unread where it is not sure."""
    if len(text) > MAX_REWORDED:
        raise Unread(f"the text has {len(text)} characters and is not in the official wording")
    told, numbers, instruction, question = parts(text.translate(_PLAIN))
    names, edges = graph_told(told)
    if not _connected(len(names), edges):
        raise Unread("some variables have no connection: one may have two names")
    words = Words([stems(name) for name in names])
    given = list(probabilities(numbers, words))
    asked = read_question(question, instruction, words, edges)
    vocabulary = Vocabulary(names)
    for node in range(len(names)):
        vocabulary.words[node] = {LOW: None, HIGH: None}
    try:
        reading = vocabulary.reading(edges, given, asked)
    except BadProblem as error:
        raise Unread(str(error)) from None
    return dataclasses.replace(reading, reworded=True)


def parts(text: str) -> tuple[list[str], list[str], str, str]:
    """The sentences about effects, those with numbers, the instruction, the question."""
    text = _FORMAT.split(text)[0].removeprefix("Input Info:").strip()
    text = _LABEL.sub(r"\n\1: ", text)
    told: list[str] = []
    numbers: list[str] = []
    instruction = question = label = ""
    for i, sentence in enumerate(s.strip(" -\t") for s in _SENTENCE.split(text)):
        if i == 0 and _SCENE.search(sentence.partition(":")[0]):
            sentence = sentence.partition(":")[2].strip() or sentence
        has_number = NUMBER.search(sentence) is not None
        if _ASKS.match(sentence) or _INSTRUCTS.match(sentence):
            label, _, sentence = sentence.partition(":")
            sentence = sentence.strip()
        if not sentence:
            continue
        if has_number:
            numbers.append(sentence)
        elif label[:1] in ("I", "T"):
            instruction, label = sentence, ""
        elif label or question or sentence.endswith("?") or _REQUEST.search(sentence):
            question = f"{question} {sentence}".strip()
        elif EFFECT.search(sentence) and not sentence.endswith(":"):
            told.append(sentence)
        elif not (sentence.endswith(":") or _SCENE.search(sentence)):
            raise Unread(f"cannot place the sentence {sentence[:80]!r}")
    if not question:
        raise Unread("no question found")
    return told, numbers, instruction, question


def _connected(n: int, edges: tuple[tuple[int, int], ...]) -> bool:
    group = list(range(n))
    for a, b in edges:
        old, new = group[a], group[b]
        group = [new if g == old else g for g in group]
    return len(set(group)) == 1
