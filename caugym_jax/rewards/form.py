"""The form reward: the answer is written the way the prompt asks for, right or wrong."""

from __future__ import annotations

from caugym_jax.rewards.answer import Answer, extract, final_text
from caugym_jax.rewards.objects import number
from caugym_jax.types import BOUND_TASKS, Problem


def form_reward(
    text: str,
    problem: Problem,
    truncated: bool = False,
    thinking: bool = False,
    answer: Answer | None = None,
) -> float:
    """1 for a well-formed completion, else 0. Never raises. `answer`: its extract, if at hand.

    Well-formed: not truncated; its think, if any, is closed, and with `thinking` (a reasoning
    model, whose prompt may already hold the opening tag) there is exactly one `</think>`; the
    final text holds exactly one JSON object with PROB or ANSWER, and after it nothing with a letter
    or digit (a closing fence may follow); the object has exactly the keys asked for (PROB for PN
    and PS; ANSWER and PROB for the others), once each; PROB is a number or numeric string and
    ANSWER is Yes or No. Where the problem lacks a condition, LACK_CONDITION as the final answer is
    well-formed as well.
    """
    final = final_text(text)
    if truncated or final is None:
        return 0.0
    if thinking and text.count("</think>") != 1:
        return 0.0
    answer = answer or extract(text)
    if problem.lacks and answer.lack:
        return 1.0
    if len(answer.objects) != 1:
        return 0.0
    (stated,) = answer.objects
    bound = problem.task in BOUND_TASKS
    if stated.extra or len(stated.probs) != 1 or len(stated.answers) != (0 if bound else 1):
        return 0.0
    if number(stated.probs[0]) is None or (not bound and answer.verdict is None):
        return 0.0
    return float(not any(character.isalnum() for character in final[stated.end :]))
