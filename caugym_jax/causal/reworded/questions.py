"""The question: which task, about which variables in which states, in which direction."""

from __future__ import annotations

import dataclasses
import re

from caugym_jax.causal.graph import mediators
from caugym_jax.causal.reworded.states import HIGH, LOW
from caugym_jax.causal.reworded.words import Words, negated
from caugym_jax.causal.vocabulary import Asked, Unread, graph_of
from caugym_jax.causal.wording import EFFECTS
from caugym_jax.types import BOUND_TASKS, TASKS

_OTHER = {LOW: HIGH, HIGH: LOW}
_NAMED = re.compile(r"\((" + "|".join(TASKS) + r")\)")
_LIMIT = (
    r" (?:(?!the |a |an |its |their )\w+ )?"
    r"(?:possible|probable|bound|limit|value|probability|likelihood|chance|attainable|achievable)\b"
)
_AT = r"(?=.{0,40}how (?:probable|likely))\bat "
_LEAST = re.compile(
    rf"\b(?:minimum|minimal|least|smallest|lowest){_LIMIT}|\blower (?:bound|limit)\b"
    rf"|{_AT}least\b",
    re.I,
)
_MOST = re.compile(
    rf"\b(?:maximum|maximal|most|greatest|largest|highest){_LIMIT}|\bupper (?:bound|limit)\b"
    rf"|{_AT}most\b",
    re.I,
)
_CHANCE = re.compile(
    r"\b(?:probability|likelihood|chances?|odds|extent)\b(?: of| that| for| to which)?"
    r"|\bhow (?:probable|likely) (?:(?:is|was) it |(?:would|could) it be )?that",
    re.I,
)
_CHANCE_OF = re.compile(r"\b(?:probability|likelihood|chances?|odds) (?:of|that|for)\b", re.I)
_WITH_CHANCE = re.compile(r"\bwith (?:an? |the )?(?:\w+ )?$", re.I)
_LIKELY = re.compile(
    r"\b(?:more|less) (?:likely|probable|frequent(?:ly)?|often|prevalent|common|prone"
    r"|apt|inclined)\b",
    re.I,
)
_UP = (
    r"(?:increas\w*|rais\w*|rises?|higher|greater|elevat\w*|boost\w*|improv\w*|more|larger|better"
    r"|enhanc\w*)"
)
_DOWN = (
    r"(?:decreas\w*|reduc\w*|lower\w*|smaller|less|diminish\w*|lessen\w*|drops?|declin\w*|falls?)"
)
_THE = r"(?: (?:in|the|a|an|its|their|of|that|overall|any|this|such))*"
_TOWARDS = rf"{_THE}\s+(?:probability|likelihood|chances?|odds|likely|probable|frequent\w*|often)"
_AFTER = r"\b(?:probability|likelihood|chance)\b[^?]*"
_MORE = re.compile(
    rf"\b{_UP}{_TOWARDS}|{_AFTER}\b(?:increase|rise|grow|go(?:es|ne)? up"
    r"|have (?:increased|risen|grown)"
    r"|(?:be|been|become) (?:higher|greater|increased|raised|larger))\b",
    re.I,
)
_LESS = re.compile(
    rf"\b{_DOWN}{_TOWARDS}|{_AFTER}\b(?:decrease|drop|decline|fall|diminish|go(?:es|ne)? down"
    r"|have (?:decreased|dropped|declined|fallen)"
    r"|(?:be|been|become) (?:lower|reduced|decreased|smaller|diminished))\b",
    re.I,
)
_EITHER = re.compile(r"\b(?:increase or decrease|different|differ|affected|rise or fall)\b", re.I)
_DIRECTION = re.compile(rf"\b(?:{_UP}|{_DOWN}){_THE}\s*(?=,)", re.I)
_UNNAMED = re.compile(
    r"\b(?:versus|vs|compared (?:to|with)|relative to|than|from|against|opposed to|instead of)\b"
    r"[^,?]{0,30}\b(?:natural|baseline|general|typical|normal|usual|average|original)"
    r" (?:state|level|value|condition)",
    re.I,
)
_AGAINST = re.compile(
    r",? (?:when |as |in )?(?:compared|versus|relative|rather than|as opposed|instead of"
    r"|in contrast)\b[^,?]*"
    r"|(?<= )than (?:when|with|under|if|in|at|it|(?:an? )?(?:low|high))\b[^,?]*",
    re.I,
)
_FROM = re.compile(r"\bfrom (?:a |its )?(?:\w+ ){1,3}?to\b", re.I)
_END = re.compile(
    r",|\?|\b(?:if|had|were|when|would|should|than|provided|assuming|given|under|with|while"
    r"|be (?:higher|lower|greater|reduced)|increases?|decreases?|rises?|goe?s? up|compared"
    r"|as a result|have\b(?! (?:an? )?(?:many|few|poor|low|bad|high|good|large|small|strong|weak))"
    r"|(?:increased|raised|reduced|lowered|decreased|elevated) by)\b",
    re.I,
)
_CLAUSES = re.compile(
    r"[,;]|\b(?:while|whereas|would|but|if|when|does(?! not))\b"
    r"|\bhad\b(?! (?:instead|been|only|remained))",
    re.I,
)
_OPENS = re.compile(r",|\b(?:would|will|does|do|ma[kd]es?|ma[dk]e|causes?|cause|in|if|had)\b", re.I)
_MEDIATOR = re.compile(
    r"\b(?:mediat|intermedia|intermediate|intervening (?:variable|factor))", re.I
)
_ADJUSTS = re.compile(
    r"\b(?:what(?:ever)?|(?:value|state|level|status)s?) (?:value |level |state )?(?:that )?"
    r"(?:(?:it|they|which) )?(?:would|will|takes?)"
    r"|\bwould (?:have )?(?:take|taken|reach|reached|attain|attained|assume|assumed)\b"
    r"|\b(?:mediat\w+|intermedia\w+)(?: (?:variable|factor|value|level)s?)?"
    r"(?: (?:is|are|was|were|then|to|instead|also|would|will|has|had|have|been|be|itself"
    r"|naturally|being|can|could|freely"
    r"|alone|only|may|might)){0,3} (?:adjust|shift|chang|vary|varies|varied|adapt|respond"
    r"|tak|adopt|mov|transition"
    r"|assum|attain|reach|alter|behav|acquir|switch|modif|react|follow|set\b)\w*",
    re.I,
)
_PATH = re.compile(
    r"\b(in)?direct(?:ly)?(?: causal)? (?:effects?|impacts?|influences?|path|pathway|route"
    r"|channel)\b",
    re.I,
)
_THROUGH = re.compile(
    r"\b(?:what(?:ever)?(?: value| level| state)?|(?:value|state|level)s?)(?: that)?"
    r" (?:it|they) would"
    r"|\b(?:path(?:way)?|route|channel|effect|influence|impact|change)s?(?: that)?"
    r"(?: (?:runs?|running|goes|going|operat\w+|pass\w+|transmitted|acting|only|solely|purely))*"
    r" (?:through|via)\b|\b(?:only|solely|purely) (?:through|via|by way of)\b"
    r"|\b(?:respond|react|behav|adjust|adapt|var[iy])\w* as (?:if|though)\b",
    re.I,
)
_STAYS = re.compile(
    r"\bwithout (?:letting|allowing|having|any|a|the)\b[^,?]{0,20}?\b(?:mediat|intermed)"
    r"|\b(?:mediat|intermed)\w*(?: \w+)? (?:(?:do|does|did|is|are|was|were) not|\w+n't)\b",
    re.I,
)
_HELD = re.compile(
    r"\b(?:held|holding|maintained|maintaining|kept|keeping|remains?|remained|fixed|fixing|constant"
    r"|conditioned|conditional|conditioning|controlling|controlled)\b",
    re.I,
)
_REVERSED = re.compile(
    r"\b(?:affected|influenced|impacted|shaped|driven|caused|determined) by\b|\bdue to\b", re.I
)
_CONTRARY = re.compile(r"\b(?:had|if|were|instead|would|but|been|supposing|contrary)\b", re.I)
_ACTUAL = re.compile(
    r"\b(?:those|individuals|people|persons|subjects|cases|group|subgroup|currently|actually"
    r"|observed|whose|who|among|instances|population)\b",
    re.I,
)
_UNLESS = re.compile(
    r"(?<!have )\bhad\b|\b(?:if|were|under|with|given|assuming|supposing|should|when)\b", re.I
)
_CONTRARY_CLAUSE = re.compile(
    r"\b(?:had|if|were)\b[^,.;]*\b(?:been|were|instead|had)\b[^,.;]*(?=, )", re.I
)
_AS_IT_WAS = re.compile(
    r"[,;]?\s*\b(?:given|knowing|considering|provided|since|when|if|assuming|for"
    r"|(?<!result )(?<!resulted )in|among)\b"
    r"(?: (?:that|it is known that|we (?:know|observe|observed) that))*",
    re.I,
)
_WOULD = re.compile(r"\b(?:would|had(?: \w+){1,4} been|had been|had not|were to|instead)\b", re.I)
_LED = re.compile(
    r"\bwould(?: have)? (?:led? to|cause[d]?|result(?:ed)? in|ma[dk]e|brought about|produced?)\b",
    re.I,
)
_TURNED = {
    **dict.fromkeys(("increasing", "raising", "increased", "raised", "boosting"), HIGH),
    **dict.fromkeys(("reducing", "lowering", "decreasing", "reduced", "lowered"), LOW),
}


