"""The tables of a study, from the grades that its tests left. Imports no jax."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from caugym_jax.evals.accuracy import clustered_stderr
from caugym_jax.evals.paper import BASE_BY_METHOD, paper_set
from caugym_jax.studies.plan import START, cost
from caugym_jax.studies.settings import Study

FIRST = "cold start"  # the first model, in tables
BUDGETS = {"problems": "equal problems", "compute": "equal compute"}


def stored(path: Path) -> Any:
    """The value of a JSON file; None where there is none, or a damaged one."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None


def stored_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a .jsonl file; a damaged line is left out."""
    found = []
    for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):
        try:
            found.append(json.loads(line))
        except (ValueError, RecursionError):
            continue
    return [one for one in found if isinstance(one, dict)]


class Rows(NamedTuple):
    """Items of one row of a table: the means over seeds of each, and the mean of each seed."""

    values: list[float]
    graphs: list[Any]
    seeds: list[float]

    @property
    def mean(self) -> float:
        return sum(self.values) / len(self.values)

    @property
    def half(self) -> float | None:
        """Of the 95 % interval, items of one graph being dependent."""
        error = clustered_stderr(self.values, self.graphs)
        return None if error is None else 1.96 * error


def collected(
    folders: Sequence[Path], kind: str, rule: str, only: str | None = None
) -> Rows | None:
    """The grades of some models (a method's seeds) on the same items; None where none is tested.

    Args:
      kind: sampled or greedy.
      rule: strict or published.
      only: one set; None: all together.
    """
    per_seed, graphs = [], []
    for folder in folders:
        sets = stored(folder / kind / "grades.json")
        if not isinstance(sets, dict):
            continue
        chosen = [entry for name, entry in sets.items() if only in (None, name)]
        per_seed.append([value for entry in chosen for value in entry[rule]])
        graphs = [graph for entry in chosen for graph in entry["graph"]]
    if not per_seed or not graphs:
        return None
    values = [sum(column) / len(column) for column in zip(*per_seed, strict=True)]
    return Rows(values, graphs, [sum(row) / len(row) for row in per_seed])


def difference(one: Rows, other: Rows) -> Rows:
    """one - other, item by item."""
    values = [a - b for a, b in zip(one.values, other.values, strict=True)]
    return Rows(values, one.graphs, [])


def folders_of(study: Study, out: Path, method: str, budget: str) -> list[Path]:
    """A method's tested runs under a budget; those of "problems" where "compute" adds none."""
    ending = "-compute" if budget == "compute" else ""
    names = [f"{method}-{seed}{ending}" for seed in study.seeds]
    found = [out / name for name in names if stored(out / name / "sampled" / "grades.json")]
    if budget == "compute" and not any((out / name).exists() for name in names):
        return folders_of(study, out, method, "problems")
    return found


class Table(NamedTuple):
    """Cells as text; percent, ± the half of the 95 % interval."""

    title: str
    header: list[str]
    rows: list[list[str]]


def markdown(study: Study, out: Path) -> str:
    """All tables as Markdown."""
    lines: list[str] = []
    for title, header, rows in tables(study, out):
        lines += [f"{title}:", ""]
        lines += [f"| {' | '.join(cells)} |" for cells in (header, ["---"] * len(header), *rows)]
        lines += [""]
    return "\n".join(lines)


def tables(study: Study, out: Path) -> list[Table]:
    budgets = [budget for budget in BUDGETS if budget == "problems" or study.compute]
    base = [name for name in sets_of(out) if paper_set(name) == "base"]
    made = [summary_table(study, out, budget) for budget in budgets]
    made += [pair_table(study, out, budget, only) for only in (None, *base) for budget in budgets]
    return made + [set_table(study, out, budget) for budget in budgets]


def models(study: Study, out: Path, budget: str) -> dict[str, list[Path]]:
    """{name: folders of its tested seeds}: the first model, and the methods that are tested."""
    found = {FIRST: [out / START]} | {
        method: folders_of(study, out, method, budget) for method in study.methods
    }
    return {
        name: folders for name, folders in found.items() if collected(folders, "sampled", "strict")
    }


def summary_table(study: Study, out: Path, budget: str) -> Table:
    """All sets together, with what the runs took."""
    header = ["", "strict, samples", "change", "seeds", "strict, greedy", "published, samples"]
    header += ["steps", "tokens", "passes", "minutes"]
    start = collected([out / START], "sampled", "strict")
    lines = []
    for name, folders in models(study, out, budget).items():
        rows = collected(folders, "sampled", "strict")
        assert rows is not None  # `models` has only these
        first = name == FIRST
        change = "" if first or start is None else shown(difference(rows, start), sign="+")
        low, high = 100 * min(rows.seeds), 100 * max(rows.seeds)
        cells = [name, shown(rows), change, "" if first else f"{low:.1f} to {high:.1f}"]
        cells += [
            shown(collected(folders, "greedy", "strict")),
            shown(collected(folders, "sampled", "published")),
        ]
        lines.append(cells + ([""] * 4 if first else _spent(study, folders)))
    return Table(f"At {BUDGETS[budget]}, all sets", header, lines)


def _spent(study: Study, folders: Sequence[Path]) -> list[str]:
    """What a method's runs took on average: steps, tokens, passes of tokens, minutes."""
    totals = [0.0] * 4
    epoch = max(1, study.problems // study.batch_size)
    for path in folders:
        lines, config = stored_lines(path / "metrics.jsonl"), stored(path / "config.json")
        steps = [line for line in lines if "tokens" in line]
        found = (
            len(steps),
            sum(line["tokens"] or 0 for line in steps),
            cost(config["method"], lines, config, epoch),
            sum(line["step_time"] or 0.0 for line in steps) / 60,
        )
        totals = [a + b / len(folders) for a, b in zip(totals, found, strict=True)]
    steps_, tokens, passes, minutes = totals
    return [f"{steps_:.0f}", f"{tokens / 1e3:.0f}k", f"{passes / 1e6:.2f}M", f"{minutes:.1f}"]


def pair_table(study: Study, out: Path, budget: str, only: str | None = None) -> Table:
    """Each method against each other one, on the same items of one set or (None) of all."""
    found = {
        name: rows
        for name, folders in models(study, out, budget).items()
        if (rows := collected(folders, "sampled", "strict", only)) is not None
    }
    lines = [
        [name, *("" if other == name else _against(rows, found[other]) for other in found)]
        for name, rows in found.items()
    ]
    where = f"{only or 'all sets'}, at {BUDGETS[budget]}"
    title = f"Row minus column, strict, samples, {where} [*: the interval leaves out 0]"
    return Table(title, ["", *found], lines)


def _against(one: Rows, other: Rows) -> str:
    rows = difference(one, other)
    apart = rows.half is not None and abs(rows.mean) > rows.half
    return shown(rows, sign="+") + " *" * apart


def set_table(study: Study, out: Path, budget: str) -> Table:
    """Set by set: the accuracy, and its change, paired with the first model's answers; in brackets
    the paper's accuracy of the method on the base set."""
    names, lines = sets_of(out), []
    starts = {one: collected([out / START], "sampled", "strict", one) for one in names}
    for name, folders in models(study, out, budget).items():
        cells = [name]
        for one in names:
            rows, start = collected(folders, "sampled", "strict", one), starts[one]
            change = None if rows is None or start is None else difference(rows, start)
            text = shown(rows) if name == FIRST else f"{_mean(rows)}, {shown(change, sign='+')}"
            paper = BASE_BY_METHOD.get(name) if paper_set(one) == "base" else None
            cells.append(text + ("" if paper is None else f" [{100 * paper:.1f}]"))
        lines.append(cells)
    title = f"By set, strict, samples, and points gained, at {BUDGETS[budget]} [the paper's 14B]"
    return Table(title, ["", *names], lines)


def sets_of(out: Path) -> list[str]:
    """The names of the tests, as far as the first model has been tested."""
    return list(stored(out / START / "sampled" / "grades.json") or ())


def shown(rows: Rows | None, sign: str = "") -> str:
    if rows is None or rows.half is None:
        return _mean(rows, sign)
    return f"{_mean(rows, sign)} ± {100 * rows.half:.1f}"


def _mean(rows: Rows | None, sign: str = "") -> str:
    return "–" if rows is None else f"{100 * rows.mean:{sign}.1f}"
