"""What a run writes down: metrics and samples as JSON lines, in TensorBoard and, if asked, W&B."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import hashlib
import json
import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from caugym_jax.devices import processes, terminal
from caugym_jax.errors import UserError, require
from caugym_jax.runs.events import EventFile


def write_text(path: Path, text: str) -> None:
    """Writes a whole file or nothing: to a temporary name, then a rename."""
    temporary = path.with_name(f".{path.name}.tmp")
    with writing(path):
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)


@dataclasses.dataclass(frozen=True)
class LogSettings:
    """What is printed and recorded.

    Attributes:
      every: steps from one printed line to the next.
      tensorboard: write WORKDIR/tensorboard.
      wandb: log to Weights & Biases too, as one run however often it is resumed.
      samples: rows of a step's table of samples; 0: none.
      samples_every: steps from one table to the next.
      alarms_every: steps until an alarm is repeated.
      show: the metrics on a printed line, by their names in docs/metrics.md.
    """

    every: int = 10
    tensorboard: bool = True
    wandb: bool = False
    samples: int = 8
    samples_every: int = 10
    alarms_every: int = 50
    show: tuple[str, ...] = ("loss",)

    def __post_init__(self):
        require(self, "every", "samples_every", "alarms_every", at_least=1)
        require(self, "samples", at_least=0)


class Log:
    """The log files of a workdir: metrics.jsonl, samples.jsonl and tensorboard/.

    docs/metrics.md explains every number.

    Lines after `step` are removed first (all where it is 0), so that a resumed run leaves the log
    of an uninterrupted one. Every step is on disk before the next one begins. Only process 0
    writes.

    Raises:
      UserError: a line could not be written (disk full), or wandb is not installed.
    """

    def __init__(self, workdir: Path, step: int, settings: LogSettings = LogSettings()):
        self.metrics_path = workdir / "metrics.jsonl"
        self.samples_path = workdir / "samples.jsonl"
        self.board_path = workdir / "tensorboard"
        self._board = self._wandb = None
        if not processes.is_first():
            return
        for path in (self.metrics_path, self.samples_path):
            _forget(path, step)
        if settings.tensorboard:
            with writing(self.board_path):
                self._board = EventFile(self.board_path, step + 1)
                self._board.layout(LAYOUT)
        self._wandb = _open_wandb(workdir) if settings.wandb else None

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """One line of finite numbers (NaN and infinity are written as null)."""
        if not processes.is_first():
            return
        clean = {k: (v if math.isfinite(v) else None) for k, v in values.items()}
        _append(self.metrics_path, [{"step": step, **clean}])
        if self._board is not None:
            with writing(self.board_path):
                self._board.scalars(step, {k: v for k, v in clean.items() if v is not None})
        if self._wandb is not None:
            self._wandb.log({"step": step, **clean})

    def samples(self, step: int, rows: Sequence[Mapping[str, Any]]) -> None:
        """A table of prompts, completions and reward parts."""
        if not processes.is_first():
            return
        _append(self.samples_path, [{"step": step, **row} for row in rows])
        if self._board is not None and rows:
            with writing(self.board_path):
                self._board.text(step, "samples", readable(rows))
        if self._wandb is not None and rows:
            import wandb

            columns = list(rows[0])
            table = wandb.Table(columns=columns, data=[[r[c] for c in columns] for r in rows])
            self._wandb.log({"step": step, "samples": table})

    def close(self) -> None:
        if self._board is not None:
            with writing(self.board_path):
                self._board.close()
        if self._wandb is not None:
            self._wandb.finish()


# TensorBoard's tab "Custom scalars": title -> charts, each with the curves it shows, as regular
# expressions of their names.
LAYOUT = {
    "Is it learning?": {
        "right on held-out problems": ("eval/strict", "eval/strict_nonzero"),
        "reward": ("(eval/)?reward", "rewards/.*/mean", "(eval/)?rewards/(margins|accuracies)"),
        "loss": ("(eval/)?loss",),
        "right, by task": ("eval/strict_[A-Z]+",),
        "likeliest tokens that are right": ("(eval/)?mean_token_accuracy",),
    },
    "Is it healthy?": {
        "gradient": ("grad_norm", "critic/grad_norm"),
        "groups without a signal, cut off": (
            *("frac_reward_zero_std", "completions/clipped_ratio", "eval/truncated"),
        ),
        "entropy and KL": ("entropy", "kl", "objective/kl"),
        "length": ("completions/(mean|max)_length",),
        "skipped updates": ("(critic/)?skipped_updates", "rewards/failures"),
    },
    "Where does the time go?": {
        "seconds": ("step_time", "time/.*"),
        "tokens a second": ("tokens_per_second",),
        "utilisation": ("mfu",),
        "memory": ("memory/.*",),
    },
}


def readable(rows: Sequence[Mapping[str, Any]]) -> str:
    """A table of samples as Markdown, with the texts verbatim: as indented blocks."""

    def block(text: Any) -> str:
        return "\n".join("    " + line for line in str(text).splitlines())

    parts, prompt = [], None
    for row in rows:
        if row.get("prompt") != prompt:
            prompt = row.get("prompt")
            parts += ["### Prompt", block(prompt), f"Answer: `{row.get('answer')}`"]
        figures = [f"reward {row['reward']:.3g}"]
        figures += [f"{k.removeprefix('rewards/')} {v:.3g}" for k, v in row.items() if "/" in k]
        if row.get("advantage") is not None:
            figures.append(f"advantage {row['advantage']:.3g}")
        figures += ["cut off"] * bool(row.get("cut_off"))
        parts += [f"**{', '.join(figures)}**", block(row["completion"])]
    return "\n\n".join(parts)


def past_metrics(workdir: Path, last: int = 100) -> list[dict[str, Any]]:
    """The newest lines of a run's metrics, oldest first; none of a run that is new."""
    path = workdir / "metrics.jsonl"
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line][
        -last:
    ]


