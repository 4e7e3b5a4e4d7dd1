"""What the letters of a solution stand for, for a person who reads it."""

from __future__ import annotations

from caugym_jax.types import Story


def legend(story: Story) -> str:
    """One line a letter: "X = neighborhood appeal (0 weak, 1 strong), the treatment"."""
    query = story.query
    roles = [("X", query.x, "the treatment"), ("Y", query.y, "the outcome")]
    roles += [("Z", node, "adjusted for") for node in query.adjusters]
    held = query.task == "CDE"
    roles += [("M", node, "the mediator") for node in query.mediators if not held]
    lines = []
    for name, node, role in roles:
        zero, one = story.states[node]
        lines.append(f"{name} = {story.names[node]} (0 {zero}, 1 {one}), {role}")
    for node, value in query.held if held else ():
        lines.append(f"held: {story.names[node]} being {story.states[node][value]}")
    return "\n".join(lines)
