"""Answers a person's own causal question, by a model with its steps and by the exact engine.

    python -m caugym_jax.ask question.yaml                 # variables, edges, given, question
    python -m caugym_jax.ask problem.txt                   # a problem's text; - reads stdin
    python -m caugym_jax.ask base_dataset.json --item=3    # an item of a file
    python -m caugym_jax.ask --random --task=ATE --variant=hard --model=none

The form of a question is shown in docs/ask.md. MODEL is anything that `evaluate` opens; `none` asks
the engine alone. Each step of the model is marked right or wrong against the engine, where it is in
the notation of docs/solutions.md; with --samples=N the answer is that of most of N samples.

Exit status: 0 where model and engine agree, 3 where they do not, 1 for a question that cannot be
read. --json prints one object: {"engine": {"prob", "verdict", "lack", "adjustment", "missing"},
"model": {"prob", "verdict", "lack", "steps"} or null, "agree"}.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import textwrap
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from caugym_jax.causal.engine.answers import four_decimals, label
from caugym_jax.causal.engine.explaining import explanation, named_term
from caugym_jax.causal.engine.solving import Solved, solve, sufficient
from caugym_jax.causal.text.reading import read
from caugym_jax.causal.text.wording import problem_text
from caugym_jax.cli import commands
from caugym_jax.data.solutions.checking import Step, check, failure, in_notation
from caugym_jax.data.solutions.conditions import plan_for
from caugym_jax.data.solutions.legend import legend
from caugym_jax.data.solutions.restating import restated
from caugym_jax.devices import starting
from caugym_jax.errors import UserError
from caugym_jax.rewards.answer import Answer, expected, extract, is_right
from caugym_jax.types import TASKS, VARIANTS, Problem, Story

WIDTH = 80  # columns of what is printed
DISAGREE = 3  # exit status
IN_NOTATION = 384  # tokens: more than any solution of the packaged models; few compile fast
FILES = (".json", ".jsonl", ".parquet")


@dataclasses.dataclass(frozen=True)
class Reply:
    """A model's answer to a question, and what its steps are worth."""

    text: str
    answer: Answer
    steps: list[Step] | None  # None: not in a notation that can be checked
    votes: int  # samples that gave this answer
    samples: int


def main(argv: Sequence[str]) -> None:
    args = _arguments(argv)
    story = _story(args)
    solved = solve(story)
    truth = label(story.query.task, solved.value, solved.verdict)
    asked = story if args.model == "none" else _restated(story, solved, args.model)
    problem = Problem(problem_text(asked), truth, asked.query.task, story=asked)
    reply = None if args.model == "none" else _reply(problem, args)
    agree = None if reply is None else is_right(reply.answer, expected(problem))
    if args.json:
        print(json.dumps(_object(story, solved, reply, agree), ensure_ascii=False))
    else:
        question = ["Question", *_indented(problem.text.splitlines())] if args.show else []
        print("\n".join(question + _lines(story, solved, reply, agree)))
    if agree is False:
        sys.exit(DISAGREE)


def _story(args: argparse.Namespace) -> Story:
    """The question's structure, whatever its form."""
    if args.random:
        from caugym_jax.causal.engine.generating import generate_problem

        problem = generate_problem(args.seed, 0, [args.task], variant=args.variant)
        assert problem.story is not None  # generated problems have one
        return problem.story
    if args.item is not None or Path(args.question).suffix.lower() in FILES:
        return _item(args.question, args.item or 0)
    text = _text(args.question)
    return read(text) if _is_problem(text) else _yaml(text)


def _yaml(text: str) -> Story:
    from caugym_jax.data.questions import question_story  # only here: it needs PyYAML

    return question_story(text)


def _is_problem(text: str) -> bool:
    return text.lstrip().startswith("Input Info") or "\nQuestion:" in text


def _text(name: str) -> str:
    if name == "-":
        return sys.stdin.read()
    try:
        return Path(name).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise UserError(f"cannot read {name}: {why}") from error


def _item(name: str, item: int) -> Story:
    from caugym_jax.data.files import read_items

    items = read_items(name)
    if not 0 <= item < len(items):
        raise UserError(f"--item={item}: {name} has the items 0 to {len(items) - 1}")
    problem = items[item]
    if not isinstance(problem, Problem):
        raise UserError(problem)
    if problem.story is None:
        raise UserError(f"{name}, item {item}: {problem.unread}")
    return problem.story


def _restated(story: Story, solved: Solved, model: str) -> Story:
    """The question as the model is asked it: a packaged one in words that it has learned."""
    starting.prepare()
    from caugym_jax.models.hub import PACKAGED

    return restated(story, solved) if model in PACKAGED else story