def read_question(
    question: str, instruction: str, words: Words, edges: tuple[tuple[int, int], ...]
) -> Asked:
    """What is asked, with states as LOW and HIGH. Raises Unread where it is not clear."""
    question = re.sub(r"\s*\([^()]*\)\s*", " ", question)  # the mediator's name, most often
    said = _NAMED.search(instruction)
    task = said[1] if said else _named(instruction) or _named(question)
    if _LEAST.search(question) or _MOST.search(question):
        if task not in (None, *BOUND_TASKS):
            raise Unread(f"a bound of {task}")
        return _bound(question, words)
    if task in BOUND_TASKS:
        raise Unread("the question does not say which bound it asks for")
    if _UNNAMED.search(question):
        raise Unread("the question contrasts a state with an unnamed one")
    asked = _effect(question, task, words, edges)
    if said:
        pair = words.nodes(instruction[said.end() :])
        if _REVERSED.search(instruction):
            pair.reverse()
        if len(set(pair)) == 2 and (pair[0], pair[-1]) != (asked.x, asked.y):
            raise Unread("the instruction and the question name different variables")
    return dataclasses.replace(asked, polarity=_polarity(question))


def _named(instruction: str) -> str | None:
    """The task that an instruction names in full."""
    words = instruction.casefold()
    return next((task for task, name in EFFECTS.items() if name in words), None)


