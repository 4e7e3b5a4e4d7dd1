"""The files of a study: the same problems in every form, wrong answers that are wrong."""

import dataclasses
import json
import random

import pytest

from caugym_jax.causal.engine.generating import generate_problems
from caugym_jax.data.files import read_problems
from caugym_jax.errors import UserError
from caugym_jax.rewards.answer import expected, extract, is_right
from caugym_jax.studies import data
from caugym_jax.studies.settings import Study, StudyTests
from caugym_jax.types import LACK, TASKS

STUDY = Study(
    problems=14,
    batch_size=2,
    held_out=3,
    cold_start=4,
    cold_tasks=("PN",),
    tests=StudyTests(variants=("base", "insufficient"), n=7),
)


def right(text, problem):
    return is_right(extract(text), expected(problem))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study") / "data"
    data.prepare(STUDY, folder)
    return folder


def test_all_files_are_written_once(files):
    stamps = {path.name: path.stat().st_mtime_ns for path in files.iterdir()}
    names = {"train.jsonl", "held_out.jsonl", "cold.jsonl", "base.json", "insufficient.json"}
    assert set(stamps) == names
    data.prepare(STUDY, files)
    assert stamps == {path.name: path.stat().st_mtime_ns for path in files.iterdir()}


def test_training_problems_carry_right_solutions(files):
    train = read_problems(files / "train.jsonl")
    assert len(train) == 14 and {problem.task for problem in train} == set(TASKS)
    assert all(right(problem.solution, problem) for problem in train)
    assert {p.task for p in read_problems(files / "cold.jsonl")} == {"PN"}


def test_no_problem_is_asked_twice(files):
    texts = [p.text for path in files.iterdir() for p in read_problems(path)]
    assert len(texts) == len(set(texts))


def test_tests_keep_their_variant(files):
    assert {p.variant for p in read_problems(files / "insufficient.json")} == {"insufficient"}


@pytest.mark.parametrize("style", ["notation", "steps"])
@pytest.mark.parametrize("variant", ["base", "deconfounding", "redundant", "insufficient"])
def test_solutions_and_slips(style, variant):
    for i, problem in enumerate(generate_problems(TASKS, 14, 5, variant=variant)):
        solved = dataclasses.replace(problem, solution=data.solution_of(problem, style))
        assert right(solved.solution, problem)
        slip = data.slipped(solved, random.Random(i))
        assert not right(slip, problem)
        assert extract(slip).prob is not None  # an answer, and a wrong one
        same = min(solved.solution.rfind("{"), len(slip)) if not problem.lacks else 0
        assert slip[:same] == solved.solution[:same]


def test_preferences_take_the_models_own_wrong_answers(tmp_path):
    study = dataclasses.replace(STUDY, cold_start=0, problems=2)
    data.prepare(study, tmp_path)
    first, second = read_problems(tmp_path / "train.jsonl")
    answers = [
        {"all_generated_answers": [first.solution, "X=1 nonsense", "more"]},
        {"all_generated_answers": [second.solution, ""]},
    ]
    rows = [
        data.row_of(problem) | extra
        for problem, extra in zip((first, second), answers, strict=True)
    ]
    (tmp_path / "own.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data.write_preferences(study, tmp_path, tmp_path / "own.jsonl")
    pairs = [json.loads(x) for x in (tmp_path / "pairs.jsonl").read_text().splitlines()]
    assert [pair["kind"] for pair in pairs] == ["own", "slip"]
    assert pairs[0]["rejected"][0]["content"] == "X=1 nonsense"
    assert not right(pairs[1]["rejected"][0]["content"], second)
    judged = [json.loads(x) for x in (tmp_path / "judged.jsonl").read_text().splitlines()]
    assert [row["label"] for row in judged] == [True, False] * 2
    assert judged[0]["completion"] == pairs[0]["chosen"]


def test_a_file_of_problems(files, tmp_path):
    study = Study(problems=4, batch_size=2, path=str(files / "base.json"))
    assert [p.text for p in data.training_problems(study)] == [
        p.text for p in read_problems(files / "base.json")[:4]
    ]
    with pytest.raises(UserError, match=r"config.problems=8: .*base.json has 7 problems"):
        data.training_problems(dataclasses.replace(study, problems=8))


def test_hard_problems_have_no_notation():
    problems = generate_problems(TASKS, 14, 0, variant="hard")
    with pytest.raises(UserError, match="config.solutions=notation has no words"):
        for problem in problems:
            data.solution_of(problem, "notation")


def test_a_lacking_solution_slips_to_a_number():
    (problem,) = generate_problems(["ATE"], 1, 1, variant="insufficient")
    solved = dataclasses.replace(problem, solution=f"steps\n{LACK}")
    assert extract(data.slipped(solved, random.Random(0))).prob is not None
