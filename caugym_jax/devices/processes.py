"""One run by several processes, with plain `jax.distributed`: docs/processes.md.

All processes run the same program and hold the same values on the host; what only one has (its
rows of the data, its share of the rewards, a file it has read) goes to all, which costs little
beside a step. So no result depends on which process does what, and every decision is taken by all
alike. Imports no jax unless there is more than one process.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pickle
import select
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TextIO, TypeVar

from caugym_jax.errors import UserError

Item = TypeVar("Item")
Result = TypeVar("Result")

COORDINATOR, COUNT, INDEX = "CAUGYM_COORDINATOR", "CAUGYM_PROCESSES", "CAUGYM_PROCESS_ID"
CONNECT, HEARTBEAT = "CAUGYM_CONNECT_TIMEOUT", "CAUGYM_HEARTBEAT_TIMEOUT"
SECONDS = {CONNECT: 300, HEARTBEAT: 60}
LINGER = 2.0
TEMPORARY = 75  # exit status (EX_TEMPFAIL) where the others are lost: starting all again may help
# What an exception says when it is another process that failed.
LOST = ("Gloo", "NCCL", "coordination service", "distributed service", "Connection reset by peer")
GONE = (
    "another process ended or cannot be reached: its log says why; start all again to go on from "
    "the last checkpoint"
)
# jax ends a process whose peers are gone by an abort with a stack trace, which nothing in Python
# can catch: a program that outlives it makes that one line.
FILTER = (
    rf"/^F.*Terminating process because the JAX distributed service/{{s/.*/error: {GONE}/;q}}",
    r"/^\[Gloo\] Rank /d",
)


@dataclasses.dataclass(frozen=True)
class Place:
    """Which process this is."""

    index: int = 0
    count: int = 1


class Found(NamedTuple):
    """How to meet the others; None: jax finds out."""

    coordinator: str | None
    place: Place | None


_here = Place()
# (output, what is behind it, the filter)
_filters: list[tuple[TextIO, int, subprocess.Popen[bytes]]] = []


def index() -> int:
    return _here.index


def count() -> int:
    return _here.count


def is_first() -> bool:
    """Whether this process is the one that writes and prints."""
    return _here.index == 0


def say(text: str) -> None:
    """A line on standard error, of the first process alone."""
    if is_first():
        line(text)


def line(text: str) -> None:
    """A line on standard error; on a terminal it replaces the line that says what goes on
    (`devices/terminal.py`)."""
    write(("\r\x1b[K" if sys.stderr.isatty() else "") + text)


def write(text: str, end: str = "\n") -> None:
    """A line on standard error in one piece: `print` writes its end apart, and another thread's
    line may come between."""
    sys.stderr.write(text + end)
    sys.stderr.flush()


def nobody_reads() -> bool:
    """Whether whoever read standard output or error is gone, as in `... | head`."""
    outputs = select.poll()
    for output in (1, 2):
        outputs.register(output, 0)
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in outputs.poll(0))


def find(env: Mapping[str, str]) -> Found | None:
    """What the environment says of other processes; None: this one is alone.

    Raises:
      UserError: settings that do not fit together.
    """
    given = {name: env.get(name, "") for name in (COORDINATOR, COUNT, INDEX)}
    # An indexed Kubernetes Job numbers its pods.
    given[INDEX] = given[INDEX] or env.get("JOB_COMPLETION_INDEX", "")
    if given[COUNT] == "auto":
        return Found(None, None)
    if given[COORDINATOR] or given[COUNT]:
        missing = [name for name, value in given.items() if not value]
        if missing and given[COUNT] != "1":
            absent = f"{', '.join(missing)} not set"
            raise UserError(f"{absent}: set {', '.join(given)}, or none of them")
        here = Place(_number(given[INDEX] or "0", INDEX), _number(given[COUNT], COUNT))
        if not 0 <= here.index < here.count:
            raise UserError(
                f"{INDEX}={here.index} with {COUNT}={here.count}: must be 0 to {here.count - 1}"
            )
        if here.count == 1:
            return None
        host, _, port = given[COORDINATOR].rpartition(":")
        if not host or not port.isdigit():
            raise UserError(f"{COORDINATOR}={given[COORDINATOR]}: must be HOST:PORT of process 0")
        return Found(given[COORDINATOR], here)
    steps = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_PROCID", "SLURM_LOCALID")
    slurm = all(env.get(name) for name in steps) and env.get("SLURM_NTASKS", "1") != "1"
    hosts = env.get("TPU_PROCESS_ADDRESSES") or env.get("TPU_WORKER_HOSTNAMES", "")
    pod = "," in hosts or env.get("MEGASCALE_NUM_SLICES", "1") not in ("", "1")
    return Found(None, None) if slurm or pod else None


def _number(text: str, name: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise UserError(f"{name}={text}: must be a whole number") from None


@contextlib.contextmanager
def connected(env: Mapping[str, str] = os.environ) -> Iterator[None]:
    """Joins the other processes, if there are any, before the first use of jax; leaves them after.

    What is raised inside ends this process at once, in one line where it can be, and a process
    that ends early ends the others, within CAUGYM_HEARTBEAT_TIMEOUT seconds.

    Raises:
      UserError: the environment contradicts itself or asks for float64, or the processes cannot be
        connected.
    """
    if env.get("JAX_ENABLE_X64", "").lower() in ("1", "true", "t", "yes", "y", "on"):
        raise UserError("JAX_ENABLE_X64 is set: unset it; models are float32 or bfloat16")
    if (found := find(env)) is None:
        yield
        return
    _connect(found, env)
    try:
        yield
    except SystemExit:  # by all of them: see `share` and `together`
        _leave()
        raise
    except BaseException as error:
        _end(error)
    _leave()


def _connect(found: Found, env: Mapping[str, str]) -> None:
    global _here
    coordinator, here = found
    seconds = {name: _number(env.get(name) or str(SECONDS[name]), name) for name in SECONDS}
    wrong = [f"{name}={value}" for name, value in seconds.items() if value < 1]
    if wrong:
        raise UserError(f"{', '.join(wrong)}: must be at least 1 second")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # of jaxlib's C++, read when it is loaded
    for output in (sys.stdout, sys.stderr):
        _filter(output)
    import jax

    def late() -> None:
        who = "" if here is None else f" (this is process {here.index} of {here.count}, from 0)"
        print(
            f"error: not all processes came within {seconds[CONNECT]} s{who}: start all of them, "
            f"or raise {CONNECT}",
            file=sys.stderr,
            flush=True,
        )
        os._exit(TEMPORARY)

    watch = threading.Timer(seconds[CONNECT], late)
    watch.daemon = True
    watch.start()
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    at_sigterm = signal.getsignal(signal.SIGTERM)  # jax takes it, to no end
    try:
        jax.distributed.initialize(
            coordinator_address=coordinator,
            num_processes=None if here is None else here.count,
            process_id=None if here is None else here.index,
            cluster_detection_method=None if here is None else "deactivate",
            initialization_timeout=seconds[CONNECT] + 60,  # `late` says it better
            heartbeat_timeout_seconds=seconds[HEARTBEAT],
            shutdown_timeout_seconds=seconds[HEARTBEAT],
        )
        jax.devices()  # which waits for the others, too
    except (ValueError, RuntimeError, OSError) as error:
        why = _first_line(error)
        raise UserError(
            f"cannot connect the processes ({why}): set {COORDINATOR}, {COUNT} and {INDEX}"
        ) from error
    finally:
        watch.cancel()
    signal.signal(signal.SIGTERM, at_sigterm)
    _here = Place(jax.process_index(), jax.process_count())
    meet()


def _filter(output: TextIO) -> None:
    """Sends what this process writes there, from C++ too, through FILTER.

    Slurm, a terminal and a machine that shuts down signal all processes of a run: the filter is to
    outlive this one, which has more to say before it ends.
    """
    output.flush()
    deaf = "trap '' HUP INT TERM; exec sed -u \"$@\""
    filtering = subprocess.Popen(
        ["sh", "-c", deaf, "sh", *(part for line in FILTER for part in ("-e", line))],
        stdin=subprocess.PIPE,
        stdout=output.fileno(),
    )
    _filters.append((output, os.dup(output.fileno()), filtering))
    if filtering.stdin is not None:  # a pipe always
        os.dup2(filtering.stdin.fileno(), output.fileno())
        filtering.stdin.close()


def _unfilter(last: bool = False) -> None:
    """Waits until all that was said is through: a container's first process ends the others.

    Args:
      last: nothing more is to be said, not by jax either, which may abort at this moment.
    """
    while _filters:
        output, behind, filtering = _filters.pop()
        with contextlib.suppress(OSError):
            output.flush()
        if last:
            os.dup2(os.open(os.devnull, os.O_WRONLY), behind)
        os.dup2(behind, output.fileno())
        os.close(behind)
        with contextlib.suppress(subprocess.TimeoutExpired):  # a child of this one may hold it
            filtering.wait(5)


def _leave() -> None:
    import jax

    jax.distributed.shutdown()
    _unfilter()


def _end(error: BaseException) -> None:
    """Ends this process without waiting for the others, who learn of it by losing it."""
    status = 1
    if isinstance(error, KeyboardInterrupt):
        text, status = "interrupted", 128 + signal.SIGINT
    elif isinstance(error, BrokenPipeError) and nobody_reads():
        text, status = "", 128 + signal.SIGPIPE
    elif isinstance(error, UserError):
        text = f"error: {error}"
    elif any(word in str(error) for word in LOST):
        text, status = f"error: {GONE} ({_first_line(error)})", TEMPORARY
    else:
        text = "".join(traceback.format_exception(error)).rstrip()
    try:
        with contextlib.suppress(OSError):
            if text:
                line(text)
            sys.stdout.flush()
        _unfilter(last=True)
        if is_first() and count() > 1:
            time.sleep(LINGER)  # the others would notice before they have said what they know
    finally:
        os._exit(status)


def share(value: Result) -> list[Result]:
    """The values of all processes, in their order. To be called by all of them.

    They are pickled and gathered over the network that the devices use: meant for what is small
    beside a step (tokens, rewards, texts).
    """
    if count() == 1:
        return [value]
    import numpy as np
    from jax.experimental.multihost_utils import process_allgather

    data = np.frombuffer(pickle.dumps(value), np.uint8)
    lengths = process_allgather(np.array([data.size], np.int32))
    lengths = lengths.reshape(-1)
    width = 1 << int(lengths.max()).bit_length()  # few widths, as each compiles a program
    rows = process_allgather(np.pad(data, (0, width - data.size)))
    return [pickle.loads(row[:n].tobytes()) for row, n in zip(rows, lengths, strict=True)]


def meet() -> None:
    """Waits for all processes. To be called by all of them, before a new program runs: gloo gives
    up where one begins a new kind of exchange 30 s before another, as compile times may differ."""
    share(None)


def together(work: Callable[[], Result]) -> list[Result]:
    """work() of all processes, in their order.

    Raises:
      UserError: on all of them, what it raised on any.
    """
    if count() == 1:
        return [work()]
    done: Result | UserError
    try:
        done = work()
    except UserError as error:
        done = error
    results = []
    for result in share(done):
        if isinstance(result, UserError):
            raise result
        results.append(result)
    return results


def first(work: Callable[[], Result]) -> Result:
    """work() of the first process alone: what it gave, or its UserError, on all."""
    results: list[Any] = together(work if is_first() else lambda: None)
    result: Result = results[0]
    return result


def share_of(items: Sequence[Item]) -> Sequence[Item]:
    """This process's share: the items p, p + n, p + 2n, ... of process p of n."""
    return items[_here.index :: _here.count]


def interleaved(shares: Sequence[Sequence[Item]]) -> list[Item]:
    """The items whose shares (`share_of`) these are, in their order."""
    longest = max(map(len, shares), default=0)
    return [share[turn] for turn in range(longest) for share in shares if turn < len(share)]


def all_rows(rows: Sequence[Item]) -> list[Item]:
    """What all processes hold, in turns: rows of a global batch from each one's share of it."""
    return interleaved(share(rows))


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0][:200] if text else type(error).__name__
