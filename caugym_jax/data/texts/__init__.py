"""Texts to learn from: the released steps, right and with mistakes."""
