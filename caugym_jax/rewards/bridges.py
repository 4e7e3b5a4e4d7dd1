"""The rewards for other libraries: TRL, verl, verifiers. Imports no jax and none of them.

    TRL        GRPOTrainer(reward_funcs=[bridges.answer, bridges.form], ...)
    verl       reward.custom_reward_function.path=.../bridges.py (older ones without `reward.`)
    verifiers  vf_env = bridges.load_environment(tasks=("ATE", "CDE"), n=1000)

Rows are those of `generate --for=rl`, or of any layout that carries the right answer
(docs/data.md). Rewards are those of training here (`rewards.combination`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from caugym_jax.causal.engine.generating import generate_problem
from caugym_jax.causal.text.reading import read
from caugym_jax.data.items import item_of, problem_item
from caugym_jax.data.layouts import is_causal, problem_of
from caugym_jax.data.rows import make_row, wording_options
from caugym_jax.errors import UserError
from caugym_jax.rewards.combination import DEFAULT_WEIGHTS, combine
from caugym_jax.types import Item, Problem

TrlReward = Callable[..., list[float | None]]


def reward(name: str) -> TrlReward:
    """A reward function of this project (answer, form, steps, math, exact, ...) in TRL's signature:
    f(prompts, completions, **columns) -> a number, or None where it does not apply, for each."""

    def function(completions: Sequence[Any], **columns: Any) -> list[float | None]:
        count = len(completions)
        lists = {k: v for k, v in columns.items() if isinstance(v, list) and len(v) == count}
        lists["prompt"] = lists.pop("prompts", lists.get("prompt", [""] * count))
        rows = [{key: values[i] for key, values in lists.items()} for i in range(count)]
        texts = [text_of(completion) for completion in completions]
        found = combine(texts, list(map(_item, rows)), [False] * count, {name: 1.0})
        return [None if x != x else float(x) for x in found.values[:, 0]]  # NaN: does not apply

    function.__name__ = name
    return function


answer, form, math, exact = map(reward, ("answer", "form", "math", "exact"))


def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: Any,
    extra_info: Mapping[str, Any] | None = None,
) -> float:
    """verl's reward: 1 for a right answer, plus 0.1 for its form, of a causal problem; else 1 where
    the mathematical answer equals the ground truth.

    The verdict of a problem is judged where `extra_info` holds its text as `problem`.
    """
    if not data_source.startswith("caugym"):
        item = Item("", None, {"answer": str(ground_truth)})
        return float(combine([solution_str], [item], [False], {"math": 1.0}).total[0])
    text = str((extra_info or {}).get("problem", ""))
    try:
        story = read(text) if text else None
    except UserError:
        story = None
    task = story.query.task if story else "ATE" if "ANSWER" in str(ground_truth) else "PN"
    problem = Problem(text, str(ground_truth), task, story=story)
    return float(combine([solution_str], [problem], [False], DEFAULT_WEIGHTS).total[0])


def load_environment(
    tasks: Sequence[str] = ("ATE", "CDE", "ETT", "NDE", "NIE", "PN", "PS"),
    n: int = 1000,
    seed: int = 0,
    weights: Mapping[str, float] = DEFAULT_WEIGHTS,
    **options: Any,
) -> Any:
    """A single-turn environment of `verifiers`: generated problems, judged by these rewards.

    Args:
      options: of `generate_problem`: variant, nodes, ...

    Raises:
      UserError: verifiers is too new; its later versions have environments of another kind.
    """
    import datasets
    import verifiers

    if not hasattr(verifiers, "Rubric"):
        raise UserError("this verifiers has no Rubric: pip install 'verifiers>=0.1.9,<0.3'")

    def rows() -> Any:
        for index in range(n):
            problem = generate_problem(
                seed, index, tuple(tasks), **{**wording_options("rl"), **options}
            )
            row = make_row("rl", problem, index, seed=seed)
            truth = row["reward_model"]["ground_truth"]
            yield {"prompt": row["prompt"], "answer": truth, "info": {"problem": problem.text}}

    def judge(name: str) -> Callable[..., float]:
        def function(completion: Any, answer: str, info: Mapping[str, Any], **_: Any) -> float:
            story = read(info["problem"])
            problem = Problem(info["problem"], answer, story.query.task, story=story)
            found = combine([text_of(completion)], [problem], [False], {name: 1.0})
            return float(found.total[0])

        function.__name__ = name
        return function

    rubric = verifiers.Rubric(funcs=list(map(judge, weights)), weights=list(weights.values()))
    return verifiers.SingleTurnEnv(dataset=datasets.Dataset.from_list(list(rows())), rubric=rubric)


def text_of(completion: Any) -> str:
    """The text of a completion, which may be messages."""
    return completion if isinstance(completion, str) else str(completion[-1]["content"])


def _item(row: dict[str, Any]) -> Item:
    if not is_causal(row):
        return item_of(row) if row["prompt"] else Item("", None, row)
    problem = problem_of(row, None, None)
    return problem_item(problem)
