"""How much memory this process may still take. Imports no jax."""

from __future__ import annotations

from pathlib import Path

# Of each version of control groups: the limit, the usage, the statistics, and what the names of
# those that include the groups below begin with.
_CGROUPS = (
    ("memory.max", "memory.current", "memory.stat", ""),
    (
        "memory/memory.limit_in_bytes",
        "memory/memory.usage_in_bytes",
        "memory/memory.stat",
        "total_",
    ),
)


def free_memory(root: Path = Path("/")) -> int | None:
    """Bytes that are free in this process's control group or on the machine; None where nothing
    tells.

    A control group's usage counts the files that the kernel caches, which it drops when memory is
    asked for: they are free.

    Args:
      root: where /proc and /sys lie.
    """
    found = []
    for *names, prefix in _CGROUPS:
        limit, usage, statistics = (root / "sys/fs/cgroup" / name for name in names)
        if limit.exists() and usage.exists():
            text = limit.read_text().strip()
            if text.isdigit():  # "max" means unlimited
                cached = _numbers(statistics)
                free = int(text) - int(usage.read_text())
                free += cached.get(f"{prefix}active_file", 0)
                free += cached.get(f"{prefix}inactive_file", 0)
                found.append(free)
    available = _numbers(root / "proc/meminfo").get("MemAvailable:")
    if available is not None:
        found.append(available * 1024)
    return min(found) if found else None


def _numbers(path: Path) -> dict[str, int]:
    """The lines `name number ...` of a file of the kernel; none if there is no file."""
    if not path.exists():
        return {}
    lines = (line.split() for line in path.read_text().splitlines())
    return {words[0]: int(words[1]) for words in lines if len(words) > 1 and words[1].isdigit()}
