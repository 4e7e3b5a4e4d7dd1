"""Trains a model: --config=NAME.py[:ARG] [--workdir=DIR] [--config.key=value ...]

Resumes by itself where WORKDIR holds a checkpoint; a finished run reprints its summary. The bare
names grpo.py and sft.py run on any machine in minutes, without a download. ARG names a model.

  python -m caugym_jax.train --config=grpo.py
  python -m caugym_jax.train --config=sft.py:smollm2-135m --config.steps=2

Several processes train together where they find each other: docs/processes.md, launch/local.sh.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from caugym_jax.cli import commands
from caugym_jax.devices import processes
from caugym_jax.errors import UserError
from caugym_jax.runs.log import write_text

# What may differ between the runs that share a workdir.
MAY_CHANGE = ("steps", "log", "checkpoint")
COUNTS = (
    "steps", "data.batch_size", "evaluation.every", "evaluation.n", "evaluation.max_new_tokens",
    "checkpoint.every", "log.every", "log.samples_every", "log.alarms_every",
)  # fmt: skip


def main(argv: Sequence[str]) -> None:
    parser = commands.parser("caugym_jax.train", __doc__)
    parser.add_argument("--config", required=True, metavar="NAME.py[:ARG]")
    parser.add_argument("--workdir", type=Path, help="default: runs/<config>")
    options, rest = parser.parse_known_args(argv)
    strange = [a for a in rest if not (a.startswith("--config.") and "=" in a)]
    if strange:
        parser.error(f"unrecognized arguments: {' '.join(strange)} (write --config.KEY=VALUE)")

    from absl import logging

    from caugym_jax.cli import config as configs

    logging.set_verbosity(logging.FATAL)  # Orbax logs what it also raises, with a traceback
    config = configs.load(options.config, [a.removeprefix("--config.") for a in rest])
    name = options.config.removesuffix(".py").replace(".py:", "-").replace("/", "-")
    with processes.connected():
        train(config, options.workdir or Path("runs") / name)


def train(config: Any, workdir: Path) -> None:
    """One run, read downwards: open everything, then prepare, update, log, evaluate, save."""
    import jax

    from caugym_jax.cli import config as configs
    from caugym_jax.devices import speed
    from caugym_jax.devices.mesh import MeshShape, fetch, make_mesh
    from caugym_jax.evals import probe
    from caugym_jax.models.transformer import abstract_params
    from caugym_jax.runs.alarms import Alarms
    from caugym_jax.runs.checkpoints import Checkpoints, CheckpointSettings
    from caugym_jax.runs.log import Log, LogSettings, Progress, past_metrics
    from caugym_jax.runs.methods import open_method, open_run
    from caugym_jax.runs.opening import claim_workdir, pinned_step, save_shape

    configs.check_counts(config, COUNTS)
    jax.config.update("jax_threefry_partitionable", True)
    _check_devices()
    config.model.step = pinned_step(workdir, config.model.name, config.model.step)
    processes.first(lambda: claim_workdir(workdir, configs.flat(config), MAY_CHANGE))
    finished = workdir / "summary.json"
    done = processes.first(lambda: _read(finished, lambda found: (found["steps"], found["text"])))
    if done is not None and done[0] >= config.steps:
        if processes.is_first():
            print(done[1])
        return

    mesh = make_mesh(**vars(configs.build(MeshShape, config.mesh, "mesh")))
    kept = configs.build(CheckpointSettings, config.checkpoint, "checkpoint")
    with jax.set_mesh(mesh), Checkpoints(workdir, kept) as checkpoints:
        started = time.perf_counter()
        resuming = checkpoints.latest is not None
        before_path = workdir / "before.json"
        before = processes.first(lambda: _read(before_path, probe.Probed.from_json))
        run, first_weights = open_run(config, mesh, resuming and before is not None, workdir)
        model, tokenizer = run.model, run.tokenizer
        processes.first(lambda: save_shape(workdir / "model", model.config, tokenizer))
        method = open_method(run)
        algorithm, loader = method.algorithm, method.loader
        held_out, ask = _evaluation(config, model, tokenizer, run.sampler_mesh)

        def ask_first(state):
            answers = ask(method.weights(state))
            processes.first(lambda: write_text(before_path, json.dumps(answers.as_json())))
            return answers

        skipped_steps = tokens_seen = 0
        if not resuming:
            state = algorithm.init(first_weights)
        else:
            if before is None:  # it is gone: the first model is asked again
                before = ask_first(algorithm.init(first_weights))
            state, position = checkpoints.restore(method.template())
            skipped_steps = position.pop("steps_without_signal", 0)
            tokens_seen = position.pop("num_tokens", 0)
            loader.set_state(position)
            processes.say(f"resumed from step {int(state.step)} of {workdir}")
        del run, first_weights
        first = int(state.step)
        log = Log(workdir, first, configs.build(LogSettings, config.log, "log"))
        alarms = Alarms()
        for line in processes.first(lambda: past_metrics(workdir)):
            alarms.look(line)
        trained = sum(x.size for x in jax.tree.leaves(state.params))
        machine = mesh.devices.size, mesh.devices.flat[0].device_kind
        progress = Progress(first, config.steps, config.log.every)
        model_size = sum(x.size for x in jax.tree.leaves(abstract_params(model.config)))
        progress.note(_about(model, model_size, mesh, config, time.perf_counter() - started))

        if before is None:
            before = ask_first(state)
        problems = [problem for problem, _ in held_out]
        if not first:
            figures = probe.figures(before, problems)
            log.metrics(0, {f"eval/{k}": v for k, v in figures.items()})
            progress.note(_shown("before", figures))

        stop = _on_terminate()
        quiet = {}
        for step in range(first + 1, config.steps + 1):
            clock = time.perf_counter()
            experience, metrics, samples = algorithm.prepare(state, lambda: next(loader))
            if experience is None:
                skipped_steps += 1
                metrics["steps_without_signal"] = skipped_steps
            else:
                prepared = time.perf_counter()
                state, update_metrics = algorithm.update(state, experience)
                metrics |= {k: float(v) for k, v in fetch(update_metrics).items()}
                metrics["time/update"] = time.perf_counter() - prepared
                updated = metrics.pop("tokens_updated", metrics["tokens"])
                used = speed.mfu(model_size, trained, updated, metrics["time/update"], *machine)
                metrics |= {} if used is None else {"mfu": used}
            state = state._replace(step=state.step + 1)
            metrics["skipped_updates"] = int(state.skipped)
            metrics["step_time"] = time.perf_counter() - clock
            metrics["tokens_per_second"] = metrics["tokens"] / metrics["step_time"]
            metrics["num_tokens"] = tokens_seen = tokens_seen + metrics["tokens"]
            metrics["memory/peak_gib"] = speed.peak_memory()
            log.metrics(step, metrics)
            if samples and step % config.log.samples_every == 0:
                log.samples(step, samples[: config.log.samples])
            progress.show(step, metrics, config.log.show)
            for key, alarm in alarms.look(metrics).items():
                if step >= quiet.get(key, 0):  # then not again for a while
                    quiet[key] = step + config.log.alarms_every
                    progress.note(f"alarm at step {step}: {alarm}")

            figures = None
            if step % config.evaluation.every == 0 or step == config.steps:
                clock = time.perf_counter()
                after = ask(method.weights(state))
                figures = probe.figures(after, problems)
                taken = {"time/evaluate": time.perf_counter() - clock}
                log.metrics(step, {f"eval/{k}": v for k, v in figures.items()} | taken)
                progress.note(_shown(f"step {step}", figures))
            stopping = any(processes.share(stop()))  # all, after the same step
            if step % config.checkpoint.every == 0 or step == config.steps or stopping:
                position = {
                    **loader.get_state(),
                    "steps_without_signal": skipped_steps,
                    "num_tokens": tokens_seen,
                }
                checkpoints.save(state, position, figures)
            if stopping:
                checkpoints.close()
                log.close()
                processes.say(f"terminated after step {step}, which is saved")
                sys.exit(128 + signal.SIGTERM)

        checkpoints.close()
        log.close()
        if first >= config.steps:  # killed before the summary, or asked for fewer steps
            after = ask(method.weights(state))
        text = _ending(
            probe.summary(before, after, problems), workdir, config, skipped_steps, state
        )
        processes.first(lambda: _finish(workdir, after.as_json(), config.steps, text))


def _check_devices() -> None:
    import jax

    try:
        jax.devices()
    except RuntimeError as error:
        why = str(error).splitlines()[0]
        raise UserError(f"no device to run on ({why}): unset or change JAX_PLATFORMS") from error
    if jax.process_count() != processes.count():
        raise UserError(
            f"this is one of {jax.process_count()} processes, which have not met: set "
            f"{processes.COUNT}=auto (docs/processes.md)"
        )


def _read(path: Path, parse: Callable[[Any], Any]) -> Any:
    """What `parse` makes of a JSON file; None where there is none; or a damaged one, told."""
    try:
        return parse(json.loads(path.read_text())) if path.exists() else None
    except (ValueError, KeyError, TypeError):
        print(f"{path} is damaged: it is made again", file=sys.stderr)
        return None


def _finish(workdir: Path, after: dict[str, Any], steps: int, text: str) -> None:
    write_text(workdir / "after.json", json.dumps(after))
    write_text(workdir / "summary.json", json.dumps({"steps": steps, "text": text}))
    print(text)


def _evaluation(config, model, tokenizer, sampler_mesh) -> tuple[list, Callable]:
    """(held-out items, params -> Probed)."""
    from caugym_jax.cli import config as configs
    from caugym_jax.data.sources import problem_source, prompt_items
    from caugym_jax.evals import probe
    from caugym_jax.sampling.sampler import Sampler

    settings = configs.build(probe.Evaluation, config.evaluation)
    n, room = settings.n, settings.max_new_tokens
    # Another stream than the training one: seeds differ by far more than 1.
    source = problem_source(settings, seed=config.seed + 1_000_003)
    items, _, _ = prompt_items(source, tokenizer, None, model.config.max_position, room)
    held_out = [items(i) for i in range(n)] if callable(items) else items[:n]

    sampler = Sampler(
        model,
        end_ids=tokenizer.end_ids,
        pad_id=tokenizer.pad_id,
        max_new_tokens=room,
        batch_size=min(128, len(held_out)),
        mesh=sampler_mesh,
    )

    def ask(params):
        return probe.probe(sampler, params, tokenizer, held_out)

    return held_out, ask


def _on_terminate() -> Callable[[], bool]:
    """Makes SIGTERM (preemption) end the run after the present step, saved."""
    asked = []
    signal.signal(signal.SIGTERM, lambda *_: asked.append(True))
    return lambda: bool(asked)


def _about(model, count: int, mesh, config, seconds: float) -> str:
    import jax

    devices = mesh.devices.size
    return (
        f"{config.method} of {config.model.name} ({count / 1e6:.2f}M parameters, {model.dtype}) "
        f"on {devices} {jax.default_backend()} device{'s' * (devices > 1)}"
        f"{f' of {processes.count()} processes' * (processes.count() > 1)}, "
        f"ready in {seconds:.1f} s"
    )


def _shown(when: str, figures: dict[str, float]) -> str:
    parts = "  ".join(f"{k} {100 * v:.1f}%" for k, v in figures.items())
    return f"{when}: {parts}"


def _ending(text: str, workdir: Path, config, skipped: int, state) -> str:
    notes = []
    if skipped:
        notes.append(
            f"{skipped} steps had no signal (all groups' rewards agreed) and were skipped."
        )
    unfinite = sum(int(x.skipped) for x in (state, state.critic) if x is not None)
    if unfinite:
        notes.append(f"{unfinite} updates were skipped: their gradient was not finite.")
    shown = os.path.relpath(workdir) if not workdir.is_absolute() else str(workdir)
    return "\n".join(
        [
            text,
            "",
            *notes,
            f"Curves: tensorboard --logdir={shown}    samples: {shown}/samples.jsonl",
            "Next:",
            f"  python -m caugym_jax.export --workdir={shown} --out={shown}/hf",
            f"  python -m caugym_jax.evaluate --model={shown} --data=FILE --out={shown}/eval",
            "  python -m caugym_jax.train --config=grpo.py:smollm2-135m   (a pretrained model)",
        ]
    )


if __name__ == "__main__":
    commands.run(main)
