"""The training loop."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import jax

from caugym_jax.algorithms.step import Algorithm
from caugym_jax.devices import processes, terminal
from caugym_jax.devices.mesh import fetch, make_mesh
from caugym_jax.runs import folder
from caugym_jax.runs.checkpoints import Checkpoints
from caugym_jax.runs.lock import alone
from caugym_jax.runs.session import agree, claim, open_session, with_epochs
from caugym_jax.runs.settings import Settings
from caugym_jax.runs.stopping import Signals
from caugym_jax.types import TrainState

NOT_EVALUATED = "Trained without evaluation."


def train(config: Settings, workdir: Path) -> str:
    """Trains as `config` says, or goes on from the newest checkpoint in `workdir`.

    Returns:
      The summary: accuracy before and after, answered problems, and what to do next. A run that
      has ended already returns it at once.

    Raises:
      UserError: a setting, the data, the model or the workdir cannot be used, or the processes of
        the run were started differently.
      SystemExit: a signal came (`runs.stopping`); the step is saved.
    """
    agree(config, workdir)
    config = with_epochs(config)
    with alone(workdir):
        config = claim(config, workdir)
        text = processes.first(lambda: folder.ended(workdir, config.steps))
        return _train(config, workdir) if text is None else text


def _train(config: Settings, workdir: Path) -> str:
    mesh = make_mesh(**vars(config.mesh))
    with jax.set_mesh(mesh), Checkpoints(workdir, config.checkpoint) as checkpoints:
        session, state = open_session(config, workdir, mesh, checkpoints)
        (algorithm, loader, held_out, _, weights), before, journal, first = session
        after = None
        with Signals() as signals:
            for step in range(first + 1, config.steps + 1):
                started, last = time.perf_counter(), step == config.steps
                experience, metrics, samples = algorithm.prepare(state, lambda: next(loader))
                if experience is not None:
                    state, metrics = _update(algorithm, state, experience, metrics)
                state = state._replace(step=state.step + 1)
                metrics["step_time"] = time.perf_counter() - started
                journal.step(step, metrics, samples, state)

                figures = None
                if held_out and (step % config.evaluation.every == 0 or last):
                    started = time.perf_counter()
                    terminal.doing("evaluating")
                    after = held_out.ask(weights(state), state)
                    figures = held_out.figures(after)
                    journal.evaluation(step, figures, time.perf_counter() - started)
                asked, due = signals.asked(), step % config.checkpoint.every == 0 or last
                if due or asked.save or checkpoints.is_best(figures):
                    terminal.doing("saving")
                    host = {"loader": loader.get_state(), "totals": journal.totals}
                    checkpoints.save(state, host, figures)
                if asked.stop:
                    checkpoints.close()
                    journal.close()
                    signals.leave(step, asked.stop)
            checkpoints.close()
        journal.close()
        terminal.clear()
        results, answers = NOT_EVALUATED, None
        if held_out:
            after = after or held_out.ask(weights(state), state)  # all steps were made before
            assert before is not None  # asked before the first step
            results, answers = held_out.summary(before, after), after.as_json()
        text = journal.ending(results, state, checkpoints.best)
        processes.first(lambda: folder.end(workdir, answers, config.steps, text))
    return text


def _update(
    algorithm: Algorithm, state: TrainState, experience: Any, metrics: dict[str, float]
) -> tuple[TrainState, dict[str, float]]:
    """The update, with what it reports and its seconds added to the metrics."""
    started = time.perf_counter()
    terminal.doing("updating")
    state, report = algorithm.update(state, experience)
    reported = {key: float(value) for key, value in fetch(report).items()}
    return state, metrics | reported | {"time/update": time.perf_counter() - started}
