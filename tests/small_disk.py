"""A disk that fills up."""

import subprocess
from pathlib import Path

import pytest


@pytest.fixture
def small_disk(tmp_path):
    """A function from a size in MB to a mounted disk of that size; skips where mounting is not
    allowed."""
    mounted = []

    def mount(megabytes: int) -> Path:
        path = tmp_path / f"disk{len(mounted)}"
        path.mkdir()
        arguments = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(path)]
        try:
            done = subprocess.run(arguments, capture_output=True, text=True)
        except FileNotFoundError:
            pytest.skip("no mount command: a full disk cannot be tried here")
        if done.returncode:
            pytest.skip(f"a full disk cannot be tried here: {done.stderr.strip()}")
        mounted.append(path)
        return path

    yield mount
    for path in mounted:
        subprocess.run(["umount", "-l", str(path)], check=True)
