"""What changes when a configuration's ARG names a pretrained model instead of the embedded one.

Any preset's name works (caugym_jax/models/presets.py): smollm2-135m, qwen2.5-1.5b,
r1-distill-qwen-14b, ...; hub ids and folders go to --config.model.name. The batch shapes here are
starting points for one machine's memory; every one can be set.
"""

REASONING = "r1-distill"  # these think before they answer: long completions, <think> in the form


def pretrained(config, name: str, max_completion_length: int | None = None):
    """Sets `config` up for the pretrained model `name`; ends with the config."""
    thinks = name.startswith(REASONING)
    room = max_completion_length or (8192 if thinks else 512)
    config.model.update(name=name, init="pretrained", remat=True)
    config.data.update(
        tasks=("ATE", "CDE", "ETT", "NDE", "NIE", "PN", "PS"),
        adjusters=(0, 1),
        zero_fraction=1 / 7,
    )
    config.evaluation.update(
        tasks=config.data.tasks,
        adjusters=(0, 1),
        zero_fraction=1 / 7,
        n=128 if thinks else 16,
        max_new_tokens=room,
    )
    if name == "r1-distill-qwen-14b" or name.endswith(("7b", "8b", "32b")):
        config.mesh.update(data=1, fsdp=-1)
    return config
