"""One row of any known layout -> a Problem. The layouts, known by a row's keys:

    official  problem, answer, Reason, Type            (+ solution, prompt, variant: our own files)
    CaLM      given_info, Background.data_info, Question, Type, gt_answer (where it is published)
    verl      prompt (messages), reward_model.ground_truth   (+ answer (messages) = the trace)
    sft       prompt (messages), completion (messages)
    chat      messages: a conversation; the last question of the user that reads as a problem, the
              last turn of the assistant being its solution
    dpo       prompt, chosen, rejected (messages): solution = chosen, extra["rejected"] the other
    kto       prompt, completion (messages), label: solution = completion, extra["label"] whether
              it is right

Messages may be plain text; `chosen` and `rejected` may hold the prompt's message too (see
`conversations`). What precedes the answer besides the problem's own message (a system message,
earlier turns) is kept in `prompt`. The answer of sft, dpo and kto rows is their `answer`, else the
last line of a right completion. Where there is none (CaLM without gt_answer, wrong completions),
the engine answers the problem.

A problem's story is read from its text here, and nowhere else. A text in other people's words has
the story of the official text that it rewrites, which its row's `original_problem` holds (see
`rewritten`); without one it is unread.

CaLM's numbers become labels as CauGym's base set made them (rounded to four decimals), with the
verdict that the question asks for: ETT is printed as actual minus counterfactual, so Yes iff < 0.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from caugym_jax.causal.engine.answers import label
from caugym_jax.causal.engine.solving import solve
from caugym_jax.causal.text.reading import BadProblem, read
from caugym_jax.causal.text.rewrites import rewritten
from caugym_jax.causal.text.wording import (
    ANSWER_FORMAT,
    BOUND_ANSWER_FORMAT,
    HEADER,
    LACK_HINT,
    STEP_BY_STEP,
)
from caugym_jax.data.conversations import conversation, desirable, exchange_of, text_of
from caugym_jax.errors import UserError
from caugym_jax.types import BOUND_TASKS, TASKS, VARIANTS, Conversation, Problem, Story

ORIGINAL = "original_problem"  # the column with the official text that a row's text rewrites


def problem_of(row: Any, variant: str | None, fallback: str | None) -> Problem:
    """The problem of a row; ValueError, TypeError or KeyError say what is wrong with the row.

    Args:
      variant: overrides what the row says.
      fallback: for a row that does not say.
    """
    if not isinstance(row, Mapping):
        raise TypeError(f"expected a JSON object, found {type(row).__name__}")
    row = dict(row)
    declared = _declared_variant(row)
    row.pop("variant", None)
    may_be_absent = {"prompt", "solution"} | ({"answer"} if "problem" not in row else set())
    if "given_info" in row:
        texts = _calm_texts(row)
    else:
        texts = _official_texts(row) if "problem" in row else _chat_texts(row)
    for key, value in texts.items():
        if value is None and key in may_be_absent:
            continue
        if key == "prompt" and isinstance(value, tuple):
            continue
        if not isinstance(value, str) or not value.strip():
            raise ValueError(f"'{key}' must be text, found {value!r:.60}")
    story, unread, broken = _structure(texts["problem"], row.get(ORIGINAL))
    task = row.pop("Type", None) or (story and story.query.task)
    reason = row.pop("Reason", None) or {}
    if task not in TASKS:
        why = f"; {unread}" if unread and task is None else ""
        raise ValueError(f"'Type' must be one of {', '.join(TASKS)}, found {task!r}{why}")
    if story and story.query.task != task:
        unread, broken = f"the text asks for {story.query.task}, the item says {task}", True
        story = None
    if not isinstance(reason, Mapping):
        raise TypeError(f"'Reason' must be a JSON object, found {type(reason).__name__}")
    if declared is not None and declared not in VARIANTS:
        raise ValueError(f"'variant' must be one of {', '.join(VARIANTS)}, found {declared!r}")
    problem = Problem(
        text=texts["problem"],
        answer=_engine_answer(story, unread) if texts["answer"] is None else texts["answer"],
        task=task,
        reason={step: text for step, text in reason.items() if text is not None},
        variant=variant or declared or fallback or "base",
        prompt=texts["prompt"],
        solution=texts["solution"],
        extra=row,
        story=story,
        unread=unread,
        broken=broken,
    )
    _check_answer(problem)
    return problem


def declares_variant(row: Any) -> bool:
    return isinstance(row, Mapping) and bool(_declared_variant(row))


def _declared_variant(row: Mapping[str, Any]) -> Any:
    source = str(row.get("data_source")).removeprefix("caugym_")
    return row.get("variant") or (source if source in VARIANTS else None)


def _official_texts(row: dict[str, Any]) -> dict[str, Any]:
    """Takes the texts out of a row of the official layout."""
    texts = {key: row.pop(key) for key in ("problem", "answer")} | {
        key: row.pop(key, None) for key in ("prompt", "solution")
    }
    if isinstance(texts["prompt"], list):
        texts["prompt"] = conversation(texts["prompt"], "prompt")
    return texts


def _calm_texts(row: dict[str, Any]) -> dict[str, Any]:
    """The text as CauGym's base set puts it together, and the label from CaLM's number."""
    task, question = str(row.get("Type")), row.pop("Question")
    info, instruction = row.pop("given_info"), row.pop("Instruction")
    background = row["Background"]
    if not isinstance(background, Mapping):
        raise TypeError(f"'Background' must be a JSON object, found {background!r:.40}")
    texts = (info, background["data_info"], instruction, question)
    names = ("given_info", "data_info", "Instruction", "Question")
    for name, value in zip(names, texts, strict=True):
        if not isinstance(value, str):
            raise TypeError(f"'{name}' must be text, found {value!r:.40}")
    header = "" if info.startswith(HEADER[:20]) else HEADER[: HEADER.index("Imagine")]
    lines = [
        f"{header}{info}",
        background["data_info"],
        f"Instruction: {instruction}",
        f"Question: {question}",
        BOUND_ANSWER_FORMAT if task in BOUND_TASKS else ANSWER_FORMAT,
    ]
    value = row.get("gt_answer")
    if value is not None and not _is_probability(value):
        raise ValueError(f"'gt_answer' must be a number between -1 and 1, found {value!r:.40}")
    answer = None if value is None else label(task, Decimal(repr(value)))
    return {"problem": "\n".join(lines), "answer": answer, "prompt": None, "solution": None}


def _is_probability(value: Any) -> bool:
    """Or a difference of two."""
    return isinstance(value, int | float) and not isinstance(value, bool) and -1 <= value <= 1


def is_causal(row: Any) -> bool:
    """Whether a row is, or claims to be, a causal problem."""
    if not isinstance(row, Mapping):
        return False
    if "given_info" in row or ("Type" in row and ("problem" in row or row["Type"] in TASKS)):
        return True
    if str(row.get("data_source")).startswith("caugym_"):
        return True
    if isinstance(row.get("problem"), str):
        texts = [row["problem"]]
    else:
        try:
            texts = _questions(exchange_of(row).prompt)
        except (KeyError, ValueError, TypeError):
            return False
    return any(_reads(text) for text in texts)


def _reads(text: str) -> bool:
    """Whether a text is a problem, be it a broken one."""
    story, _, broken = _structure(text, None)
    return story is not None or broken


def _questions(prompt: Conversation | str) -> list[str]:
    """The user's messages, without the sentences that ask for steps."""
    asked = [prompt] if isinstance(prompt, str) else _of_user(prompt)
    return [_bare(text) for text in asked]


