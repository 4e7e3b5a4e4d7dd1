"""Reads the released templated problems back into structure. For tests only: it trusts its input.

Node order is the reader's own unless the text carries codes such as "(A=0)"; state words whose
value the text does not tell are numbered in order of appearance (low before high).
"""

import dataclasses
import itertools
import json
import re
from collections.abc import Iterator

from caugym_jax.causal.text.wording import HEADER, QUESTIONS
from caugym_jax.types import Event, Query, Story, Term
from tests.shared import shared_path

EDGE = re.compile(r"(.+?) has a direct effect on (.+?)(?:\. ?|$)")
NUMBER = re.compile(
    r"(?:For those with (?P<given>.+?), the|The) probability of (?P<target>.+?) is (?P<p>\d\.\d{4})"
)


def released(name: str) -> list[dict]:
    return json.loads(shared_path(f"data/caugym/test_dev/{name}_dataset.json").read_text())


def items(name: str) -> list[dict]:
    return [i for i in released(name) if "e.g." not in i["problem"]]  # split wrongly when released


def read(item: dict) -> Story:
    """The structure of a templated problem that has its Instruction line."""
    told, numbers, instruction, asked, _ = item["problem"].split("\n")
    pairs = [(decapitalized(c), e) for c, e in EDGE.findall(told.removeprefix(HEADER).strip())]
    names = list(dict.fromkeys(itertools.chain.from_iterable(pairs)))
    sentences = [(m["target"], m["given"], m["p"]) for m in NUMBER.finditer(numbers)]
    by_name = {name: _states(name, item["problem"], names) for name in names}
    letters = {n: letter for n in names for letter in by_name[n][1]}
    if letters:
        free = [x for x in "ABCDEFGHIJ"[: len(names)] if x not in letters.values()]
        order = {**letters, **dict(zip([n for n in names if n not in letters], free, strict=True))}
        names = sorted(names, key=order.__getitem__)
    index = {name: i for i, name in enumerate(names)}
    states = tuple(by_name[name][0] for name in names)

    def event(text: str | None) -> tuple[tuple[int, int], ...]:
        found = _events(text or "", names)
        return tuple((index[name], states[index[name]].index(word)) for name, word, _, _ in found)

    x, y = next(
        (index[a], index[b])
        for a, b in itertools.permutations(names, 2)
        if instruction.endswith(f") of {a} on {b}.")
    )
    return Story(
        tuple(names),
        states,
        tuple((index[a], index[b]) for a, b in pairs),
        tuple((Term(event(target), event(given)), p) for target, given, p in sentences),
        _query(item["Type"], asked.removeprefix("Question: "), names, states, x, y, event),
        codes="=0)" in item["problem"] or "=1)" in item["problem"],
    )


def decapitalized(text: str) -> str:
    return text[:1].lower() + text[1:]


def _events(text: str, names: list[str]) -> list[tuple[str, str, str, str]]:
    """(name, state, letter, value) of every "name being state (A=0)" in a list of them."""
    name = "|".join(map(re.escape, sorted(names, key=len, reverse=True)))
    pattern = rf"({name}) being (.+?)(?: \(([A-Z])=([01])\))?(?=(?:, | and )(?:{name}) being |$)"
    return re.findall(pattern, text)


def _states(name: str, problem: str, names: list[str]) -> tuple[tuple[str, str], set[str]]:
    words: dict[str, str] = {}
    letters = set()
    for m in NUMBER.finditer(problem):
        for part in (m["given"] or "", m["target"]):
            for found, word, letter, value in _events(part, names):
                if found == name:
                    words.setdefault(word, value)
                    letters |= {letter} - {""}
    for pattern in (
        r"{} (?:is changed to be|changing to be|had been|been|was) ([\w -]+?)(?=,|\?| and )",
        r"{} been more likely to be (.+?)\?",
        r"{} have been more likely to be (.+?)\?",
        r"{} be more likely to be (.+?)\?",
        r"{} would have been (.+?) if",
        r"{} being (.+?)(?=,| and )",
    ):
        asked = problem.split("\nQuestion: ")[1].split("\n")[0]
        for word in re.findall(pattern.format(re.escape(name)), asked):
            words.setdefault(word, "")
    coded = {value: word for word, value in words.items() if value}
    if set(words) <= {"low", "high"} and coded.get("0") != "high" and coded.get("1") != "low":
        return ("low", "high"), letters
    spare = [word for word, value in words.items() if not value]
    zero = coded.get("0") or (spare.pop(0) if spare else "(0)")
    one = coded.get("1") or (spare.pop(0) if spare else "(1)")
    return (zero, one), letters


def relabelings(story: Story, coded: bool) -> Iterator[Story]:
    """The story under every numbering of nodes and states that its text leaves open.

    Node numbers are topological. Codes fix those of the nodes that carry one, and all states.
    """
    n = len(story.names)
    fixed = (
        {v for term, _ in story.given for v, _ in (*term.target, *term.given)} if coded else set()
    )
    free = [v for v in range(n) if v not in fixed]
    unclear = [v for v in range(n) if not coded and story.states[v] != ("low", "high")]
    for order in itertools.permutations(free):
        new = {v: v for v in fixed} | dict(zip(free, order, strict=True))
        if all(new[a] < new[b] for a, b in story.edges):
            for flips in itertools.product((0, 1), repeat=len(unclear)):
                yield _renumbered(story, new, dict(zip(unclear, flips, strict=True)))


def _renumbered(story: Story, new: dict[int, int], flip: dict[int, int]) -> Story:
    old = sorted(new, key=new.__getitem__)
    query = story.query

    def value(v: int, old_value: int) -> int:
        return old_value ^ flip.get(v, 0)

    def event(e: Event) -> Event:
        return tuple((new[v], value(v, x)) for v, x in e)

    held = event(query.held)
    return Story(
        tuple(story.names[v] for v in old),
        tuple(story.states[v][:: -1 if flip.get(v) else 1] for v in old),
        tuple((new[a], new[b]) for a, b in story.edges),
        tuple((Term(event(t.target), event(t.given)), p) for t, p in story.given),
        dataclasses.replace(
            query,
            x=new[query.x],
            y=new[query.y],
            x_value=value(query.x, query.x_value),
            y_value=value(query.y, query.y_value),
            mediators=tuple(v for v, _ in held),
            mediator_values=tuple(x for _, x in held),
        ),
    )


def _query(task, asked, names, states, x, y, event) -> Query:
    parts = re.split(r"\{(\w+)\}", QUESTIONS[task])  # text, slot, text, slot, ... text
    seen = {"x": re.escape(names[x]), "y": re.escape(names[y])}
    slots = [seen.get(slot, f"(?P<{slot}>.+?)") for slot in parts[1::2]]
    texts = [re.escape(text) for text in parts[::2]]
    template = "".join(itertools.chain(*zip(texts, [*slots, ""], strict=True)))
    found = re.fullmatch(template, asked).groupdict()
    held = event(found.get("held"))
    return Query(
        task,
        x,
        y,
        states[x].index(found["to"]),
        states[y].index(found["asked"]),
        mediators=tuple(v for v, _ in held),
        mediator_values=tuple(value for _, value in held),
        bound=found.get("bound"),
    )
