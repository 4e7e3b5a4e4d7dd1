"""The weight table: every weight's Hugging Face and GGUF name and how its axes are laid out.

Hugging Face stores matrices as [out, in], with heads and head size merged into one axis and one
tensor per layer; `params` keeps heads apart, the input axis first and all layers stacked.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from caugym_jax.models.config import ModelConfig


@dataclasses.dataclass(frozen=True)
class Weight:
    """One row of the table.

    Attributes:
      hf: Hugging Face name; `{}` stands for the layer.
      gguf: GGUF name.
      hf_axes: axis letters of the Hugging Face tensor; letters merged into one axis are joined.
      axes: axis letters in `params`, without the layer axis.
    """

    hf: str
    gguf: str
    hf_axes: tuple[str, ...]
    axes: str

    @property
    def stacked(self) -> bool:
        return "{}" in self.hf


def _weight(hf: str, gguf: str, hf_axes: str, axes: str, kind: str = "weight") -> Weight:
    return Weight(f"{hf}.{kind}", f"{gguf}.{kind}", tuple(hf_axes.split()), axes)


def _layer(hf: str, gguf: str, hf_axes: str, axes: str, kind: str = "weight") -> Weight:
    return _weight(f"model.layers.{{}}.{hf}", f"blk.{{}}.{gguf}", hf_axes, axes, kind)


_LAYERS = {
    "attention_norm": _layer("input_layernorm", "attn_norm", "D", "D"),
    "q": _layer("self_attn.q_proj", "attn_q", "NH D", "DNH"),
    "k": _layer("self_attn.k_proj", "attn_k", "KH D", "DKH"),
    "v": _layer("self_attn.v_proj", "attn_v", "KH D", "DKH"),
    "o": _layer("self_attn.o_proj", "attn_output", "D NH", "NHD"),
    "q_bias": _layer("self_attn.q_proj", "attn_q", "NH", "NH", "bias"),
    "k_bias": _layer("self_attn.k_proj", "attn_k", "KH", "KH", "bias"),
    "v_bias": _layer("self_attn.v_proj", "attn_v", "KH", "KH", "bias"),
    "q_norm": _layer("self_attn.q_norm", "attn_q_norm", "H", "H"),
    "k_norm": _layer("self_attn.k_norm", "attn_k_norm", "H", "H"),
    "mlp_norm": _layer("post_attention_layernorm", "ffn_norm", "D", "D"),
    "gate": _layer("mlp.gate_proj", "ffn_gate", "F D", "DF"),
    "up": _layer("mlp.up_proj", "ffn_up", "F D", "DF"),
    "down": _layer("mlp.down_proj", "ffn_down", "D F", "FD"),
}
_BIASES, _QK_NORMS = ("q_bias", "k_bias", "v_bias"), ("q_norm", "k_norm")


def table(config: ModelConfig) -> dict[str, Weight | dict[str, Weight]]:
    """The rows that a model of this shape has, in a tree like its `params`."""
    rows = _outer(config)
    return {"embed": rows["embed"], "layers": layer_rows(config), **rows}


def layer_rows(config: ModelConfig) -> dict[str, Weight]:
    """The rows of a layer."""
    absent = (() if config.qkv_bias else _BIASES) + (() if config.qk_norm else _QK_NORMS)
    return {name: row for name, row in _LAYERS.items() if name not in absent}


def _outer(config: ModelConfig) -> dict[str, Weight]:
    rows = {
        "embed": _weight("model.embed_tokens", "token_embd", "V D", "VD"),
        "final_norm": _weight("model.norm", "output_norm", "D", "D"),
    }
    return rows if config.tied else {**rows, "head": _weight("lm_head", "output", "V D", "DV")}


def tensors(config: ModelConfig) -> Iterator[tuple[str, int | None, Weight]]:
    """(parameter name, layer or None, row) of every Hugging Face tensor, in file order."""
    rows = _outer(config)
    yield "embed", None, rows["embed"]
    for layer in range(config.num_layers):
        for name, row in layer_rows(config).items():
            yield name, layer, row
    for name in ("final_norm", "head"):
        if name in rows:
            yield name, None, rows[name]


def sizes(config: ModelConfig) -> dict[str, int]:
    """The length of each axis letter."""
    return {
        "V": config.vocab_size,
        "D": config.d_model,
        "F": config.d_ff,
        "N": config.num_heads,
        "K": config.num_kv_heads,
        "H": config.head_dim,
    }


def hf_shape(row: Weight, config: ModelConfig) -> tuple[int, ...]:
    """The shape of a row's tensor in a Hugging Face file."""
    size = sizes(config)
    return tuple(math.prod(size[letter] for letter in group) for group in row.hf_axes)


def to_hf(array: np.ndarray, row: Weight, config: ModelConfig) -> np.ndarray:
    """One layer's weight [axes] as its Hugging Face tensor: a view, not contiguous."""
    letters = "".join(row.hf_axes)
    array = array.transpose([row.axes.index(letter) for letter in letters])
    return array.reshape(hf_shape(row, config))


def from_hf(
    read: Callable[[tuple[slice, ...]], np.ndarray],
    row: Weight,
    config: ModelConfig,
    block: Sequence[slice],
) -> np.ndarray:
    """A block of one layer's weight, read from its Hugging Face tensor.

    Args:
      read: returns a box of the stored tensor; it is asked for no more than the block needs
        (the head-size axis excepted, which is read whole).
      block: slices with start and stop along `row.axes`.
    """
    size, want = sizes(config), dict(zip(row.axes, block, strict=True))
    box, shape, rest = [], [], []
    for group in row.hf_axes:
        outer, inner = group[0], group[1:]
        width = math.prod(size[letter] for letter in inner)
        start, stop = want[outer].start, want[outer].stop
        box.append(slice(start * width, stop * width))
        shape += [stop - start, *(size[letter] for letter in inner)]
        rest += [slice(None), *(want[letter] for letter in inner)]
    array = read(tuple(box)).reshape(shape)[tuple(rest)]
    letters = "".join(row.hf_axes)
    return array.transpose([letters.index(letter) for letter in row.axes])
