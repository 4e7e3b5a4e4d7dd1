"""Sentences about effects: "A directly influences B and C, which in turn affects D"."""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Iterable

from caugym_jax.causal.reworded.stems import akin, stem_of, stems, words_of
from caugym_jax.causal.vocabulary import Unread

Edges = tuple[tuple[int, int], ...]

_ADVERB = (
    r"(?:also|directly|indirectly|in turn|subsequently|likewise|then|further|similarly|immediately"
    r"|simultaneously|itself|themselves|both|all|each|jointly|partly|causally|strongly|too|do|does)"
)
_HOW = rf"(?:{_ADVERB}[, ]+)*"
_SO = rf"(?:,? {_ADVERB}\b)*"
_NOUN = r"(?:effect|impact|influence|consequence|bearing|pull|sway)s?"
_A = r"(?:an? |the |its |their |one of the |part of the )?(?:[a-z]+,? ){0,4}?"
_ACTIVE = (
    r"(?:influenc|affect|impact|determin|govern|shap|caus|alter|modif|dictat|control|regulat)"
    r"(?:es|ies|s|e|y|ing(?! (?:factor|element|variable|cause|influence)))?"
    rf"|(?:driv|chang)(?:es|e)"
    rf"|(?:contribut(?:es?|ing)|leads?|translates?|gives? rise){_SO} to"
    rf"|(?:acts?|bears?|weighs?){_SO} (?:up)?on|(?:leads?|feeds?|translates?|plays?){_SO} into"
    rf"|results?{_SO} in|brings?{_SO} about"
    rf"|(?:plays?|playing) {_A}(?:role|part) in"
    r"(?: (?:determining|shaping|influencing|affecting|driving))?"
    rf"|(?:ha[sd]|have|exerts?|produces?|with|having|exerting) {_A}{_NOUN}{_SO} (?:up)?(?:on|over)"
    rf"|(?:is|are|acts? as|serves? as|represents?|constitutes?) {_A}(?:causes?|drivers?"
    r"|determinants?|influences?|contributors?|factors?)(?: of| for| on| to| in| behind)"
)
_PASSIVE = (
    rf"(?:is|are|being) {_HOW}(?:influenced|affected|impacted|determined|governed|shaped|driven"
    rf"|caused|dictated|controlled|regulated|altered|modified|changed|steered){_SO} by"
    rf"|(?:depends?|depending|relies|rely|hinges?){_SO} (?:up)?on"
    rf"|(?:is|are) {_HOW}(?:dependent|contingent) (?:up)?on"
    rf"|(?:results?|stems?|arises?|follows?){_SO} from|responds?{_SO} to"
    rf"|(?:is|are) {_A}(?:result|consequence|product|function|outcome)s? of"
    rf"|(?:is|are) {_HOW}(?:under|subject to) {_A}{_NOUN} (?:of|from)"
)
EFFECT = re.compile(rf"\b(?P<passive>{_PASSIVE})\b|\b{_HOW}(?:{_ACTIVE})\b(?: directly\b)?", re.I)
_SO_DOES = re.compile(
    r"^(?P<rest>.+?)(?:,? (?:and )?(?:so|as|nor) (?:do|does) (?P<a>.+)|,? and (?P<b>.+) does too)$",
    re.I,
)
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
_ON = re.compile(r"^(?:up)?(?:on|over|by|to|of) ", re.I)
_PHRASES = [
    (
        re.compile(r"\bbalance between work and (?:personal |private )?life\b", re.I),
        "work-life balance",
    ),
    (re.compile(r"\bphysical activity\b", re.I), "exercise"),
]

Phrases = list[tuple[str, ...]]
SOMEWHAT_ALIKE = 1 / 4
MAX_PHRASES = 40
MAX_PIECES = 3  # of a graph, which are joined
WAYS = 12  # of reading that are tried


@dataclasses.dataclass(frozen=True)
class Told:
    """What sentences say about effects, in phrases."""

    cores: list[frozenset[str]]  # the different phrases, as stems, in order of appearance
    phrases: list[list[str]]  # by core: the phrases themselves
    edges: tuple[tuple[int, int], ...]  # between cores, in the order told

    def graph(self, same: list[int]) -> tuple[Phrases, Edges]:
        """For each variable the phrases that name it, and edges; `same` as in `namings`."""
        kept = sorted(set(same))
        phrases = [
            tuple(p for c, own in enumerate(self.phrases) if same[c] == k for p in own)
            for k in kept
        ]
        edges = ((kept.index(same[a]), kept.index(same[b])) for a, b in self.edges)
        return phrases, tuple(dict.fromkeys(edges))

    def likeness(self, a: int, b: int) -> float:
        """The share of common words of two phrases; words that are only akin count half."""
        core, other = self.cores[a], self.cores[b]
        akin_ones = sum(bool(akin(stem) & other) for stem in core - other)
        return (len(core & other) + akin_ones / 2) / len(core | other)


