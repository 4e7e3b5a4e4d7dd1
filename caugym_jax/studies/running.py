"""Runs a study, unit by unit: files, the first model's answers, training runs, tests.

Every unit leaves a file when it is done and is skipped then; one that was interrupted goes on from
its own checkpoint or its last answers. So the same command, started again, finishes the study.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from caugym_jax.cli.config import differences
from caugym_jax.data.files import write_json
from caugym_jax.devices import processes
from caugym_jax.devices.mesh import MeshShape
from caugym_jax.errors import UserError
from caugym_jax.evals.accuracy import grade_item, results
from caugym_jax.evals.answering import Protocol, evaluate
from caugym_jax.evals.answers import read_answers, set_name
from caugym_jax.runs import folder, loop
from caugym_jax.runs.lock import alone
from caugym_jax.runs.log import write_text
from caugym_jax.runs.opening import ModelSettings
from caugym_jax.runs.settings import flat, load
from caugym_jax.sampling.picking import Settings as Picking
from caugym_jax.studies import data
from caugym_jax.studies.plan import (
    COLD_START,
    START,
    Trial,
    cold_overrides,
    cost,
    first_trials,
    matched_steps,
    overrides,
    spec,
)
from caugym_jax.studies.settings import Study
from caugym_jax.studies.tables import stored_lines

MAY_CHANGE = ("methods", "seeds", "compute")  # a study may be asked for more of these


def run(study: Study, out: Path) -> None:
    """Does what is left of a study in the folder `out`.

    Raises:
      UserError: the folder holds a study with other settings, or a unit cannot be run.
    """
    with alone(out):
        processes.first(lambda: claim(study, out))
        files = out / "data"
        say("writes the problems")
        processes.first(lambda: data.prepare(study, files))
        processes.first(lambda: data.audit(files_of_tests(study, out), files / "audit"))
        start = _cold_start(study, out)
        answer_tests(study, out, start, out / START)
        if {"dpo", "kto"} & set(study.methods):
            _preferences(study, out, start)
        trials = first_trials(study)
        for trial in trials:
            _trial(study, out, trial, start)
        if study.compute:
            for trial in longer_trials(study, out):
                _trial(study, out, trial, start)


def claim(study: Study, out: Path) -> None:
    """Writes study.json, or checks that the folder belongs to this study."""
    path, settings = out / "study.json", json.loads(json.dumps(flat(study)))
    before = folder.read_back(path, dict) or settings
    if found := differences(before, settings, MAY_CHANGE):
        raise UserError(
            f"{out} holds a study with other settings ({'; '.join(found)}): choose another --out"
        )
    write_text(path, json.dumps(settings, indent=1) + "\n")


def say(text: str) -> None:
    processes.first(lambda: print(f"study: {text}", file=sys.stderr, flush=True))


def _cold_start(study: Study, out: Path) -> str:
    """The model that all trials start from, trained first where the study says so."""
    if not study.cold_start:
        return study.model
    workdir = out / COLD_START
    _train(spec(study, "sft"), cold_overrides(study, out / "data"), workdir, "the cold start")
    return str(workdir)


def _preferences(study: Study, out: Path, start: str) -> None:
    files = out / "data"
    if (files / "judged.jsonl").exists():
        return
    say(f"asks the first model the training problems, {study.tries} times each")
    protocol = dataclasses.replace(_protocol(study, False), samples=study.tries)
    evaluate(
        ModelSettings(start), MeshShape(), [str(files / "train.jsonl")], files / "own", protocol
    )
    processes.first(lambda: data.write_preferences(study, files, files / "own" / "train.jsonl"))


def _trial(study: Study, out: Path, trial: Trial, start: str) -> None:
    workdir = out / trial.name
    what = f"{trial.method}, seed {trial.seed}, matched {trial.budget}"
    _train(spec(study, trial.method), overrides(study, trial, out / "data", start), workdir, what)
    answer_tests(study, out, str(workdir), workdir)


def _train(config: str, settings: Sequence[str], workdir: Path, what: str) -> None:
    chosen = load(config, settings)
    if folder.ended(workdir, chosen.steps) is None:
        say(f"trains {what}: {chosen.steps} steps in {workdir}")
        loop.train(chosen, workdir)


def longer_trials(study: Study, out: Path) -> list[Trial]:
    """The trials of "compute"; their steps are decided once, and kept in compute.json."""
    path = out / "compute.json"
    known = folder.read_back(path, dict) or {}
    missing = [method for method in study.methods if method not in known.get("cost", {})]
    if missing or not known:
        costs = {
            method: [trial_cost(study, out / f"{method}-{seed}") for seed in study.seeds]
            for method in study.methods
        }
        steps = matched_steps(study.steps, costs)
        known = {"cost": costs, "steps": steps | known.get("steps", {})}
        processes.first(lambda: write_text(path, json.dumps(known, indent=1) + "\n"))
    return [
        Trial(method, seed, known["steps"][method], "compute")
        for seed in study.seeds
        for method in study.methods
        if method in known["steps"]
    ]


def trial_cost(study: Study, workdir: Path) -> float:
    """What a trial computed (`plan.cost`)."""
    lines, config = stored_lines(workdir / "metrics.jsonl"), folder.settings_of(workdir)
    epoch = max(1, study.problems // study.batch_size)
    return cost(str(config["method"]), lines, config, epoch)


# Tests ----------------------------------------------------------------------------------------


def answer_tests(study: Study, out: Path, model: str, where: Path) -> None:
    """A model answers all tests, into WHERE/sampled and WHERE/greedy."""
    for name in ("sampled", "greedy"):
        if name == "greedy" and not study.tests.greedy:
            continue
        if not (where / name / "grades.json").exists():
            say(f"tests {where.name}, {name}")
            _answer(study, files_of_tests(study, out), model, where / name, name == "greedy")


def files_of_tests(study: Study, out: Path) -> list[str]:
    made = [str(out / "data" / f"{variant}.json") for variant in study.tests.variants]
    files = [*made, *study.tests.files]
    names = [set_name(file) for file in files]
    if len(set(names)) < len(names):
        raise UserError(
            f"config.tests.files={','.join(study.tests.files)}: two tests have the same name "
            f"({', '.join(names)}); leave the variant out of config.tests.variants"
        )
    return files


def _protocol(study: Study, greedy: bool) -> Protocol:
    tests = study.tests
    picking = Picking(0.0) if greedy else Picking(tests.temperature, top_p=tests.top_p)
    return Protocol(
        1 if greedy else tests.samples,
        picking,
        tests.max_new_tokens,
        tests.lack_hint,
        study.seed,
        tests.batch_size,
    )


def _answer(study: Study, files: list[str], model: str, out: Path, greedy: bool) -> None:
    protocol = _protocol(study, greedy)
    settings, sets = evaluate(
        ModelSettings(model), MeshShape(), files, out, protocol, study.tests.limit
    )

    def write() -> None:
        write_json(out / "results.json", results(out.parent.name, settings, sets))
        grades = {name: grades_of(out / f"{name}.jsonl", study.tests.limit) for name in sets}
        write_text(out / "grades.json", json.dumps(grades) + "\n")

    processes.first(write)


def grades_of(answers: Path, limit: int | None = None) -> dict[str, list[Any]]:
    """Of each item of a set: its grades by both rules, its task and its graph, as lists."""
    items = [grade_item(one) for one in read_answers(answers)[:limit]]
    return {
        "strict": [item.strict for item in items],
        "published": [item.published for item in items],
        "nonzero": [item.nonzero for item in items],
        "task": [item.task for item in items],
        "graph": [zlib.crc32(str(_ordered(item.cluster)).encode()) for item in items],
    }


def _ordered(cluster: Any) -> Any:
    return sorted(cluster) if isinstance(cluster, frozenset) else cluster
