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
      hf: Hugging Face name; `{}` stands for the layer, a second one for the expert.
      gguf: GGUF name.
      hf_axes: axis letters of the Hugging Face tensor; letters merged into one axis are joined.
      axes: axis letters in `params`, without the axes of layers and experts.
      parts: of a tensor that holds several weights, one behind the other along its first axis, the
        axis letters of all of them there; `part` is which of them this is.
    """

    hf: str
    gguf: str
    hf_axes: tuple[str, ...]
    axes: str
    parts: tuple[str, ...] = ()
    part: int = 0

    @property
    def stacked(self) -> int:
        """How many axes of `params` stack tensors: none, layers, or layers and experts."""
        return self.hf.count("{}")


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
    "o_bias": _layer("self_attn.o_proj", "attn_output", "D", "D", "bias"),
    "q_norm": _layer("self_attn.q_norm", "attn_q_norm", "H", "H"),
    "k_norm": _layer("self_attn.k_norm", "attn_k_norm", "H", "H"),
    "attention_post_norm": _layer("post_attention_layernorm", "post_attention_norm", "D", "D"),
    "mlp_norm": _layer("post_attention_layernorm", "ffn_norm", "D", "D"),
    "gate": _layer("mlp.gate_proj", "ffn_gate", "F D", "DF"),
    "up": _layer("mlp.up_proj", "ffn_up", "F D", "DF"),
    "down": _layer("mlp.down_proj", "ffn_down", "D F", "FD"),
    "mlp_post_norm": _layer("post_feedforward_layernorm", "post_ffw_norm", "D", "D"),
}
# Norms after attention and feed-forward: the one before the latter has another name then.
_BOTH_NORMS = {"mlp_norm": _layer("pre_feedforward_layernorm", "ffn_norm", "D", "D")}
# Norms over all heads.
_WHOLE_NORMS = {
    "q_norm": _layer("self_attn.q_norm", "attn_q_norm", "NH", "NH"),
    "k_norm": _layer("self_attn.k_norm", "attn_k_norm", "KH", "KH"),
}


def _fused(hf: str, gguf: str, rows: dict[str, str]) -> dict[str, Weight]:
    """Weights that share a tensor; `rows` gives their axis letters along its first axis."""
    parts = tuple(rows.values())
    return {
        name: dataclasses.replace(
            _layer(hf, gguf, f"{letters} D", f"D{letters}"), parts=parts, part=i
        )
        for i, (name, letters) in enumerate(rows.items())
    }


_PHI = {
    **_fused("self_attn.qkv_proj", "attn_qkv", {"q": "NH", "k": "KH", "v": "KH"}),
    **_fused("mlp.gate_up_proj", "ffn_up", {"gate": "F", "up": "F"}),
}


# One tensor for each expert; llama.cpp keeps them together, which is not read here.
_EXPERTS = {
    "router": _layer("mlp.gate", "ffn_gate_inp", "E D", "DE"),
    "gate": _layer("mlp.experts.{}.gate_proj", "ffn_gate_exps", "F D", "DF"),
    "up": _layer("mlp.experts.{}.up_proj", "ffn_up_exps", "F D", "DF"),
    "down": _layer("mlp.experts.{}.down_proj", "ffn_down_exps", "D F", "FD"),
}


def table(config: ModelConfig) -> dict[str, Weight | dict[str, Weight]]:
    """The rows that a model of this shape has, in a tree like its `params`."""
    rows = _outer(config)
    return {"embed": rows["embed"], "layers": layer_rows(config), **rows}


def layer_rows(config: ModelConfig) -> dict[str, Weight]:
    """The rows of a layer."""
    groups: list[tuple[object, tuple[str, ...]]] = [
        (config.qkv_bias, ("q_bias", "k_bias", "v_bias")),
        (config.o_bias, ("o_bias",)),
        (config.qk_norm, ("q_norm", "k_norm")),
        (config.pre_norm, ("attention_norm", "mlp_norm")),
        (config.post_norm, ("attention_post_norm", "mlp_post_norm")),
    ]
    absent = {name for present, names in groups if not present for name in names}
    layers = dict(_LAYERS)
    if config.pre_norm and config.post_norm:
        layers |= _BOTH_NORMS
    if config.qk_norm == "whole":
        layers |= _WHOLE_NORMS
    if config.family == "phi3":
        layers |= _PHI
    if config.num_experts:
        layers |= _EXPERTS
    return {name: row for name, row in layers.items() if name not in absent}


def _outer(config: ModelConfig) -> dict[str, Weight]:
    rows = {
        "embed": _weight("model.embed_tokens", "token_embd", "V D", "VD"),
        "final_norm": _weight("model.norm", "output_norm", "D", "D"),
    }
    return rows if config.tied else {**rows, "head": _weight("lm_head", "output", "V D", "DV")}


Place = tuple[str, tuple[int, ...], Weight]
"""(parameter name, its layer and expert where it has them, row)."""


def tensors(config: ModelConfig) -> Iterator[Place]:
    """Every weight's place, in the order of Hugging Face's files."""
    rows = _outer(config)
    yield "embed", (), rows["embed"]
    for layer in range(config.num_layers):
        for name, row in layer_rows(config).items():
            if row.stacked == 1:
                yield name, (layer,), row
            else:
                yield from ((name, (layer, e), row) for e in range(config.num_experts))
    for name in ("final_norm", "head"):
        if name in rows:
            yield name, (), rows[name]


def files(config: ModelConfig) -> dict[str, list[Place]]:
    """Every Hugging Face tensor's name with the weights it holds, in file order."""
    held: dict[str, list[Place]] = {}
    for name, index, row in tensors(config):
        held.setdefault(row.hf.format(*index), []).append((name, index, row))
    return held


def sizes(config: ModelConfig) -> dict[str, int]:
    """The length of each axis letter."""
    return {
        "V": config.vocab_size,
        "D": config.d_model,
        "F": config.d_ff,
        "N": config.num_heads,
        "K": config.num_kv_heads,
        "H": config.head_dim,
        "E": config.num_experts,
    }


def hf_shape(row: Weight, config: ModelConfig) -> tuple[int, ...]:
    """The shape of a row's tensor in a Hugging Face file."""
    first, *rest = _hf_shape(row, config)
    return (sum(_lengths(row, config)) if row.parts else first, *rest)


def _hf_shape(row: Weight, config: ModelConfig) -> tuple[int, ...]:
    """The same of the row's own part of it."""
    size = sizes(config)
    return tuple(math.prod(size[letter] for letter in group) for group in row.hf_axes)


def _lengths(row: Weight, config: ModelConfig) -> list[int]:
    """Of a tensor that holds several weights, their lengths along its first axis."""
    size = sizes(config)
    return [math.prod(size[letter] for letter in group) for group in row.parts]


def to_hf(array: np.ndarray, row: Weight, config: ModelConfig) -> np.ndarray:
    """One layer's weight [axes] as its Hugging Face tensor (its part of it): a view."""
    letters = "".join(row.hf_axes)
    array = array.transpose([row.axes.index(letter) for letter in letters])
    return array.reshape(_hf_shape(row, config))


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
    start = sum(_lengths(row, config)[: row.part])
    box[0] = slice(box[0].start + start, box[0].stop + start)
    array = read(tuple(box)).reshape(shape)[tuple(rest)]
    letters = "".join(row.hf_axes)
    return array.transpose([letters.index(letter) for letter in row.axes])
