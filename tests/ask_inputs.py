"""A hundred inputs of `ask`, twenty of each form, and what is printed: the table in docs/ask.md.

python -m tests.ask_inputs        # writes the table into docs/ask.md
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple
from unittest import mock

from caugym_jax import ask
from caugym_jax.causal.engine.generating import generate_problem
from caugym_jax.errors import UserError
from tests.data.test_questions import EDGES, GOOD

DOCUMENT = Path(__file__).parents[1] / "docs/ask.md"
HEADING = "## A hundred inputs\n"
PROBLEM = generate_problem(4, 1, ["ATE"], variant="deconfounding", nodes=(3, 3))
GRAPH = "graph: dag { age -> drug; age -> recovery; drug -> recovery }"


class Input(NamedTuple):
    """One call: what the table shows of it, its arguments, and the files that it reads."""

    shown: str
    argv: list[str]
    files: dict[str, str | bytes]
    stdin: str = ""


def edits(text: str, name: str, changes: Sequence[tuple[str, ...]]) -> Iterator[Input]:
    """The text in a file, changed: (old, new) pairs, or (what is shown, the whole text)."""
    for place, (shown, *rest) in enumerate(changes):
        assert place == 0 or rest[0] != text, shown
        if len(rest) == 1 and shown in text:
            new = rest[0].replace("\n", " ").strip() or "(nothing)"
            yield Input(
                f"`{shown.strip()}` → `{new}`", [name], {name: text.replace(shown, rest[0])}
            )
        else:
            yield Input(shown, [name], {name: rest[0]})


def yaml_inputs() -> Iterator[Input]:
    cde = GOOD.replace("task: ATE", "task: CDE") + "held: {age: old}\n"
    bound = GOOD.replace("task: ATE", "task: PN, bound: upper")
    joint = "  - P(drug=yes, recovery=yes) = 0.3\n  - P(drug=no, recovery=no) = 0.1\n"
    return edits(
        GOOD,
        "q.yaml",
        [
            ("the example above", GOOD),
            ("x: drug=yes", "x: drug=no"),
            ("y: recovery=yes", "y: recovery=no"),
            ("  - P(age=old) = 0.25\n", ""),
            ("P(age=old) = 0.25", "P(age = young)=.75"),
            ("task: ATE", "task: ETT"),
            ("`task: CDE` and `held: {age: old}`", cde),
            ("`task: PN, bound: upper`", bound),
            ("the same with P(drug, recovery)", bound.replace("question:", f"{joint}question:")),
            ("[young, old]", "[old, young]"),
            ("drug -> recovery]", "drug -> recovery, recovery -> age]"),
            ("= 0.25", "= 1.25"),
            ("age=old) = 0.25", "ages=old) = 0.25"),
            ("age=old) = 0.25", "age=older) = 0.25"),
            ("[young, old]", "[young, middle, old]"),
            ("  - P(age=old) = 0.25", "  - P(age=old) = 0.25\n  - P(age=young) = 0.5"),
            ("age -> drug,", "age <-> drug,"),
            ("task: ATE", "task: ATT"),
            ("y: recovery=yes", "y: recovery"),
            ("`just words`", "just words"),
        ],
    )


def graph_inputs() -> Iterator[Input]:
    text = GOOD.replace(EDGES, GRAPH)

    def graph(written: str) -> tuple[str, str]:
        return f"`graph: {written}`", text.replace(GRAPH, f"graph: {json.dumps(written)}")

    return edits(
        text,
        "q.yaml",
        [
            graph("dag { age -> drug; age -> recovery; drug -> recovery }"),
            graph("digraph G { age -> drug -> recovery; age -> recovery }"),
            graph("dag { age -> {drug recovery} drug -> recovery }"),
            graph("dag { {age drug} -> recovery; age -> drug }"),
            graph('dag { "age" [pos="0,1"] drug [exposure] recovery <- age -> drug -> recovery }'),
            graph("dag { recovery <- drug; recovery <- age; drug <- age }"),
            graph("digraph { age -> drug [weight=2]; age -> recovery; drug -> recovery; }"),
            graph("strict digraph { rankdir=LR; age -> drug; age -> recovery; drug -> recovery }"),
            graph("dag { drug -> recovery; age -> recovery }"),
            graph("dag { age -> drug; age -> recovery }"),
            graph("dag { age -> drug -> recovery }"),
            graph("dag { age -> drug -> recovery -> age }"),
            graph("dag { drug <-> recovery; drug -> recovery }"),
            graph("graph { age -- drug; drug -- recovery }"),
            graph("dag { age -> drug; age -> recovry; drug -> recovery }"),
            graph("dag { drug -> drug; drug -> recovery }"),
            graph("dag { age -> { drug; { recovery } } }"),
            graph("age causes drug"),
            graph("dag { }"),
            ("`edges` and `graph` both", f"{text}{EDGES}\n"),
        ],
    )


def text_inputs() -> Iterator[Input]:
    text = PROBLEM.text
    first, numbers, *_ = text.splitlines()
    sentences = numbers.split(". ")
    number = sentences[0].split()[-1]
    question = next(line for line in text.splitlines() if line.startswith("Question:"))
    treatment = PROBLEM.story.names[PROBLEM.story.query.x] if PROBLEM.story else ""
    outcome = PROBLEM.story.names[PROBLEM.story.query.y] if PROBLEM.story else ""
    turned = question.replace("more likely", "less likely")
    instruction = next(line for line in text.splitlines() if line.startswith("Instruction:"))
    rest = "\n".join(text.splitlines()[2:])
    again = f"{sentences[0][:-6]}0.0001. {numbers}"
    weather = question.replace(outcome, "weather")
    edge = f"relationships:{outcome.capitalize()} has a direct effect on {treatment}."
    sleep = "What is the effect of sleep on health?"
    once = f"{sentences[0]}. "
    changes = [
        ("an item of the deconfounding variant, as released", text),
        ("with Windows line ends", text.replace("\n", "\r\n")),
        ("with blank lines before and after", f"\n\n{text}\n\n"),
        ("with `Let's think step by step.` at its end", f"{text}\nLet's think step by step."),
        ("without its Instruction line", text.replace(f"{instruction}\n", "")),
        ("`less likely` for `more likely`", text.replace(question, turned)),
        ("without its first number", text.replace(once, "")),
        ("its first number said twice", text.replace(once, once * 2)),
        (f"`1.{number[2:]}` for its first number", text.replace(number, f"1.{number[2:]}", 1)),
        ("its first number again, and different", f"{first}\n{again}\n{rest}"),
        ("without its sentences about causes", f"{first.split(': Imagine')[0]}\n{numbers}\n{rest}"),
        ("without the question", text.replace(question, "")),
        ("a question about a word that is no variable", text.replace(question, weather)),
        ("cut after 300 characters", text[:300]),
        ("cut in the question", text[: text.index(question) + 30]),
        ("an edge that closes a cycle", text.replace("relationships:", edge)),
        ("an empty file", ""),
        (f"`{sleep}`", sleep),
        ("bytes that are no text", ""),
    ]
    for made in edits(text, "p.txt", changes):
        broken = made.shown.startswith("bytes")
        yield made._replace(files={"p.txt": b"\xff\xfe\x00\x81"}) if broken else made
    yield Input("the item on standard input: `-`", ["-"], {}, text)


def item_inputs() -> Iterator[Input]:
    def row(problem, /, **more):
        own = {"problem": problem.text, "answer": problem.answer, "Type": problem.task}
        return own | more

    others = [generate_problem(6, i, ["ETT", "PS"]) for i in range(2)]
    two = json.dumps([row(problem) for problem in others])
    lines = "".join(json.dumps(row(problem)) + "\n" for problem in others)
    messages = [{"role": "user", "content": PROBLEM.text}]
    chat = {"prompt": messages, "completion": [{"role": "assistant", "content": "?"}]}
    verl = {"prompt": messages, "reward_model": {"ground_truth": PROBLEM.answer}}
    (lacks,) = [generate_problem(3, 0, ["NIE"], variant="insufficient")]

    def item(shown: str, name: str, content: str, *more: str) -> Input:
        return Input(f"{shown}: `{' '.join([name, *more])}`", [name, *more], {name: content})

    def one(stored: object) -> str:
        return json.dumps([stored])

    text, answer = PROBLEM.text, PROBLEM.answer
    lacking = one(row(lacks, variant="insufficient"))
    hinted = one(row(PROBLEM, prompt=f"{text} Hint."))
    cases = [
        ("a list of two", "two.json", two),
        ("its second", "two.json", two, "--item=1"),
        ("the same as lines", "two.jsonl", lines, "--item=1"),
        ("past its end", "two.json", two, "--item=2"),
        ("before its start", "two.json", two, "--item=-1"),
        ("an item that lacks a number", "lack.json", lacking),
        ("an item with a wrong label", "label.json", one(row(PROBLEM, answer='{"PROB": "0.9"}'))),
        ("messages of TRL", "chat.json", one(chat)),
        ("a row of the RL files", "rl.json", one(verl)),
        ("an item with a hint in its prompt", "hint.json", hinted),
        ("an item without Type", "type.json", one({"problem": text, "answer": answer})),
        ("an item without answer", "answer.json", one({"problem": text, "Type": "ATE"})),
        ("an item of another Type", "other.json", one(row(PROBLEM, Type="ETT"))),
        ("a problem in other words", "words.json", one(row(PROBLEM, problem="How is it?"))),
        ("a row that is no problem", "qa.json", one({"question": "2+2?", "answer": "4"})),
        ("a number for a row", "three.json", "[3]"),
        ("an empty list", "none.json", "[]"),
        ("JSON that is cut", "cut.json", two[:100]),
        ("no JSON", "plain.jsonl", "hello\n"),
    ]
    yield from (item(*case) for case in cases)
    yield Input("a file that is not there: `absent.json`", ["absent.json"], {})


def random_inputs() -> Iterator[Input]:
    calls = [
        *(f"--task={task}" for task in ("ATE", "CDE", "ETT", "NDE", "NIE", "PN", "PS")),
        *(
            f"--task=NIE --variant={variant} --seed=2"
            for variant in ("deconfounding", "redundant", "insufficient", "omitted", "hard")
        ),
        "--variant=rephrased",
        "--task=PS --variant=insufficient",
        "--seed=12345",
        "--seed=-1",
        "--task=ATT",
        "--variant=easy",
        "q.yaml",
        "--samples=0",
    ]
    for call in calls:
        yield Input(f"`--random {call}`", ["--random", *call.split()], {"q.yaml": GOOD})


FORMS = {
    "YAML": yaml_inputs,
    "YAML with a DOT or dagitty graph": graph_inputs,
    "A problem's text": text_inputs,
    "An item of a file": item_inputs,
    "A generated question": random_inputs,
}


def asked(one: Input) -> tuple[int, str]:
    """(exit status, what is printed: the answer, or the line that says what is wrong)."""
    out, problems = io.StringIO(), io.StringIO()
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        for name, content in one.files.items():
            data = content.encode() if isinstance(content, str) else content
            (Path(folder) / name).write_bytes(data)
        os.chdir(folder)
        try:
            with (
                contextlib.redirect_stdout(out),
                contextlib.redirect_stderr(problems),
                mock.patch.object(sys, "stdin", io.StringIO(one.stdin)),
                mock.patch.object(sys, "argv", ["caugym ask"]),
            ):
                ask.main([*one.argv, "--model=none"])
        except UserError as error:
            return 1, f"error: {error}"
        except SystemExit as ended:
            assert isinstance(ended.code, int)
            said = problems.getvalue().strip().splitlines()[-1]
            return ended.code, said.partition(" (choose from")[0]
        finally:
            os.chdir(before)
    lines = [line.strip() for line in out.getvalue().splitlines()]
    start = next(i for i, line in enumerate(lines) if line.startswith("Answer:"))
    return 0, " ".join(lines[start:])


def table() -> str:
    parts = [
        HEADING,
        "Asked of the engine alone (`--model=none`): exit status and what is printed, of an answer",
        "its last lines. `python -m tests.ask_inputs` writes this section, and a test compares it.",
    ]
    for form, inputs in FORMS.items():
        parts += ["", f"### {form}", "", "| input | exit | printed |", "|---|---|---|"]
        for one in inputs():
            status, text = asked(one)
            cells = (one.shown, str(status), text)
            parts.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(parts) + "\n"


def main() -> None:
    text = DOCUMENT.read_text()
    head = text.partition(HEADING)[0].rstrip("\n") + "\n\n"
    DOCUMENT.write_text(head + table())


if __name__ == "__main__":
    main()
