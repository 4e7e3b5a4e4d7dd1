"""What a row of any layout asks and replies: conversations, or texts that stand as they are.

    messages        a conversation; what precedes its last turn of the assistant is the prompt
    conversations   the same in ShareGPT's words (from, value)
    prompt          with completion, with chosen and rejected, with answer (verl: the trace), or
                    alone; messages, or a text
    chosen          with rejected: whole conversations or texts, whose common beginning is the
                    prompt (H4 and hh-rlhf; H4's `prompt`, a text, is then not looked at)
    question        with answer
    problem         with solution, or with answer
    instruction     with input and output (alpaca)
    text            no prompt: all of it is learned

As in TRL, messages go through the chat template and texts of prompt, completion, chosen, rejected
and text do not: they may be rendered already. `question`, `problem` and `instruction` are messages
of the user.
"""

from __future__ import annotations

import os.path
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from caugym_jax.types import Conversation, Message

LAYOUTS = "messages, conversations, prompt, chosen, question, problem, instruction, text"
_SHAREGPT = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "system": "system",
    "tool": "tool",
    "observation": "tool",
    "function_response": "tool",
    "function_call": "assistant",
}


class Exchange(NamedTuple):
    """A prompt and, if there is one, its reply; two conversations or two texts."""

    prompt: Conversation | str
    reply: Conversation | str | None
    every_turn: bool = False  # the assistant's earlier turns are to be learned as well


class Pair(NamedTuple):
    """Two replies to a prompt; conversations or texts, as the prompt is."""

    prompt: Conversation | str
    chosen: Conversation | str
    rejected: Conversation | str


def exchange_of(row: Mapping[str, Any]) -> Exchange:
    """What a row asks and replies.

    Raises:
      ValueError, TypeError: the row has no known layout, or holds something malformed.
    """
    given = {key for key, value in row.items() if value is not None}
    if "messages" in given or "conversations" in given:
        return _split(row)
    if "chosen" in given:
        pair = pair_of(row)
        return Exchange(pair.prompt, pair.chosen)
    if "prompt" in given:
        key = "completion" if "completion" in given else "answer"
        reply = row.get(key)
        if key == "answer" and not isinstance(reply, str | Sequence):  # a number: a label alone
            reply = None
        return Exchange(*_alike(row["prompt"], **{key: reply}))
    for key, answers in (("question", ("answer",)), ("problem", ("solution", "answer"))):
        if key in given:
            found = next((row[name] for name in answers if name in given), None)
            return Exchange(_turn("user", row[key], key), _answered(found, answers[0]))
    if "instruction" in given:
        asked = [row["instruction"], *([row["input"]] if row.get("input") else [])]
        if not all(isinstance(part, str) for part in asked):
            raise TypeError("'instruction' and 'input' must be texts")
        return Exchange(
            _turn("user", "\n\n".join(asked), "instruction"),
            _answered(row.get("output"), "output"),
        )
    if "text" in given:
        return Exchange("", _text(row["text"], "text"))
    raise ValueError(f"no 'problem', and no other layout is known by the row's keys: {LAYOUTS}")


def pair_of(row: Mapping[str, Any]) -> Pair:
    """The prompt, the chosen and the rejected reply of a row of DPO.

    Raises:
      KeyError, ValueError, TypeError: it is no such row.
    """
    chosen, rejected = row["chosen"], row["rejected"]
    prompt = row.get("prompt")
    if isinstance(prompt, str) and not isinstance(chosen, str) and _is_whole(chosen):
        prompt = None
    if prompt is not None:
        return Pair(*_alike(prompt, chosen=chosen, rejected=rejected))
    if isinstance(chosen, str) and isinstance(rejected, str):
        return _texts_apart(chosen, rejected)
    *before, good = conversation(chosen, "chosen")
    *other, bad = conversation(rejected, "rejected")
    if before != other or not before:
        raise ValueError("without a 'prompt', chosen and rejected differ in the last message")
    return Pair(tuple(before), (good,), (bad,))


def conversation(value: Any, key: str) -> Conversation:
    """Messages as the chat template takes them: text parts joined, empty fields left out.

    Raises:
      ValueError, TypeError: it is no list of messages (named by `key`).
    """
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise TypeError(f"'{key}' must be a text or a list of messages")
    if not value:
        raise ValueError(f"'{key}' is empty: expected at least one message")
    return tuple(_message(message, f"message {i} of '{key}'") for i, message in enumerate(value))


def text_of(reply: Conversation | str) -> str:
    """The text of a reply's last message."""
    return reply if isinstance(reply, str) else str(reply[-1].get("content") or "")


