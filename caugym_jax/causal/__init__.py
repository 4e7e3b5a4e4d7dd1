"""The exact causal engine: graphs, structural models, estimands, and problems as text."""

from caugym_jax.causal.generating import generate_problem, generate_problems

__all__ = ["generate_problem", "generate_problems"]
