"""Faults of files, disks and reward functions, tried in one process.

Each trial takes a copy of a run that was stopped after step 4 of 6 (checkpoints of 2 and 4), or a
new folder, does the damage, and gives the command that any user would: the same once more. What is
left at the end must be what the undisturbed run left, bit for bit.
"""

import contextlib
import errno
import io
import json
import random
import shutil
import subprocess
import time
from pathlib import Path

import jax
import numpy as np
from safetensors.numpy import load_file, save_file

from caugym_jax import export
from caugym_jax.errors import UserError
from caugym_jax.runs import loop
from caugym_jax.train import main as train
from tests.end_to_end.runs import command, digests, left_behind
from tests.faults import rewards
from tests.faults.plan import STEPS, STOPPED, Trial

SMALL = ("metrics.jsonl", "samples.jsonl", "before.json", "config.json", "model/config.json",
         "model/tokenizer.json")  # fmt: skip
OPTIONS = {
    "sft": ["--config.evaluation.every=2"],
    "grpo": [
        "--config.evaluation.every=2",
        "--config.grpo.reward_timeout=3.0",
        "--config.grpo.reward_weights=tests.faults.rewards:spread=1",
    ],
}


class Wrong(Exception):
    """A promise was broken."""


def options(method: str, steps: int = STEPS) -> list[str]:
    return [*OPTIONS[method], f"--config.steps={steps}"]


def run(method: str, model: Path, workdir: Path, steps: int = STEPS) -> tuple[str | None, str]:
    """(what the command complained of, or None; what it said) of a run in this process."""
    said = io.StringIO()
    complaint = None
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        try:
            train(command(method, model, workdir, *options(method, steps)))
        except UserError as error:
            complaint = str(error)
    if complaint is not None and (not complaint or "\n" in complaint or len(complaint) > 1500):
        raise Wrong(f"not one clear line: {complaint!r}")
    return complaint, said.getvalue()


def resumed_from(said: str) -> int:
    """The step that a run went on from, as it said; 0: it began."""
    lines = [line for line in said.splitlines() if line.startswith("resumed from step ")]
    return int(lines[0].split()[3]) if lines else 0


class Bench:
    """The undisturbed runs, and the folder in which trials take place."""

    def __init__(self, folder: Path, model: Path):
        self.folder, self.model = folder, model

    def make(self, method: str) -> None:
        """Runs the undisturbed run and the stopped one."""
        for name, steps in (("whole", STEPS), ("stopped", STOPPED)):
            workdir = self.folder / f"{method}-{name}"
            complaint, _ = run(method, self.model, workdir, steps)
            if complaint:
                raise Wrong(complaint)
        for name in ("summary.json", "after.json"):  # as if it had been killed
            (workdir / name).unlink()
        whole = left_behind(self.folder / f"{method}-whole", STEPS)
        (self.folder / f"{method}-expected.json").write_text(json.dumps(whole))

    def stopped(self, trial: Trial) -> Path:
        workdir = self.folder / f"trial-{trial.number}"
        shutil.copytree(self.folder / f"{trial.method}-stopped", workdir)
        return workdir

    def compare(self, workdir: Path, method: str, unlike: tuple[str, ...] = ()) -> None:
        """Raises where what is left differs from the undisturbed run's, `unlike` apart."""
        found, expected = left_behind(workdir, STEPS, spoilt=True), self.expected(method)
        for key in expected:
            if key not in unlike and found[key] != expected[key]:
                raise Wrong(f"{key} differs from the undisturbed run's")

    def expected(self, method: str) -> dict:
        return json.loads((self.folder / f"{method}-expected.json").read_text())


def attempt(bench: Bench, trial: Trial) -> dict:
    """What came of a trial: {"outcome", "detail", "from"}; raises Wrong (or anything else)."""
    dice = random.Random(str(trial.at))
    kind = trial.kind
    if kind.startswith("newest checkpoint"):
        return _newest(bench, trial, dice)
    if kind.startswith("small file"):
        return _small(bench, trial, dice)
    if kind.startswith("reward function"):
        return _reward(bench, trial)
    return {
        "all checkpoints damaged": _all_damaged,
        "damaged checkpoint, exported": _exported,
        "remains of a save cut short": _save_cut,
        "remains of a removal cut short": _removal_cut,
        "disk full": _full,
        "writing fails": _write_fails,
        "weights with NaN": _nan_weights,
        "NaN in moments": _nan_moments,
    }[kind](bench, trial, dice)


