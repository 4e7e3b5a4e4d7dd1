"""The symbolic solution in the steps and notation of the released problems."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from decimal import Decimal

from caugym_jax.causal.engine.answers import verdict
from caugym_jax.causal.engine.estimands import (
    Probability,
    assignments,
    by_identification,
    ingredients,
    printed_probability,
)
from caugym_jax.causal.engine.graph import Graph, directed_path, graph_of
from caugym_jax.causal.engine.solving import given_by, solve
from caugym_jax.errors import UserError
from caugym_jax.types import BOUND_TASKS, LACK, Event, Problem, Query, Story, Term, letter

Printed = Mapping[Term, Decimal]
Formula = tuple[list[str], list[Term]]  # sides of the equation (the last one numeric), terms


def steps_of(problem: Problem) -> dict[str, str]:
    """The official `Reason` of a problem: its file's, else that of its story.

    Raises UserError where there is neither.
    """
    if problem.reason:
        return problem.reason
    if problem.story is None:
        raise UserError(f"no steps for an unread problem ({problem.unread})")
    return story_steps(problem.story)


def story_steps(story: Story) -> dict[str, str]:
    """The steps of a generated story by its own sets, of another by those that the solver finds."""
    if story.exact is None:
        return explain(story)
    graph, query, printed = graph_of(story), story.query, numbers(story)
    missing = [term for term in ingredients(query) if not given_by(term, printed)]
    if missing:
        return lacking_steps(graph, query, missing)
    return symbolic_steps(graph, query, printed)


def explain(story: Story) -> dict[str, str]:
    """The steps of the solver's own answer: graph, adjustment set, formula, numbers, result."""
    solved = solve(story)
    if solved.lacks:
        return {
            "Step 1": "No valid adjustment set has all its probabilities among those given, so "
            f"the answer is {LACK}."
        }
    return symbolic_steps(graph_of(story), solved.query, dict(solved.used))


def numbers(story: Story) -> dict[Term, Decimal]:
    """The printed probabilities by their term."""
    return {term: Decimal(number) for term, number in story.given}


def symbolic_steps(graph: Graph, query: Query, printed: Printed) -> dict[str, str]:
    """The official `Reason`: {"Step 1": ..., ...} from the graph, the query and the numbers."""
    if query.task in BOUND_TASKS:
        steps = _bound_steps(query, printed)
    elif query.zero:
        steps = [_relevance(graph, query)]
    else:
        steps = [*_graphical_steps(graph, query), *_worked_steps(query, printed)]
    return _numbered(steps)


def lacking_steps(graph: Graph, query: Query, missing: list[Term]) -> dict[str, str]:
    """The steps of a problem that does not print what its question needs."""
    if query.task in BOUND_TASKS:
        name = _do_symbol(query)
        steps = [f"Calculate {name}\n{'='.join([name, *_do(query)[0]])}", _bound(query)]
    else:
        sides, _ = _FORMULAS[query.task](query)
        steps = [*_graphical_steps(graph, query), "=".join([query.task, *sides])]
    absent = ", ".join(map(symbol, missing))
    last = f"Not given: {absent}. What is given does not determine the result, so the answer is "
    return _numbered([*steps, f"{last}{LACK}."])


def _numbered(steps: list[str]) -> dict[str, str]:
    return {f"Step {i}": step for i, step in enumerate(steps, 1)}


# The graph ------------------------------------------------------------------------------------


def _graphical_steps(graph: Graph, query: Query) -> list[str]:
    if query.task in ("NDE", "NIE"):
        second = f"Find a valid mediator set: {_set(query.mediators)}."
    else:
        held = query.mediators if query.task == "CDE" else ()
        do = ",".join(map(letter, (query.x, *held)))
        second = (
            f"Identification of the Causal Effect. P({letter(query.y)}|do({do})) can be identified."
        )
    third = f"Find a valid backdoor adjustment set: {_set(query.adjusters)}."
    return [_relevance(graph, query), second, third]


