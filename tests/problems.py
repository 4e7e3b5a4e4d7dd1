"""Problems as they come from a file: what they mean is read from their text."""

import dataclasses
import json
from decimal import Decimal

from caugym_jax.causal.engine.estimands import ingredients
from caugym_jax.causal.text.wording import ANSWER_FORMAT, HEADER
from caugym_jax.data.layouts import problem_of
from caugym_jax.types import Problem, Query, Story


def from_text(text: str, answer: str, task: str, **columns) -> Problem:
    """The problem of a row of the official layout; columns: further ones, such as variant."""
    return problem_of({"problem": text, "answer": answer, "Type": task, **columns}, None, None)


def dose_text(prob: str = "0.3847") -> str:
    """An ATE problem in the official words whose answer is a number of four decimals."""
    high, low = (f"{(1 + sign * Decimal(prob)) / 2:f}" for sign in (1, -1))
    return (
        f"{HEADER} Dose has a direct effect on height.\n"
        f"For those with dose being high, the probability of height being tall is {high}. "
        f"For those with dose being low, the probability of height being tall is {low}. \n"
        "Instruction: Consider the average treatment effect (ATE) of dose on height.\n"
        "Question: If dose is changed to be high, will height be more likely to be tall?\n"
        f"{ANSWER_FORMAT}"
    )


def read_again(problem: Problem) -> Problem:
    """A generated problem with the story of its text in place of the generator's."""
    return from_text(problem.text, problem.answer, problem.task, variant=problem.variant)


def with_effect(answer: str, task: str = "ATE", variant: str = "base") -> Problem:
    """A problem without text whose story gives its label's number (ATE, CDE, ETT, NDE, NIE)."""
    effect = Decimal(json.loads(answer)["PROB"])
    high, low = f"{(1 + effect) / 2:f}", f"{(1 - effect) / 2:f}"
    x, m, y = 0, 1, 2
    edges = ((x, m), (m, y), (x, y)) if task in ("CDE", "NIE") else ((x, y),)
    query = Query(task, x, y, 1, 1)
    if task == "CDE":
        query = dataclasses.replace(query, mediators=(m,), mediator_values=(1,))
    if task == "NIE":
        numbers = ("0.0000", low, high, "1.0000")  # y follows m
        terms = ingredients(dataclasses.replace(query, mediators=(m,)))
    else:
        terms, numbers = ingredients(query), (high, low)
    story = Story(
        ("x", "m", "y"),
        (("low", "high"),) * 3,
        edges,
        tuple(zip(terms, numbers, strict=True)),
        query,
    )
    return Problem(text="", answer=answer, task=task, variant=variant, story=story)