def _polarity(question: str) -> int | None:
    """1: more likely? -1: less likely? None: neither, or both."""
    more, less = _MORE.search(question), _LESS.search(question)
    if _EITHER.search(question) or bool(more) == bool(less):
        return None
    return 1 if more else -1


def _task(question: str) -> str:
    """The task of a question that is not named, but for ETT, which is known by its two states."""
    if _STAYS.search(question):
        return "NDE"
    if _THROUGH.search(question):
        return "NIE"
    if _MEDIATOR.search(question):
        return "NIE" if _ADJUSTS.search(question) else "NDE"
    if path := _PATH.search(question):
        return "NIE" if path[1] else "NDE"
    return "CDE" if _HELD.search(question) else "ATE"


# Effects --------------------------------------------------------------------------------------


def _effect(
    question: str, named: str | None, words: Words, edges: tuple[tuple[int, int], ...]
) -> Asked:
    task = named or _task(question)
    y, outcome, rest = _outcome(_FROM.sub("to", _AGAINST.sub("", question)), words)
    pairs = [(node, state) for node, state, _ in _settings(rest, words) if node != y]
    states = {node: {s for n, s in pairs if n == node and s} for node, _ in pairs}
    stated = [node for node in states if states[node]]
    if task == "ETT" or (named is None and task == "ATE" and len(stated) == 1):
        treated = _treated(y, outcome, rest, words)
        if treated or task == "ETT":
            return _sure(treated, "the question about the treated does not contrast two states")
    if task == "ATE" and not named and len(stated) > 1:
        task = "CDE"  # something is set and something else held, whatever the words
    if task != "CDE":
        if len(stated) != 1 or len(states[stated[0]]) != 1:
            raise Unread("the question does not set one variable to one state")
        return Asked(task, stated[0], y, *states[stated[0]], outcome)
    graph = graph_of(len(words.cores), edges)
    for x in states:
        held = set(states) - {x}
        if (
            held
            and held == set(mediators(graph, x, y))
            and all(len(states[v]) == 1 for v in states)
        ):
            return Asked(task, x, y, *states[x], outcome, tuple((v, *states[v]) for v in held))
    raise Unread("what is held is not what lies between two variables")


