"""What changes when a configuration's ARG names a pretrained model instead of the packaged one.

ARG is a preset's name (caugym_jax/models/presets.py: smollm2-135m, qwen2.5-1.5b,
r1-distill-qwen-14b, ...), a folder, a GGUF file or a hub id. The batch shapes here are starting
points for one machine's memory; every one can be set.
"""


def pretrained(config, name: str, max_completion_length: int | None = None) -> bool:
    """Sets `config` up for the pretrained model `name`, on all tasks; returns whether it is a
    reasoning model.

    A reasoning model (R1's distillations, Qwen3) thinks before it answers and gets room for that.
    """
    from caugym_jax.models.traits import traits  # here, as it imports jax

    found = traits(name)
    thinks = found.thinks
    room = max_completion_length or (8192 if thinks else 512)
    config.model.name = name
    config.lora.base_dtype = "bfloat16"  # what they are published in
    config.evaluation.update(n=128 if thinks else 16, max_new_tokens=room)
    if found.large:
        config.mesh.update(data=1, fsdp=-1)
    return thinks
