"""A run's folder: whose it is, what shape its model has, and how the run ended.

WORKDIR/config.json     the flattened configuration
        run.json        each start: time, command, versions, devices; digests of the run's files
        lock            the process that trains here now
        model/          config.json and tokenizer of the model (no weights)
        checkpoints/    training states
        metrics.jsonl  samples.jsonl  tensorboard/
        before.json  after.json  summary.json
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

import jax

from caugym_jax.cli.config import differences
from caugym_jax.data.tokenizer import Tokenizer
from caugym_jax.devices import processes
from caugym_jax.errors import UserError
from caugym_jax.models.config import ModelConfig
from caugym_jax.models.hf_config import to_hf_config
from caugym_jax.runs import identity
from caugym_jax.runs.checkpoints import Checkpoints, CheckpointSettings, saved_steps
from caugym_jax.runs.log import write_text, writing

Parsed = TypeVar("Parsed")
T = TypeVar("T")
DELETION = 5.0  # seconds that a live run may need to delete a checkpoint
RECORD = "run.json"


def default_workdir(config: str) -> Path:
    """The default folder of a run of NAME[.py][:ARG]: runs/NAME[-ARG]."""
    name, colon, arg = config.partition(":")
    return Path("runs") / f"{name.removesuffix('.py')}{'-' * bool(colon)}{arg}".replace("/", "-")


def settings_of(workdir: str | Path) -> dict[str, Any]:
    """A run's flattened configuration; empty where there is none."""
    path = Path(workdir) / "config.json"
    if not path.exists():
        return {}
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        found = None
    if not isinstance(found, dict) or "method" not in found:
        raise UserError(
            f"{path} is damaged, or not a run's: choose another --workdir, or remove that file to "
            "go on with the settings given"
        )
    return found


def started(workdir: str | Path) -> str | None:
    """When a run was started first, as YYYY-MM-DD and the time; None where nothing says so."""

    def first(record: dict[str, Any]) -> str:
        return str(record["starts"][0]["time"])

    return read_back(Path(workdir) / RECORD, first)


def claim_workdir(
    workdir: Path,
    config: dict[str, Any],
    may_change: tuple[str, ...],
    defaults: Mapping[str, Any] = MappingProxyType({}),
    meaning: Callable[[dict[str, Any]], dict[str, Any]] = dict,
) -> None:
    """Makes the workdir, or checks that it belongs to this configuration.

    Args:
      defaults: of keys that a run may lack which was started before there were such keys.
      meaning: settings of one meaning -> equal settings.

    A run that has saved nothing starts again, with any settings. Where the evaluation has changed,
    the first model will be asked again. Files that have changed since the run began are reported.

    Raises:
      UserError: it holds another run (the differences are listed), or something else.
    """
    try:
        workdir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make the workdir {workdir}: {error.strerror}") from error
    files = identity.files(config)
    record = read_back(workdir / RECORD, dict) or {}
    if old := settings_of(workdir):
        old = {key: value for key, value in defaults.items() if key in config} | _renamed(old)
        same = _same_content(old, config, record.get("files", {}), files)
        found = differences(meaning(old | same), meaning(config), may_change)
        if found and saved_steps(workdir):
            raise UserError(
                f"{workdir} belongs to a run with other settings ({'; '.join(found)}): choose "
                f"another --workdir; with --config.model.name={workdir} a run there starts from "
                "this one's model"
            )
        if found or _asks_else(old, config):
            for name in ("before.json", "after.json", "summary.json"):
                (workdir / name).unlink(missing_ok=True)
        if found:
            record = {}
        for key, digest in record.get("files", {}).items():
            if old.get(key) == config.get(key) and files.get(key, digest) != digest:
                what = f"a file of config.{key}" if key == identity.MIXTURE else config[key]
                processes.say(f"{what} has changed since this run began")
    start: dict[str, Any] = {
        "time": _now(),
        "command": sys.argv,
        "devices": str(jax.devices()[0].device_kind),
    }
    start["device_count"], start["processes"] = jax.device_count(), processes.count()
    record = {"files": files} | record
    record["starts"] = [*record.get("starts", []), start | identity.program()]
    write_text(workdir / RECORD, json.dumps(record, indent=1) + "\n")
    write_text(workdir / "config.json", json.dumps(config, indent=1, sort_keys=True) + "\n")


# Keys of earlier versions, and what they are called now.
RENAMED = {
    "ppo.cliprange": "ppo.epsilon",
    "ppo.kl_coef": "ppo.beta",
    "ppo.num_mini_batches": "ppo.num_minibatches",
    "ppo.num_ppo_epochs": "ppo.num_iterations",
}


def _renamed(settings: dict[str, Any]) -> dict[str, Any]:
    return {RENAMED.get(key, key): value for key, value in settings.items()}