def _sure(asked: Asked | None, why_not: str) -> Asked:
    if asked is None:
        raise Unread(why_not)
    return asked


def _outcome(question: str, words: Words) -> tuple[int, str, str]:
    """The outcome, the state asked about, and the question without them."""
    place = next(reversed(list(_CHANCE.finditer(question))), None)
    likely = None if place else _LIKELY.search(question)
    if not (place or likely):
        raise Unread("the question has no outcome")
    head, tail = question[: (place or likely).start()], question[(place or likely).end() :]
    end = _END.search(tail)
    body, rest = (tail[: end.start()], tail[end.start() :]) if end else (tail, "")
    nodes, states = words.nodes(body), words.states(body)
    if not nodes and (likely or states or _WITH_CHANCE.search(head)):
        # "make their mood more likely to be low", "their mood have a higher probability of ..."
        opens = [m.end() for m in _OPENS.finditer(head)]
        start = next((at for at in reversed(opens) if words.nodes(head[at:])), 0)
        nodes = words.nodes(head[start:])
        states = states or words.states(head[start:])
        if len(set(nodes)) > 1 and states:  # "causes the stress to be more likely high"
            start = head.rindex(" ", 0, head.rindex(" ")) if " " in head else 0
        head = head[:start]
    if not states and not negated(body):
        states = [HIGH]  # "the probability of being employed"
    if len(set(nodes)) != 1 or len(set(states)) != 1:
        raise Unread(f"the outcome in {body[:80]!r} is not one variable in one state")
    return nodes[0], states[0], _DIRECTION.sub(" , ", f"{head} , {rest}")


def _treated(y: int, outcome: str, rest: str, words: Words) -> Asked | None:
    """ETT: one variable in its actual state and in the other; None where that is not so."""
    told = [(v, s, clause) for v, s, clause in _settings(rest, words) if s and v != y]
    if len({v for v, _, _ in told}) != 1:
        return None
    x, actual, first = told[0]
    others = [clause for _, s, clause in told if s == _OTHER[actual]]
    loose = [
        clause
        for clause in _CLAUSES.split(rest)
        if not words.nodes(clause) and set(words.states(clause)) == {_OTHER[actual]}
    ]
    if not (others or loose):
        return None
    if others and _turned_round(first, others[0]):
        actual = _OTHER[actual]
    return Asked("ETT", x, y, _OTHER[actual], outcome)


