#!/usr/bin/env python
"""Trains on Kubernetes: writes a JobSet, which restarts the run and so resumes it, and applies it.

    launch/jobset.py --name=NAME --image=IMAGE --topology=v5p:4x4x4 --bucket=gs://BUCKET/PATH \\
        [--slices=N] [--spot] [--dry-run] --config=NAME.py[:ARG] [train arguments ...]
    launch/jobset.py --name=NAME --image=IMAGE --gpus=8 --nodes=2 --claim=PVC --config=...

--topology asks for TPU slices (GKE), --gpus for NVIDIA GPUs per node, one process on each node.
--slices=N: so many slices of that topology, joined by data parallelism (config.mesh.slices=N, and
config.mesh.data=N where no other is given). The run lies in a bucket (GKE's gcsfuse for its small
files, its checkpoints directly) or on a volume that all nodes can write (--claim). A pod that is
evicted or preempted gets SIGTERM and --grace seconds: the run saves after the present step.
--dry-run prints the manifest (JSON, which is YAML). Logs: kubectl logs
-l jobset.sigs.k8s.io/jobset-name=NAME --prefix. Needs kubectl and the JobSet controller.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import re
import subprocess
import sys
from typing import Any, NamedTuple

# Per TPU generation: GKE's name of the accelerator, and chips on a host of a slice.
TPUS = {
    "v4": ("tpu-v4-podslice", 4),
    "v5e": ("tpu-v5-lite-podslice", 4),
    "v5p": ("tpu-v5p-slice", 4),
    "v6e": ("tpu-v6e-slice", 4),
    "tpu7x": ("tpu7x", 4),
}
PORT = 8476
MOUNT = "/run-files"


@dataclasses.dataclass(frozen=True)
class Options:
    """What the command line says; checked together."""

    name: str
    image: str
    topology: str = ""
    slices: int = 1
    gpus: int = 0
    nodes: int = 1
    bucket: str = ""
    claim: str = ""
    account: str = ""
    spot: bool = False
    grace: int = 120
    restarts: int = 100

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z]([a-z0-9-]{0,28}[a-z0-9])?", self.name):
            raise ValueError(f"--name={self.name}: up to 30 small letters, digits and dashes")
        if self.slices < 1 or (self.slices > 1 and self.gpus):
            raise ValueError(f"--slices={self.slices}: 1 or more, and with --topology")
        if bool(self.topology) == bool(self.gpus):
            raise ValueError("give either --topology or --gpus")
        if bool(self.bucket) == bool(self.claim):
            raise ValueError("give either --bucket or --claim")


class Hosts(NamedTuple):
    """The machines of one job, a pod on each."""

    count: int
    selector: dict[str, str]  # labels of the nodes
    resources: dict[str, str]
    env: dict[str, str]


def manifest(options: Options, train: list[str]) -> dict[str, Any]:
    """The JobSet: `slices` jobs (one for GPUs) of one pod a host.

    Raises:
      ValueError: a topology or bucket that is none.
    """
    job = _job(options, _tpu_hosts(options) if options.topology else _gpu_hosts(options), train)
    together = "alpha.jobset.sigs.k8s.io/exclusive-topology"
    annotations = {together: "cloud.google.com/gke-nodepool"} if options.topology else {}
    own_error = {
        "name": "own-error",
        "action": "FailJobSet",
        "onJobFailureReasons": ["PodFailurePolicy"],
    }
    jobs = {"name": "train", "replicas": options.slices, "template": {"spec": job}}
    return {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "metadata": {"name": options.name, "annotations": annotations},
        "spec": {
            "network": {"enableDNSHostnames": True, "subdomain": options.name},
            "failurePolicy": {"maxRestarts": options.restarts, "rules": [own_error]},
            "replicatedJobs": [jobs],
        },
    }


def _tpu_hosts(options: Options) -> Hosts:
    kind, hosts, chips, shape = _slice(options.topology)
    selector = {
        "cloud.google.com/gke-tpu-accelerator": kind,
        "cloud.google.com/gke-tpu-topology": shape,
    }
    return Hosts(hosts, selector, {"google.com/tpu": str(chips)}, {"CAUGYM_PROCESSES": "auto"})


def _gpu_hosts(options: Options) -> Hosts:
    env = {
        "CAUGYM_COORDINATOR": f"{options.name}-train-0-0.{options.name}:{PORT}",
        "CAUGYM_PROCESSES": str(options.nodes),
    }  # JOB_COMPLETION_INDEX says which of them a pod is
    return Hosts(options.nodes, {}, {"nvidia.com/gpu": str(options.gpus)}, env)


def _job(options: Options, hosts: Hosts, train: list[str]) -> dict[str, Any]:
    annotations, volume, where = _storage(options.name, options.bucket, options.claim)
    arguments = [*train, *where, *_mesh(options.slices, train)]
    own_error = {
        "action": "FailJob",
        "onExitCodes": {"containerName": "train", "operator": "In", "values": [1, 2]},
    }
    return {
        "parallelism": hosts.count,
        "completions": hosts.count,
        "completionMode": "Indexed",
        "backoffLimit": 0,  # a pod that fails ends its job, and the JobSet starts all again
        "podFailurePolicy": {"rules": [own_error]},  # not what fails again: docs/processes.md
        "template": {
            "metadata": {"annotations": annotations},
            "spec": _pod(options, hosts, volume, arguments),
        },
    }


def _mesh(slices: int, train: list[str]) -> list[str]:
    """The mesh's arguments for several slices, but for those that are given."""
    if slices == 1:
        return []
    given = {argument.partition("=")[0] for argument in train}
    keys = ("--config.mesh.slices", "--config.mesh.data")
    return [f"{key}={slices}" for key in keys if key not in given]


