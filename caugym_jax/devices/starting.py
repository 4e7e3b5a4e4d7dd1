"""What a command that computes settles before jax is imported: kept memory, kept programs."""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
from pathlib import Path

from caugym_jax.devices.memory import free_memory

HEAP = "CAUGYM_HEAP"  # 0: memory goes back to the system whenever it is freed
LEAST_FREE = 4 * 2**30  # bytes from which on memory is plentiful enough to be kept
# What shows that this machine has an accelerator: jax would tell, but is not imported yet.
ACCELERATORS = ("nvidia0", "kfd", "accel0", "vfio/0")
# glibc's malloc.h: option and value that keeps memory, and its default.
_MALLOC = (
    (-8, 1, 0),  # M_ARENA_MAX: one heap for all threads; 0: by the number of cores
    (-4, 0, 65536),  # M_MMAP_MAX: no block of its own mapping, which a free would unmap
    (-1, -1, 128 * 1024),  # M_TRIM_THRESHOLD: the heap's free end stays
)

_kept = False


def cache_folder(cache: str | Path | None = None) -> Path:
    """`cache`, else the folder named by CAUGYM_CACHE, else ~/.cache/caugym_jax."""
    folder = cache or os.environ.get("CAUGYM_CACHE") or "~/.cache/caugym_jax"
    return Path(folder).expanduser()


def prepare() -> None:
    """Call before jax is imported, in commands only: a library leaves its process as it is.

    Programs are compiled once a machine: jax keeps them in `cache_folder`, unless its own
    variables say otherwise (JAX_COMPILATION_CACHE_DIR=DIR; JAX_ENABLE_COMPILATION_CACHE=0: they
    are not kept). On a CPU freed memory is kept (`keep_heap`).
    """
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(cache_folder() / "xla" / _machine()))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    if os.environ.get(HEAP) != "0" and _on_cpu() and (free_memory() or 0) >= LEAST_FREE:
        keep_heap()


def keep_heap() -> bool:
    """Lets the C library keep the memory that is freed; True where it can (glibc).

    XLA asks for its temporaries anew in every step. glibc gives blocks of this size back to the
    kernel, which then clears each page again: a fifth of a step's processor time on a CPU. The
    process grows to the sum of what its programs ever held, about twice their largest.
    """
    global _kept
    _kept = _set_malloc(kept=True)
    return _kept


def release_heap() -> None:
    """Gives the memory back that `keep_heap` kept, and from now on all that is freed."""
    global _kept
    if _kept:
        _set_malloc(kept=False)
        ctypes.CDLL(None).malloc_trim(0)
        _kept = False


def on_glibc() -> bool:
    """Whether the C library is the one whose malloc these settings are of."""
    return platform.libc_ver()[0] == "glibc"


def _set_malloc(kept: bool) -> bool:
    if not on_glibc():
        return False
    mallopt = ctypes.CDLL(None).mallopt
    taken = [mallopt(option, on if kept else off) for option, on, off in _MALLOC]
    return all(taken)


def _on_cpu() -> bool:
    """Whether jax will compute on the CPU: as told, or for want of anything else."""
    asked = os.environ.get("JAX_PLATFORMS", "")
    if asked:
        return asked.split(",")[0] == "cpu"
    return not any(Path("/dev", name).exists() for name in ACCELERATORS)


def _machine() -> str:
    """A name for machines that run the same instructions: they may share a home folder."""
    cpu = Path("/proc/cpuinfo")
    lines = cpu.read_text().splitlines() if cpu.exists() else []
    features = next((x for x in lines if x.startswith(("flags", "Features"))), "")
    digest = hashlib.sha256(features.encode()).hexdigest()[:12]
    return f"{platform.machine()}-{digest}"
