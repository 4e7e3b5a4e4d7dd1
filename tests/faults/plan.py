"""Which faults are tried: a function of the seed and the trial's number alone."""

import dataclasses
import random
from typing import Any

from tests.faults.rewards import KINDS

METHODS = ("sft", "grpo")
STEPS, STOPPED = 6, 4  # of a whole run; after which those with damaged files were stopped

# What happens to files and within one process, and how many of 150 trials it takes.
FILES = {
    "newest checkpoint: bits flipped": 20,
    "newest checkpoint: a file cut short": 14,
    "newest checkpoint: a file gone": 11,
    "all checkpoints damaged": 11,
    "damaged checkpoint, exported": 14,
    "small file: bits flipped": 11,
    "small file: cut short": 9,
    "small file: gone": 7,
    "remains of a save cut short": 6,
    "remains of a removal cut short": 6,
    "disk full": 11,
    "writing fails": 9,
    **{f"reward function {kind}": 3 for kind in KINDS},
    "weights with NaN": 3,
    "NaN in moments": 6,
}
# What ends whole processes (which signal, where) or is done by several, of 50.
PROCESSES = {
    "SIGKILL at saving": 4,
    "SIGKILL at committing": 3,
    "SIGKILL at deleting": 2,
    "SIGKILL at logging": 2,
    "SIGKILL at sampling": 3,
    "SIGKILL at updating": 3,
    "SIGKILL at evaluating": 3,
    "SIGKILL at random": 5,
    "SIGTERM at saving": 1,
    "SIGTERM at sampling": 1,
    "SIGTERM at updating": 2,
    "SIGTERM at evaluating": 1,
    "SIGTERM at random": 3,
    "SIGINT at saving": 1,
    "SIGINT at sampling": 2,
    "SIGINT at random": 3,
    "SIGHUP at updating": 1,
    "SIGHUP at random": 2,
    "two runs in one workdir": 3,
    "processes that disagree": 3,
    "export during training": 2,
}


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
    """Every fourth trial is one of whole processes. Kinds come from two shuffled decks, so that 200
    trials hold every one."""
    turn, place = divmod(number, 4)
    whole = place == 3
    deck = [kind for kind, n in (PROCESSES if whole else FILES).items() for _ in range(n)]
    random.Random(f"{seed}/{whole}").shuffle(deck)
    kind = deck[(turn if whole else turn * 3 + place) % len(deck)]
    dice = random.Random(f"{seed}/{number}")
    needs_samples = "sampling" in kind or "reward" in kind
    method = "grpo" if needs_samples else dice.choice(METHODS)
    at = dice.random(), dice.random(), dice.random()
    return Trial(number, "processes" if whole else "files", kind, method, at)
