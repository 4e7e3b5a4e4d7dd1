"""caugym_jax: post-train language models into verified causal reasoners, in JAX."""

__version__ = "0.1.0"
