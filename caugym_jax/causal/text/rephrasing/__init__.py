"""Problems in other words, from a grammar of two halves, and back from these words to structure.

`rephrased_text` writes a story in the words of one half; the halves share no template, so that what
is trained on one can be tested on the other. `read_rephrased` turns the templates round.
"""

from caugym_jax.causal.text.rephrasing.reading import is_rephrased, read_rephrased
from caugym_jax.causal.text.rephrasing.writing import rephrased_text

__all__ = ["is_rephrased", "read_rephrased", "rephrased_text"]
