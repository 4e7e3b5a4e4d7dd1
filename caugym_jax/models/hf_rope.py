"""The rotary part of a Hugging Face config.json, read as transformers 5 reads it.

`rope_scaling`, the older key, replaces `rope_parameters` where both stand; theta is that of the
chosen one, else the top level's, else the family's default. What transformers would compute and
the decoder does not is refused.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from caugym_jax.errors import UserError
from caugym_jax.models.config import RopeScaling

KINDS = ("default", "linear", "dynamic", "yarn", "llama3")
_LAYER_TYPES = ("full_attention", "sliding_attention")


def read_rope(
    hf: Mapping[str, Any], default_theta: float = 10_000.0
) -> tuple[float, RopeScaling | None]:
    """(theta, scaling or None) of a config.json whose layers all rotate alike.

    Raises:
      UserError: a kind that the decoder lacks, or a value that is missing or no number.
    """
    rope = _section(hf, "rope_scaling") or _section(hf, "rope_parameters")
    if nested := [key for key in _LAYER_TYPES if key in rope]:
        raise UserError(
            f"config.json: rotary settings by layer type ({nested[0]!r}) are not supported for "
            f"{hf.get('model_type')}"
        )
    return read_one(rope, hf, default_theta)


def read_layered_rope(
    hf: Mapping[str, Any], default_theta: float
) -> tuple[float, RopeScaling | None, float]:
    """(theta and scaling of full layers, theta of sliding ones): Gemma 3's and OLMo 3's files.

    `rope_scaling` and the top level's theta hold for full layers; sliding ones are not scaled.
    """
    nested = _section(hf, "rope_parameters")
    if strange := [key for key in nested if key not in _LAYER_TYPES]:
        raise UserError(
            f"config.json: rope_parameters of {hf.get('model_type')} must be given by layer type, "
            f"not {strange[0]!r}"
        )
    full, sliding = (dict(nested.get(key) or {}) for key in _LAYER_TYPES)
    theta, scaling = read_one(full | dict(_section(hf, "rope_scaling")), hf, default_theta)
    local = _positive(sliding, "rope_theta", hf.get("rope_local_base_freq", default_theta))
    if _scaling(sliding, hf) is not None:
        raise UserError("config.json: rope scaling of sliding layers is not supported")
    return theta, scaling, local


def read_one(
    rope: Mapping[str, Any], hf: Mapping[str, Any], default_theta: float
) -> tuple[float, RopeScaling | None]:
    """(theta, scaling or None) of one dictionary of rotary settings; `hf` is the whole file."""
    theta = _positive(rope, "rope_theta", hf.get("rope_theta", default_theta))
    share = rope.get("partial_rotary_factor", hf.get("partial_rotary_factor"))
    if share not in (None, 1.0) and hf.get("model_type") != "phi3":
        raise UserError(
            f"config.json: partial_rotary_factor {share} is not supported for "
            f"{hf.get('model_type')}"
        )
    return theta, _scaling(rope, hf)


def write_scaling(scaling: RopeScaling) -> dict[str, Any]:
    """The `rope_scaling` that `read_rope` reads back."""
    if scaling.kind == "longrope":  # transformers 4 takes these keys and no others
        factors = list(scaling.short_factors), list(scaling.long_factors)
        return {"type": "longrope", "short_factor": factors[0], "long_factor": factors[1]}
    rope: dict[str, Any] = {"rope_type": scaling.kind, "factor": scaling.factor}
    if scaling.kind in ("llama3", "yarn"):
        rope["original_max_position_embeddings"] = scaling.original_max_position
    if scaling.kind == "llama3":
        rope["low_freq_factor"] = scaling.low_freq_factor
        rope["high_freq_factor"] = scaling.high_freq_factor
    if scaling.kind == "yarn":
        rope["beta_fast"], rope["beta_slow"] = scaling.beta_fast, scaling.beta_slow
        rope["attention_factor"] = scaling.attention_factor
        rope["truncate"] = scaling.truncate
    return rope


def _section(hf: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    rope = hf.get(key) or {}
    if not isinstance(rope, Mapping):
        raise UserError(f"config.json: {key} is {rope!r}; it must be an object")
    return rope


def _scaling(rope: Mapping[str, Any], hf: Mapping[str, Any]) -> RopeScaling | None:
    kind = rope.get("rope_type", rope.get("type"))
    if kind is None and rope.get("factor") not in (None, 1):
        raise UserError(
            f"config.json: rope scaling has a factor of {rope['factor']} and no rope_type: add it "
            f"({', '.join(KINDS[1:])})"
        )
    if kind in (None, "default"):
        return None
    if hf.get("model_type") == "phi3":
        return _longrope(kind, rope, hf)
    if kind not in KINDS:
        raise UserError(
            f"config.json: rope type {kind!r} is not supported; supported: {', '.join(KINDS)}"
        )
    if kind in ("linear", "dynamic"):
        return RopeScaling(kind, _positive(rope, "factor"))
    key = "original_max_position_embeddings"  # the whole file's goes before the section's
    original = _positive(hf, key, _positive(rope, key, hf.get("max_position_embeddings")))
    if kind == "llama3":
        return RopeScaling(
            kind,
            _positive(rope, "factor"),
            int(original),
            low_freq_factor=_positive(rope, "low_freq_factor"),
            high_freq_factor=_positive(rope, "high_freq_factor"),
        )
    factor = _positive(rope, "factor", _positive(hf, "max_position_embeddings") / original)
    return RopeScaling(
        kind,
        factor,
        int(original),
        beta_fast=_positive(rope, "beta_fast", 32.0),
        beta_slow=_positive(rope, "beta_slow", 1.0),
        truncate=bool(rope.get("truncate", True)),
        attention_factor=_attention_factor(rope, factor),
    )


def _longrope(kind: str, rope: Mapping[str, Any], hf: Mapping[str, Any]) -> RopeScaling:
    """Phi's scaling, which its older files call "su"."""
    if kind not in ("longrope", "su", "yarn"):
        raise UserError(f"config.json: rope type {kind!r} is not supported for phi3: use longrope")
    original = _positive(hf, "original_max_position_embeddings", 4096)
    factor = _positive(rope, "factor", _positive(hf, "max_position_embeddings") / original)
    gain = 1.0 if factor <= 1 else math.sqrt(1 + math.log(factor) / math.log(original))
    short, long = (_positives(rope, f"{name}_factor") for name in ("short", "long"))
    if len(short) != len(long):
        raise UserError("config.json: short_factor and long_factor differ in length")
    return RopeScaling(
        "longrope",
        original_max_position=int(original),
        attention_factor=_positive(rope, "attention_factor", gain),
        short_factors=short,
        long_factors=long,
    )


def _attention_factor(rope: Mapping[str, Any], factor: float) -> float:
    """0.1 mscale ln(factor) + 1 (of YaRN's paper, mscale 1), or the quotient of two of them."""

    def gain(mscale: float) -> float:
        return 1.0 if factor <= 1 else 0.1 * mscale * math.log(factor) + 1.0

    if rope.get("attention_factor") is not None:
        return _positive(rope, "attention_factor")
    if rope.get("mscale") and rope.get("mscale_all_dim"):
        return gain(_positive(rope, "mscale")) / gain(_positive(rope, "mscale_all_dim"))
    return gain(1.0)


def _positives(rope: Mapping[str, Any], key: str) -> tuple[float, ...]:
    values = rope.get(key)
    if not isinstance(values, list):
        raise UserError(f"config.json: longrope needs {key}, a list of numbers")
    return tuple(_positive({key: value}, key) for value in values)


def _positive(rope: Mapping[str, Any], key: str, default: Any = None) -> float:
    value = default if rope.get(key) is None else rope[key]
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not 0 < value < math.inf:
        raise UserError(f"config.json: {key} is {value!r}; it must be a positive number")
    return float(value)
