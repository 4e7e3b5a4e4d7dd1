"""Solutions that a small model can learn and a person can check: notation, writer, checker.

docs/solutions.md explains the notation with an example of each task.
"""
