"""Supervised fine-tuning on worked solutions, which is also the cold start."""

from configs.common import base


def get_config(arg: str | None = None):
    config = base("sft")
    config.steps = 400
    config.model.init = "random"
    config.sft = dict(microbatches=1)
    config.optim.update(peak=3e-3, warmup=60, b2=0.98, weight_decay=0.01)
    config.data.update(batch_size=64, max_length=192, packing=False)
    config.log.show = ("loss", "mean_token_accuracy")
    return config