def _reply(problem: Problem, args: argparse.Namespace) -> Reply:
    """The answer of most samples (the first such sample); greedy where there is one."""
    starting.prepare()
    import caugym_jax
    from caugym_jax.models.hub import PACKAGED

    longest = args.max_new_tokens or (IN_NOTATION if args.model in PACKAGED else None)
    temperature = args.temperature if args.temperature is not None else 0.6 * (args.samples > 1)
    model = caugym_jax.load(args.model)
    texts = model.ask(
        problem,
        samples=args.samples,
        temperature=temperature,
        max_new_tokens=longest,
        seed=args.seed,
    )
    answers = [extract(text) for text in texts]
    votes = Counter((answer.prob, answer.verdict, answer.lack) for answer in answers)
    most, count = votes.most_common(1)[0]
    chosen = next(i for i, a in enumerate(answers) if (a.prob, a.verdict, a.lack) == most)
    steps = _checked(texts[chosen], problem)
    return Reply(texts[chosen], answers[chosen], steps, count, len(texts))


def _checked(text: str, problem: Problem) -> list[Step] | None:
    """The steps of a solution, each judged; None where the text or the question is out of reach."""
    plan = plan_for(problem) if in_notation(text) else None
    return None if plan is None else check(text, plan)


def _lines(story: Story, solved: Solved, reply: Reply | None, agree: bool | None) -> list[str]:
    lines = ["Engine", *_indented(explanation(story, solved))]
    if reply is None:
        return lines
    voted = f" ({reply.votes} of {reply.samples} samples)" if reply.samples > 1 else ""
    lines.append(f"Model{voted}")
    if reply.steps is None:
        lines += _indented([*reply.text.strip().splitlines(), "(steps: not checkable)"])
    else:
        letters = legend(dataclasses.replace(story, query=solved.query))
        lines += _indented(letters.splitlines())
        for step in reply.steps:
            mark = "right" if step.right else f"WRONG ({step.kind})"
            lines += _indented([f"{mark:7} {step.text.strip()}"])
        wrong = next((step for step in reply.steps if not step.right), None)
        if wrong is not None:
            lines += _indented(
                [f"The first wrong step: {wrong.text.strip()} ({failure(reply.steps)})"]
            )
    lines.append("Model and engine agree." if agree else "Model and engine DISAGREE.")
    return lines


def _indented(lines: Sequence[str]) -> list[str]:
    """Lines of at most WIDTH columns."""
    wrapper = textwrap.TextWrapper(WIDTH, initial_indent="  ", subsequent_indent="      ")
    return [part for line in lines for part in wrapper.wrap(line) or [""]]


def _object(
    story: Story, solved: Solved, reply: Reply | None, agree: bool | None
) -> dict[str, Any]:
    missing = (
        [[named_term(story, t) for t in way] for way in sufficient(story)] if solved.lacks else []
    )
    engine = {
        "prob": None if solved.value is None else four_decimals(solved.value),
        "verdict": solved.verdict,
        "lack": solved.lacks,
        "adjustment": [story.names[v] for v in solved.query.adjusters],
        "missing": missing[0] if missing else [],
    }
    model = None
    if reply is not None:
        answer = reply.answer
        model = {
            "prob": None if answer.prob is None else str(answer.prob),
            "verdict": answer.verdict,
            "lack": answer.lack,
            "steps": [
                {"text": step.text, "right": step.right, "kind": step.kind}
                for step in reply.steps or ()
            ],
        }
    return {"engine": engine, "model": model, "agree": agree}


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = commands.parser("caugym_jax.ask", __doc__)
    add = parser.add_argument
    add("question", nargs="?", help="a file: YAML, a problem's text, or items; - is stdin")
    add("--item", type=int, help="which item of a file, counting from 0")
    add("--random", action="store_true", help="a generated problem instead of a file")
    add("--task", choices=TASKS, default="ATE", help="with --random (default ATE)")
    add("--variant", choices=VARIANTS, default="base", help="with --random (default base)")
    add("--seed", type=int, default=0, help="of --random and of sampling")
    add("--model", default="embedded", help="as of evaluate; none: the engine alone")
    add("--samples", type=int, default=1, help="answers to vote among (default 1, greedy)")
    add("--temperature", type=float, help="(default 0.6 with several samples, else 0)")
    add("--max_new_tokens", type=int, help="(default 384 for a packaged model, else 1024)")
    add("--show", action="store_true", help="also print the question as the model reads it")
    add("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args(argv)
    if bool(args.question) == args.random:
        parser.error("give a question's file, or --random")
    if args.max_new_tokens is not None and args.max_new_tokens < 1:
        parser.error("--max_new_tokens must be at least 1")
    if args.samples < 1:
        parser.error("--samples must be at least 1")
    if args.seed < 0:
        parser.error("--seed must not be negative")
    return args


if __name__ == "__main__":
    commands.run(main)
