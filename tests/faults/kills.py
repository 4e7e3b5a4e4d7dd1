"""Whole runs ended by a signal at a drawn place, then started again until they end well; and runs
that meet another one, or an export, in their folder."""

import contextlib
import hashlib
import os
import shutil
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from caugym_jax import export
from caugym_jax.cli import commands
from caugym_jax.devices import processes
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
    together = {
        "two runs in one workdir": _two_runs,
        "processes that disagree": _disagree,
        "export during training": _exported_meanwhile,
    }
    return together.get(trial.kind, _signalled)(bench, trial)


def _signalled(bench: Bench, trial: Trial) -> dict:
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


def _two_runs(bench: Bench, trial: Trial) -> dict:
    """The second is refused, in one line that names the first, which ends as if alone."""
    workdir = bench.folder / f"trial-{trial.number}"
    logs = [bench.folder / f"trial-{trial.number}.{i}.log" for i in range(2)]
    first = _start(bench, trial, workdir, None, logs[0])
    _wait_for(workdir / "lock")
    time.sleep(trial.at[0])
    status, said = _ended(_start(bench, trial, workdir, None, logs[1]), logs[1])
    ended, words = _ended(first, logs[0])
    if ended:
        raise Wrong(f"the first run was disturbed: exit status {ended}: {words[-300:]}")
    refused = f"error: {workdir} is in use by process {first} on host"
    if status == 1 and said.startswith(refused) and said.count("\n") == 1:
        outcome = "the second is refused in one line"
    elif status == 0 and (workdir / "summary.json").exists():
        outcome = "the first had ended"
    else:
        raise Wrong(f"exit status {status} of the second: {said[-300:]}")
    return {"outcome": outcome, "detail": said[-200:], "from": 0}


DIFFERENT = ("optim.peak=0.5", "data.batch_size=4", "steps=9", "seed=5", "evaluation.n=7",
             "checkpoint.every=3", "optim.b1=0.5")  # fmt: skip


def _disagree(bench: Bench, trial: Trial) -> dict:
    """Both of two processes end in one line; started alike (here: one alone), the run ends."""
    workdir = bench.folder / f"trial-{trial.number}"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        at = f"127.0.0.1:{free.getsockname()[1]}"
    other = DIFFERENT[int(trial.at[0] * len(DIFFERENT))]
    started = []
    for i, more in enumerate(([], [f"--config.{other}"])):
        log = bench.folder / f"trial-{trial.number}.{i}.log"
        place = {processes.COORDINATOR: at, processes.COUNT: "2", processes.INDEX: str(i)}
        started.append((_start(bench, trial, workdir, None, log, more, place), log))
    for child, log in started:
        status, said = _ended(child, log)
        named = said.startswith(f"error: config.{other.partition('=')[0]} is ")
        if status != 1 or not named or said.count("\n") != 1 or "in process 1" not in said:
            raise Wrong(f"{other}: exit status {status}: {said[-300:]}")
    if workdir.exists():
        raise Wrong("something was written")
    log = bench.folder / f"trial-{trial.number}.log"
    status, said = _ended(_start(bench, trial, workdir, None, log), log)
    if status:
        raise Wrong(f"does not go on: exit status {status}: {said[-300:]}")
    return {"outcome": "both refused in one line", "detail": other, "from": 0}


def _exported_meanwhile(bench: Bench, trial: Trial) -> dict:
    """The run keeps one checkpoint, and is exported again and again while it trains."""
    workdir, log = (
        bench.folder / f"trial-{trial.number}",
        bench.folder / f"trial-{trial.number}.log",
    )
    known = {_weights(bench, trial, bench.folder / f"{trial.method}-{run}", step)
             for run, step in (("stopped", 2), ("stopped", 4), ("whole", 6))}  # fmt: skip
    child = _start(bench, trial, workdir, None, log, ["--config.checkpoint.keep=1"])
    _wait_for(workdir / "checkpoints" / "2")
    count, end = 0, time.monotonic() + LIMIT
    while not (workdir / "summary.json").exists() or not count:
        if time.monotonic() > end:
            raise Wrong(f"hangs: not ended after {LIMIT:g} s")
        if _weights(bench, trial, workdir, None) not in known:
            raise Wrong("what was exported is no checkpoint of this run")
        count += 1
    status, said = _ended(child, log)
    if status:
        raise Wrong(f"the run was disturbed: exit status {status}: {said[-300:]}")
    return {"outcome": "every export is a whole checkpoint", "detail": f"{count} exports",
            "from": 0}  # fmt: skip


def _weights(bench: Bench, trial: Trial, workdir: Path, step: int | None) -> bytes:
    """A digest of the weights that `export` writes."""
    out = bench.folder / f"trial-{trial.number}-hf"
    log = bench.folder / f"trial-{trial.number}-export.log"
    asked = [] if step is None else [f"--step={step}"]
    arguments = [f"--workdir={workdir}", f"--out={out}", *asked]
    status, said = _ended(_forked(lambda: export.main(arguments), log), log)
    if status:
        raise Wrong(f"export: exit status {status}: {said[-300:]}")
    found = hashlib.sha256((out / "model.safetensors").read_bytes()).digest()
    shutil.rmtree(out)
    return found


def _command(bench, trial, workdir: Path, fault, log: Path) -> tuple[int, str]:
    """(exit status, or minus the signal; what it printed) of the train command in a child."""
    return _ended(_start(bench, trial, workdir, fault, log), log)


def _start(bench, trial, workdir: Path, fault, log: Path, more=(), environment=()) -> int:
    """The process id of the train command in a child."""

    def work() -> None:
        if fault is not None:
            place, nth, how = fault
            killed.arm(place, nth, how)
            if how != signal.SIGKILL:
                # A shell's background jobs ignore Ctrl-C, and so would the run.
                signal.signal(signal.SIGINT, signal.default_int_handler)
                signal.signal(signal.SIGHUP, signal.SIG_DFL)
                _time_the_end(log.with_suffix(".term"))
        os.environ.update(environment)
        train(command(trial.method, bench.model, workdir, *options(trial.method), *more))

    return _forked(work, log)


def _forked(work: Callable[[], None], log: Path) -> int:
    """The process id of a child that does `work` as a command does, and prints to the log."""
    child = os.fork()
    if child:
        return child
    status = 70
    try:
        out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(out, 1)
        os.dup2(out, 2)
        sys.argv = ["train"]
        status = 0
        commands.run(lambda _: work())
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


def _ended(child: int, log: Path) -> tuple[int, str]:
    """(exit status, or minus the signal; what it printed) of a child."""
    ended = wait(child, LIMIT)
    if ended is None:
        raise Wrong(f"hangs: not ended after {LIMIT:g} s")
    return ended, log.read_text(errors="replace")


def _wait_for(path: Path) -> None:
    end = time.monotonic() + LIMIT
    while not path.exists():
        if time.monotonic() > end:
            raise Wrong(f"no {path} after {LIMIT:g} s")
        time.sleep(0.02)


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
