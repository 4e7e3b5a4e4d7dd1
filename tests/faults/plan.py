"""Which faults are tried: a function of the seed and the trial's number alone."""

import dataclasses
import random
from typing import Any

from tests.faults.rewards import KINDS

METHODS = ("sft", "grpo")
STEPS, STOPPED = 6, 4  # of a whole run; after which those with damaged files were stopped

# Of what happens to files and within one process, with how often of 100 it is tried.
FILES = {
    "newest checkpoint: bits flipped": 14,
    "newest checkpoint: a file cut short": 10,
    "newest checkpoint: a file gone": 8,
    "all checkpoints damaged": 8,
    "damaged checkpoint, exported": 10,
    "small file: bits flipped": 8,
    "small file: cut short": 6,
    "small file: gone": 4,
    "remains of a save cut short": 4,
    "remains of a removal cut short": 4,
    "disk full": 8,
    "writing fails": 6,
    **{f"reward function {kind}": 2 for kind in KINDS},
    "weights with NaN": 2,
}
# Of what ends a process, by which signal and where.
PROCESSES = {
    ("SIGKILL", "saving"): 10,
    ("SIGKILL", "committing"): 8,
    ("SIGKILL", "deleting"): 6,
    ("SIGKILL", "logging"): 6,
    ("SIGKILL", "sampling"): 10,
    ("SIGKILL", "updating"): 10,
    ("SIGKILL", "evaluating"): 10,
    ("SIGKILL", "random"): 16,
    ("SIGTERM", "saving"): 4,
    ("SIGTERM", "sampling"): 6,
    ("SIGTERM", "updating"): 6,
    ("SIGTERM", "evaluating"): 4,
    ("SIGTERM", "random"): 10,
    ("SIGINT", "sampling"): 6,
    ("SIGINT", "random"): 10,
    ("SIGHUP", "random"): 10,
}
MOST = {"saving": 9, "committing": 3, "deleting": 1, "logging": 6, "evaluating": 4, "random": 5.99}


@dataclasses.dataclass(frozen=True)
class Trial:
    """One fault. Numbers in [0, 1) say where in the run or the file it strikes."""

    number: int
    level: str  # "files", all in one process, or "processes"
    kind: str
    method: str
    at: tuple[float, float, float]

    def as_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def draw(seed: int, number: int) -> Trial:
    """Every fourth trial ends whole processes."""
    dice = random.Random(f"{seed}/{number}")
    whole = number % 4 == 3
    table = {" at ".join(k): n for k, n in PROCESSES.items()} if whole else FILES
    kind = dice.choices([*table], [*table.values()])[0]
    needs_samples = "sampling" in kind or "reward" in kind
    method = "grpo" if needs_samples else dice.choice(METHODS)
    at = dice.random(), dice.random(), dice.random()
    return Trial(number, "processes" if whole else "files", kind, method, at)
