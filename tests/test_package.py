"""What is installed: the wheel alone trains, the archive holds the tests, imports are declared."""

import ast
import functools
import importlib.metadata
import os
import re
import subprocess
import sys
import tarfile
import tomllib
import venv
from pathlib import Path

import pytest

from tests.shared import ROOT

FIRST = ["--config.steps=1", "--config.evaluation.n=2", "--config.data.batch_size=2"]
# Declared for what others import without declaring it, or only where it is used.
INDIRECT = {"importlib-resources"}


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """The source archive, unpacked."""
    out = tmp_path_factory.mktemp("sdist")
    command = ["egg_info", f"--egg-base={out}", "sdist", f"--dist-dir={out}"]
    subprocess.run([sys.executable, "setup.py", "-q", *command], cwd=ROOT, check=True)
    (path,) = out.glob("caugym_jax-*.tar.gz")
    with tarfile.open(path) as file:
        file.extractall(out, filter="data")
    return path.with_name(path.name.removesuffix(".tar.gz"))


@pytest.fixture(scope="module")
def wheel(archive):
    """Made from the source archive, as an index makes it."""
    build = "import setuptools.build_meta as b; b.build_wheel('dist')"
    subprocess.run([sys.executable, "-c", build], cwd=archive, check=True, capture_output=True)
    (path,) = (archive / "dist").glob("*.whl")
    return path


def an_empty_folder(tmp_path):
    """Empty but for packages of the user's that have our names."""
    for name in ("configs", "tests"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise ImportError('the user\\'s own')\n")
    return tmp_path


def environment(**values):
    kept = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "XLA_FLAGS")}
    return kept | {"JAX_PLATFORMS": "cpu"} | values


def test_the_wheel_trains_a_step_in_an_empty_folder(wheel, tmp_path):
    site = tmp_path / "site"
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index"]
    subprocess.run([*pip, f"--target={site}", str(wheel)], check=True)
    folder = tmp_path / "work"
    folder.mkdir()
    command = [site / "bin" / "caugym", "train", "--config=sft.py", *FIRST]
    done = subprocess.run(
        command,
        cwd=an_empty_folder(folder),
        env=environment(PYTHONPATH=str(site)),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert (folder / "runs" / "sft" / "model" / "config.json").is_file()
    assert (folder / "runs" / "sft" / "summary.json").is_file()


def test_the_wheel_and_the_archive_hold_every_file(archive, wheel):
    """Of those that git does not ignore, where this is a git checkout."""
    git = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if git.returncode:
        pytest.skip("no git checkout")
    listed = {name for name in git.stdout.split() if (ROOT / name).is_file()}
    tracked = {name for name in listed if name != ".gitignore"}
    assert not [name for name in tracked if not (archive / name).is_file()]
    names = subprocess.check_output([sys.executable, "-m", "zipfile", "-l", wheel], text=True)
    inside = {line.split()[0] for line in names.splitlines()[1:]}
    package = {n for n in tracked if n.startswith("caugym_jax/")}
    package |= {f"caugym_jax/{n}" for n in tracked if n.startswith("configs/")}
    assert package and package <= inside
    assert not [n for n in inside - package if not n.startswith("caugym_jax-")]


@pytest.mark.slow
def test_the_wheel_installs_with_its_dependencies_and_the_archives_tests_run(
    archive, wheel, tmp_path
):
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / "bin" / "python"
    pip = [python, "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    folder = tmp_path / "work"
    folder.mkdir()
    subprocess.run([*pip, f"{wheel}[wandb]"], check=True)
    command = [python.with_name("caugym"), "train", "--config=grpo.py", *FIRST]
    subprocess.run(command, cwd=an_empty_folder(folder), env=environment(), check=True)
    subprocess.run([*pip, "-r", "requirements-dev.txt"], cwd=archive, check=True)
    tests = [python, "-m", "pytest", "-n", "auto", "-m", "unit", "tests"]
    subprocess.run(tests, cwd=archive, env=environment(), check=True)


def imports(folder: Path) -> set[str]:
    """The top-level names that the files of a folder import, without Python's own and ours."""
    found = set()
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                found.add(node.module.split(".")[0])
    return found - set(sys.stdlib_module_names) - {"caugym_jax", "tests", "configs", "benchmarks"}


def declared(*files: str) -> set[str]:
    lines = [line for f in files for line in (ROOT / f).read_text().splitlines()]
    return {normal(line) for line in lines if line and line[0] not in "#-"}


def normal(requirement: str) -> str:
    return re.sub(r"[-_.]+", "-", re.match(r"[\w.-]+", requirement)[0]).lower()


installed = functools.cache(importlib.metadata.packages_distributions)


def distributions(module: str) -> set[str]:
    return {normal(name) for name in installed().get(module, [module])}


def test_every_import_is_declared_and_every_declaration_imported():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    optional = {normal(line) for lines in extras.values() for line in lines}
    needed = declared("requirements.txt")
    used = [distributions(m) for m in imports(ROOT / "caugym_jax") | imports(ROOT / "configs")]
    assert not [names for names in used if not names & (needed | optional)]
    assert needed - set().union(*used) == INDIRECT


def test_every_import_of_the_tests_is_declared():
    known = declared(*(path.name for path in ROOT.glob("requirements*.txt")))
    modules = imports(ROOT / "tests") | imports(ROOT / "benchmarks") | imports(ROOT / "launch")
    apart = {"tunix"}  # has an environment of its own: benchmarks/tunix_side.py
    assert not [m for m in modules - apart if not distributions(m) & known]


def test_no_command_starts_pytorch():
    """transformers, tensorflow-datasets and others import it where it is installed and they can."""
    modules = "caugym_jax.train, caugym_jax.runs.methods, caugym_jax.runs.log"
    code = f"import sys, {modules}; print('torch' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], cwd=ROOT) == b"False\n"


def caugym(*arguments):
    command = [sys.executable, "-m", "caugym_jax", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_the_commands_are_listed_and_each_is_one():
    listed = caugym()
    assert listed.returncode == 0 and listed.stdout == caugym("--help").stdout
    names = re.findall(r"^  (\S+)  +\S", listed.stdout, re.M)
    assert {"train", "evaluate", "grade", "generate", "solve", "export", "data.fetch"} <= set(names)
    for name in ("generate", "solve"):
        done = caugym(name, "--help")
        assert done.returncode == 0 and done.stdout.startswith(f"usage: caugym {name} ")


def test_a_command_is_the_module_of_its_name(tmp_path):
    arguments = ["--tasks=ATE", "--n=3", "--seed=1"]
    assert caugym("generate", *arguments, f"--out={tmp_path / 'a.jsonl'}").returncode == 0
    module = [sys.executable, "-m", "caugym_jax.generate", *arguments]
    subprocess.run([*module, f"--out={tmp_path / 'b.jsonl'}"], cwd=ROOT, check=True)
    assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "b.jsonl").read_bytes()


def test_a_wrong_command_is_answered_with_the_nearest():
    done = caugym("trian", "--config=grpo.py")
    assert (done.returncode, done.stdout) == (2, "")
    assert "no command 'trian': did you mean 'train'?" in done.stderr


def test_the_version():
    assert caugym("--version").stdout.strip() == importlib.import_module("caugym_jax").__version__
