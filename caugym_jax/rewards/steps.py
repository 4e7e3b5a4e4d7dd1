r"""The steps reward: does the written arithmetic lead from the problem's numbers to the answer?

The engine knows which of the problem's printed probabilities the answer needs (those of the first
identifying set that they suffice for). In the completion, thinking included, these
claims are judged, each distinct one once:

* an equality `expression = number` (or `≈`), the expression made of numbers, + - * / and brackets
  (x, ×, ·, \times, \cdot and \frac{a}{b} too; also between the bars of `min{1, ...}` and
  `max{0, ...}`): right iff it holds to half a unit of the number's last decimal, or to the 0.0005
  that answers are granted;
* `P(B=1|A=0) = number` in the problem's own code letters: right iff the printed numbers, with the
  graph's independencies, give it to that precision; not judged where they do not determine it;
* `adjustment set: {A,B}`, `adjustment set is empty`: right iff the set identifies the effect.

A number is *traced* if it is printed, the complement of a printed one, 0 or 1, or the result of an
earlier right equality of traced numbers; a result goes back to the numbers that it moves with (of
`0.3 + 0 * 0.7` and `0.3 + 0.7 - 0.7` not to 0.7). With k the probabilities needed (a number and its
complement being one), c those of them that the stated answer traces back to, and w the wrong claims

    steps = max(0, c - w) / k, halved where the answer is not right.

So claims that do not lead to the stated answer earn nothing, repeating and adding claims earns
nothing, and every wrong one costs as much as a needed number. It rewards the way, not the truth:
arithmetic from the right numbers by a wrong formula earns up to 1/2; give it a weight well below
the answer's. By hand: "0.7125 - 0.4750 = 0.2375" before a right answer of 0.2375: c = k = 2, so 1;
followed by "0.2375 / 2 = 0.2": w = 1, so 1/2.

A completion in the notation of worked solutions (docs/solutions.md) is checked step by step
instead: the share of right steps less that of wrong ones, halved where the answer is not right.

None (does not apply) where the problem is unread, the effect is 0 by the graph alone, or the
problem lacks a condition. Never raises; linear in the length of the text.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Iterator
from decimal import Decimal, DecimalException, localcontext

from caugym_jax.causal.engine.adjustment import identifies
from caugym_jax.causal.engine.answers import TOLERANCE
from caugym_jax.causal.engine.estimands import Probability
from caugym_jax.causal.engine.graph import Graph, graph_of
from caugym_jax.causal.engine.solving import Solved, consistent, implied_probability, truth
from caugym_jax.data.solutions import checking
from caugym_jax.data.solutions.checking import in_notation
from caugym_jax.data.solutions.conditions import Plan, plan_for
from caugym_jax.rewards.answer import expected, extract, is_right, near
from caugym_jax.types import BOUND_TASKS, Problem, Query, Story, Term, letter

Key = tuple[frozenset[int], frozenset]  # of a probability and its complement


@dataclasses.dataclass(frozen=True)
class Needed:
    """What the engine knows of a problem."""

    graph: Graph
    query: Query
    letters: frozenset[str]  # codes that the text uses
    printed: tuple[tuple[Decimal, Key], ...]
    keys: frozenset[Key]  # the probabilities that the answer needs
    p: Probability[Decimal]


def steps_reward(text: str, problem: Problem, truncated: bool = False) -> float | None:
    """The module's formula; None where it does not apply."""
    if in_notation(text):
        plan = plan_for(problem)
        return None if plan is None else _stepwise(text, plan, problem, truncated)
    solved = None if problem.lacks else truth(problem)
    if problem.story is None or solved is None or solved.lacks or not solved.used:
        return None
    needed = _needed(problem.story, solved)
    answer = extract(text, truncated)
    if answer.prob is None or answer.hedged:
        return 0.0
    traced, wrong = _traced(text, needed)
    reached: frozenset[Key] = frozenset()
    for value, keys in traced:
        if needed.query.task in BOUND_TASKS:
            value = min(max(value, Decimal(0)), Decimal(1))
        if near(value, answer.prob):
            reached |= keys
    wrong += _wrong_citations(text, needed) + _wrong_sets(text, needed)
    share = max(0, len(reached & needed.keys) - wrong) / len(needed.keys)
    return share if is_right(answer, expected(problem)) else share / 2


def _stepwise(text: str, plan: Plan, problem: Problem, truncated: bool) -> float:
    """Of a solution in our own notation every step is checked."""
    value = checking.score(text, plan)
    return value if is_right(extract(text, truncated), expected(problem)) else value / 2


@functools.lru_cache(maxsize=4096)
def _needed(story: Story, solved: Solved) -> Needed:
    given = consistent(story.given)
    nodes = {v for term in given for v, _ in (*term.target, *term.given)}
    return Needed(
        graph_of(story),
        solved.query,
        frozenset(map(letter, nodes)) if story.codes else frozenset(),
        tuple((value, _key(term)) for term, value in given.items()),
        frozenset(_key(term) for term, _ in solved.used),
        implied_probability(graph_of(story), given),
    )


