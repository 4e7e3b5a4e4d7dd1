"""Problems as text: the official wording, names, the grammar of other words, exact readers."""
