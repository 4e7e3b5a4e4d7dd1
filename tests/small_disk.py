"""A disk that fills up."""

import subprocess
from pathlib import Path

import pytest


def mount(path: Path, megabytes: int) -> str:
    """Mounts a disk of that size at `path`; ends with why it could not, or an empty text."""
    path.mkdir()
    arguments = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(path)]
    try:
        done = subprocess.run(arguments, capture_output=True, text=True)
    except FileNotFoundError:
        return "there is no mount command"
    return done.stderr.strip() if done.returncode else ""


def unmount(path: Path) -> None:
    subprocess.run(["umount", "-l", str(path)], check=True)


@pytest.fixture
def small_disk(tmp_path):
    """A function from a size in MB to a disk of that size; skips where mounting is not allowed."""
    mounted = []

    def make(megabytes: int) -> Path:
        path = tmp_path / f"disk{len(mounted)}"
        why_not = mount(path, megabytes)
        if why_not:
            pytest.skip(f"a full disk cannot be tried here: {why_not}")
        mounted.append(path)
        return path

    yield make
    for path in mounted:
        unmount(path)
