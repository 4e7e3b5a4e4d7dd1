"""Several real processes train as one does (launch/local.sh), and end and resume together."""

import itertools
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from caugym_jax.devices import processes
from caugym_jax.train import main as train
from tests.end_to_end import tiny_config
from tests.end_to_end.runs import arrays, command, left_behind, metrics
from tests.end_to_end.test_resume import CACHE, compiled  # noqa: F401
from tests.shared import ROOT
from tests.tiny_model import tiny_model  # noqa: F401

DISCRETE = ("tokens", "num_tokens", "completions/", "eval/", "sampling/refills", "skipped", "frac_")


@pytest.fixture
def start(tiny_model, compiled):  # noqa: F811
    """A function that starts launch/local.sh and gives the Popen."""
    started = []

    def launch(count, method, workdir, *more, devices=2, **settings):
        environment = os.environ | {
            "PYTHON": sys.executable,
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices // count}",
            "JAX_COMPILATION_CACHE_DIR": compiled,
            "OMP_NUM_THREADS": "1",
            **{key.upper(): str(value) for key, value in CACHE.items()},
            **settings,
        }
        arguments = command(method, tiny_model, workdir, *more)
        process = subprocess.Popen(
            ["launch/local.sh", f"--processes={count}", *arguments],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        started.append(process)
        return process

    yield launch
    for process in started:
        for _ in range(2):  # the second interrupt kills
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
                time.sleep(1)
        process.wait(60)


@pytest.fixture
def alone(tiny_model, monkeypatch):  # noqa: F811
    """A function that trains in this process, on some of its devices."""

    def run(method, workdir, *more, devices=2):
        some = jax.devices("cpu")[:devices]
        monkeypatch.setattr(jax, "devices", lambda *_: some)
        train(command(method, tiny_model, workdir, *more))

    return run


def finish(process, seconds=900):
    """(exit status, what was said)."""
    said, _ = process.communicate(timeout=seconds)
    return process.returncode, said


def children(process) -> list[int]:
    """The training processes of a launch, in their order."""
    found = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    named = {int(p): Path(f"/proc/{p}/cmdline").read_bytes() for p in found}
    return sorted(p for p, name in named.items() if b"caugym_jax.train" in name)


def wait_for(path: Path, process, seconds=600) -> None:
    end = time.monotonic() + seconds
    while not path.exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end, f"no {path}"
        time.sleep(0.05)


def compare(found: Path, expected: Path) -> None:
    """Equal decisions, samples and answers; numbers to float tolerance."""
    for name in ("before.json", "after.json", "samples.jsonl"):
        paths = found / name, expected / name
        assert paths[0].exists() == paths[1].exists()
        if paths[0].exists():
            assert paths[0].read_text() == paths[1].read_text(), name
    lines = metrics(found), metrics(expected)
    assert [line["step"] for line in lines[0]] == [line["step"] for line in lines[1]]
    for one, other in zip(*lines, strict=True):
        assert one.keys() == other.keys()
        for key, value in one.items():
            if value is None or key.startswith(DISCRETE):
                assert value == other[key], (one["step"], key)
            else:
                wanted = pytest.approx(other[key], rel=1e-5, abs=1e-5)
                assert value == wanted, (one["step"], key)


def compare_arrays(found: Path, expected: Path, step: int) -> None:
    one, other = arrays(found, step), arrays(expected, step)
    assert one.keys() == other.keys()
    for path, array in other.items():
        off = np.linalg.norm(np.ravel(one[path].astype(float) - array))
        assert off <= 1e-4 * np.linalg.norm(np.ravel(array)) + 1e-8, path


FEW = ("--config.steps=3", "--config.evaluation.every=3")


@pytest.mark.slow
@pytest.mark.parametrize("method", ["sft", "grpo"])
def test_two_processes_train_as_one(start, alone, tmp_path, method):
    """With one device each: sums of two terms have one order, so padded rows agree to the bit;
    packed rows are equal as the test below says."""
    more = [*FEW, "--config.grpo.packed=false"]
    if method == "sft":
        more = [*FEW, "--config.sft.neftune_noise_alpha=5"]
    process = start(2, method, tmp_path / "two", *more)
    alone(method, tmp_path / "one", *more)
    status, said = finish(process)
    assert status == 0, said
    assert "on 2 cpu devices of 2 processes" in said and "Strict accuracy" in said
    assert (tmp_path / "two/logs/process-1.log").read_text() == ""
    compare(tmp_path / "two", tmp_path / "one")
    one, two = (left_behind(tmp_path / name, 3) for name in ("one", "two"))
    assert two["state"] == one["state"] and two["position"] == one["position"]
    if method == "grpo":
        assert any(line.get("grad_norm") for line in one["metrics"])


CASES = {
    "sft": [],
    "dpo": [],
    "kto": ["--config.mesh.data=2", "--config.mesh.tensor=2"],
    "grpo": ["--config.grpo.max_refills=2", "--config.grpo.beta=0.1"],
    "ppo": [],
    "grpo, split over processes": ["--config.mesh.data=1", "--config.mesh.fsdp=4"],
}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("count", [2, 4])
def test_every_method_by_several_processes(start, alone, tmp_path, case, count):
    """Four devices, of two processes or four."""
    method, more = case.partition(",")[0], [*CASES[case], *FEW]
    if method == "grpo":
        more.append("--config.data.batch_size=4")
    if method == "ppo":
        more.append("--config.data.batch_size=8")
    process = start(count, method, tmp_path / "several", *more, devices=4)
    alone(method, tmp_path / "one", *more, devices=4)
    status, said = finish(process)
    assert status == 0, said
    compare(tmp_path / "several", tmp_path / "one")
    compare_arrays(tmp_path / "several", tmp_path / "one", 3)


ONE_DIES = "tests.end_to_end.test_processes:one_dies"
AFTER = "CAUGYM_TEST_DIES_AFTER"  # PROCESS:FOLDER, set in the attempts that are to be killed


def one_dies(completions, problems, truncated):
    """`tiny_config.spread`; a process that is told to dies in its third step, with the checkpoint
    of the second one whole."""
    who, _, folder = os.environ.get(AFTER, "").partition(":")
    if who == str(processes.index()) and next(_calls) == 2:
        end = time.monotonic() + 600
        while not Path(folder).exists() and time.monotonic() < end:
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGKILL)
    return tiny_config.spread(completions, problems, truncated)


