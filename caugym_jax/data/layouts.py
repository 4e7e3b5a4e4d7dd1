"""One row of any known layout -> a Problem. The layouts, told apart by a row's keys:

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
none (CaLM without gt_answer, wrong completions), the engine answers the text.

CaLM's numbers become labels as CauGym's base set made them (rounded to four decimals), with the
verdict that the question asks for: ETT is printed as actual minus counterfactual, so Yes iff < 0.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from caugym_jax.causal.finishing import four_decimals
from caugym_jax.causal.wording import (
    ANSWER_FORMAT,
    BOUND_ANSWER_FORMAT,
    HEADER,
    LACK_HINT,
    STEP_BY_STEP,
)
from caugym_jax.errors import UserError
from caugym_jax.types import BOUND_TASKS, LACK, TASKS, VARIANTS, Problem

_QUESTIONS = {  # how each task's question begins; PN and PS share theirs
    "ETT": r"For those with .+?, if their .+? had been ",
    "CDE": r"Conditioned on ",
    "NDE": r"Suppose the mediator keeps constant when ",
    "NIE": r"Suppose .+? is held constant and the mediator changes ",
    "ATE": r"If .+? is changed to be ",
}
_BOUND = re.compile(r"Given that (?:the )?(.+?) was (.+?) and (?:the )?.+? was .+?, what is the ")


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
    if "given_info" in row:
        texts = _calm_texts(row)
    else:
        texts = _official_texts(row) if "problem" in row else _chat_texts(row)
    for key, value in texts.items():
        if value is None and key in ("prompt", "solution"):
            continue
        if not isinstance(value, str) or not value.strip():
            raise ValueError(f"'{key}' must be text, found {value!r:.60}")
    task = row.pop("Type", None) or task_of(texts["problem"])
    reason = row.pop("Reason", None) or {}
    if task not in TASKS:
        raise ValueError(f"'Type' must be one of {', '.join(TASKS)}, found {task!r}")
    if not isinstance(reason, Mapping):
        raise TypeError(f"'Reason' must be a JSON object, found {type(reason).__name__}")
    if declared is not None and declared not in VARIANTS:
        raise ValueError(f"'variant' must be one of {', '.join(VARIANTS)}, found {declared!r}")
    problem = Problem(
        text=texts["problem"],
        answer=texts["answer"],
        task=task,
        reason={step: said for step, said in reason.items() if said is not None},
        variant=variant or declared or fallback or "base",
        prompt=texts["prompt"],
        solution=texts["solution"],
        extra=row,
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
    task, question = row.get("Type"), row.pop("Question")
    info = row.pop("given_info")
    header = "" if info.startswith(HEADER[:20]) else HEADER[: HEADER.index("Imagine")]
    lines = [
        f"{header}{info}",
        row["Background"]["data_info"],
        f"Instruction: {row.pop('Instruction')}",
        f"Question: {question}",
        BOUND_ANSWER_FORMAT if task in BOUND_TASKS else ANSWER_FORMAT,
    ]
    text, value = "\n".join(lines), row.get("gt_answer")
    if isinstance(value, str | bool):
        raise ValueError(f"'gt_answer' must be a number, found {value!r:.40}")
    answer = _engine_answer(text) if value is None else _label(task, Decimal(repr(value)))
    return {"problem": text, "answer": answer, "prompt": None, "solution": None}


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
        answer = solution.rpartition("\n")[2] if right else _engine_answer(text)
    if "index" in (info := row.pop("extra_info", None) or {}):
        row["index"] = info["index"]
    return {"problem": text, "answer": answer, "prompt": prompt, "solution": solution}


def _completion(messages: Any) -> str:
    """The assistant's message, which may follow the prompt's."""
    return _message(messages if isinstance(messages, str) else messages[-1:], "assistant")


def _engine_answer(text: str) -> str:
    """The label of an unlabelled problem, from its text."""
    from caugym_jax.causal.reading import read  # only here: most files need no engine
    from caugym_jax.causal.solving import solve

    try:
        reading = read(text)
        solved = solve(reading)
    except UserError as error:
        raise ValueError(f"no answer is given and the engine finds none: {error}") from error
    return LACK if solved.lacks else _label(reading.story.query.task, solved.value)


def _label(task: str, value: Decimal) -> str:
    """The official `answer`; the verdict as the official question of the task asks."""
    number = {"PROB": four_decimals(value)}
    if task in BOUND_TASKS:
        return json.dumps(number)
    yes = value < 0 if task == "ETT" else value > 0
    return json.dumps({"ANSWER": "Yes" if yes else "No", **number})


def _check_answer(problem: Problem) -> None:
    try:
        good = problem.lacks or math.isfinite(problem.prob)
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


def task_of(text: str) -> str | None:
    """The task a problem's text asks for, by its Instruction line or its question's template.

    PN and PS differ only in the printed codes: PN's actual world is (1, 1), PS's is (0, 0).
    None where the text says neither (rewritten problems without a task name).
    """
    named = re.search(r"^Instruction: .*?\((" + "|".join(TASKS) + r")\)", text, re.MULTILINE)
    if named:
        return named[1]
    question = text.rpartition("Question: ")[2]
    for task, opening in _QUESTIONS.items():
        if re.match(opening, question):
            return task
    bound = _BOUND.match(question)
    if bound:
        code = re.search(re.escape(f"{bound[1]} being {bound[2]} (") + r"[A-Z]=([01])\)", text)
        if code:
            return "PN" if code[1] == "1" else "PS"
    return None
