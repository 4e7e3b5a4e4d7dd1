"""What all configurations share. A section is the keyword arguments of one function."""

import ml_collections


def base(method: str) -> ml_collections.ConfigDict:
    """Sections and their functions: mesh (sharding.make_mesh), sampling (sharding.sampling_mesh),
    model (runs.open_model), lora (models.lora.Lora), data and evaluation
    (data.sources.problem_source), optim (optim.make_optimizer), checkpoint
    (checkpoints.Checkpoints), and the method's own."""
    config = ml_collections.ConfigDict()
    config.method = method
    config.seed = 0
    config.steps = 100
    config.mesh = dict(data=-1, fsdp=1, tensor=1, context=1, slices=1)
    config.sampling = dict(
        tensor=ml_collections.config_dict.placeholder(int),  # None: as mesh.tensor
    )
    config.model = dict(
        name="embedded",
        init="pretrained",
        dtype=ml_collections.config_dict.placeholder(str),  # None: by the machine
        remat="none",  # or "dots", "attention", "full": what the backward pass makes again
        attention=ml_collections.config_dict.placeholder(str),  # None: the machine's own kernel
        step=ml_collections.config_dict.placeholder(int),  # of a workdir; None: the newest
    )
    config.lora = dict(  # rank 0: no adapter, all weights are trained
        rank=0,
        alpha=16.0,
        rslora=False,
        targets="all",
        base_dtype="float32",
        init=ml_collections.config_dict.placeholder(str),  # a folder in PEFT's format
    )
    config.data = dict(
        path=ml_collections.config_dict.placeholder(str),  # None: generated without end
        tasks=("ATE", "CDE", "ETT", "NDE"),
        variant="base",
        nodes=(3, 5),
        names=("real", "random", "fake"),
        adjusters=(0,),
        max_mediators=0,
        zero_fraction=0.2,
        batch_size=32,
    )
    config.optim = dict(
        name="adamw", peak=1e-5, warmup=0, decay="constant", decay_from=0.0, final_ratio=0.0,
        b1=0.9, b2=0.999, eps=1e-8, momentum=0.95, weight_decay=0.0, clip_norm=1.0, ema=0.0,
    )  # fmt: skip
    config.evaluation = dict(
        every=50,
        n=400,
        max_new_tokens=48,
        path=ml_collections.config_dict.placeholder(str),
        tasks=("ATE", "CDE", "ETT", "NDE"),
        variant="base",
        nodes=(3, 5),
        names=("real", "random", "fake"),
        adjusters=(0,),
        max_mediators=0,
        zero_fraction=0.2,
    )
    config.checkpoint = dict(every=50, keep=2, best="strict", folder="")
    config.log = dict(
        every=10, tensorboard=True, wandb=False, samples=8, samples_every=10, alarms_every=50,
        show=("loss",),
    )  # fmt: skip
    return config