def _turned_round(first: str, second: str) -> bool:
    """Whether the first of two clauses is the one that is contrary to fact."""
    return bool(_CONTRARY.search(first) and _ACTUAL.search(second) and not _ACTUAL.search(first))


def _settings(text: str, words: Words) -> list[tuple[int, str | None, str]]:
    """Variables with the state that stands beside them, clause by clause, with the clause."""
    found: list[tuple[int, str | None, str]] = []
    before = 0
    for end in (*(m for m in _CLAUSES.finditer(text)), None):
        clause = text[before : end.start() if end else len(text)]
        context = text[max(0, before - 6) : end.start() if end else len(text)]
        before = end.end() if end else len(text)
        nodes, states = words.nodes(clause), words.states(clause)
        if len(set(nodes)) == len(nodes) == len(states) > 1:
            found += [(*event, context) for event in words.events(clause)]
        elif len(set(states)) == 1:
            found += [(node, states[0], context) for node in nodes]
        elif len(set(nodes)) == 1 and sorted(states) == [HIGH, LOW]:
            found += [(nodes[0], state, context) for state in states]
        elif nodes and states:
            raise Unread(f"unclear states in {clause[:80]!r}")
        else:
            turned = (_TURNED[w] for w in clause.casefold().split() if w in _TURNED)
            state = next(turned, None)
            found += [(node, state, context) for node in nodes]
    return found


# Bounds ---------------------------------------------------------------------------------------


def _bound(question: str, words: Words) -> Asked:
    """PN, PS: two variables as they were, and what would have been."""
    least, most = _LEAST.search(question), _MOST.search(question)
    extreme = least or most
    place = _CHANCE.search(question, extreme.start())
    if (least and most) or not place:
        raise Unread("the bound is not clear")
    again = _CHANCE_OF.search(question, place.end())
    if again and again.start() - place.end() < 40:  # "the maximum probability for the chance of"
        place = again
    actual, would = question[: extreme.start()], question[place.end() :]
    would = re.sub(r"^ (?:(?:with|by) which|there is|there was)\b", "", would)
    if not _UNLESS.search(would) and (contrary := _CONTRARY_CLAUSE.search(actual)):
        actual, would = actual[: contrary.start()], f"{would} {contrary[0]}"
    for later in reversed(list(_AS_IT_WAS.finditer(would))):
        if words.states(would[later.end() :]) and not _WOULD.search(would[later.end() :]):
            actual, would = f"{actual} , {would[later.end() :]}", would[: later.start()]
            break
    outcome_told, cause_told = _other_world(would)
    asked = {(v, s) for v, s, _ in _settings(outcome_told.replace("would", ""), words) if s}
    cause = {(v, s) for v, s, _ in _settings(cause_told, words) if s}
    if len(asked) != 1 or len(cause) != 1:
        raise Unread("the bound's other world is not clear")
    ((y, outcome),), ((x, to),) = asked, cause
    was = {(v, s) for v, s, _ in _settings(actual, words) if s}
    if not was and "both" in actual:  # "given that both were high"
        was = {(v, s) for v in (x, y) for s in words.states(actual)}
    if x == y or was != {(x, _OTHER[to]), (y, _OTHER[outcome])}:
        raise Unread("the bound's two worlds are not opposite")
    bound = "lower" if least else "upper"
    return Asked("PS" if to == HIGH else "PN", x, y, to, outcome, bound=bound, polarity=None)


def _other_world(text: str) -> tuple[str, str]:
    """The outcome and the cause in what follows "the probability that"."""
    text = text.strip(" ,;")
    if _UNLESS.match(text):  # "had rain been low, fog would have been low"
        cause, _, outcome = text.partition(",")
        return outcome, cause
    if led := _LED.search(text):  # "low rain would have led to low fog"
        return text[led.end() :], text[: led.start()]
    unless = _UNLESS.search(text)
    if not unless:
        raise Unread("the bound's other world is not clear")
    return text[: unless.start()], text[unless.start() :]
