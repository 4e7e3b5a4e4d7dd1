"""What all commands share: argument parsing and exit codes. Imports no jax.

Exit status: 0 success, 2 bad usage (argparse prints what was expected), 1 a failure, printed in one
line on standard error, 75 other processes of the run are lost (docs/processes.md), 141 nobody reads
the output (`... | head`); 129 hung up, 130 interrupted, 143 terminated (train: and saved).
"""

from __future__ import annotations

import argparse
import io
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from caugym_jax.devices.processes import line, nobody_reads
from caugym_jax.errors import UserError


def parser(module: str, doc: str) -> argparse.ArgumentParser:
    """An argument parser for MODULE, a command, whose help is the module's docstring."""
    started = sys.argv[0] if sys.argv[0].startswith("caugym ") else f"python -m {module}"
    return argparse.ArgumentParser(
        prog=started,
        description=doc,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def step(text: str) -> int | str:
    """An option's value: which checkpoint of a run, a number or "best"."""
    return text if text == "best" else int(text)


def folder(text: str) -> Path:
    """An option's value: a folder, where a shell may have left the ~ that stands for one's own."""
    if not text.strip():
        raise argparse.ArgumentTypeError("must not be empty")
    return Path(text).expanduser()


def run(main: Callable[[Sequence[str]], None]) -> None:
    """Calls `main(argv)`, and tells in one line what ended it."""
    if os.getpid() == 1:  # in a container: the kernel drops a SIGTERM that nothing handles
        signal.signal(signal.SIGTERM, lambda *_: os._exit(128 + signal.SIGTERM))
    if isinstance(sys.stdout, io.TextIOWrapper):  # whose encoding may be ascii
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        try:
            main(sys.argv[1:])
            sys.stdout.flush()
        except UserError as error:
            line(f"error: {error}")
            sys.exit(1)
        except KeyboardInterrupt:
            line("interrupted")
            sys.exit(128 + signal.SIGINT)
    except BrokenPipeError:
        if not nobody_reads():
            raise
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for output in (1, 2):  # else Python complains when it flushes them at its end
            os.dup2(nowhere, output)
        sys.exit(128 + signal.SIGPIPE)
