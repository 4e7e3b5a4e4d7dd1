"""Sentences with numbers: "when A is low, the chance of B being high is 0.1234"."""

from __future__ import annotations

import re
from collections.abc import Iterator
from decimal import Decimal

from caugym_jax.causal.reworded.states import HIGH, LOW
from caugym_jax.causal.reworded.stems import is_filler
from caugym_jax.causal.reworded.words import Unclear, Words
from caugym_jax.causal.vocabulary import Named, Unread

NUMBER = re.compile(r"(?<![\d.])(?:\d+(?:\.\d+)?%|[01]\.\d+)")

_CHANCE = r"(?:probability|probabilities|likelihood|chances?|proportion|percentage|fraction)\b"
_PROBABLE = re.compile(
    r"(?:(?:the|a|an|its|their|'s|base|baseline|joint|combined|overall|general|marginal|concurrent"
    rf"|simultaneous|#)\s+)*{_CHANCE}(?:\s*(?:of|that|for)\b)?",
    re.I,
)
_SAME = re.compile(
    r"(?<!of )\b(?:it|this figure|this value)"
    r"(?= (?:becomes|(?:is|was|[a-z]+s)(?: \w+)?(?: to| at)?\s+#))"
    rf"|\b(?:this|that|such|same|the same) {_CHANCE}(?! of| that| for)",
    re.I,
)
_IF = (
    r"(?:given(?: that)?|when(?:ever)?|if|where|assuming(?: that)?|provided(?: that)?"
    r"|conditional on|conditioned on|under|among|within|amongst|once"
    r"|in (?:the )?(?:cases?|instances?|situations?"
    r"|scenarios?|groups?|the (?:presence|context) of)|(?:for|in) (?:those|individuals|people|cases"
    r"|instances|subjects|students|persons|someone|anyone)|for)\b"
)
_CONDITION = re.compile(rf"[\s,]*\b{_IF}", re.I)
_GOES_ON = re.compile(
    rf"\s*(?:{_IF}|with\b|(?:[a-z-]+ )?{_CHANCE}|(?:to|of)\b|(?:have|has|show|exhibit|experience|is"
    r"|are) )",
    re.I,
)
_PARTS = re.compile(r"[;,]?\s+(?:and|while|whereas|but|versus|compared (?:to|with))\b|[;,]")
_JOINT = re.compile(
    r"\b(?:joint|jointly|both|together|combined|combination|simultaneous(?:ly)?|concurrent(?:ly)?"
    r"|co-?occur\w*|coupled|conjunction)\b",
    re.I,
)
_HAVING = re.compile(r"\b(?:having|to have|experiencing|achieving|attaining)\b", re.I)
_FORMULA = re.compile(r"\bP\s*\((?P<target>[^()|]*)(?:\|(?P<given>[^()]*))?\)")
_WHATEVER = re.compile(r"\b(?:across|regardless of|irrespective of)\b[^,#]*", re.I)
_OFTEN = re.compile(
    rf"(?:in )?(?P<p>{NUMBER.pattern}) of (?:the time|(?:the |all |such )?(?:cases|instances))\b",
    re.I,
)
_PRONOUN = re.compile(r"\b(?:it|they)\b(?= (?:is|are|was|were|being|remains?|stays?)\b)", re.I)
_BOTH = re.compile(
    r"\b(?:both|all)(?: (?:of them|(?:these )?(?:factors|variables|conditions)))?"
    r"(?: (?:are|being|at))?\s+(?=\w)",
    re.I,
)
_OTHERWISE = re.compile(r"\botherwise\b", re.I)
_OVERALL = re.compile(r"\b(?:overall|in general|marginal|regardless)\b", re.I)
_GROUP = re.compile(
    r"^(?:and |while |whereas )?(?P<given>(?:those|people|[a-z]+s) (?:with|who|whose|facing|having"
    r"|experiencing|under|in) .*?) (?:have|has|are|show|exhibit|experience|see|enjoy|face)"
    r" (?P<target>[^,]*\w{3}.*) with (?:an? )?(?:#\s*)?$",
    re.I,
)
_LISTED = re.compile(
    r"^(?P<target>[^:#,]+?)(?: (?:given|if|when) (?P<given>[^:#]+))?\s*[:=]\s*#$", re.I
)
_AGENT = re.compile(r"\b(?:who|they|someone|people|(?:student|person|individual)s?)\b", re.I)
_WITH = re.compile(
    r"^(?!.*\b(?:is|are|was|were|probability (?:of|that))\b).*\b(?:with|at|have|has)\b[^#]*#", re.I
)
_VERB = re.compile(r"\b(?:is|are|was|equals?|at|of|to be|=|:|with)?\s*#", re.I)


