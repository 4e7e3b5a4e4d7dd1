"""Texts to learn from: step solutions, worked arithmetic, and both with mistakes."""