def _key(term: Term) -> Key:
    return frozenset(v for v, _ in term.target), frozenset(term.given)


# Arithmetic -----------------------------------------------------------------------------------

_MADE_PLAIN = (
    (re.compile(r"\\[dt]?frac\s?\{([^{}\n]{1,80})\}\s?\{([^{}\n]{1,80})\}"), r"((\1)/(\2))"),
    (re.compile(r"\\(?:left|right|[,;!])|[$`]|\*\*"), ""),
    (re.compile(r"\\([{}\[\]()])"), r"\1"),
    (re.compile(r"(?:\\?(?:min|max))\s?\{\s?[01](?:\.0{1,8})?\s?,([^{}\n]{1,200})\}"), r"\1"),
    (
        re.compile(
            r"(?:min|max)\(\s?[01](?:\.0{1,8})?\s?,([^\n]{1,200}?)\)(?=\s{0,3}(?:[=≈.,]|$))"
        ),
        r"\1",
    ),
    (re.compile(r"\\times|\\cdot|[×·]|(?<=[0-9)\]] )x(?= [(\[0-9])"), "*"),
    (re.compile(r"\\approx|≈"), "="),
    (re.compile("[−–]"), "-"),
    (re.compile(r"(?<=[0-9)\]}])\.(?=\s)"), "\n"),  # a sentence, or the count of a step, ends
)
_RUN = re.compile(r"[-+*/()\[\]{}=.0-9 \t\n]+")
_STATED = re.compile(r"[ \t]*(-?[ \t]?[0-9]{1,12}+(?:\.[0-9]{1,12}+)?+)\.?[ \t]*(?=[\n)\]}(\[{]|$)")
_LEAD = re.compile(r"(?:[-*+][ \t]+|[0-9]{1,2}\)[ \t]+|[(\[{])[ \t]*")  # bullet, count, bracket
_TOKEN = re.compile(r"[ \t]*(?:([0-9]{1,12}(?:\.[0-9]{1,12})?)(?![.0-9])|([-+*/()\[\]{}]))")
_RANK = {"+": 1, "-": 1, "*": 2, "/": 2, "sign": 3}
_LONGEST = 400  # characters of an expression
_STEP = Decimal("0.001")


def equalities(text: str) -> Iterator[tuple[str, str]]:
    """The (expression, number) pairs that a text claims to be equal, in order.

    Of `a = b = number` both a and b are claimed to be the number.
    """
    for pattern, plain in _MADE_PLAIN:
        text = pattern.sub(plain, text)
    for run in _RUN.findall(text):
        sides = [side.strip(" \t\n.") for side in run.split("=")]
        expressions: list[str] = []
        for i, side in enumerate(sides):
            stated = _STATED.match(side) if i else None
            if stated:
                number = "".join(stated[1].split())
                yield from ((expression, number) for expression in expressions)
                expressions = []
            last_line = side.rpartition("\n")[2].strip()
            if last_line and len(last_line) <= _LONGEST and (not stated or "\n" in side):
                expressions.append(last_line)


def evaluate(
    expression: str, moved: Decimal | None = None
) -> tuple[Decimal, tuple[Decimal, ...]] | None:
    """(value, the numbers in it) of an expression of + - * / and brackets; None if it is none.

    The number `moved` is taken 0.001 larger wherever it stands, and its complement as much smaller.
    Raises DecimalException where it divides by 0.
    """
    values: list[Decimal] = []
    pending: list[str] = []  # operators and opening brackets
    numbers: list[Decimal] = []
    position, complete = 0, False  # complete: what has been read so far ends in a value
    while position < len(expression):
        token = _TOKEN.match(expression, position)
        if token is None:
            return None
        position = token.end()
        number, mark = token.groups()
        if complete == (number is not None or mark in "([{"):
            if not complete and mark == "-":
                pending.append("sign")
                continue
            return None
        if number is not None:
            numbers.append(Decimal(number))
            shift = (numbers[-1] == moved) - (1 - numbers[-1] == moved) if moved is not None else 0
            values.append(numbers[-1] + _STEP * shift)
            complete = True
        elif mark in "([{":
            pending.append(mark)
        elif mark in ")]}":
            _apply(values, pending, 1)
            if not pending or pending.pop() + mark not in ("()", "[]", "{}"):
                return None
        else:
            _apply(values, pending, _RANK[mark])
            pending.append(mark)
            complete = False
    if not complete:
        return None
    _apply(values, pending, 1)
    return None if pending else (values[0], tuple(numbers))


