"""A person's own question as YAML: variables, edges, given probabilities, what is asked.

    variables: {age: [young, old], drug: [no, yes], recovery: [no, yes]}
    edges: [age -> drug, age -> recovery, drug -> recovery]
    given:
      - P(recovery=yes | drug=yes, age=old) = 0.5
    question: {task: ATE, x: drug=yes, y: recovery=yes}

`variables` lists two states each, 0 before 1; a plain list of names has the states 0 and 1. In
place of `edges`, `graph` takes a DOT or dagitty text ("dag { age -> drug; drug -> recovery }").
CDE needs `held: {dose: low}`, PN and PS `bound: upper` or `lower` in the question. Every scalar is
a text, so that "no" and "yes" stay words.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from decimal import Decimal, InvalidOperation
from typing import Any

import yaml

from caugym_jax.causal.engine.graph import MAX_NODES
from caugym_jax.causal.text.vocabulary import check_graph
from caugym_jax.cli.config import nearest
from caugym_jax.errors import UserError
from caugym_jax.types import BOUND_TASKS, TASKS, Event, Query, Story, Term

KEYS = ("variables", "edges", "graph", "given", "question", "held")
_PROBABILITY = re.compile(r"P\s*\(\s*([^|()]+?)\s*(?:\|\s*([^|()]+?)\s*)?\)\s*=\s*(\S+)\s*$")
_ARROW = re.compile(r"\s*(<->|<-|->|--|→|←)\s*")
# Of DOT: a name (in quotes if it has spaces) or a set of names.
_NODES = r'(?:"[^"]*"|[\w.]+|\{[^{}]*\})'
_STATEMENT = re.compile(rf"{_NODES}(?:\s*(?:<->|<-|->|--)\s*{_NODES})+")


def question_story(text: str) -> Story:
    """The story of a question in YAML.

    Raises:
      UserError: in one line, the key and what is wrong with it: a cycle, an unknown variable or
        state, a probability outside [0, 1], a variable without exactly two states, ...
    """
    try:
        stored = yaml.load(text, Loader=yaml.BaseLoader)
    except yaml.YAMLError as error:
        place = getattr(error, "problem_mark", None)
        where = f"line {place.line + 1}: " if place else ""
        raise UserError(
            f"the question is not YAML: {where}{getattr(error, 'problem', error)}"
        ) from error
    if not isinstance(stored, dict):
        raise UserError(
            "neither a problem's text, which starts with 'Input Info:', nor YAML with the keys "
            "variables, edges, given and question"
        )
    for key in stored:
        if key not in KEYS:
            raise UserError(f"unknown key {key!r}: {nearest(str(key), KEYS)}")
    pairs = _edges(stored)
    states = _variables(stored.get("variables"), pairs)
    names = tuple(states)
    node = {name: i for i, name in enumerate(names)}
    for pair in pairs:
        for name in pair:
            if name not in node:
                raise UserError(f"edges: no variable {name!r}: {nearest(name, names)}")
    edges = tuple((node[a], node[b]) for a, b in pairs)
    check_graph(names, edges)
    given = tuple(_given(line, states, node) for line in _list(stored, "given"))
    query = _query(stored, states, node)
    return Story(names, tuple(states.values()), edges, given, query)


def _list(stored: Mapping[str, Any], key: str) -> list[str]:
    found = stored.get(key) or []
    if not isinstance(found, list) or not all(isinstance(line, str) for line in found):
        raise UserError(f"{key}: must be a list of texts")
    return found


def _edges(stored: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(cause, effect), in their order; from `edges` or `graph`."""
    if ("edges" in stored) == ("graph" in stored):
        raise UserError("give the graph once: as `edges` or as `graph`")
    dot = stored.get("graph")
    lines = _list(stored, "edges") if dot is None else _dot_statements(str(dot))
    found = [pair for line in lines for pair in _arrows(line)]
    for a, b in found:
        if a == b:
            raise UserError(f"edges: {a!r} cannot cause itself")
    return list(dict.fromkeys(found))


