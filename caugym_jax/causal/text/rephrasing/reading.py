"""Turns the grammar round: from a text in its words to structure.

The templates themselves are the patterns. The text is taken sentence by sentence: the header shows
that it is in the grammar's words, then come edges (which give the names), probabilities and the
question. Once the names are known each is replaced by one character, so that no name can be taken
for a word. A sentence that no template fits makes the text Unread. Time is linear in the number of
sentences; each is limited in length.
"""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Callable, Sequence
from decimal import Decimal

from caugym_jax.causal.text.rephrasing.grammar import (
    FIRST_MARK,
    NAME,
    SLOT,
    Match,
    Matcher,
    Templates,
    matchers,
)
from caugym_jax.causal.text.rephrasing.writing import HALVES
from caugym_jax.causal.text.vocabulary import (
    Asked,
    BadProblem,
    Named,
    Unread,
    Vocabulary,
    check_spellings,
    decapitalized,
    key,
)
from caugym_jax.causal.text.wording import capitalized
from caugym_jax.types import Story

MAX_SENTENCE = 1_500  # characters

_END = re.compile(r"(?<=[.?])\s+(?=[^a-z\s])|\n+\s*")
_MARKED = re.compile(NAME)
_QUOTED = re.compile(r'"([^"\n]+)"')


def _both(slot: str) -> Templates:
    return tuple(itertools.chain.from_iterable(getattr(half, slot) for half in HALVES.values()))


_HEADERS = tuple(sorted(_both("headers"), key=len, reverse=True))
_INTROS = frozenset(_both("intros"))
_LABELS = _both("labels")
_FORMATS = tuple(SLOT.split(t)[0] for t in (*_both("formats"), *_both("bound_formats")))
_JOINER = re.compile("|".join(map(re.escape, sorted(_both("joiners"), key=len, reverse=True))))
_BOUNDS = {
    phrase: bound
    for half in HALVES.values()
    for bound, phrases in half.bounds.items()
    for phrase in phrases
}


def _style(template: str) -> Callable[[str], Named]:
    """Reads events of one style, "a is low and b is high"; () where the style is another."""
    (matcher,) = matchers((template,))
    at_start = template.startswith("{name}")
    between = rf"(?:, | and )(?={NAME})" if at_start else rf"(?<={NAME})(?:, | and )"
    link = re.compile(between)

    def read(text: str) -> Named:
        parts = link.split(text)
        found = [event for part in parts if (event := matcher.pattern.fullmatch(part))]
        if len(found) < len(parts):
            return ()
        return tuple((_node(event["name"]), event["state"]) for event in found)

    return read


@functools.cache
def _styles(slot: str) -> list[Callable[[str], Named]]:
    return [_style(matcher.template) for matcher in matchers(_both(slot))]


_EDGES = matchers((*_both("edges"), *_both("fan_outs"), *_both("fan_ins"), *_both("chains")))
_NUMBERS = matchers(
    (*_both("conditionals"), *_both("pairs"), *_both("joints"), *_both("marginals"))
)
_INSTRUCTIONS = matchers(_both("instructions"))
_TASKS = {
    template: task
    for half in HALVES.values()
    for task, templates in half.questions.items()
    for template in templates
}
_QUESTIONS = matchers(tuple(_TASKS))


def is_rephrased(text: str) -> bool:
    """Whether a text starts as the grammar's texts do."""
    return text.lstrip().startswith(_HEADERS)


def read_rephrased(text: str) -> Story:
    """Reads a text in the grammar's words.

    Raises Unread where a sentence is none of the grammar's, BadProblem where what it says makes no
    problem.
    """
    text = text.strip()
    header = next((header for header in _HEADERS if text.startswith(header)), None)
    if header is None:
        raise Unread("the text does not start as the grammar's texts do")
    if _MARKED.search(text):
        raise Unread("the text holds characters for private use")
    body = text[len(header) :]
    body = body[: min((at for at in map(body.find, _FORMATS) if at >= 0), default=len(body))]
    quoted = list(dict.fromkeys(_QUOTED.findall(body)))
    if quoted:
        body = _marked(body, [f'"{name}"' for name in quoted])
    sentences = _END.split(body.strip())
    if any(len(sentence) > MAX_SENTENCE for sentence in sentences):
        raise Unread(f"a sentence has more than {MAX_SENTENCE} characters")
    pairs = list(itertools.takewhile(bool, map(_edges, sentences)))
    names, edges = _graph([*itertools.chain.from_iterable(pairs)], quoted, "\n".join(sentences))
    sentences = sentences[len(pairs) :]
    if not quoted:
        sentences = [_marked(sentence, names) for sentence in sentences]
    if sentences and sentences[0] in _INTROS:
        sentences = sentences[1:]
    numbers = list(itertools.takewhile(bool, map(_probabilities, sentences)))
    vocabulary = Vocabulary(names)
    given = [
        (vocabulary.noted(target), vocabulary.noted(conditions), p)
        for target, conditions, p in itertools.chain.from_iterable(numbers)
    ]
    asked = _question(sentences[len(numbers) :], vocabulary)
    return vocabulary.story(edges, given, asked)


def _marked(text: str, names: Sequence[str]) -> str:
    """The text with each name, as a whole word, replaced by the mark of its place in `names`."""
    for node in sorted(range(len(names)), key=lambda node: -len(names[node])):
        mark = chr(ord(FIRST_MARK) + node)
        for name in dict.fromkeys((names[node], capitalized(names[node]))):
            before, *pieces = text.split(name)
            for piece in pieces:
                whole = not (_wordy(before[-1:], name[0]) or _wordy(name[-1], piece[:1]))
                before += (mark if whole else name) + piece
            text = before
    return text