def _open_wandb(workdir: Path) -> Any:
    try:
        import wandb
    except ImportError as error:
        raise UserError(
            "log.wandb=True needs the package wandb: pip install wandb, or set log.wandb=False"
        ) from error
    path = str(workdir.resolve())
    options = dict(  # entity, group and more: wandb reads them from its own variables
        project=os.environ.get("WANDB_PROJECT") or "caugym_jax",
        name=os.environ.get("WANDB_NAME") or workdir.name,
        id=hashlib.sha256(path.encode()).hexdigest()[:16],
        resume="allow",
        dir=path,
        config=json.loads((workdir / "config.json").read_text()),
    )
    try:
        run = wandb.init(**options)
    except (wandb.Error, OSError) as error:  # no key, no network: the run goes on without it
        why = (str(error).strip().splitlines() or [type(error).__name__])[0]
        processes.say(
            f"W&B cannot be reached ({why}): it records in {path}/wandb, and `wandb sync` sends "
            "that later"
        )
        run = wandb.init(**options, mode="offline")
    run.define_metric("*", step_metric="step")  # a resumed run makes some steps again
    return run


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns the system's error about a file or folder that cannot be written into a UserError."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"cannot write {path}: {error.strerror}; fix that and run the same command again"
        ) from error


def _append(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    with writing(path), path.open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _forget(path: Path, step: int) -> None:
    if not path.exists():
        return
    if step == 0:
        path.unlink()
        return
    *lines, cut = path.read_text(encoding="utf-8", errors="replace").split("\n")
    kept = []  # without `cut`: a kill cut it short, and its step is repeated
    damaged = 0
    for line in lines:
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line)
        except (json.JSONDecodeError, KeyError, TypeError):
            damaged += 1
    if damaged:
        processes.say(f"{path}: {damaged} damaged lines were dropped")
    write_text(path, "".join(line + "\n" for line in kept))


RECENT = 20  # steps whose time says how fast a run is


class Progress:
    """Rate and time left: one rewritten line on a terminal, cut to its width; elsewhere a plain
    line after the first step, every `every` steps, and at least once a minute.

    The rate is that of the newest steps. The first one, which compiles, counts only while there is
    no other.
    """

    def __init__(self, done: int, total: int, every: int = 10, unit: str = "step"):
        self._unit = unit
        self._first, self._total, self._every = done, total, max(1, every)
        self._times = collections.deque([(done, time.perf_counter())], maxlen=RECENT)
        self._printed = -math.inf  # when

    def show(self, step: int, values: Mapping[str, float], keys: Sequence[str]) -> None:
        """`step` counts finished steps."""
        now = time.perf_counter()
        self._times.append((step, now))
        if len(self._times) == 3 and self._times[0][0] == self._first:
            self._times.popleft()  # what compiled
        due = terminal.is_one() or step % self._every == 0 or step == self._total
        if not due and now - self._printed < terminal.A_MINUTE:
            return
        self._printed = now
        before, then = self._times[0]
        seconds = (now - then) / max(1, step - before)
        left = seconds * (self._total - step)
        shown = "  ".join(f"{k} {values[k]:.4g}" for k in keys if k in values)
        rate = f"{seconds:.2f} s/{self._unit}  {clock(left)} left"
        line = f"{self._unit} {step}/{self._total}  {shown}  {rate}"
        terminal.progress(line, last=step == self._total)


def clock(seconds: float) -> str:
    """1:02:03 or 2:03."""
    whole = int(max(0, seconds))
    hours, rest = divmod(whole, 3600)
    minutes, seconds = divmod(rest, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
