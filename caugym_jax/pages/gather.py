"""What folders hold for a report: runs, evaluations, and audits of data.

A run is a folder with config.json and metrics.jsonl, an evaluation one with results.json, an audit
a .json file that `solve` wrote. A folder above them (a study) gives all that lie up to two levels
down.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from caugym_jax.errors import UserError
from caugym_jax.evals.accuracy import Answered
from caugym_jax.evals.answers import read_answers
from caugym_jax.runs.alarms import Alarms
from caugym_jax.studies.plan import START
from caugym_jax.studies.settings import Study, from_flat
from caugym_jax.studies.tables import sets_of
from caugym_jax.types import Problem

LEVELS = 2  # of folders below one that is named


@dataclasses.dataclass(frozen=True)
class Comparison:
    """A study's folder: the settings, its sets, and what an audit found in them."""

    path: Path
    settings: Study
    sets: list[str]
    audits: dict[str, dict[str, Any]]  # set -> the report of `solve`

    def shows(self, workdir: Path) -> bool:
        """Whether a run's samples and answers are shown: those of the first seed."""
        names = [START, *(f"{method}-{self.settings.seeds[0]}" for method in self.settings.methods)]
        return workdir.name in names


@dataclasses.dataclass(frozen=True)
class Run:
    """A run's folder, as far as it is there: one that was interrupted has no `after`."""

    path: Path
    config: dict[str, Any]  # {dotted key: value}
    lines: list[dict[str, float | None]]  # metrics.jsonl by step; None where not finite
    samples: list[dict[str, Any]]  # samples.jsonl
    before: dict[str, Any] | None  # {"completions", "right", ...} of the held-out problems
    after: dict[str, Any] | None
    damaged: int  # lines that could not be read
    study: Comparison | None = None  # that it belongs to

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def label(self) -> str:
        """Its name in charts: of a study's runs one name a method and budget."""
        if self.study is None:
            return self.name
        return self.method + " longer" * self.longer

    @property
    def longer(self) -> bool:
        """Whether it is a study's run at equal compute."""
        return self.study is not None and self.name.endswith("-compute")

    @property
    def method(self) -> str:
        return str(self.config.get("method", "?"))

    @property
    def seed(self) -> Any:
        return self.config.get("seed", 0)

    def series(self, key: str) -> list[tuple[float, float | None]]:
        """(step, value) of every line that has the metric."""
        return [(float(line["step"] or 0), line[key]) for line in self.lines if key in line]

    def last(self, key: str) -> float | None:
        """The newest finite value of a metric."""
        return next((v for _, v in reversed(self.series(key)) if v is not None), None)

    def alarms(self) -> list[tuple[int, str]]:
        """(step, text): what `runs.alarms` says of the run, each kind once."""
        watch, seen, out = Alarms(), set(), []
        for line in self.lines:
            for key, text in watch.look(line).items():
                if key not in seen:
                    seen.add(key)
                    out.append((int(line["step"] or 0), text))
        return out


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """A folder that `evaluate` wrote, or a results.json of `grade` in one."""

    path: Path
    model: str
    settings: dict[str, Any]
    sets: dict[str, dict[str, Any]]
    study: Comparison | None = None  # that it belongs to

    def answers(self, name: str) -> list[Answered]:
        """The answered problems of a set; none where its file is absent or damaged."""
        path = self.path / f"{name}.jsonl"
        try:
            found = read_answers(path) if path.is_file() else []
        except UserError:
            return []
        return [item for item in found if isinstance(item.problem, Problem)]


@dataclasses.dataclass(frozen=True)
class Found:
    """All that the named folders hold."""

    runs: list[Run]
    evaluations: list[Evaluation]
    audits: dict[str, dict[str, Any]]  # file -> the report of `solve`
    studies: list[Comparison]


def gather(paths: Sequence[Path]) -> Found:
    """What lies in some folders, in the order of their names.

    Raises:
      UserError: a folder is absent, or holds no run, evaluation or audit.
    """
    found = Found([], [], {}, [])
    for path in paths:
        if not path.is_dir():
            raise UserError(f"--runs={path}: there is no such folder")
        before = _count(found)
        _look(path, LEVELS, found)
        if before == _count(found):
            raise UserError(
                f"--runs={path}: neither it nor a folder in it holds a run (config.json and "
                "metrics.jsonl), an evaluation (results.json) or an audit (solve --out=FILE.json)"
            )
    return found


