"""The JobSet manifest, against its schema and Kubernetes' own."""

import importlib.util
import json
import subprocess
import sys

import pytest

from tests.shared import ROOT, shared_path

SCRIPT = ROOT / "launch" / "jobset.py"
TPU = ["--topology=v5p:4x4x4", "--bucket=gs://bucket/my/run", "--spot", "--slices=2"]
GPU = ["--gpus=8", "--nodes=4", "--claim=disk", "--grace=90", "--restarts=7"]


def manifest(*options: str) -> dict:
    command = [sys.executable, SCRIPT, "--name=run", "--image=repo/image:1", "--dry-run", *options]
    command += ["--config=grpo.py:x", "--config.a=two words"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def job_and_pod(found: dict) -> tuple[dict, dict]:
    (group,) = found["spec"]["replicatedJobs"]
    job = group["template"]["spec"]
    return job, job["template"]["spec"]


def test_tpu():
    found = manifest(*TPU)
    job, pod = job_and_pod(found)
    assert found["spec"]["replicatedJobs"][0]["replicas"] == 2
    assert job["parallelism"] == job["completions"] == 16  # 64 chips, 4 on a host
    assert job["completionMode"] == "Indexed" and job["backoffLimit"] == 0
    assert pod["nodeSelector"] == {
        "cloud.google.com/gke-tpu-accelerator": "tpu-v5p-slice",
        "cloud.google.com/gke-tpu-topology": "4x4x4",
        "cloud.google.com/gke-spot": "true",
    }
    (container,) = pod["containers"]
    assert container["resources"]["limits"] == {"google.com/tpu": "4"}
    assert container["command"] == [
        "python", "-m", "caugym_jax.train", "--config=grpo.py:x", "--config.a=two words",
        "--workdir=/run-files/my/run", "--config.checkpoint.folder=gs://bucket/my/run/states",
        "--config.mesh.slices=2", "--config.mesh.data=2",
    ]  # fmt: skip
    assert pod["terminationGracePeriodSeconds"] == 120 and pod["restartPolicy"] == "Never"
    assert job["template"]["metadata"]["annotations"] == {"gke-gcsfuse/volumes": "true"}
    assert {"name": "CAUGYM_PROCESSES", "value": "auto"} in container["env"]


def test_slices_become_the_mesh_that_train_lays():
    from caugym_jax.runs.settings import load

    def mesh(*options):
        _, pod = job_and_pod(manifest(*options))
        command = pod["containers"][0]["command"]
        given = [a.removeprefix("--config.") for a in command if a.startswith("--config.mesh")]
        return load("grpo.py:r1-distill-qwen-14b", given).mesh

    two = mesh(*TPU)
    assert (two.slices, two.data, two.fsdp) == (2, 2, -1)
    four = mesh(*TPU, "--config.mesh.data=4", "--config.mesh.fsdp=8")
    assert (four.slices, four.data, four.fsdp) == (2, 4, 8)
    one = mesh("--topology=v5p:4x4x4", "--claim=disk")
    assert (one.slices, one.data, one.fsdp) == (1, 1, -1)


def test_errors_of_its_own_end_the_jobset_and_lost_pods_restart_it():
    found = manifest(*TPU)
    job, _ = job_and_pod(found)
    (rule,) = job["podFailurePolicy"]["rules"]
    assert rule["action"] == "FailJob"
    assert rule["onExitCodes"]["operator"] == "In"
    assert set(rule["onExitCodes"]["values"]) == {1, 2}  # not 75, 134, 137, 143
    assert found["spec"]["failurePolicy"]["rules"] == [
        {
            "name": "own-error",
            "action": "FailJobSet",
            "onJobFailureReasons": ["PodFailurePolicy"],
        }
    ]


def test_gpu():
    found = manifest(*GPU)
    job, pod = job_and_pod(found)
    (container,) = pod["containers"]
    assert job["completions"] == 4 and pod["nodeSelector"] == {}
    assert container["resources"]["limits"] == {"nvidia.com/gpu": "8"}
    env = {item["name"]: item["value"] for item in container["env"]}
    # the first pod of the first job, as the JobSet controller names it in its subdomain
    assert env == {"CAUGYM_COORDINATOR": "run-train-0-0.run:8476", "CAUGYM_PROCESSES": "4"}
    assert found["spec"]["network"] == {"enableDNSHostnames": True, "subdomain": "run"}
    assert container["command"][-1] == "--workdir=/run-files/run"
    assert pod["volumes"] == [{"name": "run", "persistentVolumeClaim": {"claimName": "disk"}}]
    assert pod["terminationGracePeriodSeconds"] == 90
    assert found["spec"]["failurePolicy"]["maxRestarts"] == 7


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--gpus=8", "--bucket=b"], "--bucket=b: must be gs://BUCKET/PATH"),
        (["--gpus=8"], "give either --bucket or --claim"),
        (["--claim=c"], "give either --topology or --gpus"),
        (["--claim=c", "--topology=v9:2x2"], "known: v4, v5e, v5p, v6e, tpu7x"),
        (["--claim=c", "--topology=v4:3x1x3"], "9 chips do not fill hosts of 4"),
        (["--claim=c", "--gpus=1", "--slices=2"], "--slices=2: 1 or more, and with --topology"),
        (["--claim=c", "--gpus=1", "--name=Run"], "small letters"),
        (["--claim=c", "--gpus=1", "--strange"], "unrecognized arguments: --strange"),
    ],
)
def test_bad_usage_is_one_clear_line(options, message):
    command = [sys.executable, SCRIPT, "--name=run", "--image=i", "--config=sft.py", *options]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and message in done.stderr.splitlines()[-1]


@pytest.mark.parametrize("options", [TPU, GPU])
def test_the_jobset_fits_its_schema(options):
    jsonschema = pytest.importorskip(
        "jsonschema", reason="jsonschema is not installed: pip install jsonschema"
    )
    schema = json.loads(shared_path("schemas/jobset.json").read_text())
    jsonschema.validate(manifest(*options), schema)
    wrong = manifest(*options)
    wrong["spec"]["failurePolicy"]["maxRestart"] = 1
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(wrong, schema)


@pytest.mark.parametrize("options", [TPU, GPU])
def test_its_jobs_fit_kubernetes(options):
    if importlib.util.find_spec("kubernetes_validate") is None:
        pytest.skip("kubernetes-validate is not installed: pip install kubernetes-validate")
    import kubernetes_validate

    (group,) = manifest(*options)["spec"]["replicatedJobs"]
    job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "run"}}
    job["spec"] = group["template"]["spec"]
    kubernetes_validate.validate(job, kubernetes_validate.latest_version(), strict=True)
    job["spec"]["template"]["spec"]["containers"][0]["comand"] = ["x"]
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(job, kubernetes_validate.latest_version(), strict=True)
