r"""The one answer extractor and the one tolerance: rewards, scorers and metrics all use this file.

The strict rule. The *final text* is what follows the last `</think>`: the whole text where no tag
occurs, nothing where a `<think>` is left open. In it

* every JSON object (as Python's `json` reads it, nested ones included) with a `PROB` key states an
  answer; the one that ends last counts. Keys are case-sensitive and double-quoted: `{'PROB': ...}`,
  `{"Prob": ...}` and typographic quotes are not answers.
* its value is a JSON number or a numeric string (`0.3847`, `"-.5"`, `"+3e-1"`): ASCII digits, at
  most 64 characters, an exponent of at most three digits. Percent signs, fractions, units,
  underscores, other scripts' digits, NaN and Infinity are not numbers.
* it is *hedged*, and wrong, where another stated number (an earlier object, or the same key twice)
  differs from it by 0.0005 or more, or where the text also ends in LACK_CONDITION.
* its verdict is the object's `ANSWER`, "Yes" or "No" in any case.
* the final answer *is* LACK_CONDITION if no `PROB` and no `\boxed{}` in the final text states a
  number, and either the last sentence of the last line that holds more than decoration is
  LACK_CONDITION, alone or concluded by a plain lead-in ("Final answer:", "so we output", "..., so
  the answer is") that supposes nothing ("if", "unless", "would"), or the last marked answer (a JSON
  object with ANSWER or PROB, or a `\boxed{}`) holds exactly LACK_CONDITION. Quoting the instruction
  is neither.

Truncated or empty text has no answer. Distances are taken in decimal arithmetic, so that exactly
0.0005 is wrong whatever a binary float would make of it. Nothing here raises on any text, and time
is linear in its length (see `objects.json_answers`).
"""

from __future__ import annotations

import dataclasses
import decimal
import functools
import re
from collections.abc import Sequence
from decimal import Decimal

from caugym_jax.causal.engine.answers import DEAD_ZONE, TOLERANCE
from caugym_jax.causal.engine.solving import truth
from caugym_jax.errors import UserError
from caugym_jax.rewards.objects import Stated, json_answers, number
from caugym_jax.types import BOUND_TASKS, LACK, Problem

# Exact for any two numbers that `number` accepts (64 digits, exponents of three digits).
_EXACT = decimal.Context(prec=2500, Emax=decimal.MAX_EMAX, Emin=decimal.MIN_EMIN, traps=[])


@dataclasses.dataclass(frozen=True)
class Answer:
    """What a completion answers. At most one of `prob` and `lack` is set.

    `objects` are the final text's, `start` and `end` counting from its beginning.
    """

    prob: Decimal | None = None  # the stated number
    verdict: str | None = None  # "Yes", "No" or None
    lack: bool = False  # the final answer is LACK_CONDITION
    hedged: bool = False  # more than one answer: wrong whatever they are
    why: str = ""  # in words, why there is no usable answer ("" where there is one)
    objects: tuple[Stated, ...] = dataclasses.field(default=(), repr=False, compare=False)


def final_text(text: str) -> str | None:
    """The part of a completion that may hold its answer; None where a think is left open."""
    closed = text.rfind("</think>")
    if text.rfind("<think>") > closed:
        return None
    return text if closed < 0 else text[closed + len("</think>") :]


def near(a: Decimal, b: Decimal, tolerance: Decimal = TOLERANCE) -> bool:
    """|a - b| < tolerance, exactly."""
    return _EXACT.abs(_EXACT.subtract(a, b)) < tolerance


# --- LACK_CONDITION as the final answer ------------------------------------------------------