def _relevance(graph: Graph, query: Query) -> str:
    """Step 1: whether the graph lets x affect y in the way the task asks about."""
    x, y = letter(query.x), letter(query.y)
    no = " So the answer is No."
    if query.task in ("CDE", "NDE"):
        check = f"Check whether there is an edge from treatment ({x}) to outcome ({y}). "
        if query.zero:
            return f"{check}The edge {x}->{y} does not exist.{no}"
        return f"{check}The edge {x}->{y} exists."
    indirect = query.task == "NIE"
    path = "->".join(map(letter, directed_path(graph, query.x, query.y, indirect=indirect)))
    if indirect:
        check = (
            f"Check whether there is an indirect connect between treatment ({x}) and outcome "
            f"({y}). "
        )
        if query.zero:
            return (
                f"{check}There is no directed path with three or more vertices from {x} to {y}.{no}"
            )
        return (
            f"{check}There exists directed path(s) with three or more vertices from {x} to {y} "
            f"(e.g. {path})"
        )
    check = f"Check whether treatment ({x}) is a cause of outcome ({y}). "
    if query.zero:
        return (
            f"{check}Node {x} is not a cause of node {y} because there is no directed path from "
            f"{x} to {y}.{no}"
        )
    return (
        f"{check}Node {x} is a cause of node {y} because there is one or more directed paths from "
        f"{x} to {y} (e.g. {path})."
    )


def _set(variables: tuple[int, ...]) -> str:
    return f"{{{','.join(map(letter, variables))}}}" if variables else "empty set"


# The arithmetic -------------------------------------------------------------------------------


def _worked_steps(query: Query, printed: Printed) -> list[str]:
    """Formula, numbers, arithmetic, verdict."""
    p = printed_probability(printed)
    task = query.task
    sides, terms = _FORMULAS[task](query)
    result = by_identification(query, p)
    sign = ">" if result > 0 else "<"
    return [
        f"{task}={'='.join(sides)}",
        _values(terms, p),
        f"{task}={_numeric(sides[-1], terms, p)}={result:.4f}",
        f"{task}={result:.4f}{sign}0 so the answer is {verdict(query.task, result)}.",
    ]


def _bound_steps(query: Query, printed: Printed) -> list[str]:
    p = printed_probability(printed)
    upper, name = query.bound == "upper", _do_symbol(query)
    asked = query.outcome if upper else query.other_outcome
    weighted = (p(asked, (*query.to, *z)) * p(z, ()) for z in assignments(query.adjusters))
    do = sum(weighted, Decimal(0))
    sides, terms = _do(query)
    first = f"Calculate {name}\n{'='.join([name, *sides])}"
    if query.adjusters:
        first += f"\n{_values(terms, p)}\n{name}={_numeric(sides[-1], terms, p)}"
    other, actual = (p(*term) for term in _bound_terms(query))
    left, right = (do, other) if upper else (other, do)
    clip = "min{1" if upper else "max{0"
    second = (
        f"{_bound(query)}\n"
        f"={clip}, ({left:.4f}-{right:.4f})/{actual:.4f}}}\n"
        f"={clip}, {(left - right) / actual:.4f}}}\n"
        f"={by_identification(query, p):.4f}"
    )
    return [f"{first}={do:.4f}", second]


def _bound(query: Query) -> str:
    """ "Upper bound of PN: min{1, [P(C=0|do(A=0))-P(A=0,C=0)]/P(A=1,C=1)}" """
    other, actual = map(symbol, _bound_terms(query))
    upper = query.bound == "upper"
    if upper:
        formula = f"min{{1, [{_do_symbol(query)}-{other}]/{actual}}}"
    else:
        formula = f"max{{0, [{other}-{_do_symbol(query)}]/{actual}}}"
    return f"{'Upper' if upper else 'Lower'} bound of {query.task}: {formula}"


