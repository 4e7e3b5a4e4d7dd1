r"""GRPO with the paper's settings: KL beta 0, clip 0.2/0.28, groups without a signal resampled.

    python -m caugym_jax.train --config=grpo.py

goes on from the cold-started model inside the package. The same path with a pretrained model,
cold-started first:

    python -m caugym_jax.train --config=sft.py:smollm2-135m
    python -m caugym_jax.train --config=grpo.py:smollm2-135m \
        --config.model.name=runs/sft-smollm2-135m

Relatives are the same method with other options (`--config.grpo.KEY=VALUE`):

    Dr. GRPO     loss_type=dr_grpo scale_rewards=none
    DAPO         loss_type=dapo overlong_buffer=N mask_truncated_completions=true
    GSPO         importance_sampling_level=sequence epsilon=3e-4 epsilon_high=4e-4
    CISPO        loss_type=cispo epsilon_high=5.0
    RLOO         baseline=leave_one_out scale_rewards=none loss_type=dr_grpo kl_in_reward=true
                 beta=0.05
    REINFORCE++  baseline=none scale_rewards=none normalize_advantages=true loss_type=dapo
                 dynamic_sampling=false kl_in_reward=true beta=0.01; its variant with a baseline:
                 baseline=group

`grpo.py:r1-distill-qwen-14b` is the paper's model. Where the paper does not state a setting (group
size, batch, learning rate, lengths) the values are ours.
"""

import ml_collections

from caugym_jax.configs.common import base
from caugym_jax.configs.models import pretrained


def get_config(arg: str | None = None):
    config = base("grpo")
    config.steps = 25
    config.data.batch_size = 16  # prompts a step
    config.grpo = dict(
        group_size=8,
        max_completion_length=40,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        min_p=0.0,
        reward_weights="answer=1,form=0.1",  # also "package.module:function=WEIGHT"
        on_reward_error="stop",  # or "skip"
        reward_timeout=600.0,  # seconds for a rollout's rewards by one function
        overlong_buffer=0,  # tokens before the limit that cost up to overlong_penalty
        overlong_penalty=1.0,
        baseline="group",
        scale_rewards="group",
        normalize_advantages=False,
        dynamic_sampling=True,
        max_refills=4,
        mask_truncated_completions=False,
        loss_type="grpo",
        importance_sampling_level="token",
        epsilon=0.2,
        epsilon_high=0.28,
        delta=ml_collections.config_dict.placeholder(float),  # None: one-sided clipping
        beta=0.0,
        kl_in_reward=False,
        kl_estimator="k3",
        use_bias_correction_kl=False,
        entropy_coef=0.0,
        importance_sampling_correction="none",
        importance_sampling_cap=3.0,
        num_iterations=1,
        num_minibatches=1,
        microbatches=ml_collections.config_dict.placeholder(int),  # None: a row a device at a time
        sample_batch_size=ml_collections.config_dict.placeholder(int),  # prompts; None: all at once
    )
    config.grpo.microbatches = 1
    config.optim.update(peak=3e-4, warmup=5, decay="cosine", final_ratio=0.1, b2=0.95)
    config.evaluation.every = 25
    config.checkpoint.every = 10
    config.data.max_prompt_length = 512
    config.data.too_long = "drop"  # a file's longer prompts; "refuse" ends the run at the first
    config.log.every = 5
    config.log.show = ("reward", "frac_reward_zero_std", "entropy", "completions/clipped_ratio")
    if arg is not None:
        thinks = pretrained(config, arg)
        config.steps = 300
        config.data.max_prompt_length = 1024
        config.grpo.update(
            max_completion_length=config.evaluation.max_new_tokens,
            microbatches=None,
            sample_batch_size=4,
        )
        if thinks:
            config.grpo.reward_weights = "answer=1,thinking_form=0.1"
            config.data.update(batch_size=128, max_prompt_length=2048)
        config.optim.update(peak=1e-6, warmup=10, decay="constant", b2=0.999)
    return config