def probabilities(sentences: list[str], words: Words) -> Iterator[tuple[Named, Named, str]]:
    """(target, given, number) for each number, in order. Raises Unread where one is not clear.

    A number whose event is left out has that of the number before, and within one sentence also
    its conditions, but for those it changes: "If a and b are low, y is high with 0.1, and with 0.2
    if a is high". "It is high" is about the variable named last that the clause does not name.
    """
    target: Named = ()
    given: Named = ()
    seen: list[int] = []  # the variables named so far
    for sentence in sentences:
        if both := _respectively(sentence, words):
            yield from both
            continue
        sentence = re.sub(r"\bthat (?=of\b)", "the probability ", sentence).replace("it's", "it is")
        sentence = _OFTEN.sub(r"with probability \g<p>", sentence)
        for i, (clause, number) in enumerate(_clauses(sentence)):
            before, last = given, target
            try:
                clause = _named_again(_WHATEVER.sub("", clause), seen, before, words)
                target, given, left_out = _term(clause, target, words)
                if _OTHERWISE.search(clause) and left_out and not given:
                    given = _opposite(before)
            except Unread as error:
                raise Unclear(str(error), clause) from None
            known = {v for v, _ in before}
            if (
                i
                and not (left_out or given)
                and _WITH.search(clause)
                and set(dict(target)) <= known
            ):
                target, given, left_out = last, target, True  # "and low tea with 0.2"
            if i and left_out and not _OVERALL.search(clause):
                given += tuple(e for e in before if e[0] not in dict((*target, *given)))
            if dict(target).keys() & dict(given):
                raise Unclear(f"one variable as condition and as target in {clause[:80]!r}", clause)
            seen += words.nodes(clause)
            yield target, given, _decimal(number)


def _named_again(clause: str, seen: list[int], before: Named, words: Words) -> str:
    """The clause with names for what has a state but is not named: "it is low", "both are low".

    seen: the variables named so far; before: the last conditions.
    """
    if (both := _BOTH.search(clause)) and len(before) > 1 and not words.nodes(clause):
        names = " and ".join(words.name(node) for node, _ in before)
        return f"{clause[: both.start()]}{names} are {clause[both.end() :]}"
    for pronoun in reversed(list(_PRONOUN.finditer(clause))):
        about = re.split(r"[,#]", clause[pronoun.end() :])[0]
        here = words.nodes(clause)
        meant = next((node for node in reversed(seen) if node not in here), None)
        if meant is not None and words.states(about) and not words.nodes(about):
            clause = f"{clause[: pronoun.start()]}{words.name(meant)}{clause[pronoun.end() :]}"
    return clause


def _opposite(given: Named) -> Named:
    """What "otherwise" means after a condition."""
    if len(given) != 1:
        raise Unread("it is not clear what 'otherwise' means")
    ((node, state),) = given
    return ((node, LOW if state == HIGH else HIGH),)


def _decimal(number: str) -> str:
    return f"{Decimal(number[:-1]).scaleb(-2):f}" if number.endswith("%") else number


def _respectively(sentence: str, words: Words) -> list[tuple[Named, Named, str]]:
    """ "The probabilities of low and high talent are 0.1 and 0.9, respectively." """
    numbers = NUMBER.findall(sentence)
    if not (re.search(r"\brespectively\b", sentence) and len(numbers) == 2):
        return []
    nodes, states = set(words.nodes(sentence)), words.states(sentence)
    if len(nodes) != 1 or sorted(states) != ["high", "low"]:
        raise Unread(f"cannot tell the numbers apart in {sentence[:80]!r}")
    (node,) = nodes
    return [(((node, s),), (), _decimal(p)) for s, p in zip(states, numbers, strict=True)]


def _clauses(sentence: str) -> Iterator[tuple[str, str]]:
    """The part of a sentence that belongs to each number, with "#" in its place; the number."""
    numbers = list(NUMBER.finditer(sentence))
    start = 0
    for i, number in enumerate(numbers):
        last = i + 1 == len(numbers)
        end = len(sentence) if last else number.end()
        if not last and _GOES_ON.match(sentence, number.end()):
            between = sentence[number.end() : numbers[i + 1].start()]
            breaks = list(_PARTS.finditer(between))
            if breaks:
                strong = [b for b in breaks if _starts_anew(b[0], between[b.end() :])]
                end += (strong or breaks)[0 if strong else -1].start()
        clause = f"{sentence[start : number.start()]} # {sentence[number.end() : end]}"
        yield re.sub(r"^[\s,;.:-]+|[\s,;.:]+$", "", clause), number[0]
        start = end


def _starts_anew(link: str, text: str) -> bool:
    """Whether what follows a break speaks of the next number: "while", "when ...", "the ..."."""
    new = rf"\s*(?:$|{_IF}|with\b|the\b|it\b|this\b|that\b|those\b|otherwise\b)"
    return bool(re.search(r"while|whereas|versus|compared", link) or re.match(new, text, re.I))


