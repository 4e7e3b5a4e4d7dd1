"""What a study runs: trials, and the configuration of each. Imports no jax.

A trial is one training run. Those of "problems" see every problem `epochs` times. Those of
"compute" see the same problems again and again until they have computed as much as the costliest
method: their steps are known when all trials of "problems" have ended (`matched_steps`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from caugym_jax.studies.settings import Study

START = "start"  # the folder of the first model's answers
COLD_START = "cold-start"
CLOSE = 1.1  # a trial of "problems" that is this near to the compute of all stands for itself
DATA = {"sft": "train", "dpo": "pairs", "kto": "judged", "ppo": "train", "grpo": "train"}


@dataclasses.dataclass(frozen=True)
class Trial:
    """One training run of a study."""

    method: str
    seed: int
    steps: int
    budget: str = "problems"  # or "compute"

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"{self.method}-{self.seed}{'-compute' * (self.budget == 'compute')}"


def first_trials(study: Study) -> list[Trial]:
    """Those of "problems", seed by seed, so that an early look sees all methods."""
    return [Trial(method, seed, study.steps) for seed in study.seeds for method in study.methods]


def matched_steps(steps: int, costs: Mapping[str, Sequence[float]]) -> dict[str, int]:
    """{method: steps of its trials of "compute"}, those that have to go on longer.

        steps_m = round(steps * max over methods of mean cost / mean cost of m)

    Args:
      steps: of the trials of "problems".
      costs: what each of a method's trials of "problems" cost (`cost`).
    """
    means = {method: sum(found) / len(found) for method, found in costs.items()}
    most = max(means.values())
    return {
        method: round(steps * most / mean)
        for method, mean in means.items()
        if most >= CLOSE * mean > 0
    }


def cost(
    method: str, lines: Iterable[Mapping[str, Any]], config: Mapping[str, Any], epoch: int
) -> float:
    """What a run computed: passes of tokens through the model, a backward pass counting as two.

        SFT    3 T
        DPO    3 T, and T for the reference in the first epoch
        KTO    3 U + (T - U), and T likewise: U the own completions, T - U the mismatched ones
        GRPO   T + 3 U, and U for the old policy if there are several updates, U for a reference
        PPO    T + 3 U + 3 U (critic) + U (values) + U (old policy), and U for a reference

    T are a step's tokens, U those updated (docs/metrics.md). Attention's growth with length, and
    evaluations, are left out.

    Args:
      lines: of metrics.jsonl.
      config: the run's settings, {dotted key: value}.
      epoch: steps in which the run sees its data once.
    """
    total = 0.0
    steps = [line for line in lines if line.get("tokens")]
    for i, line in enumerate(steps):
        tokens = float(line["tokens"])
        updated = float(line.get("tokens_updated") or tokens)
        if method == "sft":
            total += 3 * tokens
        elif method in ("dpo", "kto"):
            total += 3 * updated + (tokens - updated) + tokens * (i < epoch)
        else:
            total += tokens + updated * _passes(method, config)
    return total


def _passes(method: str, config: Mapping[str, Any]) -> int:
    """Through the model, of each token that PPO or GRPO updates."""
    parts = [config.get(f"{method}.{key}") or 1 for key in ("num_iterations", "num_minibatches")]
    reference = bool(config.get(f"{method}.beta"))
    if method == "ppo":
        return 3 + 3 + 1 + 1 + reference
    return 3 + (parts != [1, 1]) + reference


# Configurations -------------------------------------------------------------------------------


def overrides(study: Study, trial: Trial, data: Path, start: str) -> list[str]:
    """`key=value` settings of the trial's configuration, as `train` takes them.

    Args:
      data: the folder of the study's files.
      start: the model that the trial starts from.
    """
    method, size = trial.method, study.batch_size
    length = study.max_prompt_length + study.max_completion_length
    every = max(1, -(-trial.steps // study.evaluations))
    values: dict[str, Any] = {
        "model.name": start,
        "steps": trial.steps,
        "seed": trial.seed,
        "data.path": data / f"{DATA[method]}.jsonl",
        "data.batch_size": 2 * size if method == "kto" else size,
        **_evaluation(study, data, every),
    }
    if method in ("ppo", "grpo"):
        values["data.max_prompt_length"] = study.max_prompt_length
        values[f"{method}.max_completion_length"] = study.max_completion_length
    else:
        values["data.max_length"] = length
    if method == "sft":
        values["data.mixture"] = None
    return _texts(values) + _texts(_flat((study.options or {}).get(method) or {}))


def cold_overrides(study: Study, data: Path) -> list[str]:
    """Of the cold start, a supervised run."""
    steps = max(1, study.cold_start * study.cold_epochs // study.batch_size)
    values = {
        "model.name": study.model,
        "steps": steps,
        "seed": study.seed,
        "data.path": data / "cold.jsonl",
        "data.batch_size": min(study.batch_size, study.cold_start),
        "data.max_length": study.max_prompt_length + study.max_completion_length,
        "data.mixture": None,
        **_evaluation(study, data, steps),
    }
    return _texts(values) + _texts(_flat((study.options or {}).get("sft") or {}))


def _evaluation(study: Study, data: Path, every: int) -> dict[str, Any]:
    return {
        "evaluation.path": data / "held_out.jsonl",
        "evaluation.n": study.held_out,
        "evaluation.every": every,
        "evaluation.max_new_tokens": study.max_completion_length,
        "checkpoint.every": every,
    }


def spec(study: Study, method: str) -> str:
    """The method's configuration, as `--config` takes it."""
    return f"{method}.py" + (f":{study.recipe}" if study.recipe else "")


def _texts(values: Mapping[str, Any]) -> list[str]:
    return [f"{key}={value}" for key, value in values.items()]


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{dotted key: value} of nested mappings; keys may be dotted already."""
    out: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            out |= _flat(value, f"{prefix}{key}.")
        else:
            out[f"{prefix}{key}"] = ",".join(map(str, value)) if _several(value) else value
    return out


def _several(value: Any) -> bool:
    return isinstance(value, tuple | list)
