r"""PPO with the paper's KL coefficient of 0.001 in the reward, and a critic of its own.

    python -m caugym_jax.train --config=ppo.py

goes on from the half-trained model inside the package. The same path with a pretrained model,
cold-started first:

    python -m caugym_jax.train --config=sft.py:smollm2-135m
    python -m caugym_jax.train --config=ppo.py:smollm2-135m \
        --config.model.name=runs/sft-smollm2-135m

The critic starts from the policy's weights, or from those of `--config.ppo.critic=NAME`, a model
with the same tokens. Where the paper does not state a setting (batch, learning rates, lengths,
passes) the values are ours.
"""

from caugym_jax.configs.common import base, from_the_start
from caugym_jax.configs.models import pretrained


def get_config(arg: str | None = None):
    config = base("ppo", "critic_optim")
    config.log.update(
        every=5, show=("reward", "objective/kl", "entropy", "critic/vf_explained_var")
    )
    config.evaluation.every = 15
    config.checkpoint.every = 10
    if arg is None:
        from_the_start(config, batch_size=16, max_prompt_length=128)
        config.steps = 30
        config.ppo.update(max_completion_length=128, microbatches=2)
        shared = dict(warmup=2, decay="cosine", final_ratio=0.1, b2=0.95)
        config.optim.update(shared, peak=2e-4)
        config.critic_optim.update(shared, peak=5e-4)
        return config
    thinks = pretrained(config, arg)
    config.steps = 300
    config.evaluation.every = 20  # every second checkpoint is evaluated
    config.data.update(batch_size=64, max_prompt_length=1024)
    config.ppo.update(
        group_size=1,
        max_completion_length=config.evaluation.max_new_tokens,
        num_iterations=2,
        microbatches=None,
    )
    if thinks:
        config.ppo.reward_weights = "answer=1,thinking_form=0.1"
        config.data.update(batch_size=512, max_prompt_length=2048)
    config.optim.update(peak=1e-6, warmup=10)
    config.critic_optim.warmup = 10
    return config
