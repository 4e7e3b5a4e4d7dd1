"""What letters stand for."""

from caugym_jax.data.solutions.legend import legend
from caugym_jax.types import Query, Story

NAMES = ("rain", "wind", "fog")
STATES = (("low", "high"), ("weak", "strong"), ("no", "yes"))


def test_every_letter_is_named():
    query = Query("NDE", 0, 2, 1, 0, mediators=(1,))
    story = Story(NAMES, STATES, (), (), query)
    assert legend(story).split("\n") == [
        "X = rain (0 low, 1 high), the treatment",
        "Y = fog (0 no, 1 yes), the outcome",
        "M = wind (0 weak, 1 strong), the mediator",
    ]


def test_what_is_held_is_no_letter():
    query = Query("CDE", 0, 2, 1, 0, mediators=(1,), mediator_values=(1,))
    assert legend(Story(NAMES, STATES, (), (), query)).endswith("held: wind being strong")
