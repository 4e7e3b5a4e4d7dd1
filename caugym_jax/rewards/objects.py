"""JSON objects that state an answer, found anywhere in a text, in linear time."""

from __future__ import annotations

import dataclasses
import json
import re
from decimal import Decimal

_NUMBER = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]{1,3})?")


@dataclasses.dataclass(frozen=True)
class Stated:
    """One JSON object with an ANSWER or PROB key: the values of every occurrence, in order.

    A value is a str (string), a Decimal (finite number) or None (anything else).
    """

    start: int  # index of its `{`
    end: int  # index after its `}`
    probs: tuple[str | Decimal | None, ...]
    answers: tuple[str | Decimal | None, ...]
    extra: bool  # it has other keys too


def number(value: str | Decimal | None) -> Decimal | None:
    """The finite number that a JSON value states, exactly; None where it states none."""
    if isinstance(value, str):
        value = value.strip()
        if len(value) <= 64 and _NUMBER.fullmatch(value):
            return Decimal(value)
        return None
    return value


_TOKEN = re.compile(
    r"[ \t\n\r]*+(?:"
    r'(?P<string>"(?:[^"\\\x00-\x1f]++|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*+")'
    r"|(?P<number>-?(?:0|[1-9][0-9]*+)(?:\.[0-9]++)?(?:[eE][-+]?[0-9]++)?)"
    r"|(?P<word>true|false|null|NaN|-?Infinity)"
    r"|(?P<mark>[{}\[\],:]))"
)
_OPENING = re.compile(r'\{(?=[ \t\n\r]*+")')  # an object with a key
_KEY, _KEY_OR_END, _COLON, _VALUE, _VALUE_OR_END, _NEXT = range(6)


class _Object:
    """An object being read."""

    __slots__ = ("start", "key", "probs", "answers", "extra")

    def __init__(self, start: int):
        self.start, self.key, self.extra = start, "", False
        self.probs: list[str | Decimal | None] = []
        self.answers: list[str | Decimal | None] = []

    def put(self, value: str | Decimal | None) -> None:
        if self.key == "PROB":
            self.probs.append(value)
        elif self.key == "ANSWER":
            self.answers.append(value)
        else:
            self.extra = True


def json_answers(text: str) -> list[Stated]:
    """Every JSON object in `text` with a PROB or ANSWER key, ordered by where it ends.

    The reader is tried at every `{` before a quote, unless an earlier try has read it as the start
    of a nested object (`seen`). Of two tries that are alive at one character, one is thus inside
    and one outside a string there: were they in the same state, the later one's `{` would have
    been nested in the earlier. So whatever the text, no character is read more than twice, or
    three times if it is a `{` at which one try stops and another starts.
    """
    found: list[Stated] = []
    seen: set[int] = set()
    for opening in _OPENING.finditer(text):
        if opening.start() not in seen:
            _read_object(text, opening.start(), seen, found)
    found.sort(key=lambda stated: stated.end)
    return found


def _read_object(text: str, start: int, seen: set[int], found: list[Stated]) -> int:
    """Reads the object at `start`, noting what closes properly; returns where reading stopped."""
    stack: list[_Object | None] = []  # None: an array
    position, state = start, _VALUE
    while True:
        token = _TOKEN.match(text, position)
        if token is None:
            return position
        kind, position = token.lastgroup, token.end()
        top = stack[-1] if stack else None
        value: str | Decimal | None = None
        if kind == "mark":
            mark = text[position - 1]
            if mark == "{" and state in (_VALUE, _VALUE_OR_END):
                seen.add(position - 1)
                stack.append(_Object(position - 1))
                state = _KEY_OR_END
                continue
            if mark == "[" and state in (_VALUE, _VALUE_OR_END):
                stack.append(None)
                state = _VALUE_OR_END
                continue
            if mark == ":" and state == _COLON:
                state = _VALUE
                continue
            if mark == "," and state == _NEXT:
                state = _VALUE if top is None else _KEY
                continue
            if mark == "}" and top is not None and state in (_KEY_OR_END, _NEXT):
                stack.pop()
                if top.probs or top.answers:
                    probs, answers = tuple(top.probs), tuple(top.answers)
                    found.append(Stated(top.start, position, probs, answers, top.extra))
            elif mark == "]" and top is None and state in (_VALUE_OR_END, _NEXT):
                stack.pop()
            else:
                return position
            if not stack:
                return position
        elif kind == "string":
            string = token["string"]
            value = json.loads(string) if "\\" in string else string[1:-1]
            if top is not None and state in (_KEY, _KEY_OR_END):
                top.key = value
                state = _COLON
                continue
        elif kind == "number":
            value = number(token["number"])
        if kind != "mark" and state not in (_VALUE, _VALUE_OR_END):
            return position
        holder = stack[-1]
        if holder is not None:
            holder.put(value)
        state = _NEXT
