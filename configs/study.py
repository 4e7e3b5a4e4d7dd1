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
        # Every problem is seen as often by each method, so no further ones are drawn.
        options={"grpo": {"grpo.dynamic_sampling": False}},
    )
    small = dict(problems=256, tests=dict(n=70, max_new_tokens=320))
    return config | (small if arg is None else pretrained(arg))


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
