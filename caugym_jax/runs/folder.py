"""A run's folder: whose it is, what shape its model has, and how the run ended.

WORKDIR/config.json     the flattened configuration
        model/          config.json and tokenizer of the model (no weights)
        checkpoints/    training states
        metrics.jsonl  samples.jsonl  tensorboard/
        before.json  after.json  summary.json
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

from caugym_jax.cli.config import differences
from caugym_jax.data.tokenizer import Tokenizer
from caugym_jax.errors import UserError
from caugym_jax.models.config import ModelConfig
from caugym_jax.models.hf_config import to_hf_config
from caugym_jax.runs.checkpoints import Checkpoints, saved_steps
from caugym_jax.runs.log import write_text, writing

Parsed = TypeVar("Parsed")


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


def claim_workdir(
    workdir: Path,
    config: dict[str, Any],
    may_change: tuple[str, ...],
    defaults: Mapping[str, Any] = MappingProxyType({}),
) -> None:
    """Makes the workdir, or checks that it belongs to this configuration.

    Args:
      defaults: of keys that a run may lack which was started before there were such keys.

    A run that has saved nothing starts again, with any settings.

    Raises:
      UserError: it holds another run (the differences are listed), or something else.
    """
    try:
        workdir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make the workdir {workdir}: {error.strerror}") from error
    stored = workdir / "config.json"
    if old := settings_of(workdir):
        old = {key: value for key, value in defaults.items() if key in config} | old
        found = differences(old, config, may_change)
        if found and not saved_steps(workdir):
            for name in ("before.json", "after.json", "summary.json"):
                (workdir / name).unlink(missing_ok=True)
        elif found:
            raise UserError(
                f"{workdir} belongs to a run with other settings ({'; '.join(found)}): choose "
                "another --workdir, or remove that one"
            )
    write_text(stored, json.dumps(config, indent=1, sort_keys=True) + "\n")


def pinned_step(workdir: Path, name: str, step: int | None) -> int | None:
    """The checkpoint that a run starts from.

    A run that starts from another run keeps to the checkpoint that was that one's newest when this
    one began, so that its first model stays the same if the other run trains on.
    """
    stored = settings_of(workdir)
    if step is not None:
        return step
    if stored.get("model.name") == name:
        return stored.get("model.step")
    return chosen_step(name, None)


def chosen_step(name: str, step: int | None) -> int | None:
    """The checkpoint that a workdir opens with: `step`, or the newest; None of any other model."""
    if not (Path(name) / "checkpoints").is_dir():
        return None
    if step is not None:
        return step
    with Checkpoints(name, read_only=True) as checkpoints:
        return checkpoints.latest


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
    except (ValueError, KeyError, TypeError):
        print(f"{path} is damaged: it is made again", file=sys.stderr)
        return None


def ended(workdir: Path, steps: int) -> str | None:
    """The summary of a run that has trained `steps` steps or more; None of any other."""
    done = read_back(workdir / "summary.json", lambda found: (found["steps"], found["text"]))
    return done[1] if done is not None and done[0] >= steps else None


def end(workdir: Path, answers: dict[str, Any], steps: int, text: str) -> None:
    """Writes the last answers and the summary, with which a run has ended."""
    write_text(workdir / "after.json", json.dumps(answers))
    write_text(workdir / "summary.json", json.dumps({"steps": steps, "text": text}))
