"""Runs train commands that kill their own process at a chosen place, then runs them again.

    python -m tests.end_to_end.killed TRIALS.json RESULTS.json

A trial is {method, model, workdir, more, place, nth}: the process dies in the nth visit of `place`
(null: it does not). Every command runs in a fresh fork of this process, which has imported
everything and touched no device, so that a trial does not pay for imports.

Places: saving (the state is partly in its temporary folder), committing (all is there, but the
folder has no name yet), deleting (an old checkpoint is half gone), sampling and updating (the
program runs), evaluating, logging (half a line is written), random (nth = k + f: a fraction f of
the time of two steps after step k was taken), terminated (as updating, but by SIGTERM) and full
(the disk is filled before a save, and emptied for the second attempt).
"""

import contextlib
import importlib
import json
import os
import shutil
import signal
import sys
import threading
import time
import traceback
from pathlib import Path

from caugym_jax.cli import commands
from caugym_jax.devices import programs
from caugym_jax.evals import probe
from caugym_jax.runs import log
from caugym_jax.runs.checkpoints import Checkpoints
from caugym_jax.train import main as train
from tests.end_to_end.runs import command

importlib.import_module("caugym_jax.runs.loop")  # all that a run imports, before the fork


def ballast(workdir: Path) -> Path:
    return workdir.parent / "ballast"


def arm(place: str, nth: float, how: signal.Signals = signal.SIGKILL) -> None:
    """Makes this process send itself a signal in the nth visit of a place."""
    from orbax.checkpoint._src.path import atomicity, deleter

    visits = iter(range(1, 10**9))

    if place == "terminated":
        place, how = "updating", signal.SIGTERM

    def here() -> bool:
        return next(visits) == nth

    def die() -> None:
        os.kill(os.getpid(), how)

    if place in ("saving", "committing"):
        real = atomicity.AtomicRenameTemporaryPath.finalize

        async def finalize(self):
            whole = self.get_final().name.isdigit()
            if whole == (place == "committing") and here():
                die()
            await real(self)

        atomicity.AtomicRenameTemporaryPath.finalize = finalize
    elif place == "deleting":
        real = deleter.StandardCheckpointDeleter._delete_step_permanently

        def delete(self, step, folder):
            if here():
                for path in (folder / "state").iterdir():
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
                die()
            real(self, step, folder)

        deleter.StandardCheckpointDeleter._delete_step_permanently = delete
    elif place in ("sampling", "updating"):
        real = programs.Program.__call__
        name = "sample" if place == "sampling" else "update"

        def call(self, *args):
            result = real(self, *args)  # dispatched: the device is at work
            if self.name == name and here():
                die()
            return result

        programs.Program.__call__ = call
    elif place == "evaluating":
        real = probe.probe

        def ask(*args):
            if here():
                threading.Timer(0.002, die).start()
            return real(*args)

        probe.probe = ask
    elif place == "logging":
        real = log._append

        def append(path, rows):
            if here():
                line = json.dumps(rows[0])
                with path.open("a") as file:
                    file.write(line[: len(line) // 2])
                die()
            real(path, rows)

        log._append = append
    elif place == "full":
        real = Checkpoints.save

        def save(self, *args):
            if here():
                free = shutil.disk_usage(self._directory).free
                ballast(self._directory.parent).write_bytes(b"x" * (free - 400_000))
            real(self, *args)

        Checkpoints.save = save
    elif place == "random":
        real = log.Log.metrics

        def record(self, step, values):
            real(self, step, values)
            if step == int(nth) and "step_time" in values:
                threading.Timer(nth % 1 * 2 * values["step_time"], die).start()

        log.Log.metrics = record
    else:
        raise ValueError(place)


def run(trial: dict, place: str | None, log: Path) -> tuple[int, str]:
    """(exit status, or minus the signal; what it printed) of one command in a child."""
    child = os.fork()
    if child == 0:
        status = 70
        try:
            out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(out, 1)
            os.dup2(out, 2)
            if place is not None:
                arm(place, trial["nth"])
            arguments = command(
                trial["method"], Path(trial["model"]), Path(trial["workdir"]), *trial["more"]
            )
            sys.argv = ["train", *arguments]
            status = 0
            commands.run(train)
        except SystemExit as stop:
            status = stop.code or 0
        except BaseException:
            traceback.print_exc()
            status = 70
        finally:
            with contextlib.suppress(BaseException):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(status)
    _, ended = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(ended), log.read_text(errors="replace")


def attempt(trial: dict, logs: Path) -> dict:
    """Runs a trial's command until it ends well; the first time, it is killed."""
    workdir = Path(trial["workdir"])
    exits, outputs, seconds = [], [], []
    for number in range(3):
        place = trial["place"] if number == 0 else None
        start = time.perf_counter()
        status, output = run(trial, place, logs / f"{workdir.name}.{number}.log")
        exits.append(status)
        outputs.append(output)
        seconds.append(round(time.perf_counter() - start, 2))
        if number == 0:
            whole = [p.name for p in workdir.glob("checkpoints/*") if p.name.isdigit()]
            ballast(workdir).unlink(missing_ok=True)
            left = sorted(p.name for p in workdir.glob("checkpoints/*"))
        if status == 0:
            break
    return trial | {
        "exits": exits,
        "outputs": outputs,
        "seconds": seconds,
        "whole": max(map(int, whole), default=0),
        "left": left,
    }


def main(trials: str, results: str) -> None:
    logs = Path(results).parent
    done = [attempt(trial, logs) for trial in json.loads(Path(trials).read_text())]
    Path(results).write_text(json.dumps(done, indent=1))


if __name__ == "__main__":
    main(*sys.argv[1:])