_BOXED = re.compile(r"\\boxed\s{0,4}\{\s{0,4}(?:\\(?:text|mathrm)[a-z]{0,2}\{)?([^{}]{0,80})\}")
_DECORATION = str.maketrans("", "", "*`\"'“”‘’$#{}()[]>\\")
_MARKUP = re.compile(r"\\(?:boxed|text[a-z]{0,2}|mathrm|quad|[,;!])|</?answer>")
_SENTENCE_END = re.compile(r"[.!?][*_\"')\]]{0,3}\s+")
_SUPPOSED = re.compile(
    r"\b(?:if|unless|when|whether|otherwise|assuming|were|would|could|might|may)\b", re.IGNORECASE
)
_THUS = r"(?:so|thus|hence|therefore|consequently|accordingly|in conclusion)"
_LEAD_IN = (
    rf"(?:(?:and\s+)?(?:{_THUS}[,:]?\s+)?(?:(?:the|my|our)\s+)?(?:(?:final|correct)\s+)?"
    r"(?:answer|output|result|conclusion)\s*"
    rf"(?:(?:is|must be|should be)(?:\s+{_THUS},?)?\s*:?|:|=|->|→)\s*"
    rf"|(?:{_THUS}[,:]?\s+)?(?:i|we)\s+(?:{_THUS}\s+|must\s+)?"
    r"(?:answer|output|return|conclude)\s*:?\s+"
    rf"|(?:and\s+)?{_THUS}[,:]?\s+|final answer\s+)"
)
_ANSWERED = re.compile(rf"{_LEAD_IN}?{LACK}", re.IGNORECASE)
_CONCLUDED = re.compile(rf".*[,;:]\s+{_LEAD_IN}{LACK}", re.IGNORECASE)


def _last_line(text: str) -> str:
    """The last line that holds more than decoration (fences, dollar signs, brackets, tags)."""
    end = len(text)
    while end > 0:
        start = text.rfind("\n", 0, end) + 1
        line = text[start:end]
        if _bare(line[-2 * _LONGEST_LINE :]):
            return line
        end = start - 1
    return ""


_LONGEST_LINE = 1000


def _bare(line: str) -> str:
    """A line without its decoration."""
    return _MARKUP.sub("", line).translate(_DECORATION).strip(" \t\r._-")


def _concludes_lack(line: str) -> bool:
    """Whether the last sentence of a line is LACK_CONDITION, alone or as its conclusion."""
    if LACK not in line.replace("\\_", "_"):
        return False
    sentence = _bare(_SENTENCE_END.split(line[-_LONGEST_LINE:].strip())[-1])
    if LACK not in sentence:
        return False
    if _ANSWERED.fullmatch(sentence):
        return True
    return bool(_CONCLUDED.fullmatch(sentence)) and not _SUPPOSED.search(sentence)


def _ends_in_lack(text: str, objects: Sequence[Stated]) -> bool:
    """Whether the last line, or the last marked answer, is LACK_CONDITION."""
    if "LACK" not in text:
        return False
    if _concludes_lack(_last_line(text)):
        return True
    boxes = list(_BOXED.finditer(text))
    last = objects[-1] if objects else None
    if boxes and (last is None or boxes[-1].end() > last.end):
        return boxes[-1][1].replace("\\_", "_").strip() == LACK
    if last is None:
        return False
    return any(isinstance(v, str) and v.strip() == LACK for v in last.probs + last.answers)


# --- the answer ------------------------------------------------------------------------------


def extract(text: str, truncated: bool = False) -> Answer:
    """The answer of a completion under the strict rule (the module's docstring). Never raises."""
    if truncated:
        return Answer(why="truncated")
    final = final_text(text)
    if final is None:
        return Answer(why="a <think> is left open")
    if not final.strip():
        return Answer(why="no text" + (" after </think>" if text.strip() else ""))
    objects = tuple(json_answers(final))
    ends_in_lack = _ends_in_lack(final, objects)
    values = [value for stated in objects for value in stated.probs]
    numbers = [n for n in map(number, values) if n is not None]
    if ends_in_lack:
        boxed = any(number(match[1]) is not None for match in _BOXED.finditer(final))
        if not numbers and not boxed:
            return Answer(lack=True, objects=objects)
        return Answer(hedged=True, why="a number and LACK_CONDITION", objects=objects)
    if not values:
        return Answer(why="no JSON object with PROB", objects=objects)
    last = next(stated for stated in reversed(objects) if stated.probs)
    prob = number(last.probs[-1])
    if prob is None:
        return Answer(why="the last PROB is not a number", objects=objects)
    hedged = not all(near(other, prob) for other in numbers)
    verdicts = {_verdict(value) for value in last.answers}
    return Answer(
        prob=prob,
        verdict=verdicts.pop() if len(verdicts) == 1 else None,
        hedged=hedged,
        why="several different numbers" if hedged else "",
        objects=objects,
    )


