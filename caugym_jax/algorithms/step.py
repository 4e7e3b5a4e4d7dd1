"""One optimiser step: exact accumulation over microbatches, and the guard against bad gradients."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from caugym_jax.devices.mesh import (
    Layout,
    described,
    put,
    replicated,
    rows,
    sharding,
    shardings,
    traced_row_count,
)
from caugym_jax.devices.programs import Program
from caugym_jax.devices.shapes import computed, recording
from caugym_jax.errors import UserError
from caugym_jax.models.transformer import Model, Params
from caugym_jax.models.work import Work
from caugym_jax.objectives.optim import Optimizer
from caugym_jax.types import Experience, Packed, TrainState

# A reported quantity as (sum, weight): adds exactly, and is divided once.
Sums = dict[str, tuple[jax.Array, jax.Array]]
# loss(weights, microbatch) -> ((total, weight), sums)
Losses = tuple[tuple[jax.Array, jax.Array], Sums]
Loss = Callable[[Any, Any], Losses]
Prepared = tuple[Any, dict[str, Any], list[dict[str, Any]]]  # (experience, metrics, samples)
Updated = tuple[TrainState, dict[str, Any]]  # (state, metrics)


class Algorithm(NamedTuple):
    """A training method, in the shape of an optax transform.

    init(params) -> TrainState
    prepare(state, draw) -> (experience, metrics, samples): all that needs no gradient; `draw()`
        returns the loader's next items. An experience of None: nothing to learn, skip the step.
    update(state, experience) -> (state, metrics)
    measure(weights, experience) -> (loss, sums): of a plain model's weights, without learning;
        None where a method learns from its own samples, whose loss says nothing.

    The first three run on shapes too (`devices.shapes.recording`): so a step is planned.
    """

    init: Callable[[Any], TrainState]
    prepare: Callable[[TrainState, Callable[[], Any]], Prepared]
    update: Callable[[TrainState, Any], Updated]
    measure: Callable[[Params, Any], Losses] | None = None


class Adapter(NamedTuple):
    """How a model's weights follow from the trained ones and from frozen ones.

    The frozen arrays are an argument of every program, so that none holds a copy of them.
    """

    frozen: Any  # pytree of arrays on the device
    apply: Callable[[Any, Any], Params]  # (trained, frozen) -> weights for `Model`; traceable
    merge: Callable[[Any], Params]  # trained -> a plain model's weights, to sample with and export


WHOLE = Adapter((), lambda params, frozen: params, lambda params: params)  # all are trained


class Learner(NamedTuple):
    """What a method trains: the model, how, and where."""

    model: Model
    optimizer: Optimizer
    mesh: jax.sharding.Mesh
    adapter: Adapter = WHOLE
    # The first model's weights, without adapters, for methods that compare with it.
    reference: Params | None = None


def init_state(
    params: Any, optimizer: Optimizer, mesh: jax.sharding.Mesh, *, donate: bool = False
) -> TrainState:
    """Step 0: zeroed moments, laid out like the parameters they belong to.

    Args:
      params: of any type; the state holds them in the layout's.
      donate: give the parameters' buffers to the state; the caller's arrays are deleted.
    """
    transform = optimizer.transform

    def init(params: Any) -> TrainState:
        zero = jnp.zeros((), jnp.int32)
        params = jax.tree.map(lambda x, s: x.astype(s.dtype), params, optimizer.layout.shapes)
        return TrainState(zero, params, transform.init(params), zero)

    program = Program(
        "init",
        init,
        "the model's size: a smaller preset, or more devices with mesh.fsdp",
        donate=(0,) if donate else (),
        places=state_shardings(optimizer, mesh),
    )
    state: TrainState = program(params)
    return state


def state_shapes(
    init: Callable[[Any], TrainState], trained: Layout, mesh: jax.sharding.Mesh
) -> TrainState:
    """Shapes, types and shardings of what `init` returns: what a checkpoint is restored onto."""
    with recording():
        return init(described(trained, mesh))


def state_shardings(optimizer: Optimizer, mesh: jax.sharding.Mesh) -> TrainState:
    """Where each array of the training state lives: moments like their parameters."""
    shapes, axes = optimizer.layout
    both = jax.tree.map(lambda x, names: (x.shape, names), shapes, axes)
    weights = dict(jax.tree.leaves_with_path(both, is_leaf=lambda x: isinstance(x, tuple)))
    alone = replicated(mesh)

    def place(path: Any, leaf: jax.ShapeDtypeStruct) -> jax.sharding.NamedSharding:
        """Like the weight whose path this ends with; a factored moment lacks one of its axes."""
        tails = (path[start:] for start in range(len(path)))
        shape, names = next((weights[tail] for tail in tails if tail in weights), ((), ()))
        if leaf.shape == shape:
            return sharding(names, shape, mesh)
        for i in range(len(shape)):
            if leaf.shape == shape[:i] + shape[i + 1 :]:
                return sharding(names[:i] + names[i + 1 :], leaf.shape, mesh)
        return alone

    moments = jax.tree.map_with_path(place, jax.eval_shape(optimizer.transform.init, shapes))
    return TrainState(alone, shardings(optimizer.layout, mesh), moments, alone)


def split_rows(batch: Any, parts: int) -> Any:
    """[B, ...] -> [parts, B / parts, ...], each part taking every parts-th row (so that rows
    which lie on one device stay there)."""

    def split(x: jax.Array) -> jax.Array:
        return x.reshape(x.shape[0] // parts, parts, *x.shape[1:]).swapaxes(0, 1)

    return jax.tree.map(split, batch)


def minibatches(batch: Any, parts: int, mesh: jax.sharding.Mesh) -> list[Any]:
    """`split_rows(batch, parts)` as a list."""

    def split(batch: Any) -> list[Any]:
        together = split_rows(batch, parts)
        return [jax.tree.map(lambda x, i=i: x[i], together) for i in range(parts)]

    parted: list[Any] = computed(split, batch, places=rows(mesh))
    return parted


def merge_rows(parts: Any) -> Any:
    """The inverse of `split_rows`."""
    return jax.tree.map(lambda x: x.swapaxes(0, 1).reshape(-1, *x.shape[2:]), parts)


def microbatch_count(batch: Any, microbatches: int | None) -> int:
    """`microbatches`, or, where it is None, as many as leave one row to each device; of packed
    rows, as many as they were made for."""
    packed = packed_in(batch)
    if packed is not None:
        return len(packed.places) // traced_row_count()
    if microbatches is not None:
        return microbatches
    count: int = jax.tree.leaves(batch)[0].shape[0]
    return max(1, count // traced_row_count())


def is_packed(batch: Any) -> bool:
    """Whether these are rows that hold several completions."""
    return isinstance(batch, Packed) or (isinstance(batch, Experience) and batch.share is not None)


def packed_in(batch: Any) -> Packed | Experience | None:
    """The packed rows of a batch; None where it has none."""
    return next(filter(is_packed, jax.tree.leaves(batch, is_leaf=is_packed)), None)


def filled_parts(parts: Any) -> jax.Array:
    """How many microbatches of packed rows hold a document, [] int32: those come first.

    Args:
      parts: what `split_rows` returns.
    """
    packed = packed_in(parts)
    assert packed is not None
    return jnp.sum(jnp.any(packed.segment_ids > 0, axis=(1, 2)), dtype=jnp.int32)


def in_filled_parts(function: Callable[[Any], Any], batch: Any) -> Any:
    """function(rows) of packed rows, a microbatch at a time; zeros for those without a document."""
    microbatches = microbatch_count(batch, None)
    parts = split_rows(batch, microbatches)
    first = jax.eval_shape(function, jax.tree.map(lambda x: x[0], parts))
    start = jax.tree.map(lambda x: jnp.zeros((microbatches, *x.shape), x.dtype), first)

    def one(i: jax.Array, done: Any) -> Any:
        found = function(jax.tree.map(lambda x: x[i], parts))
        return jax.tree.map(lambda x, new: x.at[i].set(new), done, found)

    return merge_rows(jax.lax.fori_loop(0, filled_parts(parts), one, start))


def in_parts(
    function: Callable[[Any], Any], batch: Any, updates: int, microbatches: int | None
) -> Any:
    """function(rows) of all rows of a batch, taken as that many updates in microbatches will take
    them: the same rows together, in arrays of the same shapes. Packed rows are of one update."""
    if packed_in(batch) is not None:
        return in_filled_parts(function, batch)
    parts = split_rows(batch, updates)
    cut = microbatch_count(jax.tree.map(lambda x: x[0], parts), microbatches)
    parts = jax.tree.map(jax.vmap(lambda x: split_rows(x, cut)), parts)
    done = jax.lax.map(lambda minibatch: jax.lax.map(function, minibatch), parts)
    return merge_rows(jax.vmap(merge_rows)(done))


def mean_report(reports: Sequence[dict[str, jax.Array]]) -> dict[str, jax.Array]:
    """The mean over the updates of a step of what they report; of the learning rate, the last."""

    def mean(reports: Sequence[dict[str, Any]]) -> dict[str, Any]:
        return {k: sum(r[k] for r in reports) / len(reports) for k in reports[0]}

    means: dict[str, jax.Array] = computed(mean, reports)
    return means | {"learning_rate": reports[-1]["learning_rate"]}


def summed(function: Callable[[Any], Any], batch: Any, microbatches: int) -> Any:
    """The sum of function(rows) over microbatches, but for those of packed rows without a
    document."""
    if microbatches == 1:
        return function(batch)
    parts = split_rows(batch, microbatches)
    shapes = jax.eval_shape(function, jax.tree.map(lambda x: x[0], parts))
    start = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)

    def add(carry: Any, part: Any) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, carry, function(part)), None

    def add_one(i: jax.Array, carry: Any) -> Any:
        return add(carry, jax.tree.map(lambda x: x[i], parts))[0]

    if packed_in(batch) is not None:
        return jax.lax.fori_loop(0, filled_parts(parts), add_one, start)
    done, _ = jax.lax.scan(add, start, parts)
    return done


def gradients(
    loss: Loss, params: Any, batch: Any, microbatches: int | None
) -> tuple[Any, Any, Sums]:
    """Gradient of total / weight over the whole batch, whatever the split.

    Totals, weights and gradients of totals are summed over microbatches and divided once; an
    all-masked batch has loss 0 and gradient 0. Microbatches of packed rows without a document are
    not computed.

    Returns:
      (gradient, loss, sums).
    """

    def objective(params: Any, microbatch: Any) -> tuple[jax.Array, tuple[jax.Array, Sums]]:
        (total, weight), sums = loss(params, microbatch)
        return total, (weight, sums)

    differentiate = jax.value_and_grad(objective, has_aux=True)
    (total, (weight, sums)), gradient = summed(
        lambda part: differentiate(params, part), batch, microbatch_count(batch, microbatches)
    )
    scale = 1.0 / jnp.where(weight > 0, weight, 1.0)
    return jax.tree.map(lambda g: g * scale, gradient), total * scale, sums


def make_step(
    loss: Loss,
    optimizer: Optimizer,
    mesh: jax.sharding.Mesh,
    adapter: Adapter = WHOLE,
    *,
    microbatches: int | None = 1,
    remedy: str = "batch_size",
    name: str = "update",
    work: Callable[[Any], Work] | None = None,
) -> Program:
    """The compiled update (state, batch) -> (state, metrics); the state is donated.

    A step whose loss, gradient, new parameters or new moments are not finite leaves parameters and
    moments as they were and adds one to `state.skipped`. `state.step` counts calls of the loop and
    is not changed here. The reported learning rate is that of the optimiser's own count.

    Args:
      adapter: makes the weights that `loss` sees of the trained ones.
      work: the forward pass of a batch, by its shapes.
    """

    def training(state: TrainState, batch: Any) -> Work:
        trained = None
        if adapter is not WHOLE:
            trained = sum(x.size for x in jax.tree.leaves(optimizer.layout.shapes))
        assert work is not None  # else nobody asks
        parts = microbatch_count(batch, microbatches)
        return work(batch)._replace(train=True, parts=parts, adapters=trained)

    def step(state: TrainState, batch: Any, frozen: Any, rates: Any) -> Updated:
        transform, schedule, *_ = optimizer.at(rates)

        def of_trained(params: Any, part: Any) -> Losses:
            return loss(adapter.apply(params, frozen), part)

        gradient, value, sums = gradients(of_trained, state.params, batch, microbatches)
        norm = optax.tree.norm(gradient)
        updates, opt_state = transform.update(gradient, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        finite = jnp.isfinite(norm) & jnp.isfinite(value) & all_finite((params, opt_state))

        def keep(new: Any, old: Any) -> Any:
            return jax.tree.map(lambda n, o: jnp.where(finite, n, o), new, old)

        state = TrainState(
            state.step,
            keep(params, state.params),
            keep(opt_state, state.opt_state),
            state.skipped + (1 - finite.astype(jnp.int32)),
        )
        metrics = {k: s / jnp.where(w > 0, w, 1.0) for k, (s, w) in sums.items()}
        rate = schedule(_updates_done(opt_state) - 1)
        return state, {"loss": value, "grad_norm": norm, "learning_rate": rate, **metrics}

    return Program(
        name,
        step,
        f"{remedy}, or raise microbatches",
        donate=(0,),
        last=(adapter.frozen, put(optimizer.rates, replicated(mesh))),
        places=(state_shardings(optimizer, mesh), None),
        work=None if work is None else training,
    )


def measuring(loss: Loss, microbatches: int | None, remedy: str) -> Program:
    """The program (weights, batch) -> (loss, sums) of a batch, nothing being learned from it."""

    def measure(params: Params, batch: Any) -> Losses:
        count = microbatch_count(batch, microbatches)
        found: Losses = summed(lambda part: loss(params, part), batch, count)
        return found

    return Program("held-out loss", measure, f"{remedy}, or raise microbatches")


def all_finite(tree: Any) -> jax.Array:
    """Whether all numbers of a tree are finite, []."""
    floats = [x for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.floating)]
    return jnp.stack([jnp.isfinite(x).all() for x in floats]).all()


def _updates_done(opt_state: Any) -> jax.Array:
    count: jax.Array = optax.tree.get_all_with_path(opt_state, "count")[0][1]
    return count


def check_rows(rows: int, microbatches: int | None, parts: int, what: str) -> None:
    """Refuses a batch that the mesh or the microbatches do not divide."""
    microbatches = microbatches or 1
    if rows % (microbatches * parts):
        raise UserError(
            f"{what}={rows} rows are not a multiple of microbatches x batch shards of the mesh = "
            f"{microbatches} x {parts}: change {what}, microbatches or config.mesh"
        )
