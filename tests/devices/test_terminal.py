"""What stands on a terminal: read from a real pseudo-terminal, by the rules of one."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios

import pytest

from tests.shared import ROOT

RUN = """
import sys
from caugym_jax.cli import commands
from caugym_jax.devices import processes, terminal
from caugym_jax.errors import UserError
from caugym_jax.runs.log import Progress

def main(argv):
    terminal.doing("opening /a/model")
    processes.say("sft of a model on 1 cpu device")
    progress = Progress(0, 3, unit="step")
    for step in range(1, 4):
        for done in range(0, 512, 96):
            terminal.doing(f"sampling {done}/512, token {done}/1024")
        terminal.doing("updating")
        progress.show(step, {"loss": step / 3, "a_metric_of_a_long_name": 0.25, "reward": 1 / 7},
                      ["loss", "a_metric_of_a_long_name", "reward"])
        terminal.doing("evaluating")
        processes.say(f"step {step}: strict 12.5%")
        terminal.doing("saving")
    terminal.clear()
    print("the summary", flush=True)
    terminal.doing("compiling update")
    raise UserError("a reward failed")

commands.run(main)
"""


def shown(sent: str, columns: int) -> list[str]:
    """The rows of a terminal of this width after what was sent to it."""
    rows, row, column = [""], 0, 0
    for part in re.findall(r"\r|\n|\x1b\[K|[^\r\n\x1b]", sent):
        if part == "\r":
            column = 0
        elif part == "\n":
            row += 1
        elif part == "\x1b[K":
            rows[row] = rows[row][:column]
        else:
            if column == columns:
                row, column = row + 1, 0
            rows += [""] * (row + 1 - len(rows))
            rows[row] = rows[row][:column].ljust(column) + part + rows[row][column + 1 :]
            column += 1
        rows += [""] * (row + 1 - len(rows))
    return [line.rstrip() for line in rows]


@pytest.mark.parametrize("columns", [60, 80, 120])
@pytest.mark.parametrize("to_a_file", [False, True], ids=["stdout there", "stdout in a file"])
def test_no_row_is_torn(columns, to_a_file):
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    environment = {k: v for k, v in os.environ.items() if k != "COLUMNS"}
    run = subprocess.Popen(
        [sys.executable, "-c", RUN], cwd=ROOT, env=environment, stdin=theirs, stderr=theirs,
        stdout=subprocess.DEVNULL if to_a_file else theirs,
    )  # fmt: skip
    os.close(theirs)
    sent = b""
    try:
        while piece := os.read(ours, 65536):
            sent += piece
    except OSError:  # the other side is closed
        pass
    os.close(ours)
    assert run.wait() == 1
    found = shown(sent.decode(), columns)
    last = found.index("step 3: strict 12.5%") - 1
    assert found[:3] == [
        "sft of a model on 1 cpu device", "step 1: strict 12.5%", "step 2: strict 12.5%",
    ]  # fmt: skip
    whole = r"step 3/3  loss 1  a_metric_of_a_long_name 0.25  reward 0.1429  0.00 s/step  0:00 left"
    assert last == 3 and re.sub(r"\d\.\d\d s/", "0.00 s/", found[3]) == whole[: columns - 1]
    ending = [] if to_a_file else ["the summary"]
    assert found[4:] == ["step 3: strict 12.5%", *ending, "error: a reward failed", ""]
