"""The documents name what there is: rooms, commands, documents."""

import re

from tests.shared import ROOT

PACKAGE = ROOT / "caugym_jax"
NAMES = {
    path.stem
    for path in PACKAGE.iterdir()
    if path.suffix == ".py" or (path.is_dir() and any(path.glob("*.py")))
}


def test_the_architecture_names_every_room_and_module():
    text = (ROOT / "docs/architecture.md").read_text()
    named = {part for code in re.findall(r"`([^`\n]+)`", text) for part in re.split(r"\W+", code)}
    assert NAMES and not NAMES - named


def test_the_tree_names_every_room_and_module():
    tree = (ROOT / "CONTRIBUTING.md").read_text().split("```")[3]
    words = set(re.split(r"[\s/:]+", tree.replace(".py", "")))
    assert not NAMES - words - {"__init__", "__main__"}
    folders = {path.name for path in ROOT.iterdir() if path.is_dir() and any(path.glob("*.py"))}
    assert {"configs", "benchmarks", "tests"} <= folders and not folders - words


def test_the_index_lists_every_document():
    listed = set(re.findall(r"\]\(([^)]+)\)", (ROOT / "docs/README.md").read_text()))
    assert listed == {path.name for path in (ROOT / "docs").glob("*.md")} - {"README.md"}
