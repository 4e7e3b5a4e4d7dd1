"""A study on the report's page: its tables, and its methods as dots, set by set, by failure."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from caugym_jax.evals.paper import BASE_BY_METHOD, GRPO_14B, paper_set
from caugym_jax.pages import svg
from caugym_jax.pages.gather import Comparison
from caugym_jax.pages.parts import percent, shade, table
from caugym_jax.pages.svg import Dot, escape
from caugym_jax.studies.settings import METHODS
from caugym_jax.studies.tables import (
    BUDGETS,
    FIRST,
    Rows,
    collected,
    difference,
    models,
    stored,
    tables,
)
from caugym_jax.types import TASKS

if TYPE_CHECKING:
    from caugym_jax.pages.page import Page


def comparison(made: Page, found: Comparison) -> str:
    """The section of one study, as far as it has run."""
    study, out = found.settings, found.path
    budgets = [budget for budget in BUDGETS if budget == "problems" or study.compute]
    tested = {budget: models(study, out, budget) for budget in budgets}
    done = sum(len(folders) for name, folders in tested["problems"].items() if name != FIRST)
    head = (
        f"{study.model}; {study.problems} problems x {study.epochs}, {study.batch_size} a step; "
        f"{done} of {len(study.methods) * len(study.seeds)} runs at equal problems are tested"
    )
    parts = [f'<p class="soft">{escape(head)}</p>']
    if not tested["problems"]:
        return parts[0] + "<p>No model has been tested yet.</p>"
    for title, header, rows in tables(study, out):
        if rows:
            parts.append(f"<h3>{escape(title)}</h3>{table(header, rows)}")
    parts.append('<div class="pair">')
    parts += [_changes(made, found, budget, tested[budget]) for budget in budgets]
    parts += [_dots(made, budget, tested[budget]) for budget in budgets]
    parts += [_robustness(made, found, tested["problems"])]
    parts += [_failures(made, tested["problems"]), _scorers(made, tested["problems"]), "</div>"]
    parts.append(_by_task(tested["problems"]))
    parts.append(_lacking(tested["problems"]))
    return "".join(parts)


def colour_of(name: str) -> int:
    """Of a method, or of the first model, in all charts."""
    return 1 + METHODS.index(name) if name in METHODS else 0


def _changes(made: Page, found: Comparison, budget: str, tested: dict[str, list[Path]]) -> str:
    """What each method changed, set by set, on the same items as the first model."""
    rows, cells = [], []
    for name in (None, *found.sets):
        start = collected(tested[FIRST], "sampled", "strict", name) if FIRST in tested else None
        dots = []
        for method, folders in tested.items():
            values = collected(folders, "sampled", "strict", name)
            if method == FIRST or values is None or start is None:
                continue
            dot = _dot(difference(values, start), method)
            dots.append((dot, colour_of(method)))
            ends = ["–" if v is None else f"{100 * v:+.1f}" for v in (dot.low, dot.high)]
            cells.append([name or "all sets", method, f"{100 * dot.value:+.1f}", *ends])
        rows.append((name or "all sets", dots, [("no change", 0.0)]))
    if not cells:
        return ""
    title = f"Points gained at {BUDGETS[budget]}, strict, on the same items, with 95 % intervals"
    names = [(method, colour_of(method)) for method in tested if method != FIRST]
    drawn = svg.strips(title, rows, names, points=True)
    numbers = table(["set", "method", "points", "low", "high"], cells)
    return made.chart(f"changes {budget}", title, drawn, numbers)


def _dot(rows: Rows, note: str) -> Dot:
    if rows.half is None:
        return Dot(rows.mean, note=note)
    return Dot(rows.mean, rows.mean - rows.half, rows.mean + rows.half, note)


def _dots(made: Page, budget: str, tested: dict[str, list[Path]]) -> str:
    """Every seed of every method with its interval, and the first model's accuracy as a line."""
    drawn, cells, marks = [], [], []
    for name, folders in tested.items():
        seeds = [(folder, collected([folder], "sampled", "strict")) for folder in folders]
        dots = [_dot(rows, folder.name) for folder, rows in seeds if rows is not None]
        drawn.append((name, dots))
        marks += [(FIRST, dot.value) for dot in dots if name == FIRST]
        cells += [
            [name, dot.note, percent(dot.value), percent(dot.low), percent(dot.high)]
            for dot in dots
        ]
    title = f"Strict accuracy at {BUDGETS[budget]}, every seed with its 95 % interval, all sets"
    numbers = table(["method", "run", "strict", "low", "high"], cells)
    return made.chart(
        f"methods {budget}",
        title,
        svg.dots(title, drawn, "", marks, list(map(colour_of, tested))),
        numbers,
    )


