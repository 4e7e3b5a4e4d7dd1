"""An interrupted run ends like an uninterrupted one: bit for bit, whatever interrupted it."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import jax
import pytest

from caugym_jax import generate
from caugym_jax.runs.checkpoints import Checkpoints
from caugym_jax.train import main as train
from tests.end_to_end.runs import command, left_behind, metrics
from tests.shared import ROOT
from tests.small_disk import mount, unmount
from tests.tiny_model import tiny_model  # noqa: F401

CACHE = {
    "jax_persistent_cache_min_compile_time_secs": 0,
    "jax_persistent_cache_min_entry_size_bytes": -1,
}


@pytest.fixture(scope="module", autouse=True)
def compiled(tmp_path_factory):
    """Programs compiled by one run are found by the next."""
    folder = str(tmp_path_factory.mktemp("compiled"))
    before = {key: getattr(jax.config, key) for key in ("jax_compilation_cache_dir", *CACHE)}
    for key, value in (CACHE | {"jax_compilation_cache_dir": folder}).items():
        jax.config.update(key, value)
    handler = signal.getsignal(signal.SIGTERM)
    yield folder
    signal.signal(signal.SIGTERM, handler)
    for key, value in before.items():
        jax.config.update(key, value)


@pytest.fixture
def one_device(monkeypatch):
    devices = jax.devices()[:1]
    monkeypatch.setattr(jax, "devices", lambda *_: devices)


def check(found: dict, expected: dict) -> None:
    for key in expected:  # part by part, so that a failure shows which one differs
        assert found[key] == expected[key], key


CASES = {
    "sft, packed file, sharded": (
        "sft",
        ["--config.mesh.data=4", "--config.mesh.fsdp=2", "--config.data.packing=true"],
    ),
    "grpo": ("grpo", []),
    "grpo, two passes and a reference": (
        "grpo",
        ["--config.grpo.num_iterations=2", "--config.grpo.beta=0.1"],
    ),
    "ppo, adapters and a critic from elsewhere": ("ppo", ["--config.lora.rank=4"]),
}
REPEATS = ("grpo", "ppo, adapters and a critic from elsewhere")


@pytest.mark.parametrize(
    "case", [pytest.param(c, marks=[pytest.mark.slow] * (c in REPEATS)) for c in CASES]
)
def test_t18_three_and_three_steps_are_six(tiny_model, tmp_path, request, capsys, case):  # noqa: F811
    method, more = CASES[case]
    if "sharded" not in case:
        request.getfixturevalue("one_device")
    if "file" in case:  # 30 examples in rows of up to 192 tokens: six batches of 8 pass their end
        data = tmp_path / "data.jsonl"
        options = ["--tasks=ATE,ETT", "--n=30", "--seed=1", "--nodes=3..4", "--for=sft"]
        generate.main([*options, f"--out={data}"])
        more = [*more, f"--config.data.path={data}", "--config.data.max_length=512"]
    if "critic" in case:
        more = [*more, f"--config.ppo.critic={tiny_model}"]
    straight, parts = tmp_path / "straight", tmp_path / "parts"
    train(command(method, tiny_model, straight, *more))
    train(command(method, tiny_model, parts, *more, "--config.steps=3"))
    capsys.readouterr()
    train(command(method, tiny_model, parts, *more))
    assert f"resumed from step 3 of {parts}" in capsys.readouterr().err
    expected = left_behind(straight, 6)
    check(left_behind(parts, 6), expected)
    moved = [line for line in expected["metrics"] if line.get("grad_norm")]
    assert len(moved) >= 3, "the updates must move something"
    if method == "grpo":
        assert expected["metrics"][-2].get("steps_without_signal", 0) < 6

    before = {p: p.stat().st_mtime_ns for p in parts.rglob("*") if p.is_file()}
    train(command(method, tiny_model, parts, *more))  # finished: says so and does nothing
    assert "Strict accuracy" in capsys.readouterr().out
    after = {p: p.stat().st_mtime_ns for p in parts.rglob("*") if p.is_file()}
    assert {p for p in after if after[p] != before.get(p)} <= {
        parts / "config.json",
        parts / "run.json",
    }


def test_fewer_steps_than_are_done_end_the_run(tiny_model, tmp_path, capsys, one_device):  # noqa: F811
    train(command("sft", tiny_model, tmp_path / "run", "--config.steps=4"))
    (tmp_path / "run" / "summary.json").unlink()  # killed just before it was written
    capsys.readouterr()
    train(command("sft", tiny_model, tmp_path / "run", "--config.steps=3"))
    assert "Strict accuracy" in capsys.readouterr().out
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["steps"] == 3


@pytest.mark.slow
def test_a_checkpoint_of_an_older_version_goes_on(tiny_model, tmp_path, monkeypatch, one_device):  # noqa: F811
    """It holds the loader's position and the counts in one dictionary."""
    straight, parts = tmp_path / "straight", tmp_path / "parts"
    train(command("grpo", tiny_model, straight, "--config.steps=4"))
    save = Checkpoints.save

    def save_as_before(self, state, host, *more):
        save(self, state, {**host["loader"], **host["totals"]}, *more)

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "save", save_as_before)
        train(command("grpo", tiny_model, parts, "--config.steps=2"))
    train(command("grpo", tiny_model, parts, "--config.steps=4"))
    check(left_behind(parts, 4), left_behind(straight, 4))