def _term(clause: str, previous: Named, words: Words) -> tuple[Named, Named, bool]:
    """Target and condition of a clause's number; whether it has the previous one's target."""
    if formula := _FORMULA.search(clause):
        before = clause[: formula.start()]
        given = formula["given"] or (before if words.states(before) else "")
        return words.events(formula["target"]), words.events(given) if given else (), False
    if same := _SAME.search(clause):
        if not previous:
            raise Unread(f"no earlier probability for {clause[:80]!r}")
        rest = clause[: same.start()] + " , " + clause[same.end() :]
        return previous, words.events(rest) if words.nodes(rest) else (), True
    places = [p for p in _PROBABLE.finditer(clause) if not _names(p, clause, words)]
    if not places:
        return _without_word(clause, previous, words)
    stated = (p for p in reversed(places) if words.states(clause[p.end() :]))
    place = next(stated, places[-1])
    head, body = clause[: place.start()], clause[place.end() :]
    joint = _JOINT.search(place[0]) or _JOINT.search(body)
    number = _VERB.search(body)
    tail = body[number.end() :] if number else ""
    body = body[: number.start()] if number else body
    if not joint and (condition := _CONDITION.search(body)):
        body, tail = body[: condition.start()], f"{body[condition.start() :]} , {tail}"
    if not words.items(body) and tail and not _CONDITION.match(tail):
        body, tail = tail, ""  # "a probability of 0.1 that ...", "a probability of 0.1 to be high"
        if condition := _CONDITION.search(body):
            body, tail = body[: condition.start()], body[condition.start() :]
    if not words.nodes(body):
        states = bool(words.states(body))
        head, subject = _subject(head, words, states)
        body = f"{subject} {body}" if subject or states else ""
    given = f"{head} , {tail}".replace("#", " ")
    events = words.affirmed if _AGENT.search(given) else words.events
    conditions = events(given) if words.nodes(given) else ()
    if body.strip() and words.nodes(body):
        return words.affirmed(body), conditions, False
    if previous and (conditions or _OTHERWISE.search(clause)):
        return previous, conditions, True  # "for those with ..., the probability is"
    states = words.states(body) or words.states(clause)
    if len(previous) == len(states) == 1 and not words.nodes(clause):
        return ((previous[0][0], states[0]),), (), True  # "of it being high", "and low with"
    raise Unread(f"no event in {clause[:80]!r}")


def _names(place: re.Match, clause: str, words: Words) -> bool:
    """Whether a word for probability is part of a name: "flooding probability is high"."""
    if not re.match(r"\s*(?:is|being|was|occurring)\b(?!\s*#)", clause[place.end() :], re.I):
        return False
    return place[0].split()[-1].lower() not in ("of", "that", "for") and bool(
        _name_at_end(clause[: place.start()], words)
    )


def _name_at_end(text: str, words: Words) -> str:
    """The words at a text's end that are a name and nothing else, or ""."""
    text = text.rpartition(",")[2]
    for count in (3, 2, 1):
        name = " ".join(text.split()[-count:])
        if [item.kind for item in words.items(name)] == ["node"] and not is_filler(
            name.split()[-1]
        ):
            return name
    return ""


def _subject(head: str, words: Words, has_state: bool) -> tuple[str, str]:
    """What stands before a probability: the conditions, and what it is the probability of.

    has_state: the state follows, as in "ice has a chance of being high"; else the state is there,
    as in "ice is high with a probability of", or the name is affirmed: "the employment chance".
    """
    if not has_state and (name := _name_at_end(head, words)):
        return head.rstrip()[: -len(name)], name
    if has_state is False and (group := _GROUP.match(head)):
        return group["given"], group["target"]
    before, _, last = head.rpartition(",")
    if not words.nodes(last) or _CONDITION.match(last) or bool(words.states(last)) == has_state:
        return head, ""  # "those with low talent have a probability of high stress": a condition
    return before, last


def _without_word(clause: str, previous: Named, words: Words) -> tuple[Named, Named, bool]:
    """No word for probability: "and 0.2 for high talent"; "of those ..., 10% have high stress"."""
    before, _, after = clause.partition("#")
    if re.match(r"\s*(?:have|has|show|exhibit|experience|are|is)\b", after) and words.states(after):
        return words.events(after), words.events(before), False
    if listed := _LISTED.match(clause):
        given = words.events(listed["given"]) if listed["given"] else ()
        return words.events(listed["target"]), given, False
    text = f"{before} , {after}"
    if not previous or not (words.nodes(text) or _OTHERWISE.search(text)):
        raise Unread(f"no probability in {clause[:80]!r}")
    return previous, words.events(text) if words.nodes(text) else (), True
