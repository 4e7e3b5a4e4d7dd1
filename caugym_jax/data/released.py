"""The released files: where they come from, what they must be, and where the cache keeps them.

`released.tsv` lists them: set, name, repository and commit on GitHub, path in it, size, SHA-256,
and whether the file itself or a Git LFS pointer to it is stored there (size and digest are always
the file's own). `caugym:base` names one by its set and name.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import NamedTuple

from caugym_jax.devices.starting import cache_folder
from caugym_jax.errors import UserError

MANIFEST = Path(__file__).with_name("released.tsv")
RAW = "https://raw.githubusercontent.com"
MEDIA = "https://media.githubusercontent.com/media"  # what Git LFS pointers stand for


class Released(NamedTuple):
    """One line of the manifest."""

    set: str  # one of SETS
    name: str
    repository: str  # owner/name
    commit: str
    path: str  # in the repository
    size: int  # bytes
    sha256: str
    lfs: bool

    @property
    def place(self) -> str:
        """Its path below a cache, and below a mirror's address."""
        return f"{self.repository}/{self.commit}/{self.path}"

    def url(self, mirror: str | None = None) -> str:
        """Its address at GitHub, or below that of a mirror."""
        base = mirror or (MEDIA if self.lfs else RAW)
        return f"{base.rstrip('/')}/{self.place}"


@functools.cache
def released_files() -> tuple[Released, ...]:
    """All lines of the manifest."""
    _, *lines = MANIFEST.read_text(encoding="utf-8").splitlines()
    rows = (line.split("\t") for line in lines)
    return tuple(
        Released(kind, name, repository, commit, path, int(size), digest, storage == "lfs")
        for kind, name, repository, commit, path, size, digest, storage in rows
    )


SETS = tuple(dict.fromkeys(file.set for file in released_files()))


def is_released(name: str) -> bool:
    """Whether a data source's name is of the form SET:NAME."""
    return name.partition(":")[0] in SETS and ":" in name


def released_path(name: str) -> Path:
    """The cached file of a name such as `caugym:base`. UserError where there is none."""
    kind, _, wanted = name.partition(":")
    files = {file.name: file for file in released_files() if file.set == kind}
    if wanted not in files:
        raise UserError(f"{name}: no such file; {kind}: has {', '.join(files)}")
    path = cache_folder() / files[wanted].place
    if not path.exists():
        raise UserError(
            f"{name} is not in the cache {cache_folder()}: "
            f"run `python -m caugym_jax.data.fetch --set={kind}`"
        )
    return path
