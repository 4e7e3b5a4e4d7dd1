"""Signals: noticed inside the block, answered after the step; a second Ctrl-C ends at once."""

import os
import signal
import subprocess
import sys
import threading

import pytest

from caugym_jax.runs.stopping import ENDING, Asked, Signals
from tests.shared import ROOT


@pytest.fixture
def heeded():
    """SIGHUP is not ignored, as it is where the tests themselves run under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.usefixtures("heeded")
@pytest.mark.parametrize(
    ("number", "word"), [(s, ENDING[s]) for s in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)]
)
def test_a_signal_ends_the_run_after_the_step(capfd, number, word):
    outside = {s: signal.getsignal(s) for s in (*ENDING, signal.SIGUSR1)}
    with Signals() as signals:
        assert signals.asked() == Asked(False, 0)
        os.kill(os.getpid(), number)
        assert signals.asked() == signals.asked() == Asked(True, number)
        with pytest.raises(SystemExit) as stop:
            signals.leave(4, number)
    assert stop.value.code == 128 + number
    assert f"{word} after step 4, which is saved\n" in capfd.readouterr().err
    assert {s: signal.getsignal(s) for s in outside} == outside
    assert signal.set_wakeup_fd(-1) == -1


def test_sigusr1_asks_for_one_save():
    with Signals() as signals:
        os.kill(os.getpid(), signal.SIGUSR1)
        assert signals.asked() == Asked(True, 0)
        assert signals.asked() == Asked(False, 0)


def test_what_the_process_was_started_to_ignore_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # nohup
    try:
        with Signals() as signals:
            os.kill(os.getpid(), signal.SIGHUP)
            assert signals.asked() == Asked(False, 0)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_run_in_another_thread_leaves_signals_alone():
    outside, seen = signal.getsignal(signal.SIGTERM), []

    def run():
        with Signals() as signals:
            seen.append((signal.getsignal(signal.SIGTERM), signals.asked()))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert seen == [(outside, Asked(False, 0))]


BUSY = """
import hashlib, signal
from caugym_jax.runs.stopping import Signals

signal.signal(signal.SIGINT, signal.default_int_handler)  # also where a shell had it ignored

data = bytes(1 << 30)
with Signals():
    print("ready", flush=True)
    while True:
        hashlib.sha256(data)  # Python is not heard of for seconds, as in a compiled program
"""


def test_a_second_interrupt_ends_at_once():
    run = subprocess.Popen(
        [sys.executable, "-c", BUSY], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert run.stdout.readline() == b"ready\n"
    run.send_signal(signal.SIGINT)
    said = run.stderr.readline()
    assert said == b"interrupted: the step is finished and saved; Ctrl-C again ends at once\n"
    assert run.poll() is None
    run.send_signal(signal.SIGINT)
    assert run.wait(60) == 128 + signal.SIGINT
    assert run.stderr.read() == b"interrupted\n"
