"""The examples of docs/solutions.md are right solutions."""

import re

from caugym_jax.data.solutions import checking
from tests.data.solutions.reading import plan_in
from tests.shared import ROOT


def test_examples_pass_the_checker():
    text = (ROOT / "docs" / "solutions.md").read_text()
    solutions = re.findall(r"```text\n(X=.*?)\n```", text, re.S)
    assert len(solutions) == 8
    for solution in solutions:
        assert checking.failure(checking.check(solution, plan_in(solution))) is None, solution
