"""The package's functions, and the examples of docs/library.md."""

import doctest
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import caugym_jax
from caugym_jax.errors import UserError
from tests.shared import ROOT
from tests.tiny_model import tiny_model  # noqa: F401


def test_the_examples_of_the_page(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    one = jax.devices()[:1]
    monkeypatch.setattr(jax, "devices", lambda *_: one)
    failed, tried = doctest.testfile(str(ROOT / "docs/library.md"), module_relative=False)
    assert failed == 0 and tried > 10


def test_importing_is_quick_and_loads_no_jax():
    code = (
        "import sys, time, caugym_jax; assert len(sys.modules) < 200, len(sys.modules);"
        "p = caugym_jax.problems('ATE', n=1)[0]; caugym_jax.solve(p.text);"
        "caugym_jax.grade('', p); assert 'jax' not in sys.modules"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_functions_stay_functions_beside_the_commands_of_their_names():
    for name in ("train", "solve", "grade"):
        __import__(f"caugym_jax.{name}")
        assert getattr(caugym_jax, name).__module__ != f"caugym_jax.{name}"
        assert callable(sys.modules[f"caugym_jax.{name}"].main)
    assert not hasattr(caugym_jax, "slove")


@pytest.fixture(scope="module")
def model(tiny_model):  # noqa: F811
    return caugym_jax.load(tiny_model)  # on the eight devices


def test_answers_do_not_depend_on_the_other_questions(model):
    problems = caugym_jax.problems(["ATE", "ETT"], n=3, seed=4)
    together = model.ask_all(problems, samples=2, max_new_tokens=12, seed=5)
    assert [len(answers) for answers in together] == [2, 2, 2]
    assert model.ask(problems[0], samples=2, max_new_tokens=12, seed=5) == together[0]
    greedy = model.ask(problems[0], temperature=0, max_new_tokens=12)
    assert greedy == model.ask(problems[0], temperature=0, max_new_tokens=12, seed=1)


def test_a_score_is_what_the_model_itself_finds_token_by_token(model):
    problem = caugym_jax.problems("ATE", n=1, seed=4)[0]
    found = model.score(problem, problem.answer)
    prompt, end = model._prompt(problem), model.tokenizer.end_id
    completion = [*model.tokenizer.encode(problem.answer), end]
    assert found.shape == (len(completion),) and found.dtype == np.float32
    tokens = jnp.array([prompt + completion])
    places = jnp.arange(tokens.shape[1])[None]
    hidden, _ = model.model.hidden(model.params, tokens, places, jnp.ones_like(tokens))
    logits = jax.nn.log_softmax(model.model.logits(model.params, hidden[0]))
    expected = [
        logits[place, token] for place, token in enumerate(completion, start=len(prompt) - 1)
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_bad_input_is_one_line(model, tmp_path):
    with pytest.raises(UserError, match="temperature=-1"):
        model.ask("Yes?", temperature=-1)
    with pytest.raises(UserError, match="tokens, the model takes"):
        model.score("Yes?", "so " * 4000)
    with pytest.raises(UserError, match="there is no model at"):
        caugym_jax.load(tmp_path / "absent")
    with pytest.raises(UserError, match="a configuration object needs a workdir"):
        caugym_jax.train(object())
    with pytest.raises(UserError, match="config has no key 'stesp'"):
        caugym_jax.train("sft.py", tmp_path, {"stesp": 3})
