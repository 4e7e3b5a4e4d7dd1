"""The command `ask`: forms of questions, exit statuses, what is printed."""

import io
import json

import pytest

from caugym_jax import ask
from caugym_jax.causal.engine.generating import generate_problem
from caugym_jax.causal.engine.solving import solve
from caugym_jax.data.files import problem_record
from caugym_jax.errors import UserError
from caugym_jax.types import Problem
from tests import ask_inputs
from tests.data.solutions.problems import problems, tokens
from tests.data.test_questions import GOOD

RIGHT = '{"ANSWER": "Yes", "PROB": "0.125"}'


USELESS = ["q.yaml", "--max_new_tokens=0"]


class Answering:
    """A model that gives the texts it was made with."""

    def __init__(self, *texts):
        self.texts = list(texts)

    def ask(self, problem, *, samples, temperature, max_new_tokens, seed):
        assert max_new_tokens == 384
        assert isinstance(problem, Problem) and samples == len(self.texts)
        return self.texts


@pytest.fixture
def question(tmp_path):
    path = tmp_path / "question.yaml"
    path.write_text(GOOD)
    return str(path)


def printed(capsys, *argv):
    status = 0
    try:
        ask.main(argv)
    except SystemExit as ended:
        status = ended.code
    return status, capsys.readouterr().out


def test_the_engine_alone(question, capsys):
    status, out = printed(capsys, question, "--model=none")
    assert status == 0 and "Answer: 0.125, Yes" in out
    assert all(len(line) <= 80 for line in out.splitlines())


def test_json_of_a_question_that_lacks(tmp_path, capsys):
    path = tmp_path / "q.yaml"
    path.write_text(GOOD.replace("  - P(age=old) = 0.25\n", ""))
    _, out = printed(capsys, str(path), "--model=none", "--json")
    engine = {"prob": None, "verdict": None, "lack": True, "adjustment": []}
    assert json.loads(out) == {
        "engine": engine | {"missing": ["P(age=young)"]},
        "model": None,
        "agree": None,
    }


@pytest.mark.parametrize(("text", "status"), [(RIGHT, 0), ('{"ANSWER": "No", "PROB": "0.2"}', 3)])
def test_model_and_engine(question, capsys, monkeypatch, text, status):
    monkeypatch.setattr("caugym_jax.load", lambda name: Answering(text))
    found, out = printed(capsys, question, "--json")
    stored = json.loads(out)
    assert found == status and stored["agree"] is (status == 0)
    assert set(stored["model"]) == {"prob", "verdict", "lack", "steps"}


def test_votes(question, capsys, monkeypatch):
    monkeypatch.setattr("caugym_jax.load", lambda name: Answering("?", RIGHT, RIGHT))
    status, out = printed(capsys, question, "--samples=3")
    assert status == 0 and "Model (2 of 3 samples)" in out and "not checkable" in out


def test_other_forms(tmp_path, capsys, monkeypatch):
    problem = generate_problem(5, 0, ["ATE"])
    value = f"Answer: {float(solve(problem.story).value):.4f}".rstrip("0").rstrip(".")
    items = tmp_path / "items.jsonl"
    items.write_text(json.dumps(problem_record(problem)) + "\n")
    text = tmp_path / "problem.txt"
    text.write_text(problem.text)
    monkeypatch.setattr("sys.stdin", io.StringIO(problem.text))
    for form in ([str(items)], [str(items), "--item=0"], [str(text)], ["-"]):
        assert value in printed(capsys, *form, "--model=none")[1]
    random = ["--random", "--task=ATE", "--seed=5", "--model=none", "--show"]
    status, out = printed(capsys, *random)
    assert status == 0 and "Question" in out


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["absent.yaml"], "cannot read absent.yaml"),
        (["ITEMS", "--item=1"], "has the items 0 to 0"),
    ],
)
def test_what_cannot_be_read(tmp_path, argv, says):
    items = tmp_path / "items.jsonl"
    items.write_text(json.dumps(problem_record(generate_problem(5, 0, ["ATE"]))) + "\n")
    argv = [str(items) if a == "ITEMS" else a for a in argv]
    with pytest.raises(UserError, match=says):
        ask.main([*argv, "--model=none"])


@pytest.mark.parametrize("argv", [[], ["q.yaml", "--random"], ["q.yaml", "--samples=0"], USELESS])
def test_usage(argv):
    with pytest.raises(SystemExit) as ended:
        ask.main(argv)
    assert ended.value.code == 2


def test_steps_of_a_solution_are_marked(tmp_path, capsys, monkeypatch):
    problem, plan = problems("deconfounding")[0]
    text = "".join(tokens(plan))
    path = tmp_path / "problem.txt"
    path.write_text(problem.text)
    monkeypatch.setattr("caugym_jax.load", lambda name: Answering(text))
    status, out = printed(capsys, str(path), "--json")
    steps = json.loads(out)["model"]["steps"]
    assert status == 0 and len(steps) > 5 and all(step["right"] for step in steps)
    wrong = text.replace("#1=0.", "#1=1.", 1)
    monkeypatch.setattr("caugym_jax.load", lambda name: Answering(wrong))
    _, out = printed(capsys, str(path))
    assert "The first wrong step:" in out and "WRONG (application)" in out
    story = problem.story
    assert f"X = {story.names[story.query.x]} (0 " in out and ", the treatment" in out


def test_the_table_of_inputs_is_current():
    for form, inputs in ask_inputs.FORMS.items():
        assert len(list(inputs())) == 20, form
    shown = ask_inputs.DOCUMENT.read_text()
    assert shown.endswith(ask_inputs.table()), "run python -m tests.ask_inputs"