def _bare(text: str) -> str:
    return text.removesuffix(LACK_HINT).rstrip(" ").removesuffix(STEP_BY_STEP).rstrip(" \n")


def _of_user(messages: Conversation) -> list[str]:
    return [message["content"] for message in messages if message["role"] == "user"]


def _chat_texts(row: dict[str, Any]) -> dict[str, Any]:
    """Takes the texts out of a row whose prompt holds the problem."""
    prompt, reply, _ = exchange_of(row)
    questions = _questions(prompt)
    if not questions:
        raise ValueError("nothing is asked: no message of the user")
    text = next(filter(_reads, reversed(questions)), questions[0])
    if len(prompt) == 1 and not isinstance(prompt, str):
        prompt = prompt[0]["content"]
    solution = None if reply is None else text_of(reply)
    answer = row.pop("answer", None)
    if not {"completion", "chosen", "messages", "conversations"} & row.keys():  # verl: the trace
        answer = None
    for key in ("prompt", "completion", "chosen", "messages", "conversations"):
        row.pop(key, None)
    if "rejected" in row and not isinstance(row["rejected"], str):
        row["rejected"] = text_of(conversation(row["rejected"], "rejected"))
    if "reward_model" in row or solution is None:
        answer = row.pop("reward_model")["ground_truth"]
    elif answer is None:
        right = row.get("label") is None or desirable(row["label"])
        answer = solution.rpartition("\n")[2] if right else None
    if "index" in (info := row.pop("extra_info", None) or {}):
        row["index"] = info["index"]
    return {"problem": text, "answer": answer, "prompt": prompt, "solution": solution}


@functools.lru_cache(maxsize=4)  # a row is looked at before it is read
def _structure(text: Any, original: str | None) -> tuple[Story | None, str, bool]:
    """(story, why there is none, whether the text is broken) of a problem's text.

    original: the official text that it rewrites, whose story it has where it cannot be read itself.
    """
    if not isinstance(text, str):
        return None, "", False
    try:
        return read(text), "", False
    except UserError as error:
        if original is None or isinstance(error, BadProblem):
            return None, str(error), isinstance(error, BadProblem)
    try:
        return rewritten(read(original), text), "", False
    except UserError as error:
        return None, f"in the text that it rewrites: {error}", False


def _engine_answer(story: Story | None, unread: str) -> str:
    """The label of an unlabelled problem, from its story."""
    try:
        if story is None:
            raise UserError(unread)
        solved = solve(story)
    except UserError as error:
        raise ValueError(f"no answer is given and the engine finds none: {error}") from error
    return label(story.query.task, solved.value)


def _check_answer(problem: Problem) -> None:
    try:
        prob = problem.prob
        good = prob is None or math.isfinite(prob)
    except (ValueError, TypeError, KeyError):
        good = False
    if not good:
        raise ValueError(
            "'answer' must be LACK_CONDITION or JSON with a finite PROB, "
            f"found {problem.answer!r:.60}"
        )
