"""Optimisers and learning-rate schedules: optax, chosen by name."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib

from caugym_jax.data.token_features import Features, load_features
from caugym_jax.devices.mesh import Layout, matrix_axes
from caugym_jax.errors import UserError, require
from caugym_jax.objectives.shared_rows import with_shared_rows

NAMES = ("adamw", "lion", "adafactor", "muon", "schedule_free")
DECAYS = ("constant", "linear", "cosine")


@dataclasses.dataclass(frozen=True)
class Optim:
    """The optimiser, and the learning rate over a run.

    Attributes:
      name: adamw, lion, adafactor, muon or schedule_free (AdamW whose weights are averaged instead
        of its rate decayed; Defazio et al. 2024, arXiv 2405.15682).
      peak: the learning rate after the warm-up.
      warmup: steps in which the rate rises to its peak; step 0 already has peak / warmup. A run
        that is shorter ends before the peak.
      decay: constant, linear or cosine, down to peak * final_ratio at the last step.
      decay_from: the fraction of the run at which decay begins (not before the warm-up's end).
      final_ratio: the last step's rate as a fraction of the peak.
      horizon: the steps over which the rate changes, after which it stays; None: the steps that the
        run was first given, however many it is given later.
      b1: adamw's and lion's momentum; schedule_free's places the gradients between the average (1)
        and the last weights (0).
      b2: decay of the second moment; of adamw, lion and schedule_free.
      eps: adamw's; lion and adafactor have none.
      momentum: muon's, which makes a matrix's momentum orthogonal (Jordan 2024) and scales it to
        the size that AdamW's updates have (Liu et al. 2025, arXiv 2502.16982), so that rates carry
        over. What is no matrix (embeddings, head, norms, biases) is adamw's.
      weight_decay: every step takes rate * weight_decay * weight off the weights that read or write
        the residual stream, and off adapters.
      clip_norm: gradients with a larger global L2 norm are scaled down to it; None: never.
      ema: decay of a moving average of the weights, which is then evaluated and exported; 0: none.
      shared_rows: muon's; a folder that `python -m caugym_jax.tokenizer` made: rows of the
        embedding and the head whose tokens have features in common learn together
        (`objectives/shared_rows.py`). None: each row learns alone.
    """

    name: str = "adamw"
    peak: float = 1e-5
    warmup: int = 0
    decay: str = "constant"
    decay_from: float = 0.0
    final_ratio: float = 0.0
    horizon: int | None = None
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8
    momentum: float = 0.95
    weight_decay: float = 0.0
    clip_norm: float | None = 1.0
    ema: float = 0.0
    shared_rows: str | None = None

    def __post_init__(self) -> None:
        require(self, "name", among=NAMES)
        require(self, "decay", among=DECAYS)
        require(self, "peak", above=0)
        require(self, "warmup", "weight_decay", at_least=0)
        require(self, "horizon", at_least=1)
        require(self, "decay_from", "final_ratio", at_least=0, at_most=1)
        require(self, "b2", "momentum", "ema", at_least=0, below=1)
        require(self, "eps", above=0)
        require(self, "clip_norm", above=0, hint="or none: no clipping")
        if self.shared_rows is not None and self.name != "muon":
            raise UserError(f"shared_rows={self.shared_rows!r}: set optim.name=muon, or none")
        if self.name != "schedule_free":
            require(self, "b1", at_least=0, below=1)
        elif self.decay != "constant" or self.ema or not 0 < self.b1 <= 1:
            raise UserError(
                "name='schedule_free' averages weights itself and never decays its rate: "
                "set optim.decay=constant, optim.ema=0 and a b1 above 0"
            )


class Optimizer(NamedTuple):
    """An optax transform, the learning rate it uses (for the log), and what it trains.

    The numbers of the schedule are an argument of the programs: another rate or another number of
    steps compiles nothing.
    """

    transform: optax.GradientTransformation
    schedule: optax.Schedule
    layout: Layout
    settings: Optim
    rates: Any  # [5] float32, see `schedule_numbers`

    def at(self, rates: Any) -> Optimizer:
        """The same with other (traced) numbers of the schedule."""
        return _build(self.layout, self.settings, rates)


def schedule_numbers(settings: Optim, steps: int) -> np.ndarray:
    """(peak, warm-up, first step of the decay, its length, final ratio), [5] float32."""
    begin = max(settings.warmup, int(settings.decay_from * steps))
    length = max(1, steps - begin - 1)  # the last step is number steps - 1
    numbers = settings.peak, settings.warmup, begin, length, settings.final_ratio
    return np.array(numbers, np.float32)


def rate_at(decay: str, rates: Any, count: Any) -> jax.Array:
    """The learning rate of step `count`: linear warm-up to the peak, constant, then decay.

    Args:
      decay: constant, linear or cosine.
      rates: see `schedule_numbers`.
    """
    peak, warmup, begin, length, final = (rates[i] for i in range(5))
    rising = jnp.clip(count / jnp.maximum(warmup - 1, 1), 0, 1)
    first = peak / jnp.maximum(warmup, 1)
    done = jnp.clip((count - begin) / length, 0, 1)
    left: Any = {
        "constant": lambda: 1.0,
        "linear": lambda: 1 - done,
        "cosine": lambda: 0.5 * (1 + jnp.cos(jnp.pi * done)),
    }[decay]()
    factor = 1.0 if decay == "constant" else final + (1 - final) * left
    return jnp.where(count < warmup, first + (peak - first) * rising, peak * factor)


def learning_rate(settings: Optim, steps: int) -> optax.Schedule:
    """Linear warm-up from 0 to the peak, then constant until `decay_from` of the run, then decay.

    Args:
      steps: length of the whole run.
    """
    return functools.partial(rate_at, settings.decay, schedule_numbers(settings, steps))


def decayed(axes: Any) -> Any:
    """Which weights are decayed: those that read or write the residual stream, and adapters (not
    norms, biases).

    By logical axes, not by rank: stacking adds an axis to every weight and changes nothing here.
    """
    return _by_axes(lambda names: "embed" in names or "rank" in names, axes)


def matrices(axes: Any) -> Any:
    """Which weights Muon treats as matrices, and how: inputs and outputs of `matrix_axes`.

    Masked are the others, which AdamW treats: embeddings, head, norms and biases.
    """

    def numbers(names: tuple[str, ...]) -> optax.contrib.MuonDimensionNumbers | optax.MaskedNode:
        sides = matrix_axes(names)
        return optax.MaskedNode() if sides is None else optax.contrib.MuonDimensionNumbers(*sides)

    return _by_axes(numbers, axes)


def _as_adams(update: jax.Array, sides: optax.contrib.MuonDimensionNumbers) -> Any:
    """An orthogonal update scaled to the root mean square of Adam's, about 0.2, whatever its shape.

    Orthogonal rows (columns, if fewer) have length 1: entries of size 1 / sqrt(the longer side).
    """
    longer = max(math.prod(update.shape[i] for i in side) for side in sides)
    return 0.2 * longer**0.5 * update


def _by_axes(function: Callable[[tuple[str, ...]], Any], axes: Any) -> Any:
    return jax.tree.map(function, axes, is_leaf=lambda x: isinstance(x, tuple))


class Averaged(NamedTuple):
    """The state of an optimiser that also keeps a moving average of the weights."""

    ema: Any
    inner: Any


def with_average(
    transform: optax.GradientTransformation, decay: float
) -> optax.GradientTransformation:
    """The same updates; the state holds average <- decay * average + (1 - decay) * weights, which
    begins at the first weights."""

    def init(params: Any) -> Averaged:
        return Averaged(jax.tree.map(jnp.copy, params), transform.init(params))

    def update(gradient: Any, state: Averaged, params: Any) -> tuple[Any, Averaged]:
        updates, inner = transform.update(gradient, state.inner, params)
        new = optax.apply_updates(params, updates)
        ema = jax.tree.map(lambda a, w: decay * a + (1 - decay) * w, state.ema, new)
        return updates, Averaged(ema, inner)

    return optax.GradientTransformation(init, update)


def evaluated(params: Any, opt_state: Any) -> Any:
    """The weights to evaluate and export: averaged ones, where the optimiser keeps such."""
    if isinstance(opt_state, Averaged):
        return opt_state.ema
    if isinstance(opt_state, optax.contrib.ScheduleFreeState):
        return schedule_free_average(params, opt_state.z, opt_state.b1)
    return params


@jax.jit
def schedule_free_average(params: Any, z: Any, b1: float | jax.Array) -> Any:
    """The average x of which the trained weights are y = b1 x + (1 - b1) z."""
    return jax.tree.map(lambda y, z: ((y - (1 - b1) * z) / b1).astype(y.dtype), params, z)


def make_optimizer(layout: Layout, steps: int, settings: Optim = Optim()) -> Optimizer:
    """The optimiser of a run of `steps` optimiser steps.

    Args:
      layout: shapes and logical axes of what is trained (`models.transformer.layout(config)`).
    """
    return _build(layout, settings, schedule_numbers(settings, steps))


def _build(layout: Layout, settings: Optim, rates: Any) -> Optimizer:
    schedule = functools.partial(rate_at, settings.decay, rates)
    clip_norm = settings.clip_norm
    clip = optax.identity() if clip_norm is None else optax.clip_by_global_norm(clip_norm)
    transform = optax.chain(clip, _core(layout, settings, schedule))
    if settings.name == "schedule_free":  # optax counts from 1 here, and from 0 in the core
        transform = optax.contrib.schedule_free(
            transform, lambda count: schedule(count - 1), settings.b1
        )
    if settings.ema:
        transform = with_average(transform, settings.ema)
    return Optimizer(transform, schedule, layout, settings, rates)


def _core(
    layout: Layout, settings: Optim, schedule: optax.Schedule
) -> optax.GradientTransformation:
    """The update of clipped gradients, by the optimiser's name."""
    b1, b2, eps, weight_decay = settings.b1, settings.b2, settings.eps, settings.weight_decay
    mask = decayed(layout.axes)
    if settings.name == "adamw":
        return optax.adamw(schedule, b1, b2, eps, weight_decay=weight_decay, mask=mask)
    if settings.name == "lion":
        return optax.lion(schedule, b1, b2, weight_decay=weight_decay, mask=mask)
    if settings.name == "adafactor":
        # Optax's own decay would not be scaled by the learning rate.
        return optax.chain(
            optax.adafactor(multiply_by_parameter_scale=False),
            optax.add_decayed_weights(-weight_decay, mask),
            optax.scale_by_learning_rate(schedule, flip_sign=False),
        )
    if settings.name == "schedule_free":
        return optax.chain(
            optax.scale_by_rms(b2, eps, eps_in_sqrt=False, bias_correction=True),
            optax.add_decayed_weights(weight_decay, mask),
            optax.scale_by_learning_rate(schedule),
        )
    adam = optax.scale_by_adam(b1, b2, eps)
    if settings.shared_rows is not None:
        adam = with_shared_rows(adam, _features(settings.shared_rows, layout))
    numbers = matrices(layout.axes)
    orthogonal = optax.chain(
        optax.contrib.scale_by_muon(
            beta=settings.momentum, eps=eps, weight_dimension_numbers=numbers
        ),
        optax.stateless(lambda updates, _: jax.tree.map(_as_adams, updates, numbers)),
    )
    return optax.chain(
        optax.masked(orthogonal, _by_axes(lambda x: matrix_axes(x) is not None, layout.axes)),
        optax.masked(adam, _by_axes(lambda x: matrix_axes(x) is None, layout.axes)),
        optax.add_decayed_weights(weight_decay, mask),
        optax.scale_by_learning_rate(schedule),
    )


def _features(folder: str, layout: Layout) -> Features:
    """The features of the tokens whose table is trained."""
    features = load_features(folder)
    rows = layout.shapes["embed"].shape[0] if "embed" in layout.shapes else 0
    if rows != len(features.matrix):
        raise UserError(
            f"optim.shared_rows={folder} has features of {len(features.matrix)} tokens, the "
            f"trained embedding {rows} rows: name the folder of the model's tokenizer, or none"
        )
    return features