def told(sentences: Iterable[str]) -> Told:
    """Raises Unread where a sentence about effects is not clear."""
    pairs: list[tuple[str, str]] = []
    subjects: list[str] = []
    for sentence in sentences:
        sentence = sentence.rstrip(".;: ")
        if so := _SO_DOES.match(sentence):
            sentence = f"{so['a'] or so['b']} and {_LEAD.sub('', so['rest'])}"
        found, subjects = _effects(sentence, subjects)
        pairs += found
    if not pairs:
        raise Unread("no sentence about effects was understood")
    names: dict[frozenset[str], list[str]] = {}
    for phrase in itertools.chain.from_iterable(pairs):
        if not stems(phrase):
            raise Unread(f"no variable in {phrase[:60]!r}")
        names.setdefault(stems(phrase), []).append(phrase)
    if len(names) > MAX_PHRASES:
        raise Unread(f"more than {MAX_PHRASES} phrases for variables")
    cores = list(names)
    edges = ((cores.index(stems(cause)), cores.index(stems(effect))) for cause, effect in pairs)
    return Told(cores, list(names.values()), tuple(dict.fromkeys(edges)))


def namings(said: Told) -> list[list[int]]:
    """For each phrase the first phrase of the same variable; where that is open, all ways.

    A phrase whose words all occur in exactly one other (or in one that is about one of them) is
    short for that one; phrases that differ in one word, akin to the other's, are one; and as long
    as the graph is in pieces, two phrases of different pieces are one: those most alike, even if
    they have nothing in common. Two phrases of which one affects the other are two variables.
    There are at most WAYS ways.
    """
    same = list(range(len(said.cores)))
    for a, core in sorted(enumerate(said.cores), key=lambda pair: -len(pair[1])):
        longer = [
            b
            for b, other in enumerate(said.cores)
            if core < other and not _linked(said, same, a, b)
        ]
        if len({same[b] for b in longer}) > 1:
            longer = [b for b in longer if _head(said.phrases[b][0]) in core]
        if len({same[b] for b in longer}) == 1:
            same = _merged(same, a, longer[0])
    for a, b in itertools.combinations(range(len(said.cores)), 2):
        one, other = said.cores[a] - said.cores[b], said.cores[b] - said.cores[a]
        alike = len(one) == len(other) == 1 and said.cores[a] & said.cores[b] and akin(*one) & other
        if alike and not _linked(said, same, a, b):
            same = _merged(same, a, b)
    return _joined(said, same)


def more_namings(said: Told, same: list[int]) -> list[list[int]]:
    """The ways in which one more pair of phrases that are somewhat alike is one variable."""
    return [
        merged
        for a, b in itertools.combinations(sorted(set(same)), 2)
        if said.likeness(a, b) >= SOMEWHAT_ALIKE and not _linked(said, same, a, b)
        for merged in [_merged(same, a, b)]
        if _acyclic(said, merged)
    ]


def _joined(said: Told, same: list[int]) -> list[list[int]]:
    """The ways to join the pieces of a graph."""
    pieces = _pieces(same, said.edges)
    if len(set(pieces)) == 1:
        return [same]
    if len(set(pieces)) > MAX_PIECES:
        raise Unread(f"the graph is in more than {MAX_PIECES} pieces: variables have many names")
    likeness = {
        (same[a], same[b]): said.likeness(a, b)
        for a, b in itertools.combinations(range(len(same)), 2)
        if pieces[a] != pieces[b] and _acyclic(said, _merged(same, a, b))
    }
    if not likeness:
        raise Unread("some variables have no connection: one may have two names")
    best = max(likeness.values())
    likely = [pair for pair, value in likeness.items() if value == best]
    return [way for pair in likely[:WAYS] for way in _joined(said, _merged(same, *pair))][:WAYS]


def _merged(same: list[int], a: int, b: int) -> list[int]:
    first, second = sorted((same[a], same[b]))
    return [first if s == second else s for s in same]


def _linked(said: Told, same: list[int], a: int, b: int) -> bool:
    """Whether two phrases' variables are not to be merged: one affects the other, or only one is
    a quality ("air quality", "air pressure"), or they are one already."""
    pair = {same[a], same[b]}
    if ("qualit" in said.cores[a]) != ("qualit" in said.cores[b]):
        return True
    return len(pair) == 1 or any({same[c], same[e]} == pair for c, e in said.edges)


def _acyclic(said: Told, same: list[int]) -> bool:
    edges = {(same[a], same[b]) for a, b in said.edges}
    while edges:
        left = {(a, b) for a, b in edges if any(b == c for c, _ in edges)}
        if left == edges:
            return False
        edges = left
    return True


def _head(phrase: str) -> str:
    """The stem of the word that a phrase is about: "the output of the plant" is an output."""
    about = re.split(r" (?:of|in|from|for|to|on|that|a|an) ", phrase)[0]
    words = [word for word in words_of(about) if stems(word)] or words_of(phrase)
    return stem_of(words[-1])


def _pieces(same: list[int], edges: Edges) -> list[int]:
    """For each phrase the connected piece of the graph that it is in."""
    piece = list(same)
    for a, b in edges:
        old, new = piece[a], piece[b]
        piece = [new if p == old else p for p in piece]
    return piece


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
    found = [_ON.sub("", _LEAD.sub("", part.strip())) for part in _LISTED.split(text)]
    found = [name for name in found if name]
    if not found:
        raise Unread(f"no variable in {text[:60]!r}")
    return found
