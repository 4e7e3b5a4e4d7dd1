"""Cold start of the model inside the package: from worked solutions to mixed traces.

    python -m caugym_jax.train --config=from_scratch.py
    python -m caugym_jax.train --config=cold_start.py

The first command teaches a random tiny decoder to work problems out. The second goes on with
traces that are all right but do not all show their work: most of those for ETT and NDE, and some
for ATE and CDE, only state the answer. A decoder of this size cannot subtract in its head, so what
it states at once is mostly wrong and what it works out is mostly right. Which of the two pays is
left for GRPO to find out.
"""

from caugym_jax.configs import sft


def get_config(arg: str | None = None):
    config = sft.get_config(arg)
    config.model.name = "runs/from_scratch"
    config.steps = 180
    config.data.direct_fraction = dict(ATE=0.2, CDE=0.3, ETT=0.65, NDE=0.65)
    config.optim.peak = 1.5e-3
    config.evaluation.every = 60
    config.checkpoint.every = 60
    return config
