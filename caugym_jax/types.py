"""Every noun of the stack, and the one alphabet of axis letters.

Axis letters used in shapes throughout:

    B batch   T time (tokens of a row)   P prompt width   C completion width   S cache slots
    V vocabulary   D model width   N query heads   K key/value heads   H head size
    F feed-forward width   L layers   G group (samples per prompt)   E end-token ids

Data are frozen: text nouns are dataclasses, array nouns are NamedTuples (and so pytrees without
importing jax here: the causal engine and the graders import this module and must start fast).
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

TASKS = ("ATE", "CDE", "ETT", "NDE", "NIE", "PN", "PS")
BOUND_TASKS = ("PN", "PS")  # answered by a probability alone, without a Yes/No verdict
VARIANTS = (
    "base",
    "rephrased",
    "omitted",
    "deconfounding",
    "redundant",
    "insufficient",
    "hard",
)
LACK = "LACK_CONDITION"
REWRITTEN = ("rephrased", "omitted")  # released: base in other words, position by position
# Whose prompts all say that LACK_CONDITION may be the answer, so that the hint tells nothing.
LACKING_VARIANTS = ("insufficient", "hard")


Event = tuple[tuple[int, int], ...]  # ((node, value), ...)


def letter(node: int) -> str:
    """The letter that stands for a node in formulas: A, B, C ..."""
    return chr(ord("A") + node)


class Term(NamedTuple):
    """P(target | given), its events in the order in which a sentence names them."""

    target: Event
    given: Event = ()


@dataclasses.dataclass(frozen=True)
class Query:
    """One causal question about a graph."""

    task: str  # one of TASKS
    x: int
    y: int
    x_value: int  # the value X is set to (ETT, PN, PS: the one it did not have)
    y_value: int  # the value asked about
    adjusters: tuple[int, ...] = ()
    mediators: tuple[int, ...] = ()
    mediator_values: tuple[int, ...] = ()  # CDE: what the mediators are held at
    bound: str | None = None  # PN, PS: "upper" or "lower"
    zero: bool = False  # the graph alone makes the effect 0

    @property
    def to(self) -> Event:
        return ((self.x, self.x_value),)

    @property
    def away(self) -> Event:
        return ((self.x, 1 - self.x_value),)

    @property
    def outcome(self) -> Event:
        return ((self.y, self.y_value),)

    @property
    def other_outcome(self) -> Event:
        return ((self.y, 1 - self.y_value),)

    @property
    def held(self) -> Event:
        """CDE: the mediators with the values they are held at; () for other tasks."""
        return tuple(zip(self.mediators, self.mediator_values, strict=False))


@dataclasses.dataclass(frozen=True)
class Story:
    """A problem's structure: the graph, the printed probabilities, the question.

    The query of a generated story names the adjusters and mediators of its formula. A text does
    not name them, so the query of a story that was read has none (but for what CDE holds):
    `causal.engine.solving` finds them.
    """

    names: tuple[str, ...]  # by node
    states: tuple[tuple[str, str], ...]  # by node: the words for 0 and 1
    edges: tuple[tuple[int, int], ...]  # (cause, effect), in their order in the text
    given: tuple[tuple[Term, str], ...]  # the printed probabilities with their numbers, in order
    query: Query
    codes: bool = False  # the text has a code such as "(A=0)" after every state
    direction: int | None = 1  # 1: asks "more likely?"; -1: "less likely?"; None: neither
    set_aside: tuple[str, ...] = ()  # sentences with a number that the reader did not understand
    exact: float | None = None  # generated: the answer by the model itself, not rounded
    name_kind: str | None = None  # generated: of text.names.KINDS
    block: int | None = None  # generated, variant hard: which block of twins it belongs to


@dataclasses.dataclass(frozen=True)
class Problem:
    """One causal question in the official CauGym schema, with its label and its structure."""

    text: str  # the official `problem` field, without any "Let's think step by step."
    answer: str  # the official `answer` field: a JSON object as text, or LACK_CONDITION
    task: str  # one of TASKS (the official `Type`)
    reason: dict[str, str] = dataclasses.field(default_factory=dict)  # official step solution
    variant: str = "base"  # one of VARIANTS
    # Where the file fixes it: the exact user message, or a whole conversation, open for a reply.
    prompt: str | tuple[Mapping[str, Any], ...] | None = None
    solution: str | None = None  # worked solution or released trace to imitate, if any
    extra: dict[str, Any] = dataclasses.field(default_factory=dict)  # the file's other fields
    story: Story | None = None  # None: unread
    unread: str = ""  # why there is no story
    broken: bool = False  # unread although the text is in the official wording

    @property
    def lacks(self) -> bool:
        """True where the right answer is that a needed probability is missing."""
        return self.answer.strip() == LACK

    @property
    def prob(self) -> float | None:
        """The labelled probability (or difference of probabilities); None where it lacks."""
        return None if self.lacks else float(json.loads(self.answer)["PROB"])

    @property
    def verdict(self) -> str | None:
        """The labelled "Yes" or "No"; None for PN, PS and LACK_CONDITION."""
        return None if self.lacks else json.loads(self.answer).get("ANSWER")


Message = Mapping[str, Any]  # role, content, and what else a chat template renders
Conversation = tuple[Message, ...]


@dataclasses.dataclass(frozen=True)
class Item:
    """Anything that a model can be asked, with the row that it came from."""

    prompt: Conversation | str  # a text stands as it is, without a chat template
    reply: Conversation | str | None = None  # to imitate, of the prompt's kind
    columns: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # for rewards, by name
    problem: Problem | None = None
    every_turn: bool = False  # the assistant's turns in the prompt are learned as well
    where: str = dataclasses.field(default="", compare=False)  # its file and row, for messages

    def named(self, place: int) -> str:
        """How messages call the item at a place: by its own file and row where it has one."""
        return f"{self.where or f'item {place}'} (counting from 0)"


@dataclasses.dataclass(frozen=True)
class Example:
    """One SFT example as tokens: train on `completion` (which ends with its end token)."""

    prompt: list[int]
    completion: list[int]
    mask: Sequence[float] | None = None  # weights of the completion in the loss; None: 1 each


@dataclasses.dataclass(frozen=True)
class Preference:
    """One DPO pair as tokens: of two completions of a prompt, the better and the worse."""

    prompt: list[int]
    chosen: list[int]  # ends with its end token, as does the other
    rejected: list[int]


@dataclasses.dataclass(frozen=True)
class Judged:
    """One KTO example as tokens: a completion, whether it is good, and another prompt's one."""

    prompt: list[int]
    completion: list[int]  # ends with its end token
    label: bool  # True: desirable
    other: list[int]  # the completion of an example with another prompt


