"""The device's part of sampling: prefill once per prompt, then a loop over tokens.

`generate` does both in one program. `begin` and `advance` are its steps for a host that takes the
live rows to smaller arrays (`sampling/waves.py`).
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental.layout import Format, Layout

from caugym_jax.devices.mesh import activation_sharding, constrain, row_count, send_rows, take_rows
from caugym_jax.models.config import ModelConfig
from caugym_jax.models.rounded import Rounded
from caugym_jax.models.transformer import Model, Params, Piece, cast, unstack
from caugym_jax.sampling.picking import Settings, pick
from caugym_jax.types import Rollout

_PIECE = 512  # completion tokens per piece of cache: attention reads the pieces begun, not all C
_PIECES = 8  # but compile time grows with their number
# The logical axes of a piece's arrays; of one layer's keys and values, which may be stacked.
_FIELDS = {
    "k": ("batch", "kv_heads", "head_dim", "slots"),
    "v": ("batch", "kv_heads", "slots", "head_dim"),
    "positions": ("batch", "slots"),
    "segment_ids": ("batch", "slots"),
}


def piece_width(max_new_tokens: int) -> int:
    """Slots of a piece of the completions' cache (the last one may have fewer)."""
    return max(_PIECE, -(-max_new_tokens // _PIECES))


# What of a wave each row has.
_OF_ROWS = "token", "lengths", "limits", "keys", "tokens", "logprobs", "count", "ended"


class Wave(NamedTuple):
    """Completions that are being decoded together."""

    t: Any  # [] int32: the place of the completions' next token
    token: Any  # [B] int32: the token before it
    lengths: Any  # [B] int32: of the prompts
    limits: Any  # [B] int32: at most this many new tokens
    keys: Any  # [B] random keys
    tokens: Any  # [B, C] int32
    logprobs: Any  # [B, C] float32
    count: Any  # [B] int32: tokens drawn
    ended: Any  # [B] bool: an end token was drawn

    @property
    def live(self) -> Any:
        """[B] bool: which rows go on."""
        return (self.t < self.limits) & ~self.ended


class Pause(NamedTuple):
    """When decoding returns to the host before the last row has ended."""

    least: Any = 0  # [] int32: no more rows than this are live
    until: Any = None  # [] int32: this place is reached


def generate(
    model: Model,
    params: Params,
    prompts: jax.Array,
    lengths: jax.Array,
    keys: jax.Array,
    settings: Settings,
    end_ids: jax.Array,
    pad_id: int | jax.Array = 0,
    limits: jax.Array | None = None,
    *,
    max_new_tokens: int,
    unstacked: bool | None = None,
) -> Rollout:
    """Samples G completions of every prompt. To be jitted with model and keywords static.

    Only they and the shapes [R, P], [R * G], [E] are compiled in: settings, end and pad ids,
    lengths, limits and keys are traced. Each prompt is prefilled once (without any logits) and its
    samples share its part of the cache. The loop ends when every row has.

    Args:
      params: float32 (or compute-dtype) parameters, sharded as they are.
      prompts: [R, P] int32, left-padded (with anything: lengths tell where a prompt starts).
      lengths: [R] int32, at least 1 wherever limits is not 0.
      keys: [R * G] random keys, see `row_keys`.
      settings: temperature, top_k, top_p, min_p.
      end_ids: [E] int32; each of them ends a completion, is kept and counted.
      pad_id: fills completions beyond their end; may be one of end_ids.
      limits: [R] int32: at most this many new tokens for each sample, if fewer than max_new_tokens.
      max_new_tokens: C, the completions' width.
      unstacked: loop over single layers, not scan over their stack; default: on a CPU (a scan
        copies each layer's weights).

    Returns:
      Rollout with B = R * G rows, row r * G + g being sample g of prompt r.
    """
    params, unstacked = _prepared(model, params, unstacked)
    C = max_new_tokens
    prompt, wave = _begin(model, params, prompts, lengths, keys, pad_id, limits, C)
    past: tuple[Piece, ...] = (prompt,)
    width = piece_width(C)
    for start in range(0, C, width):
        piece = model.empty_piece(len(keys), min(width, C - start), stacked=not unstacked)
        arguments = past, piece, wave, settings, end_ids, pad_id, Pause()
        wave, piece = _advance(model, params, *arguments)
        past = (*past, piece)
    tokens = jnp.repeat(prompts, len(keys) // len(prompts), axis=0)
    tokens = jnp.concatenate([tokens, wave.tokens], axis=1)
    return Rollout(tokens, wave.lengths, wave.count, wave.ended, wave.logprobs)


def begin(
    model: Model,
    params: Params,
    prompts: jax.Array,
    lengths: jax.Array,
    keys: jax.Array,
    pad_id: jax.Array,
    limits: jax.Array,
    *,
    max_new_tokens: int,
    unstacked: bool | None = None,
) -> tuple[Piece, Wave]:
    """The prompts' piece of cache [R, ...] and the wave before its first token; see `generate`."""
    params, _ = _prepared(model, params, unstacked)
    arguments = prompts, lengths, keys, pad_id, limits, max_new_tokens
    prompt, wave = _begin(model, params, *arguments)
    return _pinned_piece(prompt), _pinned_wave(wave)


def advance(
    model: Model,
    params: Params,
    past: tuple[Piece, ...],
    piece: Piece,
    wave: Wave,
    settings: Settings,
    end_ids: jax.Array,
    pad_id: jax.Array,
    pause: Pause,
    *,
    unstacked: bool | None = None,
) -> tuple[Wave, Piece, jax.Array]:
    """Decodes until the piece is full, every row has ended, or as `pause` says.

    Args:
      past: the prompts' piece, and the completions' pieces that are full.

    Returns:
      (the wave, the piece, live [B]).
    """
    params, _ = _prepared(model, params, unstacked)
    arguments = past, piece, wave, settings, end_ids, pad_id, pause
    wave, piece = _advance(model, params, *arguments)
    return _pinned_wave(wave), _pinned_piece(piece), wave.live


def empty_piece(model: Model, rows: int, width: int, *, stacked: bool) -> Piece:
    """See `Model.empty_piece`."""
    return _pinned_piece(model.empty_piece(rows, width, stacked=stacked))


def take_wave(wave: Wave, index: jax.Array, real: jax.Array) -> Wave:
    """Rows of a wave.

    Args:
      index: [shards, r] int32: which rows of each shard of rows, counted from its first.
      real: [shards * r] bool; False: not a row, only fills a place: it ends at once.
    """
    taken = wave._replace(**{name: _taken(getattr(wave, name), index) for name in _OF_ROWS})
    return _pinned_wave(taken._replace(ended=taken.ended | ~real))


def take_fields(fields: dict[str, Any], index: jax.Array) -> dict[str, Any]:
    """The same rows of some fields of a piece of cache, by name."""

    def one(name: str, x: Any) -> Any:
        taking = functools.partial(take_rows, index=index, axes=field_axes(name, x))
        return _pinned_field(name, jax.tree.map(taking, x))

    return {name: one(name, x) for name, x in fields.items()}


def send_wave(wave: Wave, sent: jax.Array, into: jax.Array) -> Wave:
    """Rows of a wave also where rows of other shards were that nobody needs; see `send_rows`."""

    def moved(name: str) -> jax.Array:
        x = getattr(wave, name)
        if name != "keys":
            return send_rows(x, x, sent, into, ("batch", "time")[: x.ndim])
        data = jax.random.key_data(x)
        data = send_rows(data, data, sent, into, ("batch", "width"))
        keys: jax.Array = jax.random.wrap_key_data(data, impl=jax.random.key_impl(x))
        return keys

    return _pinned_wave(wave._replace(**{name: moved(name) for name in _OF_ROWS}))


def send_fields(
    target: dict[str, Any], source: dict[str, Any], sent: jax.Array, into: jax.Array
) -> dict[str, Any]:
    """The same of some fields of a piece of cache, by name; source: of the piece that has the rows,
    empty: of the same."""

    def one(name: str, x: Any) -> Any:
        sending = functools.partial(send_rows, sent=sent, into=into, axes=field_axes(name, x))
        return _pinned_field(name, jax.tree.map(sending, x, source.get(name, x)))

    return {name: one(name, x) for name, x in target.items()}


def _taken(x: jax.Array, index: jax.Array) -> jax.Array:
    """x [B, ...] at index [shards, r] of each shard's rows: [shards * r, ...]."""
    shards = x.reshape(len(index), -1, *x.shape[1:])
    taken: jax.Array = jax.vmap(lambda rows, i: rows[i])(shards, index)
    return taken.reshape(-1, *x.shape[1:])


def _pinned_wave(wave: Wave) -> Wave:
    """The wave's rows split as a batch is, so that every program finds them alike."""
    axes = "batch", "time"
    names = "token", "lengths", "limits", "tokens", "logprobs", "count", "ended"
    pinned = {name: getattr(wave, name) for name in names}
    return wave._replace(**{name: constrain(x, *axes[: x.ndim]) for name, x in pinned.items()})


def field_axes(name: str, x: Any) -> tuple[str, ...]:
    """The logical axes of each array of a field of a piece."""
    stacked = name in ("k", "v") and not isinstance(x, tuple)
    return ("layers", *_FIELDS[name]) if stacked else _FIELDS[name]


def laid_out(piece: Piece, mesh: jax.sharding.Mesh, *, written: bool) -> Piece:
    """Where the arrays of a piece lie on a mesh's TPUs: shardings, with the order in memory of keys
    and values that a loop writes. With another order it would work on a copy of them, as the
    compiler chooses the order inside of loops by itself; these are what it chose for v5p and v5e
    (compiled, not seen on a chip).
    """
    # Axes from the outermost to the innermost.
    few = {"k": (0, 2, 4, 1, 3), "v": (0, 2, 3, 1, 4)}
    many = {"k": (0, 2, 4, 3, 1), "v": (0, 2, 3, 4, 1)}  # of the values those in 8 bits alone

    def order(name: str, x: Any, rows: int) -> tuple[int, ...]:
        usual = rows < 128 or name == "v" and not isinstance(x, Rounded)
        return few[name] if usual else many[name]

    def field(name: str, x: Any) -> Any:
        def one(y: Any) -> Any:
            split = activation_sharding(field_axes(name, x), y.shape, mesh)
            scales = isinstance(x, Rounded) and y is x.scale
            if name not in few or isinstance(x, tuple) or scales:
                return split
            own = order(name, x, y.shape[1] // row_count(mesh))
            return Format(Layout(own if written else tuple(range(y.ndim))), split)

        return jax.tree.map(one, x)

    return Piece(*map(field, Piece._fields, piece))


def reordered_bytes(config: ModelConfig, tensor: int, itemsize: int, written: float) -> float:
    """Bytes of what a TPU's loop over tokens copies in another order, as compiled for v5e and v5p:
    the queries' weights; gate and up where a device's part of them is not in whole tiles of 128;
    keys or values of the piece that it writes where a device has several heads of them (`laid_out`
    knows the order of one).

    Args:
      written: bytes of that piece on a device.
    """
    inputs = config.num_layers * config.d_model
    weights = inputs * config.num_heads * config.head_dim / tensor
    if config.d_ff / tensor % 128:
        weights += 2 * inputs * config.d_ff * max(1, config.num_experts) / tensor
    return weights * itemsize + (written / 2 if config.num_kv_heads > tensor else 0)


def _pinned_field(name: str, x: Any) -> Any:
    axes = field_axes(name, x)
    return jax.tree.map(lambda y: constrain(y, *axes), x)


def _pinned_piece(piece: Piece) -> Piece:
    return Piece(*map(_pinned_field, Piece._fields, piece))


def _prepared(model: Model, params: Params, unstacked: bool | None) -> tuple[Params, bool]:
    """The parameters as decoding reads them, and whether its layers are single ones."""
    if unstacked is None:
        unstacked = jax.default_backend() == "cpu"
    params = cast(params, model.dtype)
    return (unstack(params) if unstacked else params), unstacked


def _begin(
    model: Model,
    params: Params,
    prompts: jax.Array,
    lengths: jax.Array,
    keys: jax.Array,
    pad_id: int | jax.Array,
    limits: jax.Array | None,
    C: int,
) -> tuple[Piece, Wave]:
    (R, P), (B,) = prompts.shape, keys.shape
    G = B // R
    place = jnp.arange(P) - (P - lengths[:, None])  # of prompt tokens; negative in the padding
    prompt = model.prefill(params, prompts, jnp.maximum(place, 0), (place >= 0).astype(jnp.int32))
    # The loop starts with a prompt's last token, so that it holds the only pick and the only step.
    prompt = prompt._replace(segment_ids=prompt.segment_ids.at[:, -1].set(-1))
    token, lengths = jnp.repeat(prompts[:, -1], G), jnp.repeat(lengths, G)
    limits = jnp.full((B,), C) if limits is None else jnp.repeat(jnp.minimum(limits, C), G)
    blank = jnp.full((B, C), jnp.asarray(pad_id, jnp.int32))
    wave = Wave(
        t=jnp.int32(0),
        token=token,
        lengths=lengths,
        limits=limits,
        keys=keys,
        tokens=constrain(blank, "batch", "time"),
        logprobs=constrain(jnp.zeros((B, C)), "batch", "time"),
        count=jnp.zeros((B,), jnp.int32),
        ended=jnp.zeros((B,), bool),
    )
    return prompt, wave


def _advance(
    model: Model,
    params: Params,
    past: tuple[Piece, ...],
    piece: Piece,
    wave: Wave,
    settings: Settings,
    end_ids: jax.Array,
    pad_id: int | jax.Array,
    pause: Pause,
) -> tuple[Wave, Piece]:
    slots = piece.positions.shape[1]
    start = sum(full.positions.shape[1] for full in past[1:])
    pad_id = jnp.asarray(pad_id, jnp.int32)

    def unfinished(carry: tuple[Wave, Piece]) -> jax.Array:
        wave, _ = carry
        room = slots if pause.until is None else jnp.minimum(slots, pause.until - start)
        return jnp.logical_and(wave.t - start < room, jnp.sum(wave.live) > pause.least)

    def decode(carry: tuple[Wave, Piece]) -> tuple[Wave, Piece]:
        """Reads the token before place t, picks the one at t, and writes it down."""
        wave, piece = carry
        t, live = wave.t, wave.live
        cache = (*past, piece)
        hidden, cache = model.step(params, wave.token, wave.lengths - 1 + t, t - start, cache)
        # To pick, each device takes whole rows: less is exchanged than if all had all rows.
        # Both are said, or XLA would split the layers' work in the second way too.
        logits = constrain(model.logits(params, hidden), "batch", "vocab")
        logits = constrain(logits, "draws", "width")
        token, logprob = pick(logits, wave.keys, t, settings)
        token, logprob = jnp.where(live, token, pad_id), jnp.where(live, logprob, 0.0)
        ends = live & jnp.any(token[:, None] == end_ids, axis=-1)
        wave = wave._replace(
            t=t + 1,
            token=token,
            tokens=wave.tokens.at[:, t].set(token),
            logprobs=wave.logprobs.at[:, t].set(logprob),
            count=wave.count + live,
            ended=wave.ended | ends,
        )
        return wave, cache[-1]

    wave, piece = jax.lax.while_loop(unfinished, decode, (wave, piece))
    return wave, piece


@functools.partial(jax.jit, static_argnames="samples_per_prompt")
def row_keys(
    seed: jax.Array, step: jax.Array, ids: jax.Array, *, samples_per_prompt: int = 1
) -> jax.Array:
    """The keys [R * G] of the rows of `generate` for prompts `ids` [R] (uint32): for row
    r * G + g, fold_in(fold_in(fold_in(key(seed), step), ids[r]), g)."""
    step_key = jax.random.fold_in(jax.random.key(seed), step)
    fold = jax.vmap(jax.random.fold_in, (None, 0))
    samples = jnp.arange(samples_per_prompt, dtype=jnp.uint32)
    return jax.vmap(fold, (0, None))(fold(step_key, ids), samples).reshape(-1)
