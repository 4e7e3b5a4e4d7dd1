"""What a study would run, checked without a weight: each configuration's step on shapes."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import jax

from caugym_jax.models.presets import parameter_count
from caugym_jax.planning.abstract import plan
from caugym_jax.runs.settings import load
from caugym_jax.studies.plan import (
    COLD_START,
    Trial,
    cold_overrides,
    overrides,
    spec,
)
from caugym_jax.studies.settings import Study


def lines(study: Study, out: Path) -> Iterator[str]:
    """What a study comes to: a line for each unit, with its command where it is a run.

    Raises:
      UserError: a configuration that training would refuse.
    """
    files, start = out / "data", study.model
    count = None
    runs = []
    if study.cold_start:
        runs.append((COLD_START, spec(study, "sft"), cold_overrides(study, files)))
    for method in study.methods:
        trial = Trial(method, study.seeds[0], study.steps)
        model = str(out / COLD_START) if study.cold_start else start
        runs.append((trial.name, spec(study, method), overrides(study, trial, files, model)))
    checked = []
    for name, config, settings in runs:
        own = [text for text in settings if not text.startswith("model.name=")]
        planned = plan(load(config, [*own, f"model.name={start}"]), jax.devices())
        count = parameter_count(planned.model.config)
        programs = ", ".join(f"{call.name} x {call.times}" for call in planned.calls)
        checked.append((name, config, settings, programs))
    assert count is not None  # a study has a method
    more = len(study.seeds) - 1
    tests = study.tests
    sets = len(tests.variants) + len(tests.files)
    models = 1 + len(study.methods) * len(study.seeds)
    yield f"{study.model}, {count / 1e9:.2f}e9 parameters"
    yield (
        f"  problems: {study.problems} of {', '.join(study.variants)} x {study.epochs} epochs, "
        f"{study.batch_size} a step: {study.steps} steps; {study.tries} answers of the first model "
        "to each for DPO and KTO"
    )
    for name, config, settings, programs in checked:
        yield f"  python -m caugym_jax.train --config={config} --workdir={out / name} \\"
        yield "    " + " ".join(f"--config.{text}" for text in settings)
        yield f"      planned on shapes: {programs}"
    if more:
        yield f"  each method again with the seeds {', '.join(map(str, study.seeds[1:]))}"
    if study.compute:
        yield "  each method again for as many steps as the costliest one computed, every seed"
    asked = f"{tests.n} problems" + (f" or {tests.limit or 'all'} of a file" * bool(tests.files))
    answers = models * sets * tests.n * (tests.samples + tests.greedy)
    yield (
        f"  {sets} sets of {asked}, {tests.samples} samples each"
        f"{' and one greedy' * tests.greedy}, at most {tests.max_new_tokens} tokens: "
        f"{models} models, {answers:,} answers; those of equal compute come to it"
    )
    yield f"  in all {math.prod((len(study.methods), len(study.seeds)))} runs at equal problems"