def _robustness(made: Page, found: Comparison, tested: dict[str, list[Path]]) -> str:
    """Each set with every method, and what is right there without reading the problem."""
    rows, cells = [], []
    for name in found.sets:
        dots = []
        for method, folders in tested.items():
            values = collected(folders, "sampled", "strict", name)
            if values is not None:
                dots.append((_dot(values, method), colour_of(method)))
                cells.append([name, method, percent(values.mean)])
        lines = []
        for label in ("shortcut", "constant"):
            value = found.audits.get(name, {}).get(label)
            if isinstance(value, int | float):
                lines.append((label, float(value)))
                cells.append([name, RULES[label], percent(value)])
        rows.append((name, dots, lines))
    if not rows:
        return ""
    title = "Strict accuracy by set; bars: the graph-free rule (solid), the best constant (dashed)"
    names = [(method, colour_of(method)) for method in tested]
    drawn = svg.strips(title, rows, names)
    return made.chart("robustness", title, drawn, table(["set", "who", "right"], cells))


RULES = {"shortcut": "graph-free rule", "constant": "best constant"}


def _entries(folders: Sequence[Path], kind: str = "sampled") -> list[dict[str, Any]]:
    """The sets of some models' results.json."""
    out: list[dict[str, Any]] = []
    for folder in folders:
        out += (stored(folder / kind / "results.json") or {"sets": {}})["sets"].values()
    return out


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _failures(made: Page, tested: dict[str, list[Path]]) -> str:
    rows: list[tuple[str, list[dict[str, float]]]] = []
    kinds: dict[str, None] = {}
    for name, folders in tested.items():
        found = [entry["failures"] for entry in _entries(folders) if entry.get("failures")]
        kinds |= dict.fromkeys(kind for one in found for kind in one)
        if found:
            rows.append((name, found))
    values = [
        (name, [_mean([one.get(kind) for one in found]) or 0.0 for kind in kinds])
        for name, found in rows
    ]
    if not values:
        return ""
    title = "Answers by the first step that is wrong, mean of the sets that have such steps"
    cells = [[name, *map(percent, shares)] for name, shares in values]
    drawn = svg.stacked(title, values, list(kinds), "%")
    return made.chart("failures by method", title, drawn, table(["", *kinds], cells))


def _scorers(made: Page, tested: dict[str, list[Path]]) -> str:
    rows, cells = [], []
    for name, folders in tested.items():
        both = [collected(folders, "sampled", rule) for rule in ("strict", "published")]
        strict, published = (0.0 if one is None else one.mean for one in both)
        rows.append((name, [Dot(strict, strict, published, "strict"), Dot(published)]))
        gap = f"{100 * (published - strict):+.1f}"
        cells.append([name, percent(strict), percent(published), gap])
    title = "From the strict score to the published one"
    header = ["", "strict", "published", "points"]
    drawn = svg.dots(title, rows, "", colours=list(map(colour_of, tested)))
    return made.chart("scorers by method", title, drawn, table(header, cells))


def _by_task(tested: dict[str, list[Path]]) -> str:
    """Methods by tasks on the base set, by the published rule, beside the paper's."""
    rows = []
    for name, folders in tested.items():
        entries = [_base(folder) for folder in folders]
        found = [entry["published"] for entry in entries if entry is not None]
        if found:
            tasks = [_mean([one["by_task"].get(task) for one in found]) for task in TASKS]
            means = [_mean([one["all"] for one in found]), *tasks]
            rows.append([name, *map(shade, means), percent(BASE_BY_METHOD.get(name))])
    if not rows:
        return ""
    theirs = [GRPO_14B["base"][key] for key in ("all", *TASKS)]
    rows.append(["the paper's 14B (GRPO)", *map(shade, theirs), percent(theirs[0])])
    header = ["base set, published rule", "all", *TASKS, "the paper's"]
    return f"<h3>Tasks of the base set</h3>{table(header, rows)}"


def _base(folder: Path) -> dict[str, Any] | None:
    sets = (stored(folder / "sampled" / "results.json") or {"sets": {}})["sets"]
    return next((entry for name, entry in sets.items() if paper_set(name) == "base"), None)


def _lacking(tested: dict[str, list[Path]]) -> str:
    rows = []
    for name, folders in tested.items():
        entries = _entries(folders)
        pair = [_mean([entry.get(key) for entry in entries]) for key in ("lack", "false_lack")]
        rows.append([name, *map(percent, pair)])
    header = ["", "LACK_CONDITION where right", "LACK_CONDITION where wrong"]
    return f"<h3>Saying that a number is missing</h3>{table(header, rows)}"