def _count(found: Found) -> int:
    return len(found.runs) + len(found.evaluations) + len(found.audits) + len(found.studies)


def _look(path: Path, levels: int, found: Found, study: Comparison | None = None) -> None:
    own = _comparison(path)
    if own is not None:
        found.studies.append(own)
        levels, study = LEVELS, own
    if (path / "config.json").is_file() and (path / "metrics.jsonl").is_file():
        found.runs.append(dataclasses.replace(_run(path), study=study))
    for file in sorted(path.glob("*.json")):
        stored = _json(file)
        if isinstance(stored, dict) and {"prob", "verdict", "defects"} <= set(stored):
            found.audits[str(file)] = stored
    results = _json(path / "results.json")
    if isinstance(results, dict) and isinstance(results.get("sets"), dict):
        found.evaluations.append(
            Evaluation(
                path,
                str(results.get("model") or path.name),
                results.get("settings") or {},
                {k: v for k, v in results["sets"].items() if _is_set(v)},
                study,
            )
        )
    if levels:
        for folder in sorted(p for p in path.iterdir() if p.is_dir()):
            _look(folder, levels - 1, found, study)


def _comparison(path: Path) -> Comparison | None:
    stored = _json(path / "study.json")
    if not isinstance(stored, dict):
        return None
    try:
        settings = from_flat(stored)
    except UserError:  # of another version
        return None
    found = {file.stem: _json(file) for file in sorted((path / "data" / "audit").glob("*.json"))}
    audits = {name: one for name, one in found.items() if isinstance(one, dict)}
    return Comparison(path, settings, sets_of(path), audits)


def _is_set(entry: Any) -> bool:
    return isinstance(entry, dict) and all(
        isinstance(entry.get(scorer), dict) and "all" in entry[scorer]
        for scorer in ("published", "strict")
    )


def _run(path: Path) -> Run:
    config = _json(path / "config.json")
    lines, damaged = json_lines(path / "metrics.jsonl")
    samples, more = json_lines(path / "samples.jsonl")
    before, after = (_probed(_json(path / name)) for name in ("before.json", "after.json"))
    kept = [_numbers(line) for line in lines if isinstance(line.get("step"), int)]
    return Run(
        path,
        config if isinstance(config, dict) else {},
        kept,
        samples,
        before,
        after,
        damaged + more + len(lines) - len(kept),
    )


def _probed(stored: Any) -> dict[str, Any] | None:
    whole = isinstance(stored, dict) and all(
        isinstance(stored.get(key), list) for key in ("completions", "right")
    )
    return stored if whole else None


def _numbers(line: dict[str, Any]) -> dict[str, float | None]:
    """The line's numbers; what is not finite is None."""
    return {
        key: value if isinstance(value, int | float) and math.isfinite(value) else None
        for key, value in line.items()
        if value is None or isinstance(value, int | float)
    }


def json_lines(path: Path) -> tuple[list[dict[str, Any]], int]:
    """(the objects of a .jsonl file, how many lines are none); a file that is absent has none."""
    if not path.is_file():
        return [], 0
    out, damaged = [], 0
    for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):
        if line.strip():
            stored = _parsed(line)
            if isinstance(stored, dict):
                out.append(stored)
            else:
                damaged += 1
    return out, damaged


def _json(path: Path) -> Any:
    return _parsed(path.read_text(encoding="utf-8", errors="replace")) if path.is_file() else None


def _parsed(text: str) -> Any:
    """A JSON value; None where the text is none (cut short, nested too deep, a huge integer)."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def mean_and_interval(values: Iterable[float]) -> tuple[float, float, float]:
    """(mean, low, high): mean +- 1.96 sd / sqrt(n), within [0, 1]; one value has no width."""
    kept = list(values)
    mean = sum(kept) / len(kept)
    if len(kept) < 2:
        return mean, mean, mean
    variance = sum((v - mean) ** 2 for v in kept) / (len(kept) - 1)
    half = 1.96 * math.sqrt(variance / len(kept))
    return mean, max(0.0, mean - half), min(1.0, mean + half)
