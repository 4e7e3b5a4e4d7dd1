"""docs/complaints.md names a test for each known complaint, and the tests exist."""

import ast
import re

from tests.shared import ROOT

COMPLAINTS = 24


def rows():
    """{number: the tests named}, in the table's order."""
    text = (ROOT / "docs/complaints.md").read_text()
    found = re.findall(r"^\| T(\d+) \| [^|]+ \| ([^|]+) \|$", text, re.MULTILINE)
    return {int(number): re.findall(r"`([^`]+)`", tests) for number, tests in found}


def test_every_complaint_has_a_test_of_its_number():
    assert list(rows()) == list(range(1, COMPLAINTS + 1))
    for number, tests in rows().items():
        assert tests and all(f"::test_t{number:02}_" in test for test in tests), number


def test_every_named_test_exists():
    for test in sum(rows().values(), []):
        path, name = test.split("::")
        tree = ast.parse((ROOT / path).read_text())
        assert name in {f.name for f in tree.body if isinstance(f, ast.FunctionDef)}, test