def _verdict(value: str | Decimal | None) -> str | None:
    if not isinstance(value, str):
        return None
    return {"yes": "Yes", "no": "No"}.get(value.strip().lower())


# --- right or wrong --------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Expected:
    """What counts as right: LACK_CONDITION, or a number and (where asked) one of `verdicts`."""

    prob: Decimal | None  # None: the item lacks a condition
    verdicts: frozenset[str] | None  # None: no verdict is checked
    interval: tuple[Decimal, Decimal] | None = None  # numbers that are right as well (PN, PS)


def expected(problem: Problem) -> Expected:
    """The right answer of a problem: its label's number, and the verdict that its story makes true.

    Verdict: the direction of the question decides ("less likely?" turns it round; a question
    without direction has no verdict, and one on which story and label disagree none that is known).
    ETT is printed as actual minus counterfactual while its question asks whether the counterfactual
    is likelier (the released base labels have it inverted). Either is accepted where
    |PROB| < 0.001, zero included. PN and PS ask for none. Of an unread problem, one without a
    story, the number alone counts.

    Interval: where the label of PN or PS is not determined by the numbers printed, all that moving
    each of them by its rounding (0.00005) reaches.

    Raises UserError where the label is neither LACK_CONDITION nor a JSON object with a numeric
    PROB.
    """
    if problem.lacks:
        return Expected(None, None)
    prob, solved = label_prob(problem.answer), truth(problem)
    story = problem.story
    if solved is None or story is None:
        return Expected(prob, None)
    if problem.task in BOUND_TASKS:
        reach = solved.interval
        return Expected(prob, None, reach if reach and reach[0] <= prob <= reach[1] else None)
    if near(prob, Decimal(0), DEAD_ZONE):
        undirected = story.direction is None
        return Expected(prob, None if undirected else frozenset(("Yes", "No")))
    agreed = solved.value is not None and near(solved.value, prob)
    return Expected(prob, frozenset((solved.verdict,)) if agreed and solved.verdict else None)


@functools.lru_cache(maxsize=65536)
def label_prob(answer: str) -> Decimal:
    """The PROB of a label, exactly. Raises UserError where there is none."""
    stated = json_answers(answer)
    if len(stated) == 1 and len(stated[0].probs) == 1:
        prob = number(stated[0].probs[0])
        if prob is not None:
            return prob
    raise UserError(
        f"the label {answer[:80]!r} is neither {LACK} nor a JSON object with one numeric PROB"
    )


def is_right(answer: Answer, truth: Expected) -> bool:
    """The strict verdict on an extracted answer."""
    if truth.prob is None:
        return answer.lack
    if answer.prob is None or answer.hedged:
        return False
    low, high = truth.interval or (truth.prob, truth.prob)
    if not (near(answer.prob, truth.prob) or low <= answer.prob <= high):
        return False
    return truth.verdicts is None or answer.verdict in truth.verdicts


def answer_reward(text: str, problem: Problem, truncated: bool = False) -> float:
    """1 where the completion is right under the strict rule, else 0."""
    return float(is_right(extract(text, truncated), expected(problem)))


def verdict_reward(text: str, problem: Problem, truncated: bool = False) -> float | None:
    """1 where the stated Yes or No is right, whatever the number beside it, else 0.

    None where no verdict is asked for or known: PN, PS, a missing condition, and the questions of
    which `expected` has no verdict. The answer must be one (not hedged, not LACK_CONDITION). Either
    verdict is right where |PROB| < 0.001.
    """
    verdicts = expected(problem).verdicts
    if verdicts is None:
        return None
    answer = extract(text, truncated)
    return float(not answer.hedged and answer.verdict in verdicts)
