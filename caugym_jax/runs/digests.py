"""Digests of a checkpoint's files: written before it counts as whole, compared before it is read.

STEP/digests.json lists every file of the step with its size and its XXH3 in 128 bits (against
accidents, not forgery). It is written before Orbax gives the folder its name, so that whatever
counts as whole has one. `_CHECKPOINT_METADATA` and `commit_success.txt` of the step are left out:
Orbax writes them last and restores without them.
"""

from __future__ import annotations

import asyncio
import functools
import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import xxhash
from etils import epath
from orbax.checkpoint.path import atomicity_defaults, atomicity_types

NAME = "digests.json"
_LEFT_OUT = (NAME, "_CHECKPOINT_METADATA", "commit_success.txt")
_THREADS = min(16, os.cpu_count() or 1)  # hashing leaves the interpreter lock
_BLOCK = 1 << 22


def committing(folder: epath.Path) -> type[atomicity_types.TemporaryPath]:
    """Orbax's way to make a checkpoint appear whole in `folder`, with its digests in it.

    Orbax calls `finalize` in one process, when the files of all processes are written.
    """
    return _with_digests(atomicity_defaults.get_default_temporary_path_class(folder))


@functools.cache
def _with_digests(base: type) -> type:
    class WithDigests(base):
        async def finalize(self) -> None:
            await asyncio.to_thread(write_digests, self.get())
            await super().finalize()

    return WithDigests


def write_digests(folder: epath.Path) -> None:
    """Lists the sizes and digests of the files below `folder` in its digests.json."""
    names = sorted(_files(folder))
    with ThreadPoolExecutor(_THREADS) as pool:
        digests = pool.map(lambda name: _digest(folder / name), names)
        files = {
            name: {"bytes": size, "xxh3_128": digest}
            for name, (size, digest) in zip(names, digests, strict=True)
        }
    temporary = folder / f".{NAME}.tmp"
    temporary.write_text(json.dumps({"files": files}, indent=0) + "\n")
    temporary.rename(folder / NAME)


def find_damage(folder: epath.Path, share: tuple[int, int] = (0, 1)) -> str | None:
    """What is wrong with the files of a checkpoint; None: nothing, they are as they were written.

    Args:
      share: (i, n) looks at every n-th file, from the i-th: n processes share the work.

    Raises:
      FileNotFoundError: there is no digests.json.
    """
    text = (folder / NAME).read_bytes()
    try:
        files = sorted(
            (name, int(is_["bytes"]), str(is_["xxh3_128"]))
            for name, is_ in json.loads(text)["files"].items()
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"{NAME} cannot be read"
    first, every = share
    with ThreadPoolExecutor(_THREADS) as pool:
        checked = pool.map(lambda file: _compare(folder, *file), files[first::every])
        return next((wrong for wrong in checked if wrong), None)


def _compare(folder: epath.Path, name: str, size: int, digest: str) -> str | None:
    path = folder / name
    try:
        if (found := path.stat().length) != size:
            return f"{name} has {found} bytes instead of {size}"
        return None if _digest(path)[1] == digest else f"{name} has other contents than were saved"
    except FileNotFoundError:
        return f"{name} is gone"
    except OSError as error:
        return f"{name} cannot be read ({error.strerror})"


def _digest(path: epath.Path) -> tuple[int, str]:
    """(bytes, XXH3 in 128 bits) of a file."""
    hashed, size = xxhash.xxh3_128(), 0
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            hashed.update(block)
            size += len(block)
    return size, hashed.hexdigest()


def _files(folder: epath.Path, below: str = "") -> Iterator[str]:
    """The files below a folder, by their paths from there."""
    for path in folder.iterdir():
        name = below + path.name
        if path.is_dir():
            yield from _files(path, f"{name}/")
        elif name not in _LEFT_OUT:
            yield name
