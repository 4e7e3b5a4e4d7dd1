"""What a run records and reports of its steps: metrics, samples, progress, alarms and totals."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from caugym_jax.devices import processes, speed
from caugym_jax.runs.alarms import Alarms
from caugym_jax.runs.log import Log, LogSettings, Progress, past_metrics
from caugym_jax.types import TrainState

# (tokens of an update, its seconds) -> the share of the machine's peak; None: no peak is known
Utilisation = Callable[[int, float], float | None]


class Journal:
    """The records of one run. Only process 0 writes and prints.

    Args:
      first, steps: how many steps the run has made, and how many it shall make.
      totals: those of the checkpoint that the run goes on from; empty for a new run.
      utilisation: see `Utilisation`.
    """

    def __init__(
        self,
        workdir: Path,
        first: int,
        steps: int,
        settings: LogSettings,
        totals: Mapping[str, int],
        utilisation: Utilisation,
    ):
        self._workdir, self._settings, self._utilisation = workdir, settings, utilisation
        self._tokens = totals.get("num_tokens", 0)
        self._without_signal = totals.get("steps_without_signal", 0)
        self._log = Log(workdir, first, settings)
        self._progress = Progress(first, steps, settings.every)
        self._alarms = Alarms()
        self._quiet: dict[str, int] = {}  # until which step an alarm is not repeated
        for line in processes.first(lambda: past_metrics(workdir)):
            self._alarms.look(line)

    @property
    def totals(self) -> dict[str, int]:
        """What a checkpoint must hold for the counts to go on."""
        return {"steps_without_signal": self._without_signal, "num_tokens": self._tokens}

    def note(self, text: str) -> None:
        """A line of its own on standard error."""
        processes.say(text)

    def step(
        self, step: int, metrics: dict[str, float], samples: Sequence[dict], state: TrainState
    ) -> None:
        """Records a finished step. `metrics` are the algorithm's with `step_time`, in seconds."""
        if "time/update" in metrics:
            updated = int(metrics.get("tokens_updated", metrics["tokens"]))
            used = self._utilisation(updated, metrics["time/update"])
            metrics |= {} if used is None else {"mfu": used}
        else:
            self._without_signal += 1
            metrics["steps_without_signal"] = self._without_signal
        self._tokens += int(metrics["tokens"])
        metrics["skipped_updates"] = int(state.skipped)
        metrics["tokens_per_second"] = metrics["tokens"] / metrics["step_time"]
        metrics["num_tokens"] = self._tokens
        metrics["memory/peak_gib"] = speed.peak_memory()
        self._log.metrics(step, metrics)
        if samples and step % self._settings.samples_every == 0:
            self._log.samples(step, samples[: self._settings.samples])
        self._progress.show(step, metrics, self._settings.show)
        for key, alarm in self._alarms.look(metrics).items():
            if step >= self._quiet.get(key, 0):
                self._quiet[key] = step + self._settings.alarms_every
                self.note(f"alarm at step {step}: {alarm}")

    def evaluation(self, step: int, figures: Mapping[str, float], seconds: float | None) -> None:
        """Records the held-out figures after a step (0: before the first), and the time taken."""
        values = {f"eval/{key}": value for key, value in figures.items()}
        self._log.metrics(step, values | ({} if seconds is None else {"time/evaluate": seconds}))
        shown = "  ".join(f"{key} {_shown(key, value)}" for key, value in figures.items())
        self.note(f"{f'step {step}' if step else 'before'}: {shown}")

    def ending(self, results: str, state: TrainState, best: tuple[int, float] | None) -> str:
        """The text that a run ends with: its results, what went wrong, and what to do next.

        Args:
          best: the step of the best checkpoint and its figure.
        """
        notes = []
        if best is not None:
            notes.append(
                f"Best checkpoint: step {best[0]} ({best[1]:.4g}), opened with --step=best."
            )
        if self._without_signal:
            notes.append(
                f"{self._without_signal} steps had no signal (all groups' rewards agreed) and were "
                "skipped."
            )
        not_finite = sum(int(x.skipped) for x in (state, state.critic) if x is not None)
        if not_finite:
            notes.append(f"{not_finite} updates were skipped: they were not finite.")
        absolute = self._workdir.is_absolute()
        shown = str(self._workdir) if absolute else os.path.relpath(self._workdir)
        written = (self._workdir / "samples.jsonl").exists()  # not by SFT, nor in a few steps
        samples = f"    samples: {shown}/samples.jsonl" * written
        return "\n".join(
            [
                results,
                "",
                *notes,
                f"Curves: tensorboard --logdir={shown}{samples}",
                "Next:",
                f"  python -m caugym_jax.export --workdir={shown} --out={shown}/hf",
                f"  python -m caugym_jax.evaluate --model={shown} --data=FILE --out={shown}/eval",
                "  python -m caugym_jax.train --config=grpo.py:smollm2-135m   (a pretrained model)",
            ]
        )

    def close(self) -> None:
        self._log.close()


def _shown(key: str, value: float) -> str:
    """A share in percent, anything else as a number."""
    if key.startswith(("strict", "wellformed", "truncated", "mean_token_accuracy")):
        return f"{100 * value:.1f}%"
    return f"{value:.4g}"
