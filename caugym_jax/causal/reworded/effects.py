"""Sentences about effects: "A directly influences B and C, which in turn affects D"."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator

from caugym_jax.causal.reworded.words import stems
from caugym_jax.causal.vocabulary import Unread

Edges = tuple[tuple[int, int], ...]

_HOW = (
    r"(?:(?:also|directly|in turn|subsequently|likewise|then|further|similarly|simultaneously"
    r"|immediately|both)[, ]+)*"
)
_ACTIVE = (
    r"(?:influenc|affect|impact|determin|govern|shap|driv|caus|alter)(?:es|s|e)?|contributes? to"
    r"|(?:ha(?:s|ve)|exerts?|produces?) (?:an? |the )?"
    r"(?:immediate |direct |causal |also |strong |significant )*"
    r"(?:effect|impact|influence|consequence)s? (?:up)?on"
)
_PASSIVE = (
    rf"(?:is|are) (?:also )?{_HOW}(?:influenced|affected|impacted|determined|governed|shaped|driven"
    r"|caused) by"
)
EFFECT = re.compile(rf"\b{_HOW}(?:{_ACTIVE})\b(?: directly)?|\b(?P<passive>{_PASSIVE})\b", re.I)
_LEAD = re.compile(
    r"^(?:(?:additionally|similarly|also|moreover|furthermore|finally|simultaneously|likewise"
    r"|meanwhile|in addition|consequently|besides|while|and|then|where|here|specifically|in turn"
    r"|further|both|that)\b[, ]*)+",
    re.I,
)
_TAIL = re.compile(
    r"(?:[, ]+(?:in turn|additionally|also|likewise|while|and|similarly|simultaneously|then"
    r"|as well|directly|both|subsequently))+[, ]*$",
    re.I,
)
_SAME_SUBJECT = re.compile(r"[, ]*(?:and)?(?: also| both| each| in turn)*[, ]*", re.I)
_RELATIVE = re.compile(r",? (?:and )?(?:which|that)\b(?: (?:also|both|in turn))*[, ]*", re.I)
_BREAKS = [r"[,;] (?:while|whereas|and additionally|with)\b|;", r", and ", r", ", r" and "]
_LISTED = re.compile(
    r",? and (?:also |additionally )?|, (?:as well as )?| as well as | along with ", re.I
)
_PHRASES = [
    (re.compile(r"\bbalance between work and (?:personal )?life\b", re.I), "work-life balance"),
    (re.compile(r"\bphysical activity\b", re.I), "exercise"),
]


def graph_told(sentences: Iterable[str]) -> tuple[list[str], Edges]:
    """Names in order of appearance, and edges. Raises Unread where a sentence is not clear."""
    pairs = [pair for sentence in sentences for pair in _effects(sentence.rstrip(".;: "))]
    if not pairs:
        raise Unread("no sentence about effects was understood")
    names: dict[frozenset[str], str] = {}
    for phrase in itertools.chain.from_iterable(pairs):
        if not stems(phrase):
            raise Unread(f"no variable in {phrase[:60]!r}")
        names.setdefault(stems(phrase), phrase)
    cores = list(names)
    edges = [(cores.index(stems(cause)), cores.index(stems(effect))) for cause, effect in pairs]
    same = _same_variable(cores, edges)
    kept = [i for i in range(len(cores)) if same[i] == i]
    merged = dict.fromkeys((kept.index(same[a]), kept.index(same[b])) for a, b in edges)
    return [names[cores[i]] for i in kept], tuple(merged)


def _same_variable(cores: list[frozenset[str]], edges: list[tuple[int, int]]) -> list[int]:
    """For each phrase the phrase of the same variable that says most.

    A phrase whose words all occur in exactly one other is short for that one, unless one of the
    two affects the other.
    """
    same = list(range(len(cores)))
    for a, core in sorted(enumerate(cores), key=lambda pair: -len(pair[1])):
        longer = [b for b, other in enumerate(cores) if core < other]
        if len(longer) == 1 and not {(a, longer[0]), (longer[0], a)} & set(edges):
            same[a] = same[longer[0]]
    return same


def _effects(sentence: str) -> Iterator[tuple[str, str]]:
    """The (cause, effect) phrases of a sentence, in its order."""
    verbs = list(EFFECT.finditer(sentence))
    if not verbs:
        raise Unread(f"no effect in {sentence[:80]!r}")
    subjects = _names(sentence[: verbs[0].start()])
    for verb, following in itertools.zip_longest(verbs, verbs[1:]):
        between = sentence[verb.end() : following.start() if following else len(sentence)]
        objects, next_subjects = between, ""
        relative = _RELATIVE.search(between) if following else None
        if relative:
            objects = between[: relative.start()]
        elif following:
            objects, next_subjects = _divide(between)
        found = _names(objects)
        for subject, other in itertools.product(subjects, found):
            yield (other, subject) if verb["passive"] else (subject, other)
        if relative:
            subjects = found[-1:]
        elif not _SAME_SUBJECT.fullmatch(next_subjects):
            subjects = _names(next_subjects)


def _divide(between: str) -> tuple[str, str]:
    """What stands between two verbs: the objects of the first, the subjects of the second."""
    for link in _BREAKS:
        places = list(re.finditer(link, between))
        if places:
            return between[: places[-1].start()], between[places[-1].end() :]
    raise Unread(f"cannot divide {between[:80]!r}")


def _names(text: str) -> list[str]:
    """ "both stress level, talent, and the weather" -> its variables."""
    for phrase, short in _PHRASES:
        text = phrase.sub(short, text)
    text = _TAIL.sub("", _LEAD.sub("", text.strip(" ,;"))).strip(" ,;")
    found = [_LEAD.sub("", part.strip()) for part in _LISTED.split(text)]
    found = [name for name in found if name]
    if not found:
        raise Unread(f"no variable in {text[:60]!r}")
    return found
