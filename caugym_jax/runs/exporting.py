"""From a run's checkpoint to a Hugging Face folder, or to an adapter's in PEFT's format."""

from __future__ import annotations

import math
import re
from pathlib import Path

import jax

from caugym_jax.data.gguf_tokenizer import gguf_fields
from caugym_jax.data.tokenizer import load_tokenizer
from caugym_jax.devices.mesh import make_mesh
from caugym_jax.errors import UserError
from caugym_jax.models.gguf_write import write_gguf
from caugym_jax.models.hub import load_config
from caugym_jax.models.peft import save_adapter
from caugym_jax.models.save import save_pretrained
from caugym_jax.runs.card import model_card
from caugym_jax.runs.folder import of_checkpoint, settings_of
from caugym_jax.runs.opening import (
    ModelSettings,
    base_of,
    lora_of,
    open_adapters,
    open_model,
    stored_params,
)


def export(workdir: Path, out: Path, step: int | str | None = None, dtype: str = "float32") -> str:
    """Writes the model of a checkpoint (the newest by default), adapters merged into their base.

    Args:
      step: a number, or "best" (`folder.numbered`).

    Weights go from the checkpoint to OUT one by one. The run may be training meanwhile.

    Returns:
      What was written and how to load it, in two lines.

    Raises:
      UserError: the run has no such checkpoint, or OUT exists or cannot be written.
    """
    _check(workdir)
    config = load_config(workdir / "model")

    def write(number: int | None) -> None:
        if lora_of(workdir) is None:
            params = stored_params(workdir, config, number)
            tokenizer = load_tokenizer(workdir / "model")
        else:
            settings = ModelSettings(str(workdir), step=number)
            _, params, tokenizer = open_model(settings, _mesh(config.d_model))
        base = base_of(workdir) if settings_of(workdir) else ""
        card = model_card(workdir, base, number)
        save_pretrained(out, config, params, tokenizer=tokenizer, dtype=dtype, card=card)

    of_checkpoint(workdir, step, write)
    size = sum(file.stat().st_size for file in out.glob("*.safetensors"))
    return (
        f"wrote {out}: {size / 1e6:.1f} MB of {dtype} weights\n"
        f'load it with transformers.AutoModelForCausalLM.from_pretrained("{out}")'
    )


def export_adapter(workdir: Path, out: Path, step: int | str | None = None) -> str:
    """As `export`, but the trained adapter alone.

    Raises:
      UserError: also where the run trained the whole model.
    """
    _check(workdir)
    config, lora = load_config(workdir / "model"), lora_of(workdir)
    if lora is None:
        raise UserError(f"{workdir} trained the whole model: export it without --adapter")
    base = base_of(workdir)
    adapters = of_checkpoint(
        workdir, step, lambda number: open_adapters(workdir, _mesh(config.d_model), number)
    )
    save_adapter(out, config, lora, adapters, base)
    return (
        f"wrote {out}: an adapter of rank {lora.rank} for {base}\n"
        f'load it with peft.PeftModel.from_pretrained(base_model, "{out}")'
    )


def add_gguf(folder: Path, kind: str) -> str:
    """Writes an exported folder's model as FOLDER/model-KIND.gguf too.

    Raises:
      UserError: its family or its tokenizer has no such form.
    """
    tokenizer, path = load_tokenizer(folder), folder / f"model-{kind}.gguf"
    fields = gguf_fields(tokenizer.raw, tokenizer.end_ids, tokenizer.end_id)
    write_gguf(folder, path, kind, fields)
    return f"wrote {path}: {path.stat().st_size / 1e6:.1f} MB"


def push(folder: Path, name: str) -> str:
    """Uploads an exported folder to the hub as OWNER/NAME, and reports where it is.

    Raises:
      UserError: the hub refuses it (its own words are given).
    """
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        raise UserError(f"--push={name}: expected owner/name")
    from huggingface_hub import HfApi

    try:
        hub = HfApi()
        hub.create_repo(name, exist_ok=True)
        hub.upload_folder(folder_path=str(folder), repo_id=name)
    except Exception as error:  # network, permission, name: the hub has one type for each
        why = " ".join(str(error).split())[:200]
        raise UserError(f"cannot push {folder} to {name} ({why}): run `hf auth login`?") from error
    return f"pushed it to https://huggingface.co/{name}"


def _check(workdir: Path) -> None:
    if not (workdir / "checkpoints").is_dir():
        raise UserError(f"{workdir} holds no checkpoints: give the --workdir of a run")


def _mesh(width: int) -> jax.sharding.Mesh:
    """All devices, each with a part of the weights: the model may be larger than one's memory."""
    return make_mesh(data=-1, fsdp=math.gcd(jax.device_count(), width))
