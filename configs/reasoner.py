r"""The reasoner from random weights: a decoder of 2.9M weights that reads and computes.

    python -m caugym_jax.tokenizer --out=runs/tokenizer
    python -m caugym_jax.train --config=reasoner.py

takes hours on a CPU core (docs/reasoner.md); it goes on by itself where it was interrupted. What
the mixture's sources are: caugym_jax/data/solutions/streams.py.
"""

from caugym_jax.configs.common import base

TOKENIZER = "runs/tokenizer"
MIXTURE = """
    15000 lists=.33 given=.32 digits=.15 usual=.20 large=.2..0.5 thin=.5 renamed=.3 spread=1..10;
    12000 reading=.56 given=.2 digits=.08 usual=.07 shuffled=.09
        large=0..0.15 thin=.6 renamed=0 idle=.03;
    16000 reading=.24 shuffled=.28 usual=.14 given=.2 digits=.14
        large=.1..0.9 thin=.5 renamed=.35 idle=.15;
    90000 reading=.09 shuffled=.36 usual=.28 given=.13 digits=.05 graph=.09
        thin=.25 renamed=.55 idle=.3
"""


def get_config(arg: str | None = None):
    config = base("sft")
    config.steps = 13_000
    config.model.update(name=TOKENIZER, init="random")
    config.model.shape = dict(layers=5, width=160, d_ff=448, rope_theta=100_000.0)
    config.optim.update(
        name="muon",
        shared_rows=TOKENIZER,
        peak=4e-3,
        warmup=60,
        decay="linear",
        decay_from=0.6,
        final_ratio=0.03,
        b2=0.98,
        weight_decay=0.02,
    )
    config.data.update(mixture=MIXTURE, batch_size=3072, max_length=768, workers=1)
    config.evaluation.update(every=1000, n=140, max_new_tokens=300)
    config.checkpoint.every = 250
    config.log.show = ("loss", "mean_token_accuracy")
    return config
