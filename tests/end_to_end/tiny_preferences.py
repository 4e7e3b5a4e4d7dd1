"""DPO and KTO of the tiny model in seconds, as a configuration file: tiny_preferences.py:METHOD."""

from caugym_jax.configs import dpo, kto


def get_config(arg: str | None = None):
    config = {"dpo": dpo, "kto": kto}[arg].get_config()
    config.model.update(name="set by the test", init="pretrained")
    config.steps = 6
    config.optim.update(peak=1e-2, warmup=2, decay="constant")
    config.data.update(batch_size=4, max_length=256)
    config.evaluation.update(every=3, n=4, max_new_tokens=4)
    config.checkpoint.update(every=2)
    config.log.update(every=1)
    return config
