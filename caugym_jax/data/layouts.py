"""One row of any known layout -> a Problem. The layouts, known by a row's keys:

    official  problem, answer, Reason, Type            (+ solution, prompt, variant: our own files)
    CaLM      given_info, Background.data_info, Question, Type, gt_answer (where it is published)
    verl      prompt (messages), reward_model.ground_truth   (+ answer (messages) = the trace)
    sft       prompt (messages), completion (messages)
    chat      messages: a conversation; the first turn of the user is the problem, the last of the
              assistant its solution; extra["messages"] the whole
    dpo       prompt, chosen, rejected (messages): solution = chosen, extra["rejected"] the other
    kto       prompt, completion (messages), label: solution = completion, extra["label"] whether
              it is right

Messages may be plain text; `chosen` and `rejected` may hold the prompt's message too. The answer
of sft, dpo and kto rows is their `answer`, else the last line of a right completion. Where there is
none (CaLM without gt_answer, wrong completions), the engine answers the problem.

A problem's story is read from its text here, and nowhere else. A text in other people's words has
the story of the official text that it rewrites, which its row's `original_problem` holds (see
`rewritten`); without one it is unread.

CaLM's numbers become labels as CauGym's base set made them (rounded to four decimals), with the
verdict that the question asks for: ETT is printed as actual minus counterfactual, so Yes iff < 0.
"""

from __future__ import annotations

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
from caugym_jax.errors import UserError
from caugym_jax.types import BOUND_TASKS, TASKS, VARIANTS, Problem, Story

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
        reason={step: said for step, said in reason.items() if said is not None},
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
    return {key: row.pop(key) for key in ("problem", "answer")} | {
        key: row.pop(key, None) for key in ("prompt", "solution")
    }


def _calm_texts(row: dict[str, Any]) -> dict[str, Any]:
    """The text as CauGym's base set puts it together, and the label from CaLM's number."""
    task, question = str(row.get("Type")), row.pop("Question")
    info = row.pop("given_info")
    header = "" if info.startswith(HEADER[:20]) else HEADER[: HEADER.index("Imagine")]
    lines = [
        f"{header}{info}",
        row["Background"]["data_info"],
        f"Instruction: {row.pop('Instruction')}",
        f"Question: {question}",
        BOUND_ANSWER_FORMAT if task in BOUND_TASKS else ANSWER_FORMAT,
    ]
    value = row.get("gt_answer")
    if isinstance(value, str | bool):
        raise ValueError(f"'gt_answer' must be a number, found {value!r:.40}")
    answer = None if value is None else label(task, Decimal(repr(value)))
    return {"problem": "\n".join(lines), "answer": answer, "prompt": None, "solution": None}


def _chat_texts(row: dict[str, Any]) -> dict[str, Any]:
    """Takes the texts out of a row whose prompt holds the problem."""
    if row.get("prompt") is None and isinstance(row.get("chosen"), list):
        row["prompt"] = row["chosen"][:-1]
    if row.get("prompt") is None and row.get("messages"):
        row["prompt"] = [m for m in row["messages"] if m["role"] == "user"][:1]
        row["completion"] = row["messages"][-1:]
    if row.get("prompt") is None:
        raise KeyError("problem")
    prompt = _message(row.pop("prompt"), "user")
    text = prompt.removesuffix(LACK_HINT).rstrip(" ").removesuffix(STEP_BY_STEP).rstrip(" \n")
    answer, right = row.pop("answer", None), row.get("label") is not False
    solution: str | None
    if "chosen" in row:
        solution = _completion(row.pop("chosen"))
        row["rejected"] = _completion(row["rejected"])
    elif "completion" in row:
        solution = _completion(row.pop("completion"))
    else:  # verl: the answer is the trace
        solution, answer = None if answer is None else _completion(answer), None
    if "reward_model" in row or solution is None:
        answer = row.pop("reward_model")["ground_truth"]
    elif answer is None:
        answer = solution.rpartition("\n")[2] if right else None
    if "index" in (info := row.pop("extra_info", None) or {}):
        row["index"] = info["index"]
    return {"problem": text, "answer": answer, "prompt": prompt, "solution": solution}


def _completion(messages: Any) -> str:
    """The assistant's message, which may follow the prompt's."""
    return _message(messages if isinstance(messages, str) else messages[-1:], "assistant")


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


def _message(messages: Any, role: str) -> str:
    """The only message, which must be `role`'s."""
    if isinstance(messages, str):
        return messages
    if len(messages) != 1 or messages[0]["role"] != role:
        raise ValueError(f"expected one {role} message, found {[m['role'] for m in messages]}")
    return messages[0]["content"]
