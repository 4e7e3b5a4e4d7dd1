"""The official sentences, as constants and as functions from structure to text."""

from __future__ import annotations

from collections.abc import Sequence

from caugym_jax.types import BOUND_TASKS, LACK, Event, Query, Story, Term, letter

HEADER = (
    "Input Info: Imagine a self-contained, hypothetical world with only the following conditions, "
    "and without any unmentioned factors or causal relationships:"
)
AFFECTS = " has a direct effect on "
EDGE = "{cause}" + AFFECTS + "{effect}"
GIVEN, THEN, ALONE, IS = "For those with ", ", the probability of ", "The probability of ", " is "
CONDITIONAL = GIVEN + "{given}" + THEN + "{target}" + IS + "{number}"
MARGINAL = ALONE + "{target}" + IS + "{number}"
EVENT = "{name} being {state}"
CODE = " ({letter}={value})"
INSTRUCTION = "Instruction: Consider the {effect} ({task}) of {x} on {y}."
EFFECTS = {
    "ATE": "average treatment effect",
    "CDE": "controlled direct effect",
    "ETT": "effect of treatment on the treated",
    "NDE": "natural direct effect",
    "NIE": "natural indirect effect",
    "PN": "probability of necessity",
    "PS": "probability of sufficiency",
}
QUESTIONS = {
    "ATE": "If {x} is changed to be {to}, will {y} be more likely to be {asked}?",
    "CDE": (
        "Conditioned on {held}, if the {x} had been {to}, would the {y} have been more likely to "
        "be {asked}?"
    ),
    "ETT": (
        "For those with {x} being {away}, if their {x} had been {to}, would the {y} have been "
        "more likely to be {asked}?"
    ),
    "NDE": (
        "Suppose the mediator keeps constant when {x} is changed to be {to}, would the {y} have "
        "been more likely to be {asked}?"
    ),
    "NIE": (
        "Suppose {x} is held constant and the mediator changes to whatever value it would have "
        "attained under {x} changing to be {to}, would {y} have been more likely to be {asked}?"
    ),
    "PN": (
        "Given that {x} was {away} and {y} was {other}, what is the {bound} bound of the "
        "probability of the {y} would have been {asked} if the {x} had been {to}?"
    ),
    "PS": (
        "Given that {x} was {away} and {y} was {other}, what is the {bound} bound of the "
        "probability that {y} would have been {asked} if the {x} had been {to}?"
    ),
}
ANSWER_FORMAT = (
    'Provide the calculation result to four decimal places and a final "yes" or "no" answer in '
    'JSON format, like {"ANSWER": "Yes", "PROB": "0.1234"}:'
)
BOUND_ANSWER_FORMAT = (
    'Provide the calculation result to four decimal places in JSON format, like {"PROB": "0.1234"}:'
)
STEP_BY_STEP = "Let's think step by step."
LACK_HINT = (
    f'If the condition is not enough to solve the question, output "{LACK}" as final answer.'
)


def problem_text(story: Story, *, instruction: bool = True, stop: bool = True) -> str:
    """The official `problem` text.

    Where the story has codes it has the surface of the sets that CauGym generated: "(A=0)" after
    every state in the probabilities, and no space between the sentences about edges.

    instruction: False leaves the Instruction line empty, as the released RL prompts do.
    stop: False drops the full stop after the last probability (as the released insufficient set).
    """
    edges = (edge_sentence(story, edge) for edge in story.edges)
    graph = HEADER + "".join(edges) if story.codes else " ".join([HEADER, *edges])
    numbers = "".join(f"{sentence(story, term, number)}. " for term, number in story.given)
    if not stop:
        numbers = numbers.removesuffix(". ")
    query = [f"Question: {question(story)}", answer_format(story.query)]
    return "\n".join([graph, numbers, instruction_line(story) if instruction else "", *query])


def edge_sentence(story: Story, edge: tuple[int, int]) -> str:
    """ "Rain has a direct effect on traffic." """
    cause, effect = (story.names[node] for node in edge)
    return EDGE.format(cause=capitalized(cause), effect=effect) + "."


def sentence(story: Story, term: Term, number: str) -> str:
    """A probability as the official sentence, without its full stop."""
    target = events(story, term.target, codes=story.codes)
    if term.given:
        given = events(story, term.given, codes=story.codes)
        return CONDITIONAL.format(given=given, target=target, number=number)
    return MARGINAL.format(target=target, number=number)


def events(story: Story, event: Event, *, codes: bool) -> str:
    """ "rain being high, wind being low and fog being low" """
    parts = [
        EVENT.format(name=story.names[v], state=story.states[v][value])
        + (CODE.format(letter=letter(v), value=value) if codes else "")
        for v, value in event
    ]
    return enumeration(parts)


def enumeration(parts: Sequence[str]) -> str:
    """ "a", "a and b", "a, b and c" """
    return " and ".join([", ".join(parts[:-1]), parts[-1]]) if len(parts) > 1 else parts[0]


def instruction_line(story: Story) -> str:
    query = story.query
    return INSTRUCTION.format(
        effect=EFFECTS[query.task],
        task=query.task,
        x=story.names[query.x],
        y=story.names[query.y],
    )


def question(story: Story) -> str:
    query = story.query
    x, y = query.x, query.y
    return QUESTIONS[query.task].format(
        x=story.names[x],
        y=story.names[y],
        to=story.states[x][query.x_value],
        away=story.states[x][1 - query.x_value],
        asked=story.states[y][query.y_value],
        other=story.states[y][1 - query.y_value],
        held=events(story, query.held, codes=False) if query.held else "",
        bound=query.bound,
    )


def answer_format(query: Query) -> str:
    return BOUND_ANSWER_FORMAT if query.task in BOUND_TASKS else ANSWER_FORMAT


def capitalized(text: str) -> str:
    return text[:1].upper() + text[1:]
