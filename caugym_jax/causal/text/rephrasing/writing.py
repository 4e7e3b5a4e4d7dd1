"""Writes a story in words drawn from one half of the grammar."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from decimal import Decimal

import numpy as np

from caugym_jax.causal.text.names import LOW_HIGH
from caugym_jax.causal.text.rephrasing.grammar import BOUND_FORM, FORM, SLOT, Half, Templates
from caugym_jax.causal.text.rephrasing.held_out import HELD_OUT
from caugym_jax.causal.text.rephrasing.training import TRAIN
from caugym_jax.causal.text.wording import EFFECTS, capitalized, enumeration
from caugym_jax.errors import UserError
from caugym_jax.types import BOUND_TASKS, Event, Story, Term

HALVES = {"train": TRAIN, "test": HELD_OUT}

JOINED = 0.2  # how often a sentence about edges goes on in the next one
GROUPED = 0.6  # how often edges that share a variable go into one sentence
LEFT_OUT = 0.5  # how often an intro, an instruction or a label is left out
PERCENT = 0.25  # how often the probabilities of a text are percentages
PAIRED = 0.5  # how often two conditions of one target go into one sentence

Edge = tuple[int, int]


def rephrased_text(story: Story, rng: np.random.Generator, half: str = "train") -> str:
    """The story in random words of a half, "train" or "test"; the halves share no template.

    Edges come in random order, probabilities in the story's. Names that could be taken for words
    of the grammar ("with", "supply and demand") are in quotation marks. `read_rephrased` gives the
    story back. Raises UserError for an unknown half and where a name holds a quotation mark.
    """
    if half not in HALVES:
        raise UserError(f"unknown half {half!r} of the wordings: choose train or test")
    return _Writer(story, rng, HALVES[half]).text()


@functools.cache
def grammar_words() -> frozenset[str]:
    """The words that some template of either half holds."""
    return frozenset(
        word
        for half in HALVES.values()
        for _, templates in half.slots()
        for template in templates
        for word in re.findall(r"\w+", SLOT.sub(" ", template).casefold())
    )


def _mistakable(name: str) -> bool:
    """Whether a name could be taken for something else in a sentence."""
    words = name.casefold().split()
    return not re.fullmatch(r"[\w'/ -]+", name) or "and" in words or grammar_words() >= {*words}


class _Writer:
    """One story on its way to become one text."""

    def __init__(self, story: Story, rng: np.random.Generator, half: Half) -> None:
        self.story, self.rng, self.half = story, rng, half
        self.names = story.names
        if any(map(_mistakable, story.names)):
            if any('"' in name for name in story.names):
                raise UserError(f"a name holds a quotation mark: {story.names}")
            self.names = tuple(f'"{name}"' for name in story.names)
        printed = {v for term, _ in story.given for v, _ in (*term.target, *term.given)}
        plain = all(story.states[v] == LOW_HIGH for v in printed)  # "low rain", but not "many cars"
        self.clause = self.pick(half.clauses)
        self.noun = self.pick(tuple(n for n in half.nouns if plain or n.startswith("{name}")))
        self.percent = rng.random() < PERCENT

    def text(self) -> str:
        query = self.story.query
        bounds = query.task in BOUND_TASKS
        graph = [self.pick(self.half.headers), *self.edges()]
        numbers = self.numbers()
        if numbers and self.sometimes(LEFT_OUT):
            numbers.insert(0, self.pick(self.half.intros))
        asked = [self.question()]
        if self.sometimes(LEFT_OUT):
            asked.insert(0, self.say(self.half.instructions))
        form = BOUND_FORM if bounds else FORM
        wanted = self.half.bound_formats if bounds else self.half.formats
        paragraphs = [" ".join(graph), " ".join(numbers), " ".join(asked)]
        paragraphs.append(self.say(wanted, form=form))
        return ("\n" if self.sometimes(0.7) else " ").join(filter(None, paragraphs))

    def pick(self, templates: Templates) -> str:
        return templates[self.rng.integers(len(templates))]

    def sometimes(self, share: float) -> bool:
        return bool(self.rng.random() < share)

    def say(self, templates: Templates, **slots: str) -> str:
        """A sentence of one of the templates."""
        return capitalized(self.fill(templates, **slots))

    def fill(self, templates: Templates, **slots: str) -> str:
        query = self.story.query
        slots |= {
            "x": self.names[query.x],
            "y": self.names[query.y],
            "task": query.task,
            "quantity": EFFECTS[query.task],
        }
        return SLOT.sub(lambda slot: slots[slot[1]], self.pick(templates))

    # Edges

    def edges(self) -> list[str]:
        """The sentences about edges."""
        left = [self.story.edges[i] for i in self.rng.permutation(len(self.story.edges))]
        clauses: list[str] = []
        while left:
            clauses.append(self.edge_clause(left))
        sentences = [clauses[0]]
        for clause in clauses[1:]:
            if self.sometimes(JOINED):
                sentences[-1] = sentences[-1].removesuffix(".") + self.pick(self.half.joiners)
                sentences[-1] += clause if clause[0] == '"' else self.small(clause)
            else:
                sentences.append(clause)
        return [capitalized(sentence) for sentence in sentences]

    def small(self, clause: str) -> str:
        """A clause that starts with a template's word goes on with a small letter."""
        return clause if clause.startswith(self.names) else clause[:1].lower() + clause[1:]

    def edge_clause(self, left: list[Edge]) -> str:
        """Takes one edge, or several that share a variable, and words them."""
        cause, effect = first = left.pop()
        if self.sometimes(GROUPED):
            kind = self.rng.integers(3)
            outs = [edge for edge in left if edge[0] == cause]
            ins = [edge for edge in left if edge[1] == effect]
            on = [edge for edge in left if edge[0] == effect]
            if kind == 0 and outs:
                effects = self.listed([first, *self.taken(outs, left)], 1)
                return self.fill(self.half.fan_outs, cause=self.names[cause], effects=effects)
            if kind == 1 and ins:
                causes = self.listed([first, *self.taken(ins, left)], 0)
                return self.fill(self.half.fan_ins, causes=causes, effect=self.names[effect])
            if kind == 2 and on:
                left.remove(on[0])
                a, b, c = (self.names[v] for v in (cause, effect, on[0][1]))
                return self.fill(self.half.chains, cause=a, middle=b, effect=c)
        return self.fill(self.half.edges, cause=self.names[cause], effect=self.names[effect])

    def taken(self, edges: list[Edge], left: list[Edge]) -> list[Edge]:
        """Some of the edges, at least one, which are left no more."""
        chosen = edges[: int(self.rng.integers(1, len(edges) + 1))]
        for edge in chosen:
            left.remove(edge)
        return chosen

    def listed(self, edges: Sequence[Edge], end: int) -> str:
        return enumeration([self.names[edge[end]] for edge in edges])

    # Probabilities

    def numbers(self) -> list[str]:
        """The sentences with probabilities, in the story's order."""
        given, sentences, i = self.story.given, [], 0
        while i < len(given):
            (term, p), after = given[i], given[i + 1] if i + 1 < len(given) else None
            if after and self.contrast(term, after[0]) and self.sometimes(PAIRED):
                slots = {**self.term(term, p), **self.events("other", after[0].given)}
                sentences.append(self.say(self.half.pairs, **slots, q=self.number(after[1])))
                i += 2
                continue
            several = self.half.joints if len(term.target) > 1 else self.half.marginals
            kind = self.half.conditionals if term.given else several
            sentences.append(self.say(kind, **self.term(term, p)))
            i += 1
        return sentences

    @staticmethod
    def contrast(term: Term, other: Term) -> bool:
        return bool(term.given and other.given and term.target == other.target)

    def term(self, term: Term, number: str) -> dict[str, str]:
        slots = {**self.events("target", term.target), "p": self.number(number)}
        return {**slots, **self.events("given", term.given)} if term.given else slots

    def number(self, number: str) -> str:
        """ "0.2500" or "25.00%" """
        return f"{Decimal(number).scaleb(2):f}%" if self.percent else number

    def events(self, slot: str, event: Event) -> dict[str, str]:
        """The events as a clause, "rain is low and fog is high", and as a noun."""
        return {
            f"{slot}_c": self.event(self.clause, event),
            f"{slot}_n": self.event(self.noun, event),
        }

    def event(self, template: str, event: Event) -> str:
        states = self.story.states
        return enumeration(
            [template.format(name=self.names[v], state=states[v][value]) for v, value in event]
        )

    # The question

    def question(self) -> str:
        query, states = self.story.query, self.story.states
        x, y = query.x, query.y
        slots = {
            "to": states[x][query.x_value],
            "away": states[x][1 - query.x_value],
            "asked": states[y][query.y_value],
            "other_state": states[y][1 - query.y_value],
        }
        if query.task == "CDE":
            slots |= self.events("held", query.held)
        if query.bound:
            slots["bound"] = self.pick(self.half.bounds[query.bound])
        asked = self.fill(self.half.questions[query.task], **slots)
        return (self.pick(self.half.labels) if self.sometimes(LEFT_OUT) else "") + capitalized(
            asked
        )
