"""Measures the memory that `export` takes of a checkpoint many times larger than its tensors.

    python -m tests.export_memory FOLDER LAYERS D_MODEL D_FF

Prints JSON, in bytes: the largest tensor, all of them, and by how much exporting them raised the
peak of this process's memory above what it had before.
"""

import json
import os
import sys
from pathlib import Path

import jax
import jax.numpy as jnp

from caugym_jax import export
from caugym_jax.data.tokenizer import load_tokenizer
from caugym_jax.models.config import ModelConfig
from caugym_jax.models.transformer import abstract_params
from caugym_jax.runs.checkpoints import Checkpoints
from caugym_jax.runs.folder import save_shape
from caugym_jax.types import TrainState
from tests.data.byte_tokenizer import CHAT, save_byte_tokenizer


def make_run(folder: Path, layers: int, d_model: int, d_ff: int) -> int:
    """A workdir with one checkpoint, of uncompressible numbers; returns their bytes."""
    config = ModelConfig(
        family="qwen2", vocab_size=300, d_model=d_model, num_layers=layers, num_heads=8,
        num_kv_heads=8, head_dim=16, d_ff=d_ff, qkv_bias=True, tied=False, max_position=512,
    )  # fmt: skip
    tokens = save_byte_tokenizer(folder / "source", chat_template=CHAT)
    save_shape(folder / "model", config, load_tokenizer(tokens))
    params = jax.tree.map(
        lambda x: jax.random.normal(jax.random.key(x.size), x.shape), abstract_params(config)
    )
    checkpoints = Checkpoints(folder)
    checkpoints.save(TrainState(jnp.int32(1), params, {}, jnp.int32(0)), {})
    checkpoints.close()
    return sum(x.nbytes for x in jax.tree.leaves(params))


def resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGESIZE")


def highest() -> int:
    """The most that has been resident since this program began (getrusage also counts what the
    process was before, as which it was forked)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


def main(folder: str, layers: str, d_model: str, d_ff: str) -> None:
    root, width, inner = Path(folder), int(d_model), int(d_ff)
    if not (root / "large").exists():  # in a process of its own, whose peak does not count
        make_run(root / "small", 1, 64, 64)
        size = make_run(root / "large", int(layers), width, inner)
        (root / "size").write_text(str(size))
        return
    export.main([f"--workdir={root / 'small'}", f"--out={root / 'small_hf'}"])
    before = resident()
    export.main([f"--workdir={root / 'large'}", f"--out={root / 'large_hf'}"])
    peak = highest()
    sizes = {
        "largest": width * inner * 4, "all": int((root / "size").read_text()),
        "peak above before": peak - before,
    }  # fmt: skip
    print(json.dumps(sizes))


if __name__ == "__main__":
    main(*sys.argv[1:])
