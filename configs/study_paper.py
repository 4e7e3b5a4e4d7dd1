r"""The paper's protocol: 3,500 problems, 3 epochs, its coefficients; 14B unless a model is named.

    python -m caugym_jax.study --config=study_paper.py:r1-distill-qwen-14b \
        --config.path=online_RL.parquet --config.tests.files=base_dataset.json,...

Stated in the paper: the model, a cold start on a few worked solutions (the released file: 75, of
PN, PS and NIE), 3,500 problems, 3 epochs; SFT by LoRA; DPO and KTO with beta 0.1 and equal weights;
GRPO with beta 0, clip 0.2/0.28 and groups without a signal replaced; PPO with beta 0.001 and a
critic of its own; 5 samples at 0.6, top-p 0.95, at most 8,192 tokens. Not stated, and ours:
learning rates, batch and group sizes, LoRA's rank, which methods but SFT train adapters (none).
"""

from caugym_jax.configs import study


def get_config(arg: str | None = None):
    config = study.get_config(arg or "r1-distill-qwen-14b")
    config |= dict(
        problems=3500,
        epochs=3,
        cold_start=75,
        cold_tasks=("NIE", "PN", "PS"),
        options={
            "sft": {"lora.rank": 64},
            "dpo": {"dpo.beta": 0.1},
            "kto": {"kto.beta": 0.1, "kto.desirable_weight": 1.0, "kto.undesirable_weight": 1.0},
            "grpo": {
                "grpo.beta": 0.0,
                "grpo.epsilon": 0.2,
                "grpo.epsilon_high": 0.28,
                "grpo.dynamic_sampling": True,
            },
            "ppo": {"ppo.beta": 0.001},
        },
        tests=dict(n=100, max_new_tokens=8192),
    )
    return config
