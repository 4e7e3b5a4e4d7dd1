"""Every generated variant in one table: its make, its balance, what answers it without reading.

    python -m benchmarks.variants [--n=1000]

Prints the table of docs/data.md. Words are what white space separates in the problem's text.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from benchmarks.shortcuts import figures
from caugym_jax.causal.engine.audit import score, shortcut
from caugym_jax.causal.engine.generating import GENERATED_VARIANTS, generate_problems
from caugym_jax.types import TASKS, VARIANTS, Problem

COLUMNS = (
    "variant",
    "n",
    "zero",
    "LACK",
    "Yes / No",
    "released rule",
    "best rule",
    "best constant",
    "best rule, non-zero",
    "fitted to non-zero",
    "words",
)


def row(variant: str, problems: Sequence[Problem]) -> list[str]:
    n = len(problems)
    zero = sum(problem.story.query.zero for problem in problems)
    lacks = sum(problem.lacks for problem in problems)
    said = [problem.verdict for problem in problems if problem.verdict]
    released = sum(
        not p.lacks and score(p, shortcut(p.story)) for p in problems
    )  # which never says LACK_CONDITION
    found = figures(problems)
    words = sum(len(problem.text.split()) for problem in problems) / n
    return [
        variant,
        f"{n:,}",
        *(f"{100 * count / n:.1f} %" for count in (zero, lacks)),
        f"{said.count('Yes')} / {said.count('No')}",
        f"{100 * released / n:.1f} %",
        *(
            f"{100 * found[name]:.1f} %"
            for name in ("fitted", "constant", "nonzero", "nonzero_only")
        ),
        f"{words:.0f}",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=1_000, help="problems of each variant")
    n = parser.parse_args().n
    print("| " + " | ".join(COLUMNS) + " |")
    print("|" + "---|" * len(COLUMNS))
    for variant in VARIANTS:
        if variant in GENERATED_VARIANTS:
            problems = list(generate_problems(TASKS, n, 0, variant=variant))
            print("| " + " | ".join(row(variant, problems)) + " |", flush=True)


if __name__ == "__main__":
    main()
