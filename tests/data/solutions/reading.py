"""A plan from the text of a solution: what it must say if its first line is right."""

from caugym_jax.data.solutions import checking
from caugym_jax.data.solutions.conditions import Plan
from caugym_jax.data.solutions.writing import Item


def plan_in(text: str) -> Plan:
    first = text.split("\n")[0]
    found = checking._ITEM.findall(first)
    items = tuple(Item(c, int(number.replace(".", ""))) for _, c, _, number in found)
    named = checking._FORMULA.search(first)
    return Plan(items, named[1], int(first[2]), int(first[6]), named[2])
