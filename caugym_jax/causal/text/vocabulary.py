"""What a reader gathers from a text, names of nodes and words of states, until it is a Story."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import graphlib
import itertools
import re
from collections.abc import Iterable

from caugym_jax.causal.text.names import STATE_PAIRS
from caugym_jax.causal.text.wording import EVENT
from caugym_jax.errors import UserError
from caugym_jax.types import Event, Query, Story, Term, letter

Named = tuple[tuple[int, str], ...]  # an event in words: (node, state word), ...


class BadProblem(UserError):
    """The text is in the official wording but does not make a problem; says what is wrong."""


class Unread(UserError):
    """The text is not in a wording that the reader knows well enough to be sure of."""


def check_graph(names: tuple[str, ...], edges: tuple[tuple[int, int], ...]) -> None:
    """Raises BadProblem where edges make a cycle, or part of a graph hangs on a misspelt name."""
    causes: dict[int, list[int]] = {}
    for cause, effect in edges:
        causes.setdefault(effect, []).append(cause)
    try:
        graphlib.TopologicalSorter(causes).prepare()
    except graphlib.CycleError as error:
        cycle = " -> ".join(names[node] for node in error.args[1])
        raise BadProblem(f"the graph has a cycle, {cycle}: causes come before effects") from None
    piece = list(range(len(names)))
    for a, b in edges:
        old, new = piece[a], piece[b]
        piece = [new if p == old else p for p in piece]
    for a, b in itertools.combinations(range(len(names)), 2):
        if piece[a] != piece[b] and _alike(names[a], names[b]):
            raise BadProblem(
                f"two names in separate graphs look like one: {names[a]!r}, {names[b]!r}"
            )


def _alike(name: str, other: str) -> bool:
    return len(name) > 4 < len(other) and difflib.SequenceMatcher(None, name, other).ratio() > 0.8


_BEING = EVENT.removeprefix("{name}").removesuffix(" {state}")
_CODE = re.compile(r" \(([A-Z])=([01])\)$")
_PARTNER = {word: pair for pair in reversed(STATE_PAIRS) for word in pair}


@dataclasses.dataclass(frozen=True)
class Asked:
    """A question as the text has it, its states still words."""

    task: str
    x: int
    y: int
    to: str
    outcome: str
    held: Named = ()
    bound: str | None = None
    wording_of: str | None = None  # the task whose wording the question has, where not sure


class Vocabulary:
    """The names of a graph's nodes, and the state words met so far."""

    def __init__(self, names: list[str]) -> None:
        self.names = names
        self.nodes = {key(name): node for node, name in enumerate(names)}
        self.words: list[dict[str, None]] = [{} for _ in names]  # in order of appearance
        self.codes: dict[tuple[int, str], int] = {}  # (node, word) -> value
        self.letters: dict[int, str] = {}

    def node(self, name: str) -> int | None:
        """The node of a name, with or without an article."""
        name = key(name)
        found = self.nodes.get(name)
        return self.nodes.get(name.removeprefix("the ")) if found is None else found

    def met(self, node: int, state: str) -> str:
        """Notes a state, which may carry its code; returns its word."""
        code = _CODE.search(state)
        word = key(state[: code.start()] if code else state)
        if not word:
            raise BadProblem(f"{self.names[node]!r} has an empty state")
        self.words[node][word] = None
        if code:
            said, value = code[1], int(code[2])
            if self.letters.setdefault(node, said) != said:
                raise BadProblem(f"{self.names[node]!r} has two codes, {said} and another")
            if self.codes.setdefault((node, word), value) != value:
                raise BadProblem(f"{self.names[node]!r} being {word!r} has the codes 0 and 1")
        return word

    def events(self, text: str) -> Named | None:
        """ "a being high (A=1), b being low and c being low"; None where that is not the form.

        The states still carry their codes; `noted` takes them in.
        """
        pieces = re.split(rf"{_BEING}(?= )", text)
        found: list[tuple[int, str]] = []
        node, pending = None, ""
        for piece, following in itertools.pairwise(pieces):
            pending += piece
            last = self._last_name(pending) if node is not None else ("", self.node(pending))
            if last is None or last[1] is None or not following:
                pending += _BEING  # which is part of the name
                continue
            if node is not None:
                found.append((node, last[0]))
            node, pending = last[1], ""
        if node is None or pending:
            return None
        found.append((node, pieces[-1].strip()))
        return tuple(found) if len(dict(found)) == len(found) else None

    def noted(self, events: Named) -> Named:
        """The events with their states as words."""
        return tuple((node, self.met(node, state)) for node, state in events)

    def _last_name(self, text: str) -> tuple[str, int] | None:
        """ "high and wind" -> ("high", node of wind): the longest name, the shortest state."""
        for separator in _SEPARATOR.finditer(text):
            node = self.node(text[separator.end() :])
            if node is not None:
                return text[: separator.start()].strip(), node
        return None

    def story(
        self,
        edges: tuple[tuple[int, int], ...],
        numbers: list[tuple[Named, Named, str]],
        asked: Asked,
        set_aside: tuple[str, ...] = (),
    ) -> Story:
        """Numbers nodes (by their codes) and states, and puts everything together."""
        states = [self._states(node) for node in range(len(self.names))]
        new = self._numbering()

        def event(named: Named) -> Event:
            return tuple((new[node], states[node].index(word)) for node, word in named)

        def value(node: int, word: str) -> int:
            return states[node].index(word)

        x_value, y_value = value(asked.x, asked.to), value(asked.y, asked.outcome)
        task = asked.task
        if asked.wording_of and asked.x in self.letters:
            task = "PS" if x_value else "PN"  # PN's actual world is (1, 1), PS's (0, 0)
        held = event(asked.held)
        query = Query(
            task,
            new[asked.x],
            new[asked.y],
            x_value,
            y_value,
            mediators=tuple(node for node, _ in held),
            mediator_values=tuple(v for _, v in held),
            bound=asked.bound,
        )
        old = sorted(range(len(self.names)), key=new.__getitem__)
        edges = tuple((new[a], new[b]) for a, b in edges)
        names = tuple(self.names[node] for node in old)
        check_graph(names, edges)
        return Story(
            names,
            tuple(states[node] for node in old),
            edges,
            tuple((Term(event(target), event(given)), p) for target, given, p in numbers),
            query,
            codes=bool(self.letters) and all(new[v] == _place(c) for v, c in self.letters.items()),
            set_aside=set_aside,
        )

    def _states(self, node: int) -> tuple[str, str]:
        """The words for 0 and 1: by their codes, else by the usual pairs, else as they appear."""
        words = list(self.words[node])
        if len(words) > 2:
            raise BadProblem(f"{self.names[node]!r} has more than two states: {', '.join(words)}")
        coded = {self.codes[node, word]: word for word in words if (node, word) in self.codes}
        if len(coded) < sum((node, word) in self.codes for word in words):
            raise BadProblem(f"{self.names[node]!r} has one code for two states")
        if not coded:
            pair = _PARTNER.get(words[0], ("low", "high")) if words else ("low", "high")
            if set(words) <= set(pair):
                return pair
            coded = {0: words[0]}
        value, word = next(iter(coded.items()))
        other = next((w for w in words if w != word), None)
        if other is None:
            other = next((w for w in _PARTNER.get(word, ()) if w != word), f"not {word}")
        return (other, word) if value else (word, other)

    def _numbering(self) -> dict[int, int]:
        """Old node -> new node: by letter where there are letters, the others in what is left."""
        taken = {node: _place(code) for node, code in self.letters.items()}
        if len(set(taken.values())) < len(taken):
            raise BadProblem("two variables have the same code letter")
        n = len(self.names)
        if any(number >= n for number in taken.values()):
            taken = {}
        free = iter(sorted(set(range(n)) - set(taken.values())))
        return {node: taken[node] if node in taken else next(free) for node in range(n)}


def _place(code: str) -> int:
    return ord(code) - ord("A")


_SEPARATOR = re.compile(r", (?:and )?| and ")


@functools.lru_cache(maxsize=4096)
def key(text: str) -> str:
    """What two spellings of one name share: case and white space do not matter."""
    return " ".join(text.split()).casefold()


def check_spellings(names: Iterable[str]) -> None:
    """Raises BadProblem where two names differ in no letter or digit: "rainfall", "rain-fall"."""
    seen: dict[str, str] = {}
    for name in names:
        other = seen.setdefault(re.sub(r"[\W_]", "", name).casefold(), name)
        if other != name:
            raise BadProblem(f"a name occurs in two spellings: {other!r} and {name!r}")


def decapitalized(name: str) -> str:
    """A name from a sentence's start as it stands elsewhere: "Rain" is rain, "IQ level" stays."""
    return name if name[1:2].isupper() else name[:1].lower() + name[1:]


def describe(story: Story, node: int) -> str:
    """ "A = rain (0 low, 1 high)" """
    zero, one = story.states[node]
    return f"{letter(node)} = {story.names[node]} (0 {zero}, 1 {one})"
