"""A run's folder, and how models are opened from one, from a Hugging Face folder or by name.

WORKDIR/config.json     the flattened configuration
        model/          config.json and tokenizer of the model (no weights)
        checkpoints/    training states
        metrics.jsonl  samples.jsonl  tensorboard/
        before.json  after.json  summary.json
"""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any, NamedTuple

import jax

from caugym_jax.checkpoints import Checkpoints
from caugym_jax.config import differences
from caugym_jax.data.tokenizer import Tokenizer, check_vocabulary, load_tokenizer
from caugym_jax.errors import UserError
from caugym_jax.metrics import write_text
from caugym_jax.models.config import ModelConfig
from caugym_jax.models.hf_config import to_hf_config
from caugym_jax.models.hub import load_config, load_pretrained, locate
from caugym_jax.models.transformer import Model, Params, abstract_params, layout
from caugym_jax.sharding import shardings

EMBEDDED = Path(__file__).parent / "models" / "embedded"


class Opened(NamedTuple):
    """A model ready to run."""

    model: Model
    params: Params | None  # None where the weights were not asked for
    tokenizer: Tokenizer


def open_model(
    name: str,
    mesh: jax.sharding.Mesh,
    *,
    init: str = "pretrained",
    dtype: str | None = None,
    remat: bool = False,
    seed: int = 0,
    step: int | None = None,
    weights: bool = True,
) -> Opened:
    """Opens a model with its tokenizer.

    Args:
      name: "embedded" (the tiny model in the package), a run's workdir, a Hugging Face folder, a
        GGUF file, a preset's name or a hub id.
      init: "pretrained", or "random": only the shape and the tokenizer are taken from `name`.
      dtype: compute type; None: bfloat16 on accelerators, float32 on a CPU.
      step: which checkpoint of a workdir (the newest).
      weights: False leaves the parameters out.
    """
    if init not in ("pretrained", "random"):
        raise UserError(f"model.init={init!r}: use pretrained or random")
    if dtype not in (None, "float32", "bfloat16"):
        raise UserError(f"model.dtype={dtype!r}: use float32 or bfloat16")
    if dtype is None:
        dtype = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    is_run = (Path(name) / "checkpoints").is_dir()
    path = EMBEDDED if name == "embedded" else Path(name) / "model" if is_run else locate(name)
    config = load_config(path)
    tokenizer = load_tokenizer(path)
    check_vocabulary(tokenizer, config.vocab_size)
    model = Model(config, dtype, remat)
    places = shardings(layout(config), mesh)
    if not weights:
        params = None
    elif init == "random":
        params = jax.jit(model.init, out_shardings=places)(jax.random.key(seed))
    elif is_run:
        abstract = jax.tree.map(
            lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
            abstract_params(config),
            places,
        )
        with contextlib.closing(Checkpoints(name, read_only=True)) as checkpoints:
            params = checkpoints.restore_params(abstract, step)
    else:
        _, params = load_pretrained(path, mesh=mesh)
    return Opened(model, params, tokenizer)


def save_shape(folder: Path, config: ModelConfig, tokenizer: Tokenizer) -> None:
    """Writes the model's config.json and tokenizer, which a checkpoint alone lacks."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(folder)
    hf = to_hf_config(
        config, eos=list(tokenizer.end_ids), bos=tokenizer.bos_id, pad=tokenizer.pad_id
    )
    write_text(folder / "config.json", json.dumps(hf, indent=2) + "\n")


def claim_workdir(workdir: Path, config: dict[str, Any], may_change: tuple[str, ...]) -> None:
    """Makes the workdir, or checks that it belongs to this configuration.

    A run that saved nothing is begun anew, with whatever settings.

    Raises:
      UserError: it holds another run (the differences are listed), or something else.
    """
    try:
        workdir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make the workdir {workdir}: {error.strerror}") from error
    stored = workdir / "config.json"
    if stored.exists():
        try:
            old = json.loads(stored.read_text())
        except (ValueError, OSError):
            old = None
        if not isinstance(old, dict) or "method" not in old:
            raise UserError(f"{stored} is not a run's: choose another --workdir")
        found = differences(old, config, may_change)
        if found and not any(p.name.isdigit() for p in workdir.glob("checkpoints/*")):
            for name in ("before.json", "after.json", "summary.json"):
                (workdir / name).unlink(missing_ok=True)
        elif found:
            raise UserError(
                f"{workdir} belongs to a run with other settings ({'; '.join(found)}): choose "
                "another --workdir, or remove that one"
            )
    write_text(stored, json.dumps(config, indent=1, sort_keys=True) + "\n")