def _dot_statements(text: str) -> list[str]:
    """The edge statements of a DOT or dagitty text; positions and other attributes are dropped."""
    inside = re.search(r"\{(.*)\}", text, re.DOTALL)
    if inside is None:
        raise UserError("graph: expected DOT or dagitty, like `dag { a -> b; b -> c }`")
    plain = re.sub(r"\[[^\]]*\]|//[^\n]*", " ", inside[1])
    rest = _STATEMENT.sub(" ", plain)
    if _ARROW.search(rest) or "{" in rest:
        raise UserError(f"graph: cannot read {' '.join(rest.split())!r}: write `a -> b; b -> c`")
    return [found[0] for found in _STATEMENT.finditer(plain)]


def _arrows(line: str) -> list[tuple[str, str]]:
    """ "a -> b <- c" -> [(a, b), (c, b)]; "a -> {b c}" -> [(a, b), (a, c)]"""
    parts = _ARROW.split(line)
    groups, arrows = [_names(part) for part in parts[::2]], parts[1::2]
    if not arrows or not all(name for group in groups for name in group or [""]):
        raise UserError(f"edges: {line!r} is no edge: write `cause -> effect`")
    pairs = []
    for lefts, arrow, rights in zip(groups, arrows, groups[1:], strict=False):
        if arrow in ("<->", "--"):
            raise UserError(
                f"edges: {line!r}: the engine takes directed edges only; write a common cause as a "
                "variable of its own"
            )
        between = [(left, right) for left in lefts for right in rights]
        pairs += between if arrow in ("->", "→") else [pair[::-1] for pair in between]
    return pairs


def _names(part: str) -> list[str]:
    """ "a" -> [a]; "{a b}" -> [a, b]"""
    part = part.strip()
    if part.startswith("{") and part.endswith("}"):
        return [name.strip('"') for name in re.findall(r'"[^"]*"|[^\s,;"]+', part[1:-1])]
    return [part.strip('"')]


def _variables(stored: Any, pairs: Iterable[tuple[str, str]]) -> dict[str, tuple[str, str]]:
    """{name: (state 0, state 1)}; without `variables` those of the edges, with the states 0, 1."""
    if stored is None or stored == "":
        stored = [name for pair in pairs for name in pair]
    if isinstance(stored, list):
        stored = {str(name): ["0", "1"] for name in stored}
    if not isinstance(stored, dict):
        raise UserError("variables: must be `name: [state, state]` pairs, or a list of names")
    for name, states in stored.items():
        if not isinstance(states, list) or len(states) != 2 or len(set(map(str, states))) != 2:
            raise UserError(
                f"variables: {name!r} must have two different states, as all variables here are "
                f"binary; it has {states!r}"
            )
    if not 2 <= len(stored) <= MAX_NODES:
        raise UserError(f"variables: {len(stored)} of them; the engine takes 2 to {MAX_NODES}")
    return {str(name): (str(states[0]), str(states[1])) for name, states in stored.items()}


def _event(
    text: str, where: str, states: Mapping[str, tuple[str, str]], node: Mapping[str, int]
) -> tuple[int, int]:
    """ "drug=yes" -> (node, value)"""
    name, equals, state = (part.strip() for part in text.partition("="))
    if not equals or not state:
        raise UserError(f"{where}: {text.strip()!r} must name a state: write `variable=state`")
    if name not in node:
        raise UserError(f"{where}: no variable {name!r}: {nearest(name, states)}")
    if state not in states[name]:
        zero, one = states[name]
        raise UserError(f"{where}: {name!r} has no state {state!r}: it has {zero!r} and {one!r}")
    return node[name], states[name].index(state)


