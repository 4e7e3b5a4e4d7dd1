"""How commands end: in a pipe that closes, and as the first process of a container."""

import argparse
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from caugym_jax.cli import commands
from tests.shared import ROOT

START = [sys.executable, "-c"]
COMMAND = "import time; from caugym_jax.cli import commands; commands.run(lambda argv: {})"


@pytest.mark.parametrize(
    "work",
    [
        "[print(i, flush=True) for i in range(10**6)]",
        "print('all at the end')",
        "[print(i, file=__import__('sys').stderr) for i in range(10**6)]",
    ],
)
def test_a_reader_that_leaves_is_no_success(work):
    command = subprocess.Popen(
        [*START, COMMAND.format(f"(time.sleep(0.3), {work})")],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    if "stderr" in work:
        command.stderr.close()
        left = command.stdout
    else:
        command.stdout.close()
        left = command.stderr
    assert left.read() == b""
    assert command.wait(60) == 128 + signal.SIGPIPE


def test_what_is_read_to_its_end_is_a_success():
    done = subprocess.run([*START, COMMAND.format("print(1)")], cwd=ROOT, capture_output=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"1\n", b"")


def test_another_pipe_that_breaks_is_told():
    code = COMMAND.format("(_ for _ in ()).throw(BrokenPipeError('to the bucket'))")
    done = subprocess.run([*START, code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.endswith("BrokenPipeError: to the bucket\n")


def test_the_first_process_of_a_container_heeds_sigterm():
    """For process 1 of a PID namespace the kernel drops signals that nothing handles."""
    alone = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--kill-child"]
    if not shutil.which("unshare") or subprocess.run([*alone, "true"]).returncode:
        pytest.skip("no PID namespace can be made here: unshare --user --pid")
    code = COMMAND.format("(print('ready', flush=True), time.sleep(60))")
    with subprocess.Popen([*alone, *START, code], cwd=ROOT, stdout=subprocess.PIPE) as outside:
        assert outside.stdout.readline() == b"ready\n"
        (first,) = subprocess.check_output(["pgrep", "-P", str(outside.pid)]).split()
        subprocess.run(["kill", "-TERM", first], check=True)
        assert outside.wait(20) == 128 + signal.SIGTERM


def test_output_that_takes_ascii_alone():
    code = COMMAND.format("print('caf\\u00e9')")
    done = subprocess.run(
        [*START, code],
        cwd=ROOT,
        env=os.environ | {"PYTHONIOENCODING": "ascii"},
        capture_output=True,
    )
    assert (done.returncode, done.stdout) == (0, b"caf\\xe9\n"), done.stderr


def test_folders_and_checkpoints_as_options(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert commands.folder("~/x") == Path("/home/me/x") and commands.folder("a") == Path("a")
    with pytest.raises(argparse.ArgumentTypeError):
        commands.folder("")
    assert (commands.step("best"), commands.step("7")) == ("best", 7)
    with pytest.raises(ValueError):
        commands.step("newest")