def _pod(
    options: Options, hosts: Hosts, volume: dict[str, Any], arguments: list[str]
) -> dict[str, Any]:
    spot = {"cloud.google.com/gke-spot": "true"} if options.spot else {}
    account = {"serviceAccountName": options.account} if options.account else {}
    container = {
        "name": "train",
        "image": options.image,
        "command": ["python", "-m", "caugym_jax.train", *arguments],
        "env": [{"name": key, "value": value} for key, value in hosts.env.items()],
        "resources": {"limits": hosts.resources, "requests": hosts.resources},
        "volumeMounts": [{"name": "run", "mountPath": MOUNT}],
    }
    return {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": options.grace,
        "nodeSelector": hosts.selector | spot,
        "containers": [container],
        "volumes": [{"name": "run", **volume}],
        **account,
    }


def _slice(topology: str) -> tuple[str, int, int, str]:
    """(GKE's accelerator, hosts, chips on a host, shape) of a topology like v5p:4x4x4."""
    generation, _, shape = topology.partition(":")
    if generation not in TPUS or not re.fullmatch(r"\d+(x\d+){1,2}", shape):
        raise ValueError(f"--topology={topology}: e.g. v5p:4x4x4; known: {', '.join(TPUS)}")
    kind, most = TPUS[generation]
    chips = math.prod(map(int, shape.split("x")))
    on_host = min(most, chips)
    if chips % on_host:
        raise ValueError(f"--topology={topology}: {chips} chips do not fill hosts of {on_host}")
    return kind, chips // on_host, on_host, shape


def _storage(name: str, bucket: str, claim: str) -> tuple[dict[str, str], dict, list[str]]:
    """(the pod's annotations, its volume's source, the train arguments that say where)."""
    if claim:
        volume = {"persistentVolumeClaim": {"claimName": claim}}
        return {}, volume, [f"--workdir={MOUNT}/{name}"]
    found = re.fullmatch(r"gs://([^/]+)/(.+?)/?", bucket)
    if not found:
        raise ValueError(f"--bucket={bucket}: must be gs://BUCKET/PATH")
    driver = {
        "driver": "gcsfuse.csi.storage.gke.io",
        "volumeAttributes": {"bucketName": found[1], "mountOptions": "implicit-dirs"},
    }
    where = [
        f"--workdir={MOUNT}/{found[2]}",
        f"--config.checkpoint.folder=gs://{found[1]}/{found[2]}/states",
    ]
    return {"gke-gcsfuse/volumes": "true"}, {"csi": driver}, where


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--name", required=True)
    add("--image", required=True, help="with this code and its packages: launch/Dockerfile")
    add("--config", required=True, metavar="NAME.py[:ARG]")
    add("--topology", default="", help="of a TPU slice, e.g. v5p:4x4x4")
    add("--slices", type=int, default=1, help="of that topology, joined by data parallelism")
    add("--gpus", type=int, default=0, help="per node")
    add("--nodes", type=int, default=1, help="with --gpus")
    add("--bucket", default="", metavar="gs://BUCKET/PATH")
    add("--claim", default="", metavar="PVC")
    add("--account", default="", help="Kubernetes service account that may use the bucket")
    add("--spot", action="store_true")
    add("--grace", type=int, default=120, help="seconds from SIGTERM to SIGKILL (default 120)")
    add("--restarts", type=int, default=100, help="at most (default 100)")
    add("--dry-run", action="store_true", help="print the manifest, apply nothing")
    options, rest = parser.parse_known_args(argv)
    strange = [a for a in rest if not (a.startswith("--config.") and "=" in a)]
    if strange:
        parser.error(f"unrecognized arguments: {' '.join(strange)}")
    given = vars(options)
    dry, train = given.pop("dry_run"), [f"--config={given.pop('config')}", *rest]
    try:
        text = json.dumps(manifest(Options(**given), train), indent=2)
    except ValueError as error:
        parser.error(str(error))
    if dry:
        print(text)
        return 0
    return subprocess.run(["kubectl", "apply", "-f", "-"], input=text, text=True).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