DEATHS = {"terminated": 128 + signal.SIGTERM, "full": 1}


# --- kills -------------------------------------------------------------------------------------


def trial(method, model, folder: Path, place, nth=0, more=()) -> dict:
    name = "-".join([method, str(place), str(nth), *(x.rpartition(".")[2] for x in more)])
    workdir = str(folder / name.replace("=", ""))
    return dict(
        method=method, model=str(model), workdir=workdir, more=list(more), place=place, nth=nth
    )


def run_trials(trials: list[dict], folder: Path, cache: str) -> list[dict]:
    """The references that the trials need, then the trials, compared with them."""
    kinds = sorted({(t["method"], tuple(t["more"])) for t in trials})
    references = {
        kind: trial(kind[0], trials[0]["model"], folder, None, more=kind[1]) for kind in kinds
    }
    plan, results = folder / "trials.json", folder / "results.json"
    plan.write_text(json.dumps([*references.values(), *trials]))
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    environment |= {"JAX_PLATFORMS": "cpu", "JAX_COMPILATION_CACHE_DIR": cache}
    environment |= {key.upper(): str(value) for key, value in CACHE.items()}
    subprocess.run(
        [sys.executable, "-m", "tests.end_to_end.killed", str(plan), str(results)],
        cwd=ROOT,
        env=environment,
        check=True,
    )
    done = json.loads(results.read_text())
    expected = {}
    for kind, reference in zip(references, done, strict=False):
        assert reference["exits"] == [0], reference["outputs"][-1]
        expected[kind] = left_behind(Path(reference["workdir"]), steps_of(reference))
    killed = done[len(references) :]
    for t in killed:
        told = f"{t['method']} {t['place']} {t['nth']}: exits {t['exits']}, whole {t['whole']}"
        assert t["exits"] == [DEATHS.get(t["place"], -signal.SIGKILL), 0], (
            told + "\n" + t["outputs"][-1]
        )
        assert "Traceback" not in t["outputs"][-1], told
        resumed = f"resumed from step {t['whole']} of" in t["outputs"][-1]
        assert resumed == (t["whole"] > 0), told
        check(left_behind(Path(t["workdir"]), steps_of(t)), expected[t["method"], tuple(t["more"])])
    return killed


def steps_of(trial: dict) -> int:
    given = [x for x in trial["more"] if x.startswith("--config.steps=")]
    return int(given[0].partition("=")[2]) if given else 6


