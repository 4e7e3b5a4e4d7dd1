"""Whole runs ended by a signal at a drawn place, then started again until they end well."""

import contextlib
import os
import signal
import sys
import time
import traceback
from pathlib import Path

from caugym_jax.cli import commands
from caugym_jax.runs.stopping import ENDING
from caugym_jax.train import main as train
from tests.end_to_end import killed
from tests.end_to_end.runs import command
from tests.faults.files import Bench, Wrong, options, resumed_from
from tests.faults.plan import Trial

LIMIT = 300.0  # seconds that a command may take on a busy machine
# How often a run of six steps comes by each place, at most.
VISITS = {"saving": 6, "committing": 3, "deleting": 1, "logging": 8, "sampling": 8, "updating": 5,
          "evaluating": 4}  # fmt: skip


def attempt(bench: Bench, trial: Trial) -> dict:
    """What came of a trial, as `files.attempt`."""
    how, place = trial.kind.split(" at ")
    nth = 1 + trial.at[0] * 4.99 if place == "random" else 1 + int(trial.at[0] * VISITS[place])
    faults = [(place, nth, signal.Signals[how])]
    if trial.at[1] < 0.3:  # the run that goes on is killed too
        faults.append(("random", 1 + trial.at[2] * 4.99, signal.SIGKILL))
    workdir = bench.folder / f"trial-{trial.number}"
    struck, told, kept = 0, [], 0
    for number, fault in enumerate([*faults, None]):
        log = bench.folder / f"trial-{trial.number}.{number}.log"
        done = (workdir / "summary.json").exists()  # killed after its work: it is shown again
        status, said = _command(bench, trial, workdir, fault, log)
        first = resumed_from(said)
        if first < kept and not done:
            raise Wrong(f"went back to step {first}, though {kept} was whole")
        kept = newest(workdir)
        if status == 0:
            break
        if fault is None:
            raise Wrong(f"does not go on: exit status {status}: {said[-300:]}")
        struck += 1
        told.append(_check_end(status, said, fault, kept))
    seconds = [float(p.read_text()) for p in bench.folder.glob(f"trial-{trial.number}.*.term")]
    outcome = "went on and ended alike" if struck else "ended before the signal was due"
    return {"outcome": outcome, "detail": f"visit {nth:.3g}; {', '.join(told)}", "from": first,
            "stopped": struck} | ({"seconds to stop": max(seconds)} if seconds else {})  # fmt: skip


def newest(workdir: Path) -> int:
    """The newest step of which there is a checkpoint, or 0."""
    return max((int(p.name) for p in workdir.glob("checkpoints/*") if p.name.isdigit()), default=0)


def _check_end(status: int, said: str, fault: tuple, kept: int) -> str:
    how = fault[2]
    if how == signal.SIGKILL:
        if status != -signal.SIGKILL:
            raise Wrong(f"exit status {status} of a killed command: {said[-300:]}")
        return f"killed, step {kept} kept"
    at_once = 128 + how if how == signal.SIGINT else -how
    if status == at_once and "after step" not in said:
        return f"{ENDING[how]} before the first step"
    line = f"{ENDING[how]} after step {kept}, which is saved"
    if status != 128 + how or said.splitlines()[-1] != line:
        raise Wrong(f"exit status {status} of a command that got {how.name}: {said[-300:]}")
    return line


def _command(bench, trial, workdir: Path, fault, log: Path) -> tuple[int, str]:
    """(exit status, or minus the signal; what it printed) of the train command in a child."""
    child = os.fork()
    if child == 0:
        status = 70
        try:
            out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(out, 1)
            os.dup2(out, 2)
            if fault is not None:
                place, nth, how = fault
                killed.arm(place, nth, how)
                if how != signal.SIGKILL:
                    # A shell's background jobs ignore Ctrl-C, and so would the run.
                    signal.signal(signal.SIGINT, signal.default_int_handler)
                    signal.signal(signal.SIGHUP, signal.SIG_DFL)
                    _time_the_end(log.with_suffix(".term"))
            arguments = command(trial.method, bench.model, workdir, *options(trial.method))
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
    ended = wait(child, LIMIT)
    if ended is None:
        raise Wrong(f"hangs: not ended after {LIMIT:g} s")
    return ended, log.read_text(errors="replace")


def _time_the_end(path: Path) -> None:
    """Writes how long the run took from the signal to its end."""
    real, start = os.kill, []

    def kill(process, what):
        start.append(time.perf_counter())
        real(process, what)

    killed.os = type("Os", (), {"kill": staticmethod(kill), "getpid": os.getpid})
    leave = sys.exit

    def exit_(status=None):
        if start:
            path.write_text(str(round(time.perf_counter() - start[0], 2)))
        leave(status)

    sys.exit = exit_


def wait(child: int, seconds: float) -> int | None:
    """A child's exit status; None where it has not ended in time, and is killed."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None
