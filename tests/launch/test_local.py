"""launch/local.sh with a stand-in for Python, which ends as it is told."""

import os
import signal
import subprocess
import sys
import time

import pytest

from tests.shared import ROOT

STAND_IN = f"""#!{sys.executable}
import os, signal, sys, time
if sys.argv[1] == "-c":  # a free port is looked for
    exec(sys.argv[2])
    sys.exit()
place = os.environ["CAUGYM_PROCESS_ID"]
assert os.environ["CAUGYM_PROCESSES"] == "3" and ":" in os.environ["CAUGYM_COORDINATOR"]
print("process", place, "says", sys.argv[-2:], flush=True)
ends = dict(x.split(":") for x in os.environ["ENDS"].split())
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
if place in ends:
    time.sleep(0.3)
    os.kill(os.getpid(), 9) if ends[place] == "KILL" else sys.exit(int(ends[place]))
time.sleep(60)
"""


@pytest.fixture
def launch(tmp_path):
    """A function from how each process ends to the Popen of a launch of three."""
    python = tmp_path / "python"
    python.write_text(STAND_IN)
    python.chmod(0o755)
    more = ["--config=x.py", "--config.a=two words"]

    def start(ends):
        grace = "1" if "KILL" in ends else "30"
        return subprocess.Popen(
            ["launch/local.sh", "--processes=3", f"--workdir={tmp_path}/run", *more],
            cwd=ROOT,
            env=os.environ | {"PYTHON": str(python), "ENDS": ends, "GRACE": grace},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return start


@pytest.mark.parametrize(
    "ends, status, told",
    [
        ("0:0 1:0 2:0", 0, ""),
        ("0:0 1:3 2:0", 3, "process 1 ended with status 3: {}/process-1.log\n"),
        (
            "2:KILL",
            137,
            "process 2 ended with status 137: {}/process-2.log\n"
            "launch/local.sh: the others did not end within 1 s and are killed\n",
        ),
    ],
)
def test_the_first_to_fail_decides(launch, tmp_path, ends, status, told):
    said, complained = (process := launch(ends)).communicate(timeout=30)
    logs = tmp_path / "run/logs"
    assert process.returncode == status, complained
    assert complained == (told and "launch/local.sh: " + told.format(logs))
    command = str(["--config.a=two words", f"--workdir={tmp_path}/run"])
    assert said == f"process 0 says {command}\n"
    assert [(logs / f"process-{p}.log").read_text() for p in range(3)] == [
        f"process {p} says {command}\n" for p in range(3)
    ]


def test_sigterm_goes_to_all(launch, tmp_path):
    process = launch("")
    logs = [tmp_path / f"run/logs/process-{p}.log" for p in range(3)]
    end = time.monotonic() + 20
    while not all(log.exists() and log.read_text() for log in logs):
        assert time.monotonic() < end
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, complained = process.communicate(timeout=30)
    assert process.returncode == 143 and complained == ""


def test_what_would_run():
    command = ["launch/local.sh", "--processes=2", "--dry-run", "--config=grpo.py:smollm2-135m"]
    done = subprocess.run(
        [*command, "--config.steps=2"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == [
        f"CAUGYM_COORDINATOR=127.0.0.1:PORT CAUGYM_PROCESSES=2 CAUGYM_PROCESS_ID={p} python -m "
        "caugym_jax.train --config=grpo.py:smollm2-135m --config.steps=2 "
        f"--workdir=runs/grpo-smollm2-135m > runs/grpo-smollm2-135m/logs/process-{p}.log 2>&1 &"
        for p in (0, 1)
    ]
    assert subprocess.run(["launch/local.sh"], cwd=ROOT, capture_output=True).returncode == 2


def test_from_another_folder_with_the_home_s_sign(tmp_path):
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\n[ "$1" = -c ] && echo 1 || echo "$PYTHONPATH $@"\n')
    python.chmod(0o755)
    done = subprocess.run(
        [ROOT / "launch/local.sh", "--processes=1", "--config=x.py", "--workdir=~/deep/run"],
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), "PYTHON": str(python)},
        capture_output=True,
        text=True,
    )
    workdir = tmp_path / "deep/run"
    assert done.stdout == f"{ROOT} -m caugym_jax.train --config=x.py --workdir={workdir}\n", done
    assert (workdir / "logs/process-0.log").exists() and not (tmp_path / "~").exists()


def test_an_empty_workdir_is_refused():
    done = subprocess.run(
        ["launch/local.sh", "--processes=1", "--config=x.py", "--workdir="],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (2, "error: --workdir= must not be empty\n")
