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
from caugym_jax.causal.reworded.words import HIGH, LOW, Words
from caugym_jax.causal.vocabulary import BadProblem, Reading, Unread, Vocabulary

MAX_REWORDED = 6_000  # characters; the longest released one has 4,000

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
    r"\b(?:would|will|could)\b|\b(?:what|how|which) (?:is|are|was|much|likely|high|low)\b"
    r"|(?:^|[,;:] )(?:determine|examine|calculate|find|compute|assess|evaluate)"
    r" (?:whether|if|the|what|how)\b"
    r"|^(?:does|do|is|are|did)\b",
    re.I,
)
_CASE = re.compile(r"^(?:if|when|for|among|had|given)\b", re.I)
_TASK = re.compile(
    r"\((?:ATE|CDE|ETT|NDE|NIE|PN|PS)\)|\b(?:average treatment|controlled direct"
    r"|natural (?:in)?direct) effect|effect of (?:the )?treatment on the treated"
    r"|probability of (?:necessity|sufficiency)",
    re.I,
)
_SCENE = re.compile(r"scenario|world|setting|system|situation|context|environment", re.I)
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
    """Reads a text that is not in the official sentences. Raises Unread where it is not sure."""
    if len(text) > MAX_REWORDED:
        raise Unread(f"the text has {len(text)} characters and is not in the official wording")
    told, numbers, instruction, question = parts(text.translate(_PLAIN))
    phrases, edges = graph_told(told)
    words = Words(phrases)
    given = list(probabilities(numbers, words))
    asked = read_question(question, instruction, words, edges)
    vocabulary = Vocabulary([names[0] for names in phrases])
    for node in range(len(phrases)):
        vocabulary.words[node] = {LOW: None, HIGH: None}
    try:
        reading = vocabulary.reading(edges, given, asked)
    except BadProblem as error:
        raise Unread(str(error)) from None
    return dataclasses.replace(reading, reworded=True)


def parts(text: str) -> tuple[list[str], list[str], str, str]:
    """The sentences about effects, those with numbers, the instruction, the question."""
    text = _FORMAT.split(text, maxsplit=1)[0].removeprefix("Input Info:").strip()
    if form := _FORM.search(text):  # the sentence about the answer's form, in other words
        text = text[: 1 + max(text.rfind(stop, 0, form.start()) for stop in ".?!\n")]
    text = _LABEL.sub(r"\n\1: ", text)
    for pattern, plain in _PLAINER:
        text = pattern.sub(plain, text)
    told: list[str] = []
    numbers: list[str] = []
    instruction = question = label = ""
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
        if has_number:
            numbers.append(sentence)
        elif label[:1] in ("I", "T"):
            instruction, label = sentence, ""
        elif not (asks or question) and _TASK.search(sentence):
            instruction = sentence
        elif label or question or asks or (_CASE.match(sentence) and not EFFECT.search(sentence)):
            question = f"{question} {sentence}".strip()
        elif EFFECT.search(sentence) and not _GOVERNED.search(sentence):
            told.append(sentence)
        elif not _SCENE.search(sentence):
            raise Unread(f"cannot place the sentence {sentence[:80]!r}")
    if not question:
        raise Unread("no question found")
    return told, numbers, instruction, question
