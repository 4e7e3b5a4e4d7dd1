"""Rewards and graders as other libraries call them."""

import importlib.util
import json
import subprocess
import sys

import pytest

from caugym_jax.causal.engine.generating import generate_problem
from caugym_jax.data.files import problem_record
from caugym_jax.data.rows import make_row
from caugym_jax.rewards import bridges
from tests.shared import ROOT

PROBLEM = generate_problem(3, 0, ("ATE",), zero_fraction=0.0)
ROW = make_row("rl", PROBLEM, 0)
FLIPPED = json.dumps(
    json.loads(PROBLEM.answer) | {"ANSWER": "No" if PROBLEM.verdict == "Yes" else "Yes"}
)


def test_no_jax_is_imported():
    code = "import sys, caugym_jax.rewards.bridges; print('jax' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.strip() == "False", done.stderr


def test_trl():
    """The columns as TRL hands them on, the completions as messages."""
    told = [[{"role": "assistant", "content": text}] for text in (PROBLEM.answer, FLIPPED, "?")]
    columns = {key: [ROW[key]] * 3 for key in ("data_source", "reward_model", "extra_info")}
    asked = [ROW["prompt"]] * 3
    found = bridges.answer(prompts=asked, completions=told, trainer_state=object(), **columns)
    assert found == [1.0, 0.0, 0.0]
    assert bridges.form(prompts=asked, completions=told, **columns)[:2] == [1.0, 1.0]
    plain = bridges.math(prompts=["2+2?"] * 2, completions=["#### 4.0", "5"], answer=["4", "4"])
    assert plain == [1.0, 0.0] and bridges.answer.__name__ == "answer"
    assert bridges.answer(prompts=["2+2?"], completions=["4"], answer=["4"]) == [None]


def test_verl():
    score = bridges.compute_score
    assert score("caugym_base", PROBLEM.answer, PROBLEM.answer) == pytest.approx(1.1)
    assert score("caugym_base", "no", PROBLEM.answer) == 0
    text = {"problem": PROBLEM.text}
    assert score("caugym_base", FLIPPED, PROBLEM.answer, text) == pytest.approx(0.1)
    assert score("openai/gsm8k", r"\boxed{72.0}", "72") == 1.0


def test_lm_eval_functions():
    path = ROOT / "bridges/lm_eval/utils.py"
    spec = importlib.util.spec_from_file_location("caugym_lm_eval_utils", path)
    utils = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(utils)
    doc = problem_record(PROBLEM)
    assert utils.question(doc) == f"{PROBLEM.text}\nLet's think step by step."
    assert utils.grades(doc, [PROBLEM.answer]) == {"strict": 1.0, "published": 1.0}
    assert utils.grades(doc, [FLIPPED]) == {"strict": 0.0, "published": 1.0}


def test_verifiers():
    pytest.importorskip("verifiers")
    env = bridges.load_environment(tasks=("ATE",), n=3)
    assert len(env.dataset) == 3
