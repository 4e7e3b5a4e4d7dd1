"""Kept memory and kept programs: what a command settles before jax is imported."""

import os
import subprocess
import sys

import pytest

from caugym_jax.devices import programs, starting
from tests.shared import ROOT

# 12 allocations of 64 MiB, every page written, as XLA asks for its temporaries.
FAULTS = """
import resource, sys, numpy as np
from caugym_jax.devices import starting
starting.prepare()
assert "jax" not in sys.modules
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(12):
        np.ones(2**23)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
kept = faults()
starting.release_heap()
print(kept, faults())
"""


def run(code, **environment):
    env = {k: v for k, v in os.environ.items() if not k.startswith(("CAUGYM_", "JAX_"))}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=env | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.split()


@pytest.mark.skipif(not starting.on_glibc(), reason="another C library")
def test_freed_memory_is_kept_and_released():
    pages = 12 * 2**23 * 8 // 4096
    kept, released = map(int, run(FAULTS, JAX_PLATFORMS="cpu"))
    assert kept < pages / 20
    off, _ = map(int, run(FAULTS, JAX_PLATFORMS="cpu", CAUGYM_HEAP="0"))
    # The kernel may hand out large pages: each is one fault.
    assert off > 10 * max(1, kept) and released > 10 * max(1, kept)


@pytest.mark.parametrize(
    ("platforms", "free", "kept"),
    [("cpu", 2**33, True), ("cuda,cpu", 2**33, False), ("cpu", 2**30, False), ("cpu", None, False)],
)
def test_memory_is_kept_on_a_cpu_where_it_is_plentiful(monkeypatch, platforms, free, kept):
    called = []
    monkeypatch.delenv("CAUGYM_HEAP", raising=False)
    monkeypatch.setenv("JAX_PLATFORMS", platforms)
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "elsewhere")
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    monkeypatch.setattr(starting, "free_memory", lambda: free)
    monkeypatch.setattr(starting, "keep_heap", lambda: called.append(1))
    starting.prepare()
    assert bool(called) is kept
    assert os.environ["JAX_COMPILATION_CACHE_DIR"] == "elsewhere"


def test_a_program_that_needs_a_quarter_of_what_is_free_ends_the_keeping(monkeypatch):
    """[256, 256] float32 output: 2^18 bytes; kept at 2^20 bytes free, and not at one fewer."""
    import jax.numpy as jnp

    x, called = jnp.ones((256, 256)), []
    monkeypatch.setattr(programs, "release_heap", lambda: called.append(1))
    for free, released in ((2**20, 0), (2**20 - 1, 1)):
        monkeypatch.setattr(programs, "memory_limit", lambda device, free=free: free)
        programs.Program("update", lambda x: x + 1, "x")(x)
        assert len(called) == released


def test_compiled_programs_are_found_again(tmp_path):
    code = """
import os
os.environ.pop("JAX_COMPILATION_CACHE_DIR", None)
from caugym_jax.devices import starting
starting.prepare()
import jax
found = []
jax.monitoring.register_event_listener(lambda name, **_: found.append(name.split("/")[-1]))
jax.jit(lambda x: x * 2 + 1)(1.0)
print(found.count("cache_hits"), found.count("cache_misses"))
"""
    assert run(code, CAUGYM_CACHE=str(tmp_path), JAX_PLATFORMS="cpu") == ["0", "1"]
    assert run(code, CAUGYM_CACHE=str(tmp_path), JAX_PLATFORMS="cpu") == ["1", "0"]
    off = {"CAUGYM_CACHE": str(tmp_path / "off"), "JAX_ENABLE_COMPILATION_CACHE": "0"}
    assert run(code, JAX_PLATFORMS="cpu", **off) == ["0", "0"]
    assert not (tmp_path / "off").exists()