def desirable(label: Any) -> bool:
    """KTO's label: true or false, or 1 or 0.

    Raises ValueError for anything else.
    """
    if isinstance(label, bool | int | float) and label in (0, 1):
        return bool(label)
    raise ValueError(f"'label' must be true or false, found {label!r:.40}")


def _message(message: Any, where: str) -> Message:
    if not isinstance(message, Mapping):
        raise TypeError(f"{where} is a {type(message).__name__}: expected role and content")
    # Columns of parquet files hold null where a message has no such field.
    fields = {key: _filled(value) for key, value in message.items() if value is not None}
    if "from" in fields and "role" not in fields:  # ShareGPT
        role, content = fields.pop("from"), fields.pop("value", None)
        if role not in _SHAREGPT:
            raise ValueError(f"{where} is from {role!r:.40}: expected {', '.join(_SHAREGPT)}")
        fields = {"role": _SHAREGPT[role], "content": content} | fields
    if not isinstance(fields.get("role"), str):
        raise TypeError(f"no 'role' in {where}")
    content = fields.get("content")
    if isinstance(content, Sequence) and not isinstance(content, str):
        fields["content"] = content = "".join(_part(part, where) for part in content)
    if content is None and (fields.get("tool_calls") or fields.get("reasoning_content")):
        fields["content"] = content = ""
    if not isinstance(content, str):
        raise TypeError(f"no 'content' in {where}: it must be a text")
    # The order in which templates and digests see them, whatever the file's.
    first = {"role": fields.pop("role"), "content": fields.pop("content")}
    return first | fields


def _filled(value: Any) -> Any:
    """`value` without the nulls in it."""
    if isinstance(value, Mapping):
        return {key: _filled(child) for key, child in value.items() if child is not None}
    return [_filled(child) for child in value] if isinstance(value, list) else value


def _part(part: Any, where: str) -> str:
    if isinstance(part, str):
        return part
    kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
    if kind == "text" and isinstance(part.get("text"), str):
        return part["text"]
    raise ValueError(f"{where} has a part of type {kind!r:.40}: only texts can be learned")


def _split(row: Mapping[str, Any]) -> Exchange:
    """A whole conversation at its last turn of the assistant."""
    key = "messages" if row.get("messages") is not None else "conversations"
    messages = conversation(row[key], key)
    system = row.get("system")
    if isinstance(system, str) and system and messages[0]["role"] != "system":
        messages = ({"role": "system", "content": system}, *messages)
    if messages[-1]["role"] != "assistant":
        return Exchange(messages, None)
    if len(messages) == 1:
        raise ValueError(f"'{key}' begins with the assistant: nothing is asked")
    return Exchange(messages[:-1], messages[-1:], every_turn=True)


def _alike(prompt: Any, **replies: Any) -> list[Any]:
    """[prompt, *replies]: all of them conversations, unless all are texts; None stays None."""
    if all(isinstance(value, str | None) for value in (prompt, *replies.values())):
        return [prompt, *replies.values()]
    asked = _turn("user", prompt, "prompt") if isinstance(prompt, str) else None
    asked = asked or conversation(prompt, "prompt")
    return [asked, *(_replied(asked, reply, key) for key, reply in replies.items())]


def _replied(asked: Conversation, reply: Any, key: str) -> Conversation | None:
    """A reply's messages, without the prompt's where they hold the whole conversation again."""
    if reply is None:
        return None
    if isinstance(reply, str):
        return ({"role": "assistant", "content": reply},)
    told = conversation(reply, key)
    if told[: len(asked)] == asked and len(told) > len(asked):
        told = told[len(asked) :]
    roles = [message["role"] for message in told]
    if roles[0] != "assistant" or roles[-1] != "assistant":
        raise ValueError(f"expected one assistant message as '{key}', found {roles}")
    return told


def _is_whole(messages: Any) -> bool:
    return isinstance(messages, Sequence) and len(messages) > 1


def _texts_apart(chosen: str, rejected: str) -> Pair:
    """hh-rlhf: what two texts have in common is the prompt; a space belongs to the replies."""
    common = len(os.path.commonprefix([chosen, rejected]))
    if common and chosen[common - 1] == " ":
        common -= 1
    if not common:
        raise ValueError("without a 'prompt', chosen and rejected must begin alike")
    return Pair(chosen[:common], chosen[common:], rejected[common:])


def _answered(value: Any, key: str) -> Conversation | None:
    return None if value is None else _turn("assistant", str(value), key)


def _turn(role: str, content: Any, key: str) -> Conversation:
    return ({"role": role, "content": _text(content, key)},)


def _text(value: Any, key: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"'{key}' must be text, found {value!r:.60}")
    return value
