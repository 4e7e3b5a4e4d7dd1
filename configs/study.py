r"""The five methods compared: equal problems, then equal compute.

    python -m caugym_jax.study --config=study.py

starts from the model in the package. A pretrained one is cold-started first, on accelerators:

    python -m caugym_jax.study --config=study.py:smollm2-135m
    python -m caugym_jax.study --config=study.py --models=smollm2-135m    # what that would run

study_paper.py holds the paper's own protocol.
"""


def get_config(arg: str | None = None):
    config = dict(
        method="study",
        problems=256,
        epochs=1,
        batch_size=16,
        # Every problem is seen as often by each method, so no further ones are drawn.
        options={"grpo": {"grpo.dynamic_sampling": False}},
        tests=dict(n=70, max_new_tokens=320),
    )
    if arg is not None:
        config |= pretrained(arg)
    return config


def pretrained(model: str) -> dict:
    """What a pretrained model needs: a cold start, room for its prompts and answers."""
    from caugym_jax.models.traits import traits  # here, as it imports jax

    room = 8192 if traits(model).thinks else 1024
    return dict(
        model=model,
        recipe=model,
        problems=3500,
        batch_size=64,
        solutions="steps",
        cold_start=512,
        max_prompt_length=2048,
        max_completion_length=room,
        tests=dict(n=140, max_new_tokens=room),
    )
