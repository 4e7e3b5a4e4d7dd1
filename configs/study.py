r"""The five methods compared: equal problems, then equal compute.

    python -m caugym_jax.study --config=study.py

starts from the model in the package; 53 minutes on one core, after which SFT is 7.0 +- 4.9 points
above the start at equal problems and 15.8 +- 7.2 at equal compute, the others 1.3 to 5.8
(docs/study.md). A pretrained model is cold-started first, on accelerators:

    python -m caugym_jax.study --config=study.py:smollm2-135m
    python -m caugym_jax.study --config=study.py --models=smollm2-135m    # what that would run

study_paper.py holds the paper's own protocol.
"""


def get_config(arg: str | None = None):
    config = dict(
        method="study",
        # Every problem is seen as often by each method, so no further ones are drawn.
        options={"grpo": {"grpo.dynamic_sampling": False}},
    )
    return config | (small() if arg is None else pretrained(arg))


def small() -> dict:
    """The model in the package, in under two hours on two cores.

    Training problems are those of the bare configurations: nothing to adjust for. PPO draws 3
    samples of each and GRPO 8, as one costs PPO two and a half times as much: the two compute
    about the same. Tests are in the official wording, the only one that this model has read.
    """
    few = {"optim.warmup": 2}
    return dict(
        problems=144,
        batch_size=8,
        adjusters=(0,),
        tries=2,
        held_out=28,
        evaluations=3,
        max_prompt_length=200,
        max_completion_length=120,
        tests=dict(
            variants=("base", "deconfounding", "redundant", "insufficient"),
            n=28,
            max_new_tokens=288,
            batch_size=28,
        ),
        options={
            "sft": few | {"optim.peak": 5e-4},
            "dpo": few | {"optim.peak": 1e-4},
            "kto": few | {"optim.peak": 1e-4},
            "ppo": few | {"ppo.group_size": 3, "ppo.packed": None},
            "grpo": few | {"grpo.group_size": 8, "grpo.dynamic_sampling": False},
        },
    )


def pretrained(model: str) -> dict:
    """What a pretrained model needs: a cold start, room for its prompts and answers."""
    from caugym_jax.models.traits import traits  # here, as it imports jax

    thinks = traits(model).thinks
    return dict(
        model=model,
        recipe=model,
        problems=3500,
        batch_size=64,
        solutions="steps",
        cold_start=512,
        max_prompt_length=2048,
        max_completion_length=8192 if thinks else 1024,
        tests=dict(max_new_tokens=8192) if thinks else {},
    )