def spoil(path: Path, how: str, dice: random.Random) -> str:
    """Damages a file and says how."""
    content = bytearray(path.read_bytes())
    if how == "gone":
        path.unlink()
        return f"{path.name} removed"
    if how == "cut short":
        size = dice.randrange(len(content)) if content else 0
        path.write_bytes(content[:size])
        return f"{path.name} cut from {len(content)} to {size} bytes"
    for _ in range(dice.choice((1, 1, 8))):
        content[dice.randrange(len(content))] ^= 1 << dice.randrange(8)
    path.write_bytes(content)
    return f"bits flipped in {path.name}"


def _how(trial: Trial) -> str:
    for how in ("gone", "cut short"):
        if trial.kind.endswith(how):
            return how
    return "bits flipped"


def _a_file(folder: Path, dice: random.Random) -> Path:
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.stat().st_size)
    return dice.choice(files)


def _finish(bench, trial, workdir, least: int, unlike=()) -> tuple[int, str]:
    """Runs to the end and compares; it must not go back further than step `least`."""
    complaint, said = run(trial.method, bench.model, workdir)
    if complaint is not None:
        raise Wrong(f"does not go on: {complaint}")
    first = resumed_from(said)
    if first < least:
        raise Wrong(f"went back to step {first}, though {least} was whole")
    bench.compare(workdir, trial.method, unlike)
    return first, said


def _newest(bench, trial, dice) -> dict:
    workdir = bench.stopped(trial)
    file = _a_file(workdir / "checkpoints" / str(STOPPED), dice)
    detail = spoil(file, _how(trial), dice)
    first, said = _finish(bench, trial, workdir, 2)
    told = f"checkpoints/{STOPPED} is damaged" in said
    if (first < STOPPED) != told:
        raise Wrong(f"resumed from {first}, {'told' if told else 'not told'}: {detail}")
    return {"outcome": "told, the one before used" if told else "no harm", "detail": detail,
            "from": first}  # fmt: skip


def _all_damaged(bench, trial, dice) -> dict:
    workdir = bench.stopped(trial)
    details = [
        spoil(_a_file(workdir / "checkpoints" / str(step) / "state", dice), "bits flipped", dice)
        for step in (2, STOPPED)
    ]
    complaint, said = run(trial.method, bench.model, workdir)
    if complaint is None:  # e.g. only a file that nothing needs was hit
        bench.compare(workdir, trial.method)
        return {"outcome": "no harm", "detail": details, "from": resumed_from(said)}
    if "is whole" not in complaint:
        raise Wrong(complaint)
    shutil.rmtree(workdir / "checkpoints")  # as the line says
    first, _ = _finish(bench, trial, workdir, 0)
    return {"outcome": "refused in one line", "detail": complaint[-200:], "from": first}


def _exported(bench, trial, dice) -> dict:
    workdir, out = bench.stopped(trial), bench.folder / f"trial-{trial.number}" / "hf"
    file = _a_file(workdir / "checkpoints" / str(STOPPED), dice)
    detail = spoil(file, dice.choice(("gone", "cut short", "bits flipped")), dice)
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        export.main([f"--workdir={workdir}", f"--out={out}"])
    told = "is damaged" in said.getvalue()
    step = 2 if told else STOPPED
    expected = bench.folder / f"{trial.method}-stopped-hf-{step}"
    if not expected.exists():
        source = bench.folder / f"{trial.method}-stopped"
        with contextlib.redirect_stdout(io.StringIO()):
            export.main([f"--workdir={source}", f"--out={expected}", f"--step={step}"])
    if (out / "model.safetensors").read_bytes() != (expected / "model.safetensors").read_bytes():
        raise Wrong(f"exported weights are not those of step {step}: {detail}")
    outcome = "told, the one before used" if told else "no harm"
    return {"outcome": outcome, "detail": detail, "from": step}


