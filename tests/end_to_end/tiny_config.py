"""A run of the tiny model that takes seconds, as a configuration file: tiny_config.py:METHOD."""

import zlib

from caugym_jax.configs import grpo, ppo, sft
from tests.end_to_end import tiny_preferences

# Problems of like length: few widths of rows, each of which is a program to compile.
ALIKE = dict(tasks=("ATE",), nodes=(3, 3), adjusters=(0,))
REWARD = "tests.end_to_end.tiny_config:spread"


def spread(completions, problems, truncated):
    """Differs between nearly all completions of one half of the problems, and is 0 for the other
    half, so that some steps have no signal."""
    return [
        zlib.crc32(text.encode()) % 100 / 100 if zlib.crc32(problem.text.encode()) % 2 else 0.0
        for text, problem in zip(completions, problems, strict=True)
    ]


def get_config(arg: str | None = None):
    arg = arg or "grpo"
    if arg in ("dpo", "kto"):
        return tiny_preferences.get_config(arg)
    config = {"sft": sft, "grpo": grpo, "ppo": ppo}[arg].get_config()
    config.model.update(name="set by the test", init="pretrained")
    config.steps = 6
    config.optim.update(peak=1e-2, warmup=2, decay="constant")
    config.data.update(batch_size=2, **ALIKE)
    config.evaluation.update(every=3, n=4, max_new_tokens=4, **ALIKE)
    config.checkpoint.update(every=2)
    config.log.update(every=1, samples_every=1)
    if arg == "sft":
        config.data.batch_size = 8
    else:
        config.data.max_prompt_length = 64
        config[arg].update(group_size=4, max_completion_length=4, reward_weights=f"{REWARD}=1")
    if arg == "grpo":
        config.grpo.update(max_refills=0, microbatches=1)
    if arg == "ppo":  # eight programs a step
        config.ppo.update(num_iterations=2, num_minibatches=2, kl_target=0.05)
        config.critic_optim.update(config.optim)
    return config