class Batch(NamedTuple):
    """Rows of packed or padded tokens for SFT. Everything at place t is about tokens[t]."""

    tokens: Any  # [B, T] int32
    loss_mask: Any  # [B, T] float32: the weight of tokens[t] as a target, 0: none
    segment_ids: Any  # [B, T] int32: 0 = padding, 1.. = documents packed in the row
    positions: Any  # [B, T] int32: place within the document


class Rollout(NamedTuple):
    """Sampled rows: a left-padded prompt of width P, then a completion of width C (T = P + C)."""

    tokens: Any  # [B, T] int32; beyond a completion's end: padding
    prompt_length: Any  # [B] int32; the prompt occupies [P - prompt_length, P)
    completion_length: Any  # [B] int32; counts the end token where one was sampled
    ended: Any  # [B] bool: an end token was sampled (False = truncated at C)
    logprobs: Any  # [B, C] float32: log_softmax(logits / temperature)[token]; 0 beyond the end

    @property
    def prompt_width(self) -> int:
        return int(self.tokens.shape[1] - self.logprobs.shape[1])


class Packed(NamedTuple):
    """Rows that hold several completions each (`algorithms/packed.py`), and lists [R, N] of their
    tokens: of those in the rows that a device takes at a time."""

    tokens: Any  # [B, T] int32
    positions: Any  # [B, T] int32: place within the document
    segment_ids: Any  # [B, T] int32: 0 = padding
    trunks: Any  # [B, T] int32: the segment of a token's prompt; None: its own
    places: Any  # [R, N] int32: what predicts a token, in its list's rows one after another
    targets: Any  # [R, N] int32: the tokens
    sequences: Any  # [R, N] int32: which of the list's completions, 1..; 0: none
    lengths: Any = None  # [R, M, E] float32: tokens of sequence 1 + m E + e


class Experience(NamedTuple):
    """What a policy update needs, aligned with the completion part of the rollout's rows.

    Packed (`algorithms/packed.py`), rows hold several completions, and what is [B, C] here is in
    lists [R, N]: of the completions' tokens in the rows that a device takes at a time.
    """

    tokens: Any  # [B, T] int32
    positions: Any  # [B, T] int32
    segment_ids: Any  # [B, T] int32: 1 on real tokens, 0 on padding
    mask: Any  # [B, C] float32: 1 on completion tokens that count
    advantages: Any  # [B] float32, or [B, C] where tokens of a completion differ
    sampler_logprobs: Any  # [B, C] float32: what the sampler reported
    old_logprobs: Any  # [B, C] float32 by the trainer's forward pass; None: the update's own
    ref_logprobs: Any  # [B, C] float32; None where there is no KL term
    values: Any = None  # [B, C] float32, PPO: the critic's, before the update
    returns: Any = None  # [B, C] float32, PPO: what they should have been
    # None but where packed; see `Packed`:
    trunks: Any = None
    places: Any = None
    targets: Any = None
    sequences: Any = None
    share: Any = None  # [R, N] float32: 1 / its completion's counted tokens, 0: not counted

    @property
    def prompt_width(self) -> int:
        return int(self.tokens.shape[1] - self.mask.shape[1])


class TrainState(NamedTuple):
    """All that training changes; what a checkpoint holds besides the loader's position."""

    step: Any  # [] int32: finished steps
    params: Any  # pytree of float32 master weights
    opt_state: Any  # optax state
    skipped: Any  # [] int32: steps that were not finite (params left as they were)
    critic: Any = None  # PPO: the critic's own TrainState
    kl_coef: Any = None  # PPO: [] float32, the present weight of the KL term in the reward
