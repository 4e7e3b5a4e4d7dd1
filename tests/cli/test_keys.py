"""`--help` of configurations and docs/settings.md: complete, current, and read without jax."""

import dataclasses
import subprocess
import sys
import typing

import pytest

from caugym_jax.cli import config as configs
from caugym_jax.cli import keys
from tests.shared import ROOT

SHIPPED = sorted(
    path.stem
    for path in (ROOT / "configs").glob("*.py")
    if "def get_config(" in path.read_text() and not path.stem.startswith("study")
)


def real(cls, section=""):
    """{(section, key): (annotation, default)} of a settings class."""
    found, hints = {}, typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        if dataclasses.is_dataclass(hints[field.name]):
            found |= real(hints[field.name], f"{section}.{field.name}".lstrip("."))
        else:
            found[section, field.name] = field.type, repr(field.default)
    return found


@pytest.mark.parametrize("method", ["sft", "dpo", "kto", "grpo", "ppo"])
def test_what_is_read_from_the_source_is_what_the_classes_are(method):
    from caugym_jax.runs.settings import METHODS

    read = {
        (group.section, key.name): (key.type, key.default)
        for group in keys.groups(method)
        for key in group.keys
    }
    assert list(keys.methods()) == [*METHODS, "study"]
    assert read == real(METHODS[method])


def test_the_settings_of_a_study_are_what_its_class_is():
    from caugym_jax.studies.settings import Study

    read = {
        (group.section, key.name): (key.type, key.default)
        for group in keys.groups("study")
        for key in group.keys
    }
    assert read == real(Study)


def test_every_key_and_group_has_a_meaning():
    for method in keys.methods():
        for group in keys.groups(method):
            assert group.title and "Attributes" not in group.title, group.section
            for key in group.keys:
                assert key.meaning, (group.section, key.name)


def test_the_document_is_current():
    shown = (ROOT / "docs/settings.md").read_text()
    assert shown == keys.markdown(), "run python -m caugym_jax.cli.keys > docs/settings.md"


def test_own_values_are_marked():
    values = {"steps": 7, "optim": {"peak": 3e-4, "clip_norm": None}, "data": {"nodes": (3, 5)}}
    lines = keys.text("grpo", values, 80).split("\n")
    assert "  --config.steps=7  (default 100)  [int]" in lines
    assert "  --config.optim.peak=0.0003  (default 1e-05)  [float]" in lines
    assert "  --config.optim.clip_norm=none  (default 1.0)  [float | None]" in lines
    assert "  --config.data.nodes=3,5  [tuple[int, int]]" in lines
    assert all(len(line) <= 80 for line in lines if not line.startswith("  --config"))


@pytest.mark.parametrize("name", SHIPPED)
def test_help_of_every_configuration(name, capsys):
    for spec in (name, f"{name}.py:smollm2-135m"):
        with pytest.raises(SystemExit) as ended:
            configs.parse(keys_parser(), [f"--config={spec}", "--help"])
        assert ended.value.code == 0
        out = capsys.readouterr().out
        assert "--config.steps=" in out and "--config.optim.peak=" in out


@pytest.mark.parametrize("spec", ["study", "study_paper", "study.py:smollm2-135m"])
def test_help_of_a_study(spec, capsys):
    with pytest.raises(SystemExit) as ended:
        configs.parse(keys_parser(), [f"--config={spec}", "--help"])
    assert ended.value.code == 0
    out = capsys.readouterr().out
    assert "--config.seeds=0,1,2" in out and "--config.tests.samples=5" in out


def keys_parser():
    from caugym_jax.cli import commands

    return commands.parser("caugym_jax.train", "doc")


def test_help_imports_no_jax():
    code = (
        "import sys\n"
        "from caugym_jax.train import main\n"
        "try:\n    main(['--config=grpo.py', '--help', '--config.steps', '3'])\n"
        "except SystemExit as ended:\n    sys.exit(ended.code or 'jax' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "--config.steps=3  (default 100)" in done.stdout