def test_t18_interrupted_runs_end_like_others(tiny_model, tmp_path, compiled):  # noqa: F811
    """Killed while saving, logging and sampling; terminated; on a disk that fills up."""
    trials = [
        trial("sft", tiny_model, tmp_path, "saving", 4),
        trial("sft", tiny_model, tmp_path, "logging", 2),
        trial("grpo", tiny_model, tmp_path, "sampling", 5),
        trial("grpo", tiny_model, tmp_path, "terminated", 3),
    ]
    disk = tmp_path / "disk"
    why_not = mount(disk, 6)
    if not why_not:
        trials.append(trial("sft", tiny_model, disk, "full", 2))
    try:
        done = {t["place"]: t for t in run_trials(trials, tmp_path, compiled)}
    finally:
        if not why_not:
            unmount(disk)

    assert done["saving"]["whole"] == 2  # the second save was cut short: it does not count
    assert any("tmp" in name for name in done["saving"]["left"])
    assert done["logging"]["whole"] == 0
    assert done["sampling"]["whole"] in (0, 2)  # the save of step 2 may be under way still
    said = done["terminated"]["outputs"][0].splitlines()[-1]
    assert said == f"terminated after step {done['terminated']['whole']}, which is saved"
    if why_not:
        pytest.skip(f"all but the full disk, which cannot be tried here: {why_not}")
    said = done["full"]["outputs"][0]
    assert done["full"]["whole"] == 2
    assert said.count("\nerror: ") == 1  # before it Orbax's threads may complain on their own
    # A save meets the full disk, or a log that is written while one is on its way.
    said = said.splitlines()[-1]
    workdir = done["full"]["workdir"]
    assert said.startswith((f"error: saving to {workdir}/", f"error: cannot write {workdir}/"))
    assert "No space left on device" in said
    assert "run the same command again" in said


@pytest.mark.slow
def test_t18_killed_in_the_middle_of_a_rollouts_updates(tiny_model, tmp_path, compiled):  # noqa: F811
    """PPO in its fourth step's fourth program of eight, with a KL controller that has moved."""
    (done,) = run_trials(
        [trial("ppo", tiny_model, tmp_path, "updating", 3 * 8 + 4)], tmp_path, compiled
    )
    assert done["whole"] in (0, 2)
    told = [line.get("objective/kl_coef") for line in metrics(Path(done["workdir"]))]
    assert len({coef for coef in told if coef is not None}) > 3


@pytest.mark.slow
@pytest.mark.parametrize("method", ["sft", "grpo"])
def test_many_random_kills(tiny_model, tmp_path, compiled, method):  # noqa: F811
    """At least ten kills at seeded random moments, most of them after a checkpoint."""
    draw = random.Random(method)
    more = ["--config.steps=12"]
    other = [*more, "--config.grpo.num_iterations=2"] if method == "grpo" else more
    places = ["saving", "committing", "deleting", "logging", "evaluating", "updating"]
    places += ["random"] * 6
    if method == "grpo":
        places += ["sampling", "sampling", "terminated"]
    most = {"saving": 12, "committing": 6, "deleting": 3, "logging": 8, "evaluating": 4}
    trials = []
    for i, place in enumerate(places):
        if place == "random":
            nth = draw.randint(2, 9) + round(draw.random(), 2)
        else:
            nth = draw.randint(2 if place == "sampling" else 1, most.get(place, 5))
        trials.append(trial(method, tiny_model, tmp_path, place, nth, other if i % 3 else more))
        trials[-1]["workdir"] += f"-{i}"
    killed = run_trials(trials, tmp_path, compiled)
    counts = Counter(t["place"] for t in killed)
    after = sum(t["whole"] > 0 for t in killed)
    print(f"{method}: {len(killed)} kills ({dict(counts)}), {after} after a checkpoint, from steps")
    print([t["whole"] for t in killed])
    assert len(killed) >= 10 and after >= 3


@pytest.mark.slow
def test_the_real_command_is_killed_from_outside(tiny_model, tmp_path, compiled):  # noqa: F811
    """`python -m caugym_jax.train`, SIGKILL once a checkpoint is whole, and the same again."""
    workdir = tmp_path / "run"
    arguments = [sys.executable, "-m", "caugym_jax.train"]
    arguments += command("sft", tiny_model, workdir, "--config.steps=400", "--config.log.every=100")
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    environment |= {"JAX_PLATFORMS": "cpu", "JAX_COMPILATION_CACHE_DIR": compiled}
    log = tmp_path / "log"
    with log.open("w") as out:
        process = subprocess.Popen(
            arguments, cwd=ROOT, env=environment, stdout=out, stderr=subprocess.STDOUT
        )
        try:
            while process.poll() is None and not (workdir / "checkpoints" / "4").exists():
                time.sleep(0.01)
        finally:
            process.kill()
            process.wait()
    assert process.returncode == -signal.SIGKILL, log.read_text()
    done = len(metrics(workdir))
    assert done
    whole = max(int(p.name) for p in workdir.glob("checkpoints/*") if p.name.isdigit())
    arguments = [a.replace("steps=400", f"steps={whole + 1}") for a in arguments]
    again = subprocess.run(arguments, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert f"resumed from step {whole} of" in again.stderr
