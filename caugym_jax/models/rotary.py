"""Rotary positions: how fast each pair of a head's numbers turns, and the turning.

A pair i of a head of R rotated numbers turns by position * f_i, f_i = theta^(-2i / R). Scaling
slows the f_i down, so that a model reads longer texts than it was pretrained on.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from caugym_jax.models.config import RopeScaling


def rotary_frequencies(size: int, theta: float, scaling: RopeScaling | None = None) -> jax.Array:
    """The scaled f_i, [R/2] float32, as transformers computes them.

    linear: f_i / factor.

    llama3: wavelengths longer than original/low_freq_factor are slowed by `factor`, those shorter
    than original/high_freq_factor stay, and those between are interpolated.

    yarn (Peng et al. 2023, arXiv 2309.00071): pairs that turn more than beta_fast times within the
    original context stay, those that turn less than beta_slow times are slowed by `factor`, and
    those between are interpolated over their index.

    dynamic: theta grows with the text, and only beyond the length that the model was made for;
    such texts are refused (`ModelConfig.longest`), so that here nothing changes.

    longrope: each f_i is divided by its own factor, those for texts within the original context
    (longer ones are refused).

    Args:
      size: R.
    """
    periods = theta ** (jnp.arange(0, size, 2, dtype=jnp.float32) / size)
    inverse = 1.0 / periods
    if scaling is None or scaling.kind == "dynamic":
        return inverse
    if scaling.kind == "linear":
        return inverse / scaling.factor
    if scaling.kind == "longrope":
        return 1.0 / (jnp.asarray(scaling.short_factors, jnp.float32) * periods)
    if scaling.kind == "yarn":
        kept = 1.0 - _ramp(size, theta, scaling)
        return inverse / scaling.factor * (1.0 - kept) + inverse * kept
    turns = scaling.original_max_position * inverse / (2 * jnp.pi)  # within the original context
    smooth = (turns - scaling.low_freq_factor) / (
        scaling.high_freq_factor - scaling.low_freq_factor
    )
    smooth = jnp.clip(smooth, 0.0, 1.0)
    return inverse * (smooth + (1 - smooth) / scaling.factor)


def _ramp(size: int, theta: float, scaling: RopeScaling) -> jax.Array:
    """YaRN's ramp over pairs, [R/2]: 0 where a pair keeps its speed, 1 where it is slowed."""

    def index(turns: float) -> float:  # of the pair that turns so often in the original context
        wavelength = scaling.original_max_position / (turns * 2 * math.pi)
        return size * math.log(wavelength) / (2 * math.log(theta))

    low, high = index(scaling.beta_fast), index(scaling.beta_slow)
    if scaling.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, size - 1)
    if low == high:
        high += 0.001
    ramp = (jnp.arange(size // 2, dtype=jnp.float32) - low) / (high - low)
    return jnp.clip(ramp, 0.0, 1.0)


def rotate(x: jax.Array, angles: jax.Array, gain: jax.Array | float = 1.0) -> jax.Array:
    """Rotary embedding by halves (Hugging Face's layout).

    Args:
      x: [B, T, heads, H]; the pair (i, i + R/2) is turned by one angle, what lies behind R stays.
      angles: [B, T, R/2] float32, position times frequency.
      gain: what the turned numbers are multiplied by (`RopeScaling.attention_factor`).
    """
    cos, sin = jnp.cos(angles)[:, :, None, :], jnp.sin(angles)[:, :, None, :]
    if not isinstance(gain, float) or gain != 1.0:
        cos, sin = cos * gain, sin * gain
    size = 2 * angles.shape[-1]
    turned, rest = x[..., :size], x[..., size:]
    a, b = jnp.split(turned.astype(jnp.float32), 2, axis=-1)
    parts = [a * cos - b * sin, b * cos + a * sin]
    if size < x.shape[-1]:
        parts.append(rest.astype(jnp.float32))
    return jnp.concatenate(parts, axis=-1).astype(x.dtype)