def _wordy(left: str, right: str) -> bool:
    return left.isalnum() and right.isalnum()


def _node(mark: str) -> int:
    return ord(mark) - ord(FIRST_MARK)


# Edges ----------------------------------------------------------------------------------------


def _edges(sentence: str) -> list[tuple[str, str]]:
    """The (cause, effect) phrases of a sentence; [] if it is not about edges."""
    pairs: list[tuple[str, str]] = []
    for clause in _JOINER.split(sentence.removesuffix(".")):
        match = _first(_EDGES, capitalized(clause) + ".")
        if match is None:
            return []
        found = match.slots
        causes = _list(found.get("causes") or found["cause"])
        effects = _list(found.get("effects") or found["effect"])
        if middle := found.get("middle"):
            pairs += [(causes[0], middle), (middle, effects[0])]
        else:
            pairs += itertools.product(causes, effects)
    return pairs


def _list(text: str) -> list[str]:
    """ "a, b and c" """
    return re.split(r", | and ", text)


def _graph(
    pairs: list[tuple[str, str]], quoted: list[str], text: str
) -> tuple[list[str], tuple[tuple[int, int], ...]]:
    """Names and edges. Names are the quoted ones if there are any, else the phrases."""
    if not pairs:
        raise Unread("no sentence says what causes what")
    phrases = list(itertools.chain.from_iterable(pairs))
    if quoted:
        if not all(_MARKED.fullmatch(phrase) for phrase in phrases):
            raise Unread("some names are in quotation marks and some are not")
        return quoted, tuple(dict.fromkeys((_node(a), _node(b)) for a, b in pairs))
    names: dict[str, str] = {}
    for phrase in phrases:  # at the start of a sentence the capital may not be the name's own
        small = decapitalized(phrase)
        names.setdefault(
            key(phrase), phrase if f" {small}" not in text and f" {phrase}" in text else small
        )
    check_spellings(names.values())
    index = {name: node for node, name in enumerate(names)}
    edges = tuple(dict.fromkeys((index[key(a)], index[key(b)]) for a, b in pairs))
    return list(names.values()), edges


# Probabilities --------------------------------------------------------------------------------


def _probabilities(sentence: str) -> list[tuple[Named, Named, str]]:
    """(target, given, number) of each number of a sentence; [] if it has none."""
    match = _first(_NUMBERS, sentence)
    if match is None:
        return []
    found = match.slots
    target = _events("target", found)
    stated = [(target, _events("given", found), _number(found["p"]))]
    if "q" in found:
        stated.append((target, _events("other", found), _number(found["q"])))
    return stated


def _number(text: str) -> str:
    number = f"{Decimal(text[:-1]).scaleb(-2):f}" if text.endswith("%") else text
    if not 0 <= Decimal(number) <= 1:
        raise BadProblem(f"a probability is {text}, which is not between 0 and 1")
    return number


def _events(slot: str, found: dict[str, str]) -> Named:
    """The events in a slot, as clauses or as nouns; () where there is no such slot."""
    for kind, styles in (("c", "clauses"), ("n", "nouns")):
        text = found.get(f"{slot}_{kind}")
        if text is None:
            continue
        for style in _styles(styles):
            if events := style(text):
                return events
        raise Unread(f"cannot read what is so in {_shown(text)!r}")
    return ()


# The question ---------------------------------------------------------------------------------


def _question(sentences: list[str], vocabulary: Vocabulary) -> Asked:
    if not sentences:
        raise Unread("there is no question")
    instruction = _first(_INSTRUCTIONS, sentences[0])
    if instruction is not None:
        sentences = sentences[1:]
    question = " ".join(sentences)
    label = next((label for label in _LABELS if question.startswith(label)), "")
    asked = _first(_QUESTIONS, capitalized(question.removeprefix(label)))
    if asked is None:
        raise Unread(f"the question is none of the grammar's: {_shown(question[:80])!r}")
    task, found = _TASKS[asked.template], asked.slots
    x, y = _node(found["x"]), _node(found["y"])
    if instruction is not None:
        said = instruction.slots
        if (said["task"], _node(said["x"]), _node(said["y"])) != (task, x, y):
            raise BadProblem("the instruction and the question ask for different things")
    if x == y:
        raise BadProblem(f"the question asks for the effect of {vocabulary.names[x]!r} on itself")
    for node, one, other in ((x, "to", "away"), (y, "asked", "other_state")):
        if other in found and key(found[one]) == key(found[other]):
            raise BadProblem(f"the question contrasts {found[one]!r} with itself")
        if other in found:
            vocabulary.met(node, found[other])
    to, outcome = vocabulary.met(x, found["to"]), vocabulary.met(y, found["asked"])
    held = vocabulary.noted(_events("held", found))
    return Asked(task, x, y, to, outcome, held, _BOUNDS.get(found.get("bound", "")))


def _first(matchers: Sequence[Matcher], sentence: str) -> Match | None:
    """The first template that fits, with what fills its slots."""
    found = (matcher.match(sentence) for matcher in matchers)
    return next((match for match in found if match is not None), None)


def _shown(text: str) -> str:
    return _MARKED.sub("...", text)