def _small(bench, trial, dice) -> dict:
    workdir = bench.stopped(trial)
    names = [name for name in SMALL if (workdir / name).exists()]
    name = dice.choice(names)
    detail = f"{name}: {spoil(workdir / name, _how(trial), dice)}"
    unlike = {
        "metrics.jsonl": ("metrics",),
        "samples.jsonl": ("samples",),
        "before.json": ("before", "text"),
    }.get(name, ())
    complaint, said = run(trial.method, bench.model, workdir)
    if complaint is None:
        first = resumed_from(said)
        if first < STOPPED:
            raise Wrong(f"went back to step {first}: {detail}")
        bench.compare(workdir, trial.method, unlike)
        try:
            bench.compare(workdir, trial.method)
            outcome = "repaired" if "damaged" in said or name == "before.json" else "no harm"
        except Wrong:
            outcome = f"run unharmed, {name} differs"
        return {"outcome": outcome, "detail": detail, "from": first}
    if name != "config.json":
        raise Wrong(f"{detail}: {complaint}")
    (workdir / name).unlink()  # as the line says
    first, _ = _finish(bench, trial, workdir, STOPPED)
    return {"outcome": "refused in one line", "detail": f"{detail}: {complaint[-150:]}",
            "from": first}  # fmt: skip


def _save_cut(bench, trial, dice) -> dict:
    workdir = bench.stopped(trial)
    folder = workdir / "checkpoints"
    cut = folder / f"{STOPPED + 1}.orbax-checkpoint-tmp"
    shutil.copytree(folder / str(STOPPED), cut)
    detail = spoil(_a_file(cut, dice), dice.choice(("gone", "cut short")), dice)
    first, _ = _finish(bench, trial, workdir, STOPPED)
    return {"outcome": "no harm", "detail": detail, "from": first}


def _removal_cut(bench, trial, dice) -> dict:
    workdir = bench.stopped(trial)
    files = sorted(p for p in (workdir / "checkpoints" / "2").rglob("*") if p.is_file())
    for path in dice.sample(files, dice.randint(1, len(files))):
        path.unlink()
    first, _ = _finish(bench, trial, workdir, STOPPED)
    return {"outcome": "no harm", "detail": "", "from": first}


def _full(bench, trial, dice) -> dict:
    """A disk of its own, which a ballast fills up but for a random rest."""
    disk = bench.folder / f"trial-{trial.number}"
    disk.mkdir()
    size = 6
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}m", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True).returncode:
        return {"outcome": "not tried: no mount here", "detail": "", "from": 0}
    try:
        free = int(trial.at[0] ** 2 * 2e6) + 4096
        (disk / "ballast").write_bytes(b"x" * (size * 2**20 - free))
        complaint, _ = run(trial.method, bench.model, disk / "run")
        (disk / "ballast").unlink()
        steps = [int(p.name) for p in (disk / "run").glob("checkpoints/*") if p.name.isdigit()]
        first, _ = _finish(bench, trial, disk / "run", max(steps, default=0))
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)
    if complaint is None:
        return {"outcome": "no harm", "detail": f"{free} bytes free", "from": first}
    if not any(text in complaint for text in ("No space left", "disk is full")):
        raise Wrong(f"the disk was full: {complaint}")
    return {"outcome": "refused in one line", "detail": f"{free} bytes free: {complaint[:150]}",
            "from": first}  # fmt: skip


def _write_fails(bench, trial, dice) -> dict:
    """The n-th folder that is to get its name does not."""
    from orbax.checkpoint._src.path import atomicity

    workdir = bench.folder / f"trial-{trial.number}"
    visits, nth = iter(range(10**6)), int(trial.at[0] * 9)
    real = atomicity.AtomicRenameTemporaryPath.finalize

    async def finalize(self):
        if next(visits) == nth:
            raise OSError(errno.EIO, "Input/output error")
        await real(self)

    atomicity.AtomicRenameTemporaryPath.finalize = finalize
    try:
        complaint, _ = run(trial.method, bench.model, workdir)
    finally:
        atomicity.AtomicRenameTemporaryPath.finalize = real
    if complaint is None or "Input/output error" not in complaint:
        raise Wrong(f"not told: {complaint}")
    steps = [int(p.name) for p in workdir.glob("checkpoints/*") if p.name.isdigit()]
    first, _ = _finish(bench, trial, workdir, max(steps, default=0))
    return {"outcome": "refused in one line", "detail": complaint[-150:], "from": first}


