"""Problems generated, texts read and solved, and completions graded, a second on one core.

    python -m benchmarks.engine [--n=500]

Targets per core: 500 problems generated at 8 nodes, 1,000 texts solved, 20,000 completions graded.
Times are of the process's own CPU, so that other work on the machine changes little; caches are
cold for every text.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterable

from caugym_jax.causal.engine.generating import generate_problems
from caugym_jax.causal.engine.solving import solve
from caugym_jax.causal.text.reading import read
from caugym_jax.evals.scorers import strict
from caugym_jax.types import TASKS

COMPLETION = "<think>\nFirst, {padding}\n</think>\n\nThe result is\n{answer}"
PADDING = "the back-door set is empty, so 0.1234 - 0.0987 = 0.0247. " * 10  # about 150 tokens


def rate(what: str, items: Iterable, work: Callable[[object], object]) -> float:
    """Items a second; prints them."""
    start, done = time.process_time(), 0
    for item in items:
        work(item)
        done += 1
    per_second = done / (time.process_time() - start)
    print(f"{what:<44}{per_second:>10,.0f} /s")
    return per_second


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=500, help="problems of each kind")
    n = parser.parse_args().n
    kinds = {
        "base, 3-5 nodes": {},
        "deconfounding, 8 nodes": {"variant": "deconfounding"},
        "redundant, 8 nodes": {"variant": "redundant"},
        "insufficient, 8 nodes": {"variant": "insufficient"},
        "hard, 5-7 nodes": {"variant": "hard"},
    }
    figures, problems = {}, []
    for name, options in kinds.items():
        made: list = []
        stream = generate_problems(TASKS, n, 0, **options)
        figures[f"generate {name}"] = rate(f"generated: {name}", stream, made.append)
        figures[f"solve {name}"] = rate(f"read and solved: {name}", made, lambda p: _solve(p.text))
        problems += made
    answers = [(COMPLETION.format(padding=PADDING, answer=p.answer), p) for p in problems]
    for _, problem in answers:
        strict("", problem)  # each problem is read once, however many completions it has
    figures["grade"] = rate("graded (strict)", answers * 5, lambda pair: strict(*pair))
    print(json.dumps({name: round(value) for name, value in figures.items()}))


def _solve(text: str) -> None:
    solve.__wrapped__(read.__wrapped__(text))


if __name__ == "__main__":
    main()