_calls = itertools.count()


def until_it_ends(start, folder, more, deaths):
    """Two processes, of which one dies in each attempt; the last attempt's words."""
    for who, step in deaths:
        after = {AFTER: f"{who}:{folder}/checkpoints/{step}"}
        status, said = finish(start(2, "grpo", folder, *more, GRACE="60", **after))
        assert status == 128 + signal.SIGKILL, said
        assert f"process {who} ended with status 137" in said and "are killed" not in said
        last = (folder / f"logs/process-{1 - who}.log").read_text().splitlines()[-1]
        assert last.startswith("error: another process ended or cannot be reached")
    status, said = finish(start(2, "grpo", folder, *more))
    assert status == 0 and ("resumed from step" in said) == bool(deaths), said
    return said


LONGER = ["--config.steps=6", f"--config.grpo.reward_weights={ONE_DIES}=1"]


def test_one_is_killed_both_end_and_train_on_as_one(start, alone, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    more = [*LONGER, "--config.steps=4"]
    said = until_it_ends(start, two, more, [(1, 2)])
    assert "on 2 cpu devices of 2 processes" in said and "Strict accuracy" in said
    assert "ready in" not in (two / "logs/process-1.log").read_text()  # process 0 alone says it
    alone("grpo", one, *more)
    compare(two, one)
    compare_arrays(two, one, 4)


@pytest.mark.slow
def test_each_is_killed_and_the_bits_are_those_of_an_undisturbed_run(start, tmp_path):
    straight, parts = tmp_path / "straight", tmp_path / "parts"
    until_it_ends(start, straight, LONGER, [])
    until_it_ends(start, parts, LONGER, [(1, 2), (0, 4)])
    found, expected = left_behind(parts, 6), left_behind(straight, 6)
    for key in expected:
        assert found[key] == expected[key], key


def descendants(process: int) -> list[int]:
    children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    return [x for p in map(int, children) for x in (p, *descendants(p))]


@pytest.mark.slow
@pytest.mark.parametrize("whom", ["one", "all"])
def test_terminated_all_save_after_the_same_step_and_one_goes_on(start, alone, tmp_path, whom):
    """SIGTERM to the second process alone, or to all that the launch has started, their filters
    too, as a machine does that shuts down; then one process takes over from the two."""
    straight, parts = tmp_path / "straight", tmp_path / "parts"
    longer = "--config.steps=8"
    process = start(2, "sft", parts, longer)
    wait_for(parts / "checkpoints/2", process)
    every = [process.pid, *descendants(process.pid)]
    for p in [children(process)[1]] if whom == "one" else every:
        os.kill(p, signal.SIGTERM)
    status, said = finish(process)
    assert status == 128 + signal.SIGTERM, said
    (told,) = [line for line in said.splitlines() if line.startswith("terminated after step")]
    step = int(told.split()[3].rstrip(","))
    assert max(int(p.name) for p in parts.glob("checkpoints/*") if p.name.isdigit()) == step < 8
    alone("sft", parts, longer)
    alone("sft", straight, longer)
    compare(parts, straight)


@pytest.mark.slow
def test_a_failing_reward_ends_all_with_its_line(start, tmp_path):
    reward = "--config.grpo.reward_weights=tests.end_to_end.test_processes:fails_in_one=1"
    status, said = finish(start(2, "grpo", tmp_path / "run", reward, *FEW))
    assert status == 1, said
    for p in (0, 1):
        last = (tmp_path / f"run/logs/process-{p}.log").read_text().splitlines()[-1]
        assert last.startswith("error: ") and "fails_in_one" in last, last
    assert "Traceback" not in said


def fails_in_one(completions, problems, truncated):
    """Fails in process 1 only."""
    if processes.index() == 1:
        raise RuntimeError("no")
    return [0.0] * len(completions)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("keys", "values"), [("optim.peak", ("0.1", "0.2")), ("steps", ("3", "4"))]
)
def test_processes_that_differ_end_at_once(tiny_model, tmp_path, keys, values):  # noqa: F811
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = {"JAX_PLATFORMS": "cpu", "CAUGYM_COORDINATOR": f"127.0.0.1:{port}"}
    settings |= {"CAUGYM_PROCESSES": "2", "XLA_FLAGS": "--xla_force_host_platform_device_count=1"}
    arguments = [sys.executable, "-m", "caugym_jax.train"]
    both = [
        subprocess.Popen(
            [*arguments, *command("sft", tiny_model, tmp_path / "run", f"--config.{keys}={value}")],
            cwd=ROOT,
            env=os.environ | settings | {"CAUGYM_PROCESS_ID": str(p)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for p, value in enumerate(values)
    ]
    for process in both:
        out, said = process.communicate(timeout=300)
        assert (process.returncode, out) == (1, ""), said
        assert said.startswith(
            f"error: config.{keys} is {values[1]} in process 1 and {values[0]} in process 0: start"
        )
        assert said.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_the_others_do_not_come(tmp_path):
    environment = os.environ | {
        "CAUGYM_COORDINATOR": "127.0.0.1:1", "CAUGYM_PROCESSES": "2", "CAUGYM_PROCESS_ID": "1",
        "CAUGYM_CONNECT_TIMEOUT": "2", "JAX_PLATFORMS": "cpu",
    }  # fmt: skip
    arguments = ["--config=grpo.py", f"--workdir={tmp_path / 'run'}"]
    done = subprocess.run(
        [sys.executable, "-m", "caugym_jax.train", *arguments],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == processes.TEMPORARY
    assert done.stderr == (
        "error: not all processes came within 2 s (this is process 1 of 2, from 0): start all of "
        "them, or raise CAUGYM_CONNECT_TIMEOUT\n"
    )
    assert not (tmp_path / "run").exists()


SLOW_TO_COMPILE = """
import time
from caugym_jax.devices import processes

def total(x):
    time.sleep(35 * processes.index())  # while it is traced
    return x.sum()

with processes.connected():
    import numpy as np
    from caugym_jax.devices.programs import Program
    from caugym_jax.devices.mesh import fetch, make_mesh, put, rows

    x = put(np.arange(8, dtype=np.float32), rows(make_mesh()))
    print(float(fetch(Program("total", total, "x")(x))))
"""


@pytest.mark.slow
def test_one_compiles_for_longer_than_gloo_waits():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
        "CAUGYM_COORDINATOR": f"127.0.0.1:{port}",
        "CAUGYM_PROCESSES": "2",
    }
    both = [
        subprocess.Popen(
            [sys.executable, "-c", SLOW_TO_COMPILE],
            cwd=ROOT,
            env=os.environ | settings | {"CAUGYM_PROCESS_ID": str(p)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for p in range(2)
    ]
    assert [process.communicate(timeout=300)[0] for process in both] == ["28.0\n"] * 2
