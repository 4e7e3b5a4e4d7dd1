"""Imports go one way, and what needs no jax does not import it."""

import ast
import subprocess
import sys

import pytest

from tests.shared import ROOT

# A module may import from its own line and those above it.
LAYERS = [
    ("devices.memory", "devices.starting"),
    ("errors", "types", "configs", "devices.processes"),
    ("cli", "devices.chips"),
    ("causal.text",),
    ("causal.engine",),
    ("devices.shapes",),
    ("devices.mesh", "models.config"),
    ("devices.terminal",),
    ("devices.programs",),
    ("models",),
    ("rewards", "data", "objectives"),
    ("sampling",),
    (
        "devices.speed",
        "runs.events",
        "runs.log",
        "runs.alarms",
        "runs.digests",
        "runs.identity",
        "runs.stored",
    ),
    ("runs.checkpoints", "runs.lock"),
    ("runs.folder",),
    ("runs.opening",),
    ("algorithms",),
    ("evals", "runs.settings", "runs.recipe", "runs.methods"),
    ("runs.card", "runs.journal", "runs.stopping"),
    ("runs.exporting",),
    ("runs.session",),
    ("runs.loop",),
    ("runs.library",),
    ("planning",),
    ("studies",),
    ("pages",),
    (
        "train",
        "evaluate",
        "grade",
        "generate",
        "solve",
        "tokenizer",
        "export",
        "compile",
        "report",
        "ask",
        "study",
        "__main__",
    ),
]
PACKAGE = ROOT / "caugym_jax"
ROOMLESS = {path.stem for path in PACKAGE.glob("*.py")} | {"causal"}


def layer(module: str) -> int:
    """The last matching layer, so that models.config can lie below the rest of models."""
    for prefix_length in (2, 1):
        name = ".".join(module.split(".")[:prefix_length])
        for i, names in enumerate(LAYERS):
            if name in names:
                return i
    raise AssertionError(f"{module} stands in no layer: add it to LAYERS")


def imported(path):
    """The caugym_jax modules that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("caugym_jax"):
            base = node.module.removeprefix("caugym_jax").lstrip(".")
            if base.count(".") or base in ROOMLESS:
                yield base
            else:  # `from caugym_jax.devices import processes`: the modules of a room
                yield from (f"{base}.{alias.name}".lstrip(".") for alias in node.names)
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.startswith("caugym_jax."):
                    yield alias.name.removeprefix("caugym_jax.")


FILES = [p for p in sorted(PACKAGE.rglob("*.py")) if p.name != "__init__.py"]


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_one_way(path):
    module = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
    for other in imported(path):
        assert layer(other) <= layer(module), f"{module} imports {other}, which lies above it"


@pytest.mark.parametrize(
    "module", ["generate", "solve", "grade", "rewards.combination", "evals.scorers"]
)
def test_no_jax(module):
    code = f"import caugym_jax.{module}, sys; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_only_mesh_says_partition_spec():
    for path in FILES:
        if path.name != "mesh.py":
            assert "PartitionSpec" not in path.read_text(), path