def _bound_terms(query: Query) -> tuple[Term, Term]:
    """P(x,y) (upper) or P(y') (lower), and P(x',y')."""
    upper = query.bound == "upper"
    other = Term((*query.to, *query.outcome)) if upper else Term(query.other_outcome)
    return other, Term((*query.away, *query.other_outcome))


def _values(terms: list[Term], p: Probability[Decimal]) -> str:
    return "\t".join(f"{symbol(term)}={p(*term):.4f}" for term in terms)


def _numeric(expression: str, terms: list[Term], p: Probability[Decimal]) -> str:
    for term in terms:
        expression = expression.replace(symbol(term), f"{p(*term):.4f}")
    return expression


# The formulas ---------------------------------------------------------------------------------


def symbol(term: Term) -> str:
    """ "P(C=1|A=0,B=1)" """
    return _p(_events(term.target), _events(term.given))


def _p(target: str, *given: str) -> str:
    conditions = ",".join(filter(None, given))
    return f"P({target}|{conditions})" if conditions else f"P({target})"


def _events(event: Event) -> str:
    return ",".join(f"{letter(v)}={value}" for v, value in event)


def _letters(variables: tuple[int, ...]) -> str:
    return ",".join(map(letter, variables))


def _sums(*groups: tuple[int, ...]) -> str:
    return "".join(f"sum_{{{letter(v)}}}" for group in groups for v in group) + " "


def _ate(query: Query) -> Formula:
    y, to, away = query.outcome, query.to, query.away
    do = f"P({_events(y)}|do({_events(to)}))-P({_events(y)}|do({_events(away)}))"
    if not query.adjusters:
        return _difference([do], Term(y, to), Term(y, away))
    z = _letters(query.adjusters)
    total = (
        f"{_sums(query.adjusters)}[{_p(_events(y), _events(to), z)}*P({z})"
        f"-{_p(_events(y), _events(away), z)}*P({z})]"
    )
    terms, parts = [], []
    for values in assignments(query.adjusters):
        a, b, c = Term(y, (*to, *values)), Term(y, (*away, *values)), Term(values)
        terms += [a, b, c]
        parts.append(f"[{symbol(a)}*{symbol(c)}-{symbol(b)}*{symbol(c)}]")
    return [do, total, "+".join(parts)], terms


def _ett(query: Query) -> Formula:
    y, to, away = query.outcome, query.to, query.away
    name = letter(query.y)
    mean = f"E[{name}_{{{_events(away)}}}-{name}_{{{_events(to)}}}|{_events(away)}]"
    actual = Term(y, away)
    if not query.adjusters:
        return _difference([mean], actual, Term(y, to))
    z = _letters(query.adjusters)
    total = f"{_sums(query.adjusters)}{_p(_events(y), _events(to), z)}*P({z}|{_events(away)})"
    terms, parts = [actual], []
    for values in assignments(query.adjusters):
        a, b = Term(y, (*to, *values)), Term(values, away)
        terms += [a, b]
        parts.append(f"{symbol(a)}*{symbol(b)}")
    first = symbol(actual)
    return [mean, f"{first}-{total}", f"{first}-[{'+'.join(parts)}]"], terms


def _cde(query: Query) -> Formula:
    y, to, away, held = query.outcome, query.to, query.away, query.held
    do = (
        f"P({_events(y)}|do({_events((*to, *held))}))-P({_events(y)}|do({_events((*away, *held))}))"
    )
    if not query.adjusters:
        return _difference([do], Term(y, (*to, *held)), Term(y, (*away, *held)))
    sides, terms = _adjusted_difference(query)
    triples = zip(terms[::3], terms[1::3], terms[2::3], strict=True)  # shown as a, P(z), b
    return [do, *sides], [term for a, b, z in triples for term in (a, z, b)]


