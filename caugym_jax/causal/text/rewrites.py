"""What somebody else's rewriting of a question changed: the direction in which it asks.

The released rephrased and omitted problems say in free words what the base problem at the same
place says in the official ones, so that graph, numbers and query are known. But some ask "less
likely?" where the original asks "more likely?", and some ask for no direction at all.
"""

from __future__ import annotations

import dataclasses
import functools
import re

from caugym_jax.types import BOUND_TASKS, Story

_UP = (
    r"(?:increas\w*|rais\w*|rises?|higher|greater|elevat\w*|boost\w*|improv\w*|more|larger|better"
    r"|enhanc\w*)"
)
_DOWN = (
    r"(?:decreas\w*|reduc\w*|lower\w*|smaller|less|diminish\w*|lessen\w*|drops?|declin\w*|falls?)"
)
_THE = r"(?: (?:in|the|a|an|its|their|of|that|overall|any|this|such))*"
_TOWARDS = (
    rf"{_THE}\s+(?:probability|likelihood|chances?|odds|likely|probabl[ey]|frequent\w*|often)"
)
_AFTER = r"\b(?:probability|likelihood|chance)\b[^?]*"
_MORE = (
    rf"\b{_UP}{_TOWARDS}|{_AFTER}\b(?:increase|rise|grow|go(?:es|ne)? up"
    r"|have (?:increased|risen|grown)"
    r"|(?:be|been|become) (?:higher|greater|increased|raised|larger))\b"
)
_LESS = (
    rf"\b{_DOWN}{_TOWARDS}|{_AFTER}\b(?:decrease|drop|decline|fall|diminish|go(?:es|ne)? down"
    r"|have (?:decreased|dropped|declined|fallen)"
    r"|(?:be|been|become) (?:lower|reduced|decreased|smaller|diminished))\b"
)
_EITHER = r"\b(?:increase or decrease|different|differ|affected|rise or fall)\b"
_SENTENCE = r"(?<=[.!?])\s+|\n+"
_CHANCE = r"\b(?:likel\w+|probab\w+|chances?|odds)\b"
_CONDITION = r",|\?|\b(?:if|had|when|were)\b"


@functools.cache
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern, re.IGNORECASE)


def rewritten(story: Story, text: str) -> Story:
    """The story of a text that rewrites an official problem's, which is `story`.

    It keeps graph, numbers and query, and so its number; the direction follows the rewriting's
    question: -1 for "less likely?", turned round once more where the question sets the treatment
    to its other state, or asks about the outcome's. PN and PS, which ask for no verdict, keep it.
    """
    query = story.query
    if query.task in BOUND_TASKS:
        return dataclasses.replace(story, codes=False)
    question, asked = _question(text), direction(text)
    if asked is not None:
        if _turns_treatment(question, *_states(story, query.x, query.x_value)):
            asked = -asked
        if _turns_outcome(question, *_states(story, query.y, query.y_value)):
            asked = -asked
    return dataclasses.replace(story, direction=asked, codes=False)


def _states(story: Story, node: int, value: int) -> tuple[str, str]:
    """The state that the official question names, and the other one, as patterns."""
    states = story.states[node]
    return re.escape(states[value]), re.escape(states[1 - value])


def _turns_treatment(question: str, named: str, other: str) -> bool:
    """ "from low to high" where the official question sets the treatment to low."""
    change = rf"\bfrom (?:a |its )?{named}\b(?: \w+)? to (?:a |an )?{other}\b"
    return re.search(change, question, re.IGNORECASE) is not None


def _turns_outcome(question: str, named: str, other: str) -> bool:
    """ "the probability of income being high" where the official question asks about low."""
    chances = list(_compiled(_CHANCE).finditer(question))
    if not chances:
        return False
    outcome = _compiled(_CONDITION).split(question[chances[-1].end() :], maxsplit=1)[0]
    found = [
        re.search(rf"\b{state}\b", outcome, re.IGNORECASE) is not None for state in (named, other)
    ]
    return found == [False, True]


def direction(text: str) -> int | None:
    """1: a rewritten problem asks "more likely?"; -1: "less likely?"; None: neither, or both."""
    question = _question(text)
    more, less = (_compiled(pattern).search(question) for pattern in (_MORE, _LESS))
    if _compiled(_EITHER).search(question) or bool(more) == bool(less):
        return None
    return 1 if more else -1


def _question(text: str) -> str:
    """The sentences that ask; those with "whether" where none ends in a question mark."""
    sentences = _compiled(_SENTENCE).split(text)
    asking = [sentence for sentence in sentences if "?" in sentence]
    return " ".join(asking or [sentence for sentence in sentences if "whether" in sentence])
