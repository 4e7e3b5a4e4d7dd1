"""A configuration of one's own: a copy of this file works in any folder.

    python -m caugym_jax.train --config=own_config.py
    python -m caugym_jax.train --config=own_config.py:quick --config.optim.peak=5e-4

It starts from a configuration of the package and changes some values; any value can be changed once
more on the command line. From Python: caugym_jax.train("own_config.py:quick", workdir="my-run").
"""

from caugym_jax.configs import sft


def get_config(arg: str | None = None):
    config = sft.get_config()
    config.steps = 10 if arg == "quick" else 40
    config.data.tasks = ("ATE", "ETT")
    config.data.nodes = (4, 5)  # graphs with four or five nodes
    config.optim.peak = 3e-4
    config.evaluation.tasks = ("ATE", "ETT")
    config.evaluation.n = 100
    return config
