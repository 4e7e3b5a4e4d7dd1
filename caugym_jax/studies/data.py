"""The files of a study: training problems, what each method learns of them, and tests.

Every method sees the same problems, in files that hold them in the forms that methods read:

    train.jsonl      problems with a solution to imitate: SFT; PPO and GRPO ask them
    pairs.jsonl      DPO: the solution, and a wrong answer of the first model
    judged.jsonl     KTO: both of them, one a row
    held_out.jsonl   problems for learning curves
    cold.jsonl       problems with solutions for the cold start, if there is one
    VARIANT.json     the tests, and audit/ what the engine finds in them

Where all answers of the first model to a problem are right, the wrong one is the solution with
another number at its end. Imports no jax.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Iterable, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

from caugym_jax.causal.engine.answers import label
from caugym_jax.causal.engine.audit import check, marks, summary
from caugym_jax.causal.engine.generating import generate_problems
from caugym_jax.data.files import read_problems, write_json
from caugym_jax.data.items import asked
from caugym_jax.data.rows import make_row, write_rows
from caugym_jax.data.solutions.conditions import plan_for
from caugym_jax.data.solutions.writing import written
from caugym_jax.data.texts.solution import steps_of
from caugym_jax.errors import UserError
from caugym_jax.evals.answers import read_answers, set_name
from caugym_jax.rewards.answer import expected, extract, is_right
from caugym_jax.studies.settings import Study
from caugym_jax.types import BOUND_TASKS, LACK, TASKS, Problem

# Added to a study's seed, so that no two sets of problems are of one stream.
HELD_OUT, TESTS, COLD = 1_000_003, 2_000_003, 3_000_017


def prepare(study: Study, folder: Path) -> None:
    """Writes the files that need no model and are not there yet."""
    makers: dict[str, Callable[[], Iterable[dict[str, Any]]]] = {
        "train.jsonl": lambda: map(_worked(study), training_problems(study)),
        "held_out.jsonl": lambda: map(row_of, held_out_problems(study)),
    }
    if study.cold_start:
        makers["cold.jsonl"] = lambda: map(_worked(study), cold_problems(study))
    for variant in study.tests.variants:
        makers[f"{variant}.json"] = functools.partial(_test, study, variant)
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in makers.items():
        if not (folder / name).exists():
            write_rows(folder / name, rows())


def training_problems(study: Study) -> list[Problem]:
    """The first problems of the file, or generated ones."""
    if study.path is None:
        return _in_turn(study, study.problems, study.seed)
    found = read_problems(study.path)
    if len(found) < study.problems:
        raise UserError(f"config.problems={study.problems}: {study.path} has {len(found)} problems")
    return found[: study.problems]


def held_out_problems(study: Study) -> list[Problem]:
    return _in_turn(study, study.held_out, study.seed + HELD_OUT)


def cold_problems(study: Study) -> list[Problem]:
    return list(generate_problems(study.cold_tasks, study.cold_start, study.seed + COLD))


def _in_turn(study: Study, n: int, seed: int) -> list[Problem]:
    """Problem i is of the variant i mod (number of variants)."""
    each = -(-n // len(study.variants))
    streams = [
        list(generate_problems(study.tasks, each, seed, variant=variant, adjusters=study.adjusters))
        for variant in study.variants
    ]
    return [problem for group in zip(*streams, strict=True) for problem in group][:n]


def _test(study: Study, variant: str) -> Iterable[dict[str, Any]]:
    problems = generate_problems(
        TASKS, study.tests.n, study.seed + TESTS, variant=variant, wordings="test"
    )
    return (make_row("problems", p, i) | {"variant": variant} for i, p in enumerate(problems))


def row_of(problem: Problem) -> dict[str, Any]:
    """A row in the official layout, with the variant, and a solution if there is one."""
    row = {"problem": problem.text, "answer": problem.answer, "Type": problem.task}
    row["variant"] = problem.variant
    return row if problem.solution is None else row | {"solution": problem.solution}


def _worked(study: Study) -> Callable[[Problem], dict[str, Any]]:
    """What makes a row with its solution."""

    def row(problem: Problem) -> dict[str, Any]:
        return row_of(problem) | {"solution": solution_of(problem, study.solutions)}

    return row


def solution_of(problem: Problem, style: str) -> str:
    """What is to be imitated: the file's own solution, else one as Study.solutions says.

    Raises:
      UserError: there is none (a question that the notation has no words for).
    """
    if problem.solution is not None:
        return problem.solution
    if style == "steps":
        steps = [f"{name}: {step}" for name, step in steps_of(problem).items()]
        return "\n".join([*steps, problem.answer])
    plan = plan_for(problem)
    if plan is None:
        raise UserError(
            f"config.solutions=notation has no words for a {problem.task} problem of the variant "
            f"{problem.variant}: train on others, or choose steps"
        )
    return "".join(written(plan.formula, plan.items, plan.x, plan.y, None, plan.missing))


def audit(tests: Sequence[str], folder: Path) -> None:
    """Writes what `solve` finds in each test: its labels' defects, and what is right without
    reading (the graph-free rule, the best constant)."""
    folder.mkdir(exist_ok=True)
    for name in tests:
        path = folder / f"{set_name(name)}.json"
        if not path.exists():
            marked = [marks(check(problem, i)) for i, problem in enumerate(read_problems(name))]
            write_json(path, summary(marked))


# Preferences ----------------------------------------------------------------------------------


def write_preferences(study: Study, folder: Path, answers: Path) -> None:
    """Writes pairs.jsonl and judged.jsonl.

    Args:
      answers: the first model's answers to train.jsonl.
    """
    pairs = [
        _pair(item.problem, item.completions, study.seed, i)
        for i, item in enumerate(read_answers(answers))
        if isinstance(item.problem, Problem)
    ]
    write_rows(folder / "pairs.jsonl", pairs)
    write_rows(folder / "judged.jsonl", (row for pair in pairs for row in _both(pair)))


def _pair(problem: Problem, answers: Sequence[str], seed: int, index: int) -> dict[str, Any]:
    assert problem.solution is not None  # train.jsonl has one in each row
    truth = expected(problem)
    wrong = [text for text in answers if text.strip() and not is_right(extract(text), truth)]
    rejected = wrong[0] if wrong else slipped(problem, random.Random(f"slip {seed} {index}"))
    return {
        "prompt": [dict(turn) for turn in asked(problem)],
        "chosen": _reply(problem.solution),
        "rejected": _reply(rejected),
        "kind": "own" if wrong else "slip",
        "answer": problem.answer,
        "Type": problem.task,
    }


def _both(pair: dict[str, Any]) -> list[dict[str, Any]]:
    """The two completions of a pair as rows of KTO."""
    shared = {key: pair[key] for key in ("prompt", "answer", "Type")}
    return [
        shared | {"completion": pair[side], "label": side == "chosen"}
        for side in ("chosen", "rejected")
    ]


def slipped(problem: Problem, rng: random.Random) -> str:
    """The problem's solution with a wrong number in its last line."""
    solution = problem.solution or problem.answer
    start = max(solution.rfind("{"), solution.rfind(LACK))
    right = Decimal(0) if problem.lacks else Decimal(str(problem.prob))
    least = 0 if problem.task in BOUND_TASKS else -1
    while True:
        number = right + Decimal(rng.choice((-1, 1)) * rng.randrange(10, 3_000)) / 10_000
        if least <= number <= 1:
            text = solution[:start] + label(problem.task, number)
            if not is_right(extract(text), expected(problem)):
                return text


def _reply(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]
