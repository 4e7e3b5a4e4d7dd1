"""What a run's results depend on besides its settings: the program, and the files that it reads.

All processes of a run compare these before anything else; a resumed run compares its files with
those that it began with.
"""

from __future__ import annotations

import functools
import importlib.metadata
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import xxhash

import caugym_jax
from caugym_jax.data import mixing
from caugym_jax.data.files import weighted
from caugym_jax.devices import processes
from caugym_jax.errors import UserError

# Settings that name a file or a folder; several by commas.
PATHS = (
    *("data.path", "evaluation.path", "model.name", "lora.init", "ppo.critic"),
    *("optim.shared_rows", "critic_optim.shared_rows"),
)
MIXTURE = "data.mixture"  # names files among other things
ENDINGS = (".json", ".jsonl", ".parquet", ".safetensors", ".gguf", ".jinja", ".txt")
PIECE = 1 << 16  # bytes of a file that are read at its beginning, middle and end


def files(settings: Mapping[str, Any]) -> dict[str, str]:
    """{key: digest of what lies there} of the settings that name files or folders of this machine.

    Args:
      settings: of a run, flattened.
    """
    found = {}
    for key in (*PATHS, MIXTURE):
        sources = _sources(key, str(settings.get(key) or ""))
        there = {name: digest(Path(name)) for name, _ in sources if name and Path(name).exists()}
        if there:
            found[key] = " ".join(f"{there.get(name, name)}{part}" for name, part in sources)
    return found


def _sources(key: str, text: str) -> list[tuple[str, str]]:
    """What a setting names, each with what is said of it (a weight, a stage)."""
    if key == MIXTURE:
        stages = mixing.read_stages(text) if text else ()
        return [
            (name, f"={weight:g} {stage.examples} {stage.hardness}")
            for stage in stages
            for name, weight in stage.weights.items()
        ]
    parts = weighted(text)
    return [
        (name.strip(), f"={weight:g}" if len(parts) > 1 else "")
        for part, weight in parts
        for name in part.split(",")
    ]


def digest(path: Path) -> str:
    """Of a file: a hash of its size and of pieces of it. Of a folder: of the files in it that a
    model or a data set consists of. Of a run: of its model's shape and tokenizer.
    """
    if (path / "checkpoints").is_dir():
        path = path / "model"
    whole = xxhash.xxh3_128()
    if path.is_dir():
        for one in sorted(x for x in path.iterdir() if x.suffix in ENDINGS and x.is_file()):
            whole.update(f"{one.name} {digest(one)}".encode())
        return whole.hexdigest()
    size = path.stat().st_size
    whole.update(str(size).encode())
    with path.open("rb") as file:
        for start in (0, size // 2, max(0, size - PIECE)):
            file.seek(start)
            whole.update(file.read(PIECE))
    return whole.hexdigest()


@functools.cache
def program() -> dict[str, str]:
    """Versions of what computes, this package's with a hash of its source, and jax's switches."""
    root = Path(caugym_jax.__file__).parent
    source = xxhash.xxh3_64()
    for file in sorted(root.rglob("*.py")):
        source.update(file.read_bytes())
    versions = {name: importlib.metadata.version(name) for name in ("jax", "jaxlib", "optax")}
    return versions | {
        "the code of caugym_jax": source.hexdigest(),
        "jax_enable_x64": str(jax.config.values["jax_enable_x64"]),
        "jax_default_matmul_precision": str(jax.config.values["jax_default_matmul_precision"]),
    }


def agree(mine: Mapping[str, Any]) -> None:
    """All processes call this with what must be equal on all of them.

    Raises:
      UserError: on all of them, where one differs from the first; it names process and key.
    """
    text = json.dumps(mine, sort_keys=True, default=str)
    if len(set(processes.share(xxhash.xxh3_128_hexdigest(text.encode())))) == 1:
        return
    first, *others = processes.share(json.loads(text))
    for index, other in enumerate(others, 1):
        differ = [k for k in sorted(first | other) if first.get(k) != other.get(k)]
        if differ:
            key = differ[0]
            others_too = f" (also {', '.join(differ[1:4])})" if differ[1:] else ""
            raise UserError(
                f"{key} is {other.get(key)!r} in process {index} and {first.get(key)!r} in process "
                f"0{others_too}: start all processes with the same command, package and files"
            )