def _given(
    line: str, states: Mapping[str, tuple[str, str]], node: Mapping[str, int]
) -> tuple[Term, str]:
    found = _PROBABILITY.match(line.strip())
    if found is None:
        raise UserError(f"given: cannot read {line!r}: write `P(y=s | x=t, z=u) = 0.5`")
    where = f"given: {line!r}"
    target, condition = (
        tuple(_event(part, where, states, node) for part in text.split(",")) if text else ()
        for text in found.group(1, 2)
    )
    nodes = [v for v, _ in (*target, *condition)]
    if len(set(nodes)) < len(nodes):
        raise UserError(f"{where} names a variable twice")
    try:
        value = Decimal(found[3])
    except InvalidOperation:
        raise UserError(f"{where}: {found[3]!r} is not a number") from None
    if not 0 <= value <= 1:
        raise UserError(f"{where}: a probability lies between 0 and 1")
    return Term(target, condition), f"{value:.4f}" if value == round(value, 4) else str(value)


def _query(
    stored: Mapping[str, Any], states: Mapping[str, tuple[str, str]], node: Mapping[str, int]
) -> Query:
    asked = stored.get("question")
    if not isinstance(asked, dict) or not {"task", "x", "y"} <= set(asked):
        raise UserError("question: write {task: ATE, x: drug=yes, y: recovery=yes}")
    for key in asked:
        if key not in ("task", "x", "y", "bound"):
            raise UserError(f"question: unknown key {key!r}: it takes task, x, y and bound")
    task = str(asked["task"]).upper()
    if task not in TASKS:
        raise UserError(f"question: no task {asked['task']!r}: use {', '.join(TASKS)}")
    x, x_value = _event(str(asked["x"]), "question: x", states, node)
    y, y_value = _event(str(asked["y"]), "question: y", states, node)
    if x == y:
        raise UserError("question: x and y are the same variable")
    bound = asked.get("bound")
    if (task in BOUND_TASKS) != (bound is not None) or bound not in (None, "upper", "lower"):
        raise UserError("question: PN and PS, and no other task, need `bound: upper` or `lower`")
    held = _held(stored.get("held"), task, {x, y}, states, node)
    return Query(
        task,
        x,
        y,
        x_value,
        y_value,
        mediators=tuple(v for v, _ in held),
        mediator_values=tuple(s for _, s in held),
        bound=bound,
    )


def _held(
    stored: Any,
    task: str,
    taken: set[int],
    states: Mapping[str, tuple[str, str]],
    node: Mapping[str, int],
) -> Event:
    """CDE: what is held at which value."""
    if (task == "CDE") != bool(stored):
        raise UserError("held: CDE, and no other task, needs `held: {mediator: state}`")
    if not stored:
        return ()
    if not isinstance(stored, dict):
        raise UserError("held: must be `variable: state` pairs")
    held = tuple(_event(f"{k}={v}", "held", states, node) for k, v in stored.items())
    if taken & {v for v, _ in held}:
        raise UserError("held: x and y cannot be held")
    return held


def question_text(story: Story) -> str:
    """The YAML that `question_story` reads back as the same question."""

    def event(pair: tuple[int, int]) -> str:
        return f"{story.names[pair[0]]}={story.states[pair[0]][pair[1]]}"

    def term(term: Term, number: str) -> str:
        given = f" | {', '.join(map(event, term.given))}" if term.given else ""
        return f"P({', '.join(map(event, term.target))}{given}) = {number}"

    query = story.query
    asked = {
        "task": query.task,
        "x": event((query.x, query.x_value)),
        "y": event((query.y, query.y_value)),
    }
    if query.bound is not None:
        asked["bound"] = query.bound
    stored: dict[str, Any] = {
        "variables": {n: list(s) for n, s in zip(story.names, story.states, strict=True)},
        "edges": [f"{story.names[a]} -> {story.names[b]}" for a, b in story.edges],
        "given": [term(*pair) for pair in story.given],
        "question": asked,
    }
    if query.held:
        stored["held"] = {story.names[v]: story.states[v][s] for v, s in query.held}
    return yaml.safe_dump(stored, sort_keys=False, allow_unicode=True, width=10_000)
