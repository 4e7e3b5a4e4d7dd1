"""Downloads the released CauGym files and CaLM-Lite from their public repositories.

    python -m caugym_jax.data.fetch --set=caugym
    python -m caugym_jax.data.fetch --set=all --cache=/data/caugym

Afterwards `caugym:base`, `calm_lite:ate_hard` ... name the files wherever a command takes data.
Every file must have the size and SHA-256 of the manifest, else nothing of it is kept. Files that
are there already are not downloaded again, and a download that broke off goes on where it stopped.
The files keep their owners' licences.
"""

from __future__ import annotations

import argparse
import hashlib
import http.client
import os
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from caugym_jax.cli import commands
from caugym_jax.data.released import SETS, Released, released_files
from caugym_jax.devices.starting import cache_folder
from caugym_jax.errors import UserError

TIMEOUT = 60.0  # seconds without a byte
CHUNK = 2**18  # bytes
PROGRESS_SECONDS = 5.0
_BROKEN = (OSError, http.client.HTTPException)
_POINTER = b"version https://git-lfs"


class Refused(UserError):
    """One file is not to be had, or is not what the manifest says."""


def main(argv: Sequence[str]) -> None:
    args = _arguments(argv)
    cache = cache_folder(args.cache)
    files = [file for file in released_files() if args.set in ("all", file.set)]
    new, refused = 0, []
    for file in files:
        try:
            new += fetch(file, cache, args.mirror)
        except Refused as error:  # the others may be all right
            refused.append(str(error))
    good = len(files) - len(refused)
    print(f"{good} files in {cache} ({new} downloaded, {good - new} there already)")
    if refused:
        others = f" (and {len(refused) - 1} more files)" if len(refused) > 1 else ""
        raise UserError(f"{refused[0]}{others}")


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = commands.parser("caugym_jax.data.fetch", __doc__)
    add = parser.add_argument
    add("--set", choices=[*SETS, "all"], default="all", help="which files (default: all)")
    add("--cache", help="folder for them (default: CAUGYM_CACHE, else ~/.cache/caugym_jax)")
    add("--mirror", help="address to use in place of GitHub's: MIRROR/OWNER/NAME/COMMIT/PATH")
    return parser.parse_args(argv)


def fetch(file: Released, cache: Path, mirror: str | None = None) -> bool:
    """Brings one file into the cache; False where it was there already.

    Raises Refused where it cannot be had or is not what the manifest says, UserError where the
    connection or the disk fails. What was in its place is replaced only by the right file.
    """
    path = cache / file.place
    try:
        if path.exists() and _is(path, file):
            return False
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.part")
        _download(file, file.url(mirror), partial)
        _check(partial, file, file.url(mirror))
        os.replace(partial, path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error
    return True


def _download(file: Released, url: str, partial: Path) -> None:
    """Appends what is missing of a file; what has arrived stays if the connection breaks."""
    have = partial.stat().st_size if partial.exists() else 0
    if have >= file.size:  # whole, or not of this file
        if _is(partial, file):
            return
        partial.unlink()
        have = 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # what is there already is longer than what the server has
            partial.unlink()
        raise Refused(f"cannot download {url}: {error.code} {error.reason}") from error
    except _BROKEN as error:
        raise UserError(
            f"cannot download {url}: {getattr(error, 'reason', error)}; check the network"
        ) from error
    have = have if response.status == 206 else 0  # else the server starts from the beginning
    with response, partial.open("ab" if have else "wb") as out:
        _copy(response, out, file, have, url)


def _copy(
    response: http.client.HTTPResponse, out: BinaryIO, file: Released, have: int, url: str
) -> None:
    begun, start = have, time.monotonic()
    reported = start
    promised = int(response.headers.get("Content-Length") or 0) + have
    while have <= file.size:  # one byte too many is enough to know
        try:
            chunk = response.read(CHUNK)
            why = "the connection broke"
        except _BROKEN as error:
            chunk, why = b"", str(error)
        if not chunk:
            if have < promised:
                raise UserError(
                    f"{url}: {why} after {have} of {promised} bytes; run this again to go on"
                )
            return
        out.write(chunk)
        have += len(chunk)
        now = time.monotonic()
        if now - reported >= PROGRESS_SECONDS:
            reported, rate = now, (have - begun) / (now - start)
            line = f"{file.set}:{file.name} {have / 1e6:.1f} of {file.size / 1e6:.1f} MB, "
            left = (file.size - have) / rate
            print(f"{line}{rate / 1e6:.1f} MB/s, {left:.0f} s left", file=sys.stderr, flush=True)


def _check(partial: Path, file: Released, url: str) -> None:
    if _is(partial, file):
        return
    size = partial.stat().st_size
    with partial.open("rb") as opened:
        pointer = opened.read(len(_POINTER)) == _POINTER
    partial.unlink()
    if pointer:
        why = "a Git LFS pointer, not the file"
    elif size != file.size:
        why = f"{size} bytes{' or more' if size > file.size else ''} instead of {file.size}"
    else:
        why = f"another SHA-256 than {file.sha256[:12]}..."
    raise Refused(f"{url} is not the released file: {why}; nothing of it was kept")


def _is(path: Path, file: Released) -> bool:
    """Whether a file has the manifest's size and digest."""
    if path.stat().st_size != file.size:
        return False
    with path.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest() == file.sha256


if __name__ == "__main__":
    commands.run(main)
