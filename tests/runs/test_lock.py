"""One run in a workdir at a time; the lock of a run that has died is no lock."""

import json
import os
import subprocess
import sys
import threading
import time

import pytest

from caugym_jax.errors import UserError
from caugym_jax.runs import lock
from tests.shared import ROOT

HOLDER = """
import sys, time
from pathlib import Path
from caugym_jax.runs.lock import alone
with alone(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the lock of tmp_path."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE
    )
    assert process.stdout.readline() == b"held\n"
    yield process
    process.kill()
    process.wait()


def test_a_second_run_is_refused_and_the_dead_one_s_lock_is_taken_over(holder, tmp_path):
    told = f"in use by process {holder.pid} on host .*: stop that run, or choose another --workdir"
    with pytest.raises(UserError, match=told), lock.alone(tmp_path):
        pass
    assert json.loads((tmp_path / "lock").read_text())["pid"] == holder.pid
    holder.kill()  # a zombie until it is waited for, which holds nothing
    time.sleep(0.5)
    with lock.alone(tmp_path):
        assert json.loads((tmp_path / "lock").read_text())["pid"] == os.getpid()
    assert list(tmp_path.iterdir()) == []


def test_an_id_that_is_used_again_is_another_process(holder, tmp_path):
    path = tmp_path / "lock"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"began": "1"}))
    with lock.alone(tmp_path):
        pass


def test_this_process_holds_it_once(tmp_path):
    with lock.alone(tmp_path), pytest.raises(UserError, match="in use"), lock.alone(tmp_path):
        pass
    assert not (tmp_path / "lock").exists()
    with pytest.raises(ValueError), lock.alone(tmp_path):
        raise ValueError
    assert not (tmp_path / "lock").exists()


@pytest.mark.parametrize("content", ['{"host": "elsewhere", "pid": 7, "began": "1"}', '{"ho'])
def test_of_another_host_the_time_decides(tmp_path, monkeypatch, capsys, content):
    monkeypatch.setattr(lock, "BEAT", 0.2)
    path = tmp_path / "lock"
    path.write_text(content)
    ended = threading.Event()
    beats = threading.Thread(target=lock._renew, args=(path, ended))
    beats.start()
    try:
        with pytest.raises(UserError, match="is in use by"), lock.alone(tmp_path):
            pass
    finally:
        ended.set()
        beats.join()
    assert path.read_text() == content and "waiting for a sign of it" in capsys.readouterr().err
    with lock.alone(tmp_path):
        assert path.read_text() != content
    assert not path.exists()


def test_a_workdir_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot make the workdir"), lock.alone(tmp_path / "file/x"):
        pass
