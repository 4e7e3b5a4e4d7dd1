"""Every grader on megabytes of nonsense: it never raises, and its time grows with the length."""

import time

import numpy as np
import pytest

from caugym_jax.evals.scorers import published, strict
from caugym_jax.rewards.answer import answer_reward, extract, verdict_reward
from caugym_jax.rewards.combination import combine
from caugym_jax.rewards.form import form_reward
from caugym_jax.rewards.steps import steps_reward
from caugym_jax.types import Problem
from tests.rewards.test_steps import TWO

LACKING = Problem(text="", answer="LACK_CONDITION", task="PN", variant="insufficient")
GRADERS = (answer_reward, verdict_reward, form_reward, steps_reward, published, strict)
RIGHT = '{"ANSWER": "Yes", "PROB": "0.2375"}'

# Repeated, or nested, to any length.
PARTS = {
    "braces": "{",
    "closing braces": "}",
    "pairs of braces": "{}",
    "brackets": "[",
    "quotes": '{"',
    "nested PROB": '{"PROB":',
    "nested lists": '{"PROB":[',
    "nested keys": '{"a":{"ANSWER":"Yes","PROB":0.1,"b":',
    "guesses": '{"PROB":"0.0009"}',
    "equal guesses": RIGHT,
    "duplicate keys": '"PROB":0.2375,"ANSWER":"Yes",',
    "not a number": '{"PROB":NaN}',
    "infinite": '{"PROB":1e999}',
    "long exponents": '{"PROB":"1e-999","PROB":1e999}',
    "digits": "9",
    "unicode digits": "٣",
    "minus signs": "−-–",
    "surrogates": '\ud800{"PROB":"\udfff"}',
    "nulls": '\x00{"PROB":"\x00"}',
    "escapes": '{"\\u0050ROB":"\\"',
    "backslashes": "\\",
    "spaces": '{ "PROB"      ',
    "white space": "\n \t\r\f\u2028",
    "lines": "*\n",
    "thinks": "<think>",
    "closed thinks": "<think></think>",
    "boxes": "\\boxed{",
    "boxed": "\\boxed{LACK_CONDITION}",
    "lack": "LACK_CONDITION",
    "lack lines": "LACK_CONDITION\n",
    "lack sentences": "so, the answer is, ",
    "answer tags": "<answer>",
    "sentences": "so. ",
    "fractions": "\\frac{0.7}{",
    "bounds": "min{1, max(0, ",
    "sums": "0.7125-0.4750+",
    "equalities": "0.7125 - 0.4750 = 0.2375\n",
    "equals": "1=",
    "open sums": "((1-",
    "cited": "P(B=1|A=1)=0.7125 ",
    "cited on": "P(A=1,A=1,",
    "sets": "adjustment set: {A, ",
}


def made(part: str, size: int) -> str:
    return part * (size // len(part))


@pytest.mark.parametrize("part", PARTS.values(), ids=PARTS)
def test_never_raises(part):
    for body in (made(part, 800), made(part, 800) + "}" * 200):
        for text in (
            body,
            body + RIGHT,
            "<think>" + body + "</think>" + RIGHT,
            body + "\n" + "LACK_CONDITION",
        ):
            for grader in GRADERS:
                for problem in (TWO, LACKING):
                    assert grader(text, problem) in (None, *np.linspace(0, 1, 11))


def test_megabytes_at_once():
    texts = [made(part, 200_000) + RIGHT for part in ("{", '{"PROB":', '{"a":[', "\\boxed{", "9")]
    texts.append('{"PROB":' * 100_000 + "1" + "}" * 100_000)  # nested 100,000 deep, and closed
    texts.append("".join(f'{{"PROB":"{k / 10_000}"}}' for k in range(10_000)))
    texts.append('{"ANSWER":"Yes","PROB":' + "9" * 3_000_000 + "}")
    for text in texts:
        assert extract(text).prob is None or not strict(text, TWO) or text.endswith(RIGHT)
        assert isinstance(published(text, TWO), bool)
    weights = dict.fromkeys(("answer", "form", "steps"), 1.0)
    scores = combine(texts, [TWO] * len(texts), [False] * len(texts), weights)
    assert np.isfinite(scores.values).all() and not scores.failures


@pytest.mark.parametrize("part", PARTS.values(), ids=PARTS)
def test_time_is_linear(part):
    """Twice the text takes at most three times as long (of the process's own time, the best of
    several tries, and only where it is long enough to tell)."""

    def seconds(text: str) -> float:
        start = time.process_time()
        for grader in GRADERS:
            grader(text, TWO)
            grader(text + "\nLACK_CONDITION", LACKING)
        return time.process_time() - start

    short, long = made(part, 20_000), made(part, 40_000)
    for _ in range(6):
        once, twice = seconds(short), seconds(long)
        if twice < max(3 * once, 0.2):
            return
    raise AssertionError(f"{once:.2f} s for one length, {twice:.2f} s for two")