def _nde(query: Query) -> Formula:
    y, to, away = query.outcome, query.to, query.away
    if not query.mediators and not query.adjusters:
        return _difference([], Term(y, to), Term(y, away))
    if not query.mediators:
        return _adjusted_difference(query)
    m, z = _letters(query.mediators), _letters(query.adjusters)
    total = (
        f"{_sums(query.mediators, query.adjusters)}[{_p(_events(y), _events(to), m, z)}"
        f"-{_p(_events(y), _events(away), m, z)}]*{_p(m, _events(away), z)}"
    )
    terms, parts = [], []
    for zs in assignments(query.adjusters):
        for ms in assignments(query.mediators):
            a, b = Term(y, (*to, *ms, *zs)), Term(y, (*away, *ms, *zs))
            c = Term(ms, (*away, *zs))
            terms += [a, b, c]
            parts.append(f"[{symbol(a)}-{symbol(b)}]*{symbol(c)}")
            _weigh(zs, terms, parts)
    return [total + (f"*P({z})" if z else ""), "+".join(parts)], terms


def _nie(query: Query) -> Formula:
    y, to, away = query.outcome, query.to, query.away
    m, z = _letters(query.mediators), _letters(query.adjusters)
    total = (
        f"{_sums(query.mediators, query.adjusters)}{_p(_events(y), _events(away), m, z)}"
        f"*[{_p(m, _events(to), z)}-{_p(m, _events(away), z)}]"
    )
    terms, parts = [], []
    for zs in assignments(query.adjusters):
        for ms in assignments(query.mediators):
            a = Term(y, (*away, *ms, *zs))
            b, c = Term(ms, (*to, *zs)), Term(ms, (*away, *zs))
            terms += [a, b, c]
            parts.append(f"{symbol(a)}*[{symbol(b)}-{symbol(c)}]")
            _weigh(zs, terms, parts)
    return [total + (f"*P({z})" if z else ""), "+".join(parts)], terms


def _do_symbol(query: Query) -> str:
    """PN, PS: "P(C=0|do(A=0))", of the outcome that the bound is about."""
    asked = query.outcome if query.bound == "upper" else query.other_outcome
    return f"P({_events(asked)}|do({_events(query.to)}))"


def _do(query: Query) -> Formula:
    """PN, PS: P(y|do(x)) by adjustment."""
    asked = query.outcome if query.bound == "upper" else query.other_outcome
    if not query.adjusters:
        term = Term(asked, query.to)
        return [symbol(term)], [term]
    z = _letters(query.adjusters)
    total = f"{_sums(query.adjusters)}{_p(_events(asked), _events(query.to), z)}*P({z})"
    terms, parts = [], []
    for values in assignments(query.adjusters):
        a = Term(asked, (*query.to, *values))
        terms.append(a)
        parts.append(symbol(a))
        _weigh(values, terms, parts)
    return [total, "+".join(parts)], terms


def _difference(sides: list[str], first: Term, second: Term) -> Formula:
    return [*sides, f"{symbol(first)}-{symbol(second)}"], [first, second]


def _adjusted_difference(query: Query) -> Formula:
    """sum_z [P(y|x,m,z)-P(y|x',m,z)]*P(z)"""
    y, held, z = query.outcome, query.held, _letters(query.adjusters)
    to, away = (*query.to, *held), (*query.away, *held)
    total = (
        f"{_sums(query.adjusters)}[{_p(_events(y), _events(to), z)}"
        f"-{_p(_events(y), _events(away), z)}]*P({z})"
    )
    terms, parts = [], []
    for values in assignments(query.adjusters):
        a, b = Term(y, (*to, *values)), Term(y, (*away, *values))
        terms += [a, b]
        parts.append(f"[{symbol(a)}-{symbol(b)}]")
        _weigh(values, terms, parts)
    return [total, "+".join(parts)], terms


def _weigh(values: Event, terms: list[Term], parts: list[str]) -> None:
    """Multiplies the last part by P(z)."""
    if values:
        terms.append(Term(values))
        parts[-1] += f"*{symbol(terms[-1])}"


_FORMULAS: dict[str, Callable[[Query], Formula]] = {
    "ATE": _ate,
    "CDE": _cde,
    "ETT": _ett,
    "NDE": _nde,
    "NIE": _nie,
}
