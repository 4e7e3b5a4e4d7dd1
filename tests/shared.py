"""Finds material that lies beside the checkout (real data, recorded numbers) for tests only."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SHARED = Path(os.environ.get("CAUGYM_SHARED", ROOT.parent / "shared"))


def shared_path(relative: str) -> Path:
    """The path of a shared file, or a skip that says which one is missing."""
    path = SHARED / relative
    if not path.exists():
        pytest.skip(f"{path} is absent: set CAUGYM_SHARED to the folder that holds it")
    return path