def _same_content(
    old: Mapping[str, Any],
    new: Mapping[str, Any],
    then: Mapping[str, str],
    now: Mapping[str, str],
) -> dict[str, Any]:
    """Settings of `new` that name another place where the same lies. Of a run the digest does not
    know the weights, so that one stays where it is.
    """
    return {
        key: new[key]
        for key, digest in now.items()
        if then.get(key) == digest and key in old and not os.path.isdir(f"{new[key]}/checkpoints")
    }


def _asks_else(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    """Whether the held-out problems, or how they are asked, have changed."""
    keys = {key for key in (*old, *new) if key.startswith("evaluation.")} - {"evaluation.every"}
    return any(old.get(key) != new.get(key) for key in keys)


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")


def pinned_step(workdir: Path, name: str, step: int | None) -> int | None:
    """The checkpoint that a run starts from.

    A run that starts from another run keeps to the checkpoint that was that one's newest when this
    one began, so that its first model stays the same if the other run trains on.
    """
    stored = settings_of(workdir)
    if step is not None:
        return step
    before = stored.get("model.name")
    if before == name or (before and _same_place(before, name)):
        return stored.get("model.step")
    return chosen_step(name, None)


def _same_place(one: str, other: str) -> bool:
    return Path(one).exists() and Path(other).exists() and os.path.samefile(one, other)


def chosen_step(name: str, step: int | None) -> int | None:
    """The checkpoint that a workdir opens with: `step`, or the newest; None of any other model."""
    if not (Path(name) / "checkpoints").is_dir():
        return None
    if step is not None:
        return step
    with Checkpoints(name, read_only=True) as checkpoints:
        return checkpoints.latest


def numbered(workdir: str | Path, step: int | str | None) -> int | None:
    """The number of a run's checkpoint; "best" is the one of `checkpoint.best`.

    Raises:
      UserError: no checkpoint of the workdir was evaluated, or it keeps no best.
    """
    if step is None or isinstance(step, int):
        return step
    figure = settings_of(workdir).get("checkpoint.best")
    best = None
    if figure is not None:
        settings = CheckpointSettings(best=figure)
        with Checkpoints(workdir, settings, read_only=True) as checkpoints:
            best = checkpoints.best
    if best is None:
        raise UserError(
            f"--step=best: {workdir} holds no checkpoint that was evaluated by checkpoint.best="
            f"{figure}: give the number of one"
        )
    return best[0]


def of_checkpoint(workdir: str | Path, step: int | str | None, use: Callable[[int | None], T]) -> T:
    """use(the number of a run's checkpoint), e.g. to export it.

    A live run may delete the checkpoint meanwhile: then `use` is called again, with the one that
    is the newest (or best) by then.

    Args:
      step: as `numbered` takes it. Of what is no run the number is None.
    """
    if not (Path(workdir) / "checkpoints").is_dir():
        return use(chosen_step(str(workdir), numbered(workdir, step)))
    while True:
        before = saved_steps(workdir)
        try:
            return use(chosen_step(str(workdir), numbered(workdir, step)))
        except Exception:
            if processes.count() > 1 or not _moves_on(Path(workdir), before):
                raise


def _moves_on(workdir: Path, before: list[int]) -> bool:
    """Whether a run has saved or deleted checkpoints since; a deletion may be under way."""
    end = time.monotonic() + (DELETION if (workdir / "lock").exists() else 0.0)
    while (same := saved_steps(workdir) == before) and time.monotonic() < end:
        time.sleep(0.1)
    return not same


def save_shape(folder: Path, config: ModelConfig, tokenizer: Tokenizer) -> None:
    """Writes the model's config.json and tokenizer, which a checkpoint alone lacks."""
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        tokenizer.save(folder)
    bos = tokenizer.generation_config().get("bos_token_id")
    hf = to_hf_config(config, eos=list(tokenizer.end_ids), bos=bos, pad=tokenizer.pad_id)
    write_text(folder / "config.json", json.dumps(hf, indent=2) + "\n")


def read_back(path: Path, parse: Callable[[Any], Parsed]) -> Parsed | None:
    """`parse` of a JSON file's content; None where there is no file, or a damaged one."""
    try:
        return parse(json.loads(path.read_text())) if path.exists() else None
    except (ValueError, KeyError, TypeError, IndexError):
        processes.say(f"{path} is damaged: it is made again")
        return None


def ended(workdir: Path, steps: int) -> str | None:
    """The summary of a run that has trained `steps` steps or more; None of any other."""
    done = read_back(workdir / "summary.json", lambda found: (found["steps"], found["text"]))
    return done[1] if done is not None and done[0] >= steps else None


def end(workdir: Path, answers: dict[str, Any] | None, steps: int, text: str) -> None:
    """Writes the last answers, if any, and the summary, with which a run has ended."""
    if answers is not None:
        write_text(workdir / "after.json", json.dumps(answers))
    record = read_back(workdir / RECORD, dict) or {}
    write_text(workdir / RECORD, json.dumps(record | {"ended": _now()}, indent=1) + "\n")
    write_text(workdir / "summary.json", json.dumps({"steps": steps, "text": text}))
