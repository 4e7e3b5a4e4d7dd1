"""Figures of *Can Post-Training Transform LLMs into Causal Reasoners?* (arXiv 2602.06337).

Accuracies of its best model (14B, GRPO) by the published rule, five samples an item; table 1,
figures 2 to 5, and the released model's card.
"""

from caugym_jax.types import TASKS

# Set -> accuracy by task, then the mean.
GRPO_14B = {
    name: dict(zip((*TASKS, "all"), values, strict=True))
    for name, values in {
        "base": (0.990, 0.994, 0.900, 0.940, 0.930, 0.928, 0.866, 0.935),
        "rephrased": (0.948, 0.982, 0.856, 0.890, 0.888, 0.778, 0.816, 0.880),
        "omitted": (0.935, 0.963, 0.837, 0.934, 0.838, 0.900, 0.907, 0.902),
        "deconfounding": (0.976, 0.986, 0.854, 0.572, 0.872, 0.952, 0.848, 0.866),
        "redundant": (0.972, 0.966, 0.918, 0.850, 0.888, 0.934, 0.910, 0.920),
        "insufficient": (0.884, 0.902, 0.686, 0.696, 0.958, 0.940, 0.954, 0.860),
    }.items()
}
# The paper's methods on the base set, by the published rule (its table 1), and o3.
BASE_BY_METHOD = {
    "cold start": 0.510,
    "sft": 0.702,
    "dpo": 0.524,
    "kto": 0.574,
    "ppo": 0.921,
    "grpo": 0.935,
    "o3": 0.554,
}
# Other benchmarks -> its 14B model before training, and after GRPO (tables 2 and 13).
SUITES = {
    "math": (0.938, 0.924),
    "amc": (0.867, 0.855),
    "minerva": (0.375, 0.408),
    "cladder": (0.577, 0.719),
    "clear": (0.433, 0.472),
    "causalprobe": (0.803, 0.805),
}


def paper_set(name: str) -> str | None:
    """Which of the paper's sets a file's name means ("base_dataset" -> "base"); None: no one's."""
    return next((known for known in GRPO_14B if known in name.lower()), None)