def _apply(values: list[Decimal], pending: list[str], rank: int) -> None:
    """Applies the pending operators of at least this rank, back to the last bracket."""
    while pending and _RANK.get(pending[-1], 0) >= rank:
        operator, last = pending.pop(), values.pop()
        match operator:
            case "sign":
                values.append(-last)
            case "+":
                values.append(values.pop() + last)
            case "-":
                values.append(values.pop() - last)
            case "*":
                values.append(values.pop() * last)
            case "/":
                values.append(values.pop() / last)


def _traced(text: str, needed: Needed) -> tuple[list[tuple[Decimal, frozenset[Key]]], int]:
    """The traced results and what they go back to; how many distinct equalities are wrong."""
    known: dict[Decimal, frozenset[Key]] = {Decimal(0): frozenset(), Decimal(1): frozenset()}
    for value, key in needed.printed:
        for number in (value, 1 - value):
            known[number] = known.get(number, frozenset()) | {key}
    # Numbers that several probabilities share may cancel in a sound formula; 0 and 1 belong here.
    shared = {number for number, keys in known.items() if len(keys) > 1 or number in (0, 1)}
    results, wrong = [], 0
    with localcontext(prec=40):
        for expression, stated in dict.fromkeys(equalities(text)):
            holds, expression, numbers = _checked(expression, stated)
            wrong += holds is False
            if not holds or not all(number in known for number in numbers):
                continue
            moving = [n for n in numbers if n in shared or _matters(expression, n)]
            keys = frozenset().union(*(known[n] for n in moving))
            result = Decimal(stated)
            results.append((result, keys))
            if result not in (0, 1):
                known[result] = known.get(result, frozenset()) | keys
    return results, wrong


def _matters(expression: str, number: Decimal) -> bool:
    """Whether the expression's value moves with the number: that of p - p or 0 * p does not."""
    try:
        plain, moved = evaluate(expression), evaluate(expression, number)
    except DecimalException:
        return True
    return plain is None or moved is None or plain[0] != moved[0]


def _checked(expression: str, stated: str) -> tuple[bool | None, str, frozenset[Decimal]]:
    """(whether an equality holds, the expression as read, the numbers in it).

    None where it is no equality to judge. A bullet, a count or an open bracket at the start may or
    may not belong to the expression.
    """
    judged = None
    for _ in range(4):
        try:
            found = evaluate(expression)
        except DecimalException:
            found, judged = None, False
        if found and len(found[1]) > 1:
            judged = _rounds_to(found[0], stated)
            if judged:
                return True, expression, frozenset(found[1])
        lead = _LEAD.match(expression)
        if lead is None:
            break
        expression = expression[lead.end() :]
    return judged, expression, frozenset()


def _rounds_to(value: Decimal, stated: str) -> bool:
    """Within half a unit of the last decimal that is written, or the tolerance of answers."""
    decimals = len(stated.partition(".")[2])
    off = abs(value - Decimal(stated))
    return off < TOLERANCE or off * 2 <= Decimal(1).scaleb(-decimals)


# Probabilities and sets -------------------------------------------------------------------------

_EVENTS = r"[A-Z]\s?=\s?[01](?:\s?,\s?[A-Z]\s?=\s?[01]){0,15}"
_CITED = re.compile(
    rf"P\(({_EVENTS})(?:\s?\|\s?({_EVENTS}))?\)\s?[=≈]\s?([01]?\.[0-9]{{1,12}}+)(?! ?[-+*/×·0-9])"
)
_SET = re.compile(
    r"(?:adjustment|back-?door) set(?: is|:| =)? ?"
    r"(?:(empty|the empty set|\{\}|∅|\\emptyset)|\\?\{ ?([A-Z](?:, ?[A-Z]){0,15}) ?\\?\})"
)


def _wrong_citations(text: str, needed: Needed) -> int:
    wrong = set()
    for target, given, stated in _CITED.findall(text):
        letters = re.findall("[A-Z]", target + given)
        events = _event(target), _event(given)
        if not needed.letters.issuperset(letters) or len(set(letters)) < len(letters):
            continue
        try:
            value = needed.p(*events)
        except KeyError:
            continue
        if not _rounds_to(value, stated):
            wrong.add((events, Decimal(stated)))
    return len(wrong)


def _event(text: str) -> tuple[tuple[int, int], ...]:
    found = re.findall(r"([A-Z])\s?=\s?([01])", text)
    return tuple((ord(name) - ord("A"), int(value)) for name, value in found)


def _wrong_sets(text: str, needed: Needed) -> int:
    graph, query, wrong = needed.graph, needed.query, set()
    for _, named in _SET.findall(text):
        letters = re.findall("[A-Z]", named)
        z = tuple(sorted({ord(name) - ord("A") for name in letters}))
        if not needed.letters.issuperset(letters):
            continue
        if not identifies(graph, query.task, query.x, query.y, z, query.mediators):
            wrong.add(z)
    return len(wrong)
