"""Sentences with numbers: "when A is low, the chance of B being high is 0.1234"."""

from __future__ import annotations

import re
from collections.abc import Iterator
from decimal import Decimal

from caugym_jax.causal.reworded.words import Words
from caugym_jax.causal.vocabulary import Named, Unread

NUMBER = re.compile(r"(?<![\d.])[01]\.\d+|(?<![\d.])\d+(?:\.\d+)?%")
_FORMULA = re.compile(r"P\((?P<target>[^()|]*)(?:\|(?P<given>[^()]*))?\)")
_CHANCE = r"(?:probability|probabilities|likelihood|chance)\b"
_PROBABLE = re.compile(
    r"(?:(?:the|a|an|its|their) )?(?:[a-z]+ )?"
    r"(?:joint |combined |overall |general |baseline |marginal |simultaneous )*"
    rf"{_CHANCE}(?: of| that| for)?",
    re.I,
)
_GOES = r"(?:rises|drops|falls|increases|decreases|changes|declines|climbs|shifts|jumps|reduces)"
_SAME = re.compile(
    rf"\bit(?= (?:is|becomes|{_GOES}))"
    rf"|(?:this|that|the|such|same)(?: same)? {_CHANCE}(?! of| that| for)",
    re.I,
)
_VERB = re.compile(
    rf"\b(?:is|becomes|equals|stands at|{_GOES}(?: \w+)? to|reaches|was|are|of|at|=)\s*$", re.I
)
_LEAD = re.compile(
    r"^(?:and|while|whereas|conversely|but|however|additionally|similarly|in contrast"
    r"|given (?:the|these) [^:]*:)[, ]*",
    re.I,
)
_WHATEVER = re.compile(r"\b(?:across|regardless of|irrespective of)\b[^,]*", re.I)
_CONDITION = re.compile(
    r",? (?:given(?: that)?|when|if|for (?:those|individuals|cases)|among|conditional on)\b", re.I
)
_TOGETHER = re.compile(r"\b(?:together|jointly|simultaneously|concurrently)\b", re.I)
_AFTER = re.compile(r"[ ,]*((?:when|if|for|given|under|with|among)\b[^.]*)\.?$", re.I)
_CHANCE_AFTER = re.compile(
    r"\s*((?!and |the |while |with )(?:[a-z]+ )?(?:chance|probability|likelihood)\b[^,;.]*)", re.I
)


def probabilities(sentences: list[str], words: Words) -> Iterator[tuple[Named, Named, str]]:
    """(target, given, number) for each number, in order. Raises Unread where one is not clear."""
    target: Named = ()
    for sentence in sentences:
        start = 0
        for number in NUMBER.finditer(sentence):
            clause = sentence[start : number.start()].strip(" ,;.:")
            start = number.end()
            if chance := _CHANCE_AFTER.match(sentence, start):  # "a 0.5 chance that ..."
                clause = f"{clause}, the {chance[1]}"
                start = chance.end()
            elif (after := _AFTER.match(sentence[start:])) and not NUMBER.search(after[1]):
                clause = f"{after[1]}, {clause}"  # "... is 0.5 when ..."
            target, given = _term(_WHATEVER.sub("", clause), target, words)
            if {v for v, _ in target} & {v for v, _ in given}:
                raise Unread(f"one variable as condition and as target in {clause[:80]!r}")
            yield target, given, _decimal(number[0])


def _decimal(number: str) -> str:
    return str(Decimal(number[:-1]) / 100) if number.endswith("%") else number


def _term(clause: str, previous: Named, words: Words) -> tuple[Named, Named]:
    """Target and condition of the number that follows a clause; `previous`: the last target."""
    if formula := _FORMULA.search(clause):
        before = clause[: formula.start()]
        given = formula["given"] or (before if words.states(before) else "")
        return words.events(formula["target"]), words.events(given) if given else ()
    clause = _LEAD.sub("", clause)
    if same := _SAME.search(clause):
        if not previous:
            raise Unread(f"no earlier probability for {clause[:80]!r}")
        rest = clause[: same.start()] + " " + _VERB.sub("", clause[same.end() :])
        return previous, words.events(rest)
    places = list(_PROBABLE.finditer(clause))
    if not places:
        raise Unread(f"no probability in {clause[:80]!r}")
    stated = (p for p in reversed(places) if words.states(clause[p.end() :]))
    place = next(stated, places[-1])
    head, body = clause[: place.start()], _VERB.sub("", clause[place.end() :].strip())
    if not words.items(body) and _TOGETHER.search(head):
        return words.events(head), ()
    if not words.items(body) and not words.nodes(place[0]) and previous and words.states(head):
        return previous, words.events(head)  # "for those with ..., the probability is"
    if condition := _CONDITION.search(body):
        body, head = body[: condition.start()], f"{head} {body[condition.start() :]}"
    if words.nodes(head) and not words.states(head):
        raise Unread(f"a condition without a state in {head[:80]!r}")
    given = words.events(head) if words.states(head) else ()
    return words.affirmed(body or place[0]), given