def _reward(bench, trial) -> dict:
    workdir = bench.folder / f"trial-{trial.number}"
    kind = trial.kind.removeprefix("reward function ")
    start = time.perf_counter()
    rewards.prepare((kind, 1 + int(trial.at[0] * STEPS), trial.at[1]))
    try:
        complaint, _ = run(trial.method, bench.model, workdir)
    finally:
        rewards.prepare(None)
    seconds = time.perf_counter() - start
    if complaint is None or "reward 'tests.faults.rewards:spread' failed at " not in complaint:
        raise Wrong(f"not told: {complaint}")
    steps = [int(p.name) for p in workdir.glob("checkpoints/*") if p.name.isdigit()]
    first, _ = _finish(bench, trial, workdir, max(steps, default=0))
    return {"outcome": "refused in one line", "detail": f"{seconds:.1f} s: {complaint}",
            "from": first}  # fmt: skip


def _nan_weights(bench, trial, dice) -> dict:
    """A model with a NaN: no update counts, and what is saved is what was read."""
    workdir, model = bench.folder / f"trial-{trial.number}", bench.folder / f"nan-{trial.number}"
    shutil.copytree(bench.model, model)
    weights = {k: np.array(v) for k, v in load_file(model / "model.safetensors").items()}
    name = dice.choice(sorted(n for n in weights if "layers" in n))
    weights[name].reshape(-1)[dice.randrange(weights[name].size)] = np.nan
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    complaint, _ = run(trial.method, model, workdir)
    shutil.rmtree(model)
    if complaint is not None:
        return {"outcome": "refused in one line", "detail": complaint, "from": 0}
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    last = max(lines, key=lambda line: (line["step"], "skipped_updates" in line))
    passed_over = last["skipped_updates"] + last.get("steps_without_signal", 0)
    if passed_over != STEPS:
        raise Wrong(f"{passed_over} of {STEPS} steps were skipped with a NaN in {name}")
    states = [digests(workdir, step) for step in (4, STEPS)]
    moved = [key for key in states[0] if "params" in key and states[0][key] != states[1][key]]
    if moved:
        raise Wrong(f"{moved} changed though all updates were skipped")
    return {"outcome": "all updates skipped and counted", "detail": name, "from": 0}


def _nan_moments(bench, trial, dice) -> dict:
    """A moment turns into NaN before an update: nothing of it is saved, and the run says so."""
    workdir, at = bench.folder / f"trial-{trial.number}", 1 + int(trial.at[0] * STEPS)
    real, struck = loop._update, []

    def update(algorithm, state, experience, metrics):
        if int(state.step) + 1 >= at and not struck:
            leaves, tree = jax.tree.flatten(state.opt_state)
            moments = [i for i, x in enumerate(leaves) if x.ndim and x.dtype == np.float32]
            struck.append(dice.choice(moments))
            array = np.array(leaves[struck[0]])
            array.reshape(-1)[dice.randrange(array.size)] = np.nan
            leaves[struck[0]] = jax.device_put(array, leaves[struck[0]].sharding)
            state = state._replace(opt_state=jax.tree.unflatten(tree, leaves))
        return real(algorithm, state, experience, metrics)

    loop._update = update
    try:
        complaint, _ = run(trial.method, bench.model, workdir)
    finally:
        loop._update = real
    if complaint is None and struck:
        raise Wrong(f"saved with a NaN in moment {struck}")
    if complaint is not None and "opt_state" not in complaint:
        raise Wrong(f"does not name the array: {complaint}")
    steps = [int(p.name) for p in workdir.glob("checkpoints/*") if p.name.isdigit()]
    first, _ = _finish(bench, trial, workdir, max(steps, default=0))
    outcome = "refused in one line" if complaint else "no harm"
    return {"outcome": outcome, "detail": complaint or "no update followed", "from": first}
