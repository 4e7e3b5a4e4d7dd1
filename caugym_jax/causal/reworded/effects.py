"""Sentences about effects: "A directly influences B and C, which in turn affects D"."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable

from caugym_jax.causal.reworded.words import akin, stem_of, stems, words_of
from caugym_jax.causal.vocabulary import Unread

Edges = tuple[tuple[int, int], ...]

_HOW = (
    r"(?:(?:also|directly|in turn|subsequently|likewise|then|further|similarly|simultaneously"
    r"|immediately|both)[, ]+)*"
)
_NOUN = r"(?:effect|impact|influence|consequence|bearing)s?"
_ACTIVE = (
    r"(?:influenc|affect|impact|determin|govern|shap|caus|alter|modif|dictat|control|regulat)"
    r"(?:es|ies|s|e|y|ing(?! (?:factor|element|variable|cause|influence)))?"
    r"|(?:driv|chang)(?:es|e)|contribut(?:es?|ing)(?: directly)? to"
    r"|(?:acts?|bears?)(?: directly)? (?:up)?on"
    r"|(?:leads?|feeds?|translates?)(?: directly)? (?:in)?to"
    r"|(?:plays?|playing) (?:an? |the )?(?:[a-z]+,? ){0,2}?(?:role|part) in"
    r"(?: (?:determining|shaping|influencing|affecting|driving))?"
    r"|(?:has|have|exerts?|produces?|with|having|exerting) (?:an? |the |its )?"
    rf"(?:[a-z]+,? ){{0,4}}?{_NOUN} (?:up|directly )?(?:on|over)"
    r"|(?:is|are|acts? as|serves? as|represents?) (?:an? |the |one of the )?(?:[a-z]+ )?"
    r"(?:causes?|drivers?|determinants?) (?:of|for)"
)
_PASSIVE = (
    rf"(?:is|are|being) (?:also )?{_HOW}(?:influenced|affected|impacted|determined|governed|shaped"
    r"|driven|caused|dictated|controlled|regulated)(?: directly| in turn)? by"
    rf"|(?:depends?|relies|rely) {_HOW}(?:directly )?(?:up)?on|(?:is|are) {_HOW}dependent (?:up)?on"
    r"|(?:results?|stems?|arises?)(?: directly)? from|responds?(?: directly)? to"
    r"|(?:is|are) (?:an? |the )?(?:direct )?(?:result|consequence|product)s? of"
)
EFFECT = re.compile(rf"\b(?P<passive>{_PASSIVE})\b|\b{_HOW}(?:{_ACTIVE})\b(?: directly\b)?", re.I)
_LEAD = re.compile(
    r"^(?:(?:additionally|similarly|also|moreover|furthermore|finally|simultaneously|likewise"
    r"|meanwhile|in addition|consequently|besides|while|and|then|where|here|specifically|in turn"
    r"|further|both|that)\b[, ]*)+",
    re.I,
)
_TAIL = re.compile(
    r"(?:[, ]+(?:in turn|additionally|also|likewise|while|and|similarly|simultaneously|then"
    r"|as well|directly|both|subsequently|each|all|but|it))+[, ]*$",
    re.I,
)
_SAME_SUBJECT = re.compile(
    r"[,;]?(?:^|\s)(?:and|while|but|whilst)(?:,? (?:it|they|also|both|each|in turn|then))*[, ]*$",
    re.I,
)
_IT = re.compile(r"(?:it|they|the (?:former|same))(?: (?:also|both|each|in turn))*", re.I)
_THIS = re.compile(r"(?:this|these|that|the latter)(?: (?:also|both|each|in turn))*", re.I)
_RELATIVE = re.compile(r",? (?:and )?(?:which|that)\b(?: (?:also|both|in turn))*[, ]*", re.I)
_BREAKS = [
    r"[,;] (?:while|whereas|and additionally|with|but)\b|;| (?:while|whereas)\b",
    r", and ",
    r", ",
    r" and ",
]
_LISTED = re.compile(
    r",? and (?:also |additionally )?|, (?:as well as )?| as well as | along with ", re.I
)
_PHRASES = [
    (
        re.compile(r"\bbalance between work and (?:personal |private )?life\b", re.I),
        "work-life balance",
    ),
    (re.compile(r"\bphysical activity\b", re.I), "exercise"),
]

Phrases = list[tuple[str, ...]]


def graph_told(sentences: Iterable[str]) -> tuple[Phrases, Edges]:
    """For each variable the phrases that name it, and edges.

    Variables come in order of appearance. Raises Unread where a sentence is not clear.
    """
    pairs: list[tuple[str, str]] = []
    subjects: list[str] = []
    for sentence in sentences:
        found, subjects = _effects(sentence.rstrip(".;: "), subjects)
        pairs += found
    if not pairs:
        raise Unread("no sentence about effects was understood")
    names: dict[frozenset[str], list[str]] = {}
    for phrase in itertools.chain.from_iterable(pairs):
        if not stems(phrase):
            raise Unread(f"no variable in {phrase[:60]!r}")
        names.setdefault(stems(phrase), []).append(phrase)
    cores = list(names)
    edges = {(cores.index(stems(cause)), cores.index(stems(effect))) for cause, effect in pairs}
    heads = [_head(names[core][0]) for core in cores]
    same = _same_variable(cores, heads, edges)
    kept = sorted(set(same))
    phrases = [
        tuple(
            itertools.chain.from_iterable(
                names[c] for c, s in zip(cores, same, strict=True) if s == k
            )
        )
        for k in kept
    ]
    told = [(same[cores.index(stems(a))], same[cores.index(stems(b))]) for a, b in pairs]
    return phrases, tuple(dict.fromkeys((kept.index(a), kept.index(b)) for a, b in told))


def _head(phrase: str) -> str:
    """The stem of the word that a phrase is about: "the output of the plant" is an output."""
    about = re.split(r" (?:of|in|from|for|to|on|that|a|an) ", phrase)[0]
    words = [word for word in words_of(about) if stems(word)] or words_of(phrase)
    return stem_of(words[-1])


def _same_variable(
    cores: list[frozenset[str]], heads: list[str], edges: set[tuple[int, int]]
) -> list[int]:
    """For each phrase the first phrase of the same variable.

    A phrase whose words all occur in exactly one other (or in one that is about one of them) is
    short for that one; phrases that differ in one word, akin to the other's, are one; and as long
    as the graph is in pieces, the two phrases of different pieces that are most alike are one.
    Two phrases of which one affects the other are two variables.
    """
    same = list(range(len(cores)))

    def linked(a: int, b: int) -> bool:
        pair = {same[a], same[b]}
        return any({same[c], same[e]} == pair for c, e in edges)

    def merge(a: int, b: int) -> None:
        first, second = sorted((same[a], same[b]))
        same[:] = [first if s == second else s for s in same]

    for a, core in sorted(enumerate(cores), key=lambda pair: -len(pair[1])):
        longer = [b for b, other in enumerate(cores) if core < other and not linked(a, b)]
        if len({same[b] for b in longer}) > 1:
            longer = [b for b in longer if heads[b] in core]
        if len({same[b] for b in longer}) == 1:
            merge(a, longer[0])
    for a, b in itertools.combinations(range(len(cores)), 2):
        differing = cores[a] - cores[b], cores[b] - cores[a]
        if len(differing[0]) == len(differing[1]) == 1 and cores[a] & cores[b]:
            if akin(*differing[0]) & differing[1] and not linked(a, b):
                merge(a, b)
    while len(set(pieces := _pieces(same, edges))) > 1:
        likeness = {
            (same[a], same[b]): _likeness(cores[a], cores[b])
            for a, b in itertools.combinations(range(len(cores)), 2)
            if pieces[a] != pieces[b]
        }
        best = max(likeness.values())
        if best == 0 or list(likeness.values()).count(best) > 1:
            raise Unread("some variables have no connection: one may have two names")
        merge(*max(likeness, key=likeness.__getitem__))
    return same


def _pieces(same: list[int], edges: set[tuple[int, int]]) -> list[int]:
    """For each phrase the connected piece of the graph that it is in."""
    piece = list(same)
    for a, b in edges:
        old, new = piece[a], piece[b]
        piece = [new if p == old else p for p in piece]
    return piece


def _likeness(core: frozenset[str], other: frozenset[str]) -> float:
    """The share of common words; words that are only akin count half."""
    akin_ones = sum(bool(akin(stem) & other) for stem in core - other)
    return (len(core & other) + akin_ones / 2) / len(core | other)


def _effects(sentence: str, previous: list[str]) -> tuple[list[tuple[str, str]], list[str]]:
    """The (cause, effect) phrases of a sentence, in its order, and its last subjects.

    previous: the subjects of the sentence before, for "it".
    """
    verbs = list(EFFECT.finditer(sentence))
    if not verbs:
        raise Unread(f"no effect in {sentence[:80]!r}")
    pairs: list[tuple[str, str]] = []
    subjects = _subjects(sentence[: verbs[0].start()], previous, previous)
    for verb, following in itertools.zip_longest(verbs, verbs[1:]):
        between = sentence[verb.end() : following.start() if following else len(sentence)]
        objects, next_subjects = between, ""
        relative = _RELATIVE.search(between) if following else None
        same = _SAME_SUBJECT.search(between) if following else None
        if relative:
            objects = between[: relative.start()]
        elif same:
            objects = between[: same.start()]
        elif following:
            objects, next_subjects = _divide(between)
        found = _names(objects)
        for subject, other in itertools.product(subjects, found):
            pairs.append((other, subject) if verb["passive"] else (subject, other))
        if relative:
            subjects = found[-1:]
        elif next_subjects:
            subjects = _subjects(next_subjects, subjects, found)
    return pairs, subjects


def _subjects(text: str, it: list[str], this: list[str]) -> list[str]:
    """The variables that stand before a verb; pronouns stand for those given."""
    plain = _LEAD.sub("", text.strip(" ,;")).strip(" ,;")
    for pronoun, meant in ((_IT, it), (_THIS, this)):
        if pronoun.fullmatch(plain) or (not plain and meant is this and text.strip()):
            if not meant:
                raise Unread(f"nothing that {text[:40]!r} could stand for")
            return meant if meant is it else meant[-1:]
    return _names(text)


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
