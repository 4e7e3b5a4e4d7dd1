"""Causal problems with exact answers: `engine` is the mathematics, `text` the words."""
