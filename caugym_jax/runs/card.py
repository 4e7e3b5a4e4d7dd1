"""The model card of a run: what was trained from what, on what, how, and with which figures."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

from caugym_jax.runs.folder import RECORD, read_back, settings_of

_FIGURES = ("eval/strict", "eval/strict_nonzero", "eval/reward", "eval/loss", "loss", "reward")


def model_card(workdir: Path, base: str, step: int | None) -> str:
    """README.md of an exported model, with the header that the hub reads.

    Args:
      base: the model that the run started from.
      step: the checkpoint.
    """
    settings = settings_of(workdir)
    record = read_back(workdir / RECORD, dict) or {}
    first = (record.get("starts") or [{}])[0]
    method = settings.get("method", "training")
    header = ["base_model: " + json.dumps(base)] if "/" in base and not Path(base).exists() else []
    lines = [
        "---",
        *header,
        "library_name: transformers",
        "pipeline_tag: text-generation",
        f"tags: [caugym_jax, {method}]",
        "---",
        f"# {method.upper()} of {Path(base).name}",
        "",
        f"Trained with caugym_jax: step {step} of {settings.get('steps')}.",
        "",
        f"- method: {method}",
        f"- started from: {Path(base).name if Path(base).exists() else base}",
        f"- data: {_data(settings)}",
        f"- seed: {settings.get('seed')}",
        f"- command: `{_command(first.get('command') or [])}`",
        f"- versions: {_versions(first)}",
    ]
    if figures := _figures(workdir, step):
        rows = [f"| {key} | {value:.4f} |" for key, value in figures.items()]
        lines += ["", "| figure | value |", "|---|---|", *rows]
    return "\n".join(lines) + "\n"


def _data(settings: dict[str, Any]) -> str:
    path = settings.get("data.path")
    if path is None:
        tasks = settings.get("data.tasks") or []
        return f"generated CauGym problems, {settings.get('data.variant')}, {', '.join(tasks)}"
    return ", ".join(Path(part).name for part in str(path).split(","))


def _command(words: list[str]) -> str:
    """The command, without the folders of the machine that ran it."""
    if not words:
        return "?"
    name = Path(words[0]).stem
    return shlex.join(["python", "-m", f"caugym_jax.{name}", *map(_bare, words[1:])])


def _bare(word: str) -> str:
    key, equals, value = word.rpartition("=")
    return f"{key}{equals}{Path(value).name if value.startswith(('/', '~')) else value}"


def _versions(start: dict[str, Any]) -> str:
    known = {k: v for k, v in start.items() if isinstance(v, str) and k not in ("time", "devices")}
    return ", ".join(f"{key} {value}" for key, value in known.items()) or "?"


def _figures(workdir: Path, step: int | None) -> dict[str, float]:
    """The newest of the main figures up to the step."""
    path = workdir / "metrics.jsonl"
    found: dict[str, float] = {}
    if not path.exists():
        return {}
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if step is None or line.get("step", 0) <= step:
            found |= {k: line[k] for k in _FIGURES if isinstance(line.get(k), int | float)}
    return found
