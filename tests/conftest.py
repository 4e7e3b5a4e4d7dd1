"""Tests run on eight virtual CPU devices, so that meshes are real; most use only the first."""

import os
import signal
from pathlib import Path

import jaxtyping

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("CAUGYM_HEAP", "0")  # commands called in the tests' own process
# A shell may have Ctrl-C ignored in what it starts in the background; the tests send it.
signal.signal(signal.SIGINT, signal.default_int_handler)
_FLAG = "--xla_force_host_platform_device_count"
if _FLAG not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_FLAG}=8".strip()

_TESTS = Path(__file__).parent

# The shapes and types that signatures state are checked in tests, and only there.
_CHECKED = ("advantages", "dpo", "gae", "kto", "logprobs", "policy", "sft", "shared_rows", "value")
jaxtyping.install_import_hook(
    [*(f"caugym_jax.objectives.{name}" for name in _CHECKED), "caugym_jax.sampling.picking"],
    "beartype.beartype",
)

# `-m unit`: what needs no model, no compiler and no second process.
_UNIT = ("causal", "cli", "pages", "rewards", "test_docs.py", "test_imports.py")
_LONGER = ("test_hard.py", "test_hostile.py")  # seconds a test


def pytest_collection_modifyitems(items):
    for item in items:
        folder = item.path.relative_to(_TESTS).parts[0]
        apart = any(item.get_closest_marker(mark) for mark in ("slow", "torch", "dowhy", "gpu"))
        if folder in _UNIT and item.path.name not in _LONGER and not apart:
            item.add_marker("unit")
