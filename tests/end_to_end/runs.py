"""What the end-to-end tests share: the tiny run's command line, and what a run leaves behind."""

import hashlib
import json
from pathlib import Path

import numpy as np

from tests.glossary import unexplained

HERE = Path(__file__).parent
TIMES = ("step_time", "tokens_per_second", "time/", "memory/", "mfu")


def command(method: str, model: Path, workdir: Path, *more: str) -> list[str]:
    """The train command's arguments."""
    return [
        f"--config={HERE / 'tiny_config.py'}:{method}",
        f"--workdir={workdir}",
        f"--config.model.name={model}",
        *more,
    ]


def arrays(workdir: Path, step: int) -> dict:
    """Every array of a checkpoint, by its path in the tree, whoever saved it."""
    import jax
    import orbax.checkpoint as ocp

    folder = (workdir / "checkpoints" / str(step) / "state").absolute()
    with ocp.PyTreeCheckpointer() as reader:
        whole = jax.tree.map(
            lambda _: ocp.RestoreArgs(restore_type=np.ndarray),
            reader.metadata(folder).item_metadata.tree,
        )
        tree = reader.restore(folder, ocp.args.PyTreeRestore(restore_args=whole))
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree.leaves_with_path(tree)}


def digests(workdir: Path, step: int) -> dict[str, str]:
    """A hash of every array of a checkpoint as it lies on the disk, by its path in the tree."""
    return {
        path: hashlib.sha256(np.asarray(leaf).tobytes()).hexdigest()
        for path, leaf in arrays(workdir, step).items()
    }


def metrics(workdir: Path, spoilt: bool = False) -> list[dict]:
    """The lines of metrics.jsonl without what is measured of the machine; `spoilt`: someone else
    may have written in it."""
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert spoilt or not unexplained(key for line in lines for key in line)
    return [{k: v for k, v in line.items() if not k.startswith(TIMES)} for line in lines]


def left_behind(workdir: Path, step: int, spoilt: bool = False) -> dict:
    """All that a resumed run must share with an uninterrupted one."""
    summary = json.loads((workdir / "summary.json").read_text())
    samples = workdir / "samples.jsonl"
    return {
        "state": digests(workdir, step),
        "position": json.loads((workdir / f"checkpoints/{step}/loader/metadata").read_text()),
        "metrics": metrics(workdir, spoilt),
        "samples": samples.read_text() if samples.exists() else "",
        "before": json.loads((workdir / "before.json").read_text()),
        "after": json.loads((workdir / "after.json").read_text()),
        "text": summary["text"].replace(str(workdir), "WORKDIR"),
    }
