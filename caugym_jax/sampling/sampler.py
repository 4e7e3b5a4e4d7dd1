"""Prompts in, a Rollout out: lists of tokens to arrays of few shapes, and back in order.

The device's part is `sampling/decoding.py`. Randomness is a function of its place: the token at
place t of sample g of prompt i in step n under a seed is drawn with

    fold_in(fold_in(fold_in(fold_in(key(seed), n), i), g), t)

so neither the batch's other rows, nor their order, nor the mesh change a sample.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from caugym_jax.data.packing import width_for
from caugym_jax.devices import terminal
from caugym_jax.devices.mesh import (
    fetch,
    move,
    put,
    replicated,
    row_count,
    rows,
    shardings,
)
from caugym_jax.devices.programs import Program
from caugym_jax.devices.shapes import computed, on_shapes
from caugym_jax.errors import UserError
from caugym_jax.models.transformer import Model, Params, cast, layout
from caugym_jax.models.work import Work, forward
from caugym_jax.sampling.decoding import generate, piece_width, row_keys
from caugym_jax.sampling.picking import Settings
from caugym_jax.sampling.waves import Waves
from caugym_jax.types import Rollout

# Rows of a wave that a CPU samples as two halves beside each other.
BESIDE = 64


class Sampler:
    """Samples completions of lists of tokens; results are in NumPy and in the prompts' order.

    Prompts of like length are batched together and padded to a `width_for`. The last batch is
    filled up with rows that end at once. So one program is compiled for each width (and number of
    samples), whatever the other arguments are; where many rows may grow long, one for each size
    that a wave is halved to (`sampling/waves.py`). In a run of several processes every one passes
    the same prompts and receives the whole rollout.

    Args:
      end_ids: ids that end a completion, at least one.
      pad_id: fills unused places; may be one of end_ids.
      max_new_tokens: a completion ends there, or where the model's positions do.
      max_prompt_length: longer prompts are refused; None: what the model's positions allow.
      batch_size: prompts per device call, rounded up to a multiple of the mesh's batch shards;
        None: all at once (and then their number is compiled in).
      mesh: the devices, arranged for sampling (`mesh.sampling_mesh`); None: a single one.
      report_every: tokens after which a call says on the terminal how far it is; None: it does
        where it returns to the host anyway.
    """

    def __init__(
        self,
        model: Model,
        *,
        end_ids: Sequence[int],
        pad_id: int,
        max_new_tokens: int,
        max_prompt_length: int | None = None,
        batch_size: int | None = None,
        mesh: jax.sharding.Mesh | None = None,
        report_every: int | None = None,
    ):
        if max_new_tokens < 1:
            raise UserError(f"max_new_tokens={max_new_tokens}: must be at least 1")
        if not end_ids:
            raise UserError("no end token is known: sampling would never stop")
        self._model, self._positions = model, model.config.longest
        if max_new_tokens >= self._positions:
            raise UserError(
                f"max_new_tokens={max_new_tokens} leaves no room for a prompt in the model's "
                f"{self._positions} positions: lower it"
            )
        self._longest = min(self._positions - 1, max_prompt_length or self._positions)
        self._pad_id, self._batch_size, self._mesh = pad_id, batch_size, mesh
        self._new = max_new_tokens
        self._put = self._put_rows = jax.device_put
        if mesh is not None:
            self._put = functools.partial(put, target=replicated(mesh))
            self._put_rows = functools.partial(put, target=rows(mesh))
        self._ends = np.asarray(sorted(end_ids), np.int32)
        remedy = "the number of prompts sampled at a time, samples per prompt or max_new_tokens"
        self._program = Program(
            "sample",
            functools.partial(
                generate, model, max_new_tokens=max_new_tokens, unstacked=_unstacked(mesh)
            ),
            remedy,
            work=self._work,
        )
        self._leave: Callable[[np.ndarray, Rollout], None] | None = None
        self._waves = Waves(model, max_new_tokens, _unstacked(mesh), remedy, mesh, report_every)
        self._in_parts = report_every is not None and report_every < max_new_tokens
        self._places = None if mesh is None else shardings(layout(model.config), mesh)
        self._cast = jax.jit(lambda params: cast(params, model.dtype))

    @property
    def compilations(self) -> int:
        """How many programs have been compiled."""
        return self._program.compilations + self._waves.compilations

    def halves(self, rows: int) -> bool:
        """Whether a wave of so many rows (of all samples) is halved while it is sampled."""
        return self._waves.halve(rows)

    @contextlib.contextmanager
    def telling(self, leave: Callable[[np.ndarray, Rollout], None]) -> Iterator[None]:
        """In this block calls tell of rows as they end, while others go on.

        Args:
          leave: called once for each row, perhaps in another thread, with some rows' numbers in the
            result and their rollout.
        """
        self._leave = leave
        try:
            yield
        finally:
            self._leave = None

    def place(self, params: Params) -> Params:
        """The parameters in the compute dtype, laid out as the sampler reads them: once a step,
        where training splits them otherwise; as they are, where it does not."""
        here = self._places is None or all(
            weight.sharding.is_equivalent_to(place, weight.ndim)
            for weight, place in zip(
                jax.tree.leaves(params), jax.tree.leaves(self._places), strict=True
            )
        )
        if here:
            return params
        moved: Params = move(computed(self._cast, params), self._places)
        return moved

    def _work(self, params: Params, prompts: jax.Array, lengths: Any, keys: Any, *_: Any) -> Work:
        return forward(
            self._model,
            prompts.shape,
            drawn=self._new,
            samples=keys.shape[0] // prompts.shape[0],
            piece=piece_width(self._new),
        )

    def __call__(
        self,
        params: Params,
        token_prompts: Sequence[Sequence[int]],
        *,
        ids: Sequence[int],
        seed: int = 0,
        step: int = 0,
        samples_per_prompt: int = 1,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        min_p: float = 0.0,
        limits: Sequence[int] | None = None,
    ) -> Rollout:
        """Samples `samples_per_prompt` completions of every prompt (rows prompt-major).

        Args:
          ids: what identifies each prompt: with (seed, step) it fixes the prompt's samples.
          limits: at most this many new tokens of each prompt, where less than max_new_tokens.

        Raises:
          UserError: settings out of range, an empty prompt or one that is too long.
        """
        params = self.place(params)
        lengths = [len(prompt) for prompt in token_prompts]
        self._check(lengths)
        if len(ids) != len(lengths):
            raise ValueError(f"{len(lengths)} prompts, but {len(ids)} ids")
        own_limits = np.minimum(
            self._new if limits is None else limits, self._positions - np.array(lengths)
        )
        settings = self._put(Settings(temperature, top_k, top_p, min_p).check().arrays())
        ends, pad = self._put((self._ends, np.int32(self._pad_id)))
        place = self._put((np.uint32(seed & 0xFFFFFFFF), np.uint32(step)))
        shards = 1 if self._mesh is None else row_count(self._mesh)
        size = -(-(self._batch_size or len(lengths)) // shards) * shards
        order = np.argsort(lengths, kind="stable")
        waves = [order[start : start + size] for start in range(0, len(order), size)]
        report = self._reporter(len(order) * samples_per_prompt)
        beside = 2 if self._two_at_once(size * samples_per_prompt) else 1
        told = self._leave

        def sample(part: tuple[np.ndarray, int, int]) -> Rollout:
            chosen, rows, width = part
            kept = len(chosen) * samples_per_prompt
            members = chosen[:, None] * samples_per_prompt + np.arange(samples_per_prompt)

            def leave(rows: np.ndarray, rollout: Rollout) -> None:
                """Rows of the batch, of which those that fill it up are nobody's."""
                assert told is not None
                if (real := rows < kept).any():
                    told(members.reshape(-1)[rows[real]], Rollout(*(x[real] for x in rollout)))

            batch = self._batch(
                [token_prompts[i] for i in chosen],
                own_limits[chosen],
                [ids[i] for i in chosen],
                rows,
                width,
            )
            with contextlib.nullcontext() if self._mesh is None else jax.set_mesh(self._mesh):
                prompts, row_lengths, row_limits, row_ids = self._put_rows(batch)
                draw_keys = functools.partial(row_keys, samples_per_prompt=samples_per_prompt)
                keys = computed(draw_keys, *place, row_ids, places=row_ids.sharding)
                arguments = params, prompts, row_lengths, keys, settings, ends, pad, row_limits
                if on_shapes():
                    # Planned are rows that all grow as long as they may.
                    if self._waves.record(*arguments):
                        rollout = self._program.results(*arguments)
                    else:
                        rollout = self._program(*arguments)
                elif self.halves(keys.shape[0]) or self._in_parts:
                    own_report = functools.partial(report, chosen[0], kept)
                    left = None if told is None else leave
                    rollout = self._waves(*arguments, own_report, beside=beside, ended=left)
                    return Rollout(*(x[:kept] for x in rollout))
                else:
                    rollout = self._program(*arguments)
                found = Rollout(*(np.asarray(x)[:kept] for x in fetch(rollout)))
            if told is not None:
                leave(np.arange(kept), found)
            return found

        done, taken = [], []
        for chosen in waves:
            width = width_for(max(lengths[i] for i in chosen), self._longest)
            parts = [(chosen[i::beside], -(-size // beside), width) for i in range(beside)]
            parts = [part for part in parts if len(part[0])]
            done += _beside_each_other(sample, parts)
            taken += [part[0] for part in parts]
        return _in_order(done, np.concatenate(taken), samples_per_prompt, self._pad_id)

    def _two_at_once(self, rows: int) -> bool:
        """Whether a wave of so many rows is sampled as two halves beside each other: on one CPU
        device, where what stands between the products of a few rows is done by one core."""
        if self._mesh is None:
            alone = jax.default_backend() == "cpu"
        else:
            alone = self._mesh.size == 1 and self._mesh.devices.flat[0].platform == "cpu"
        return alone and rows >= BESIDE and not on_shapes()

    def _reporter(self, total: int) -> Callable[[int, int, int, int], None]:
        """What says how many samples have ended: report(part, its rows, place, rows that go on)."""
        ended: dict[int, int] = {}

        def report(part: int, rows: int, t: int, live: int) -> None:
            ended[part] = rows - live
            at = f", token {t}/{self._new}" if t else ""
            terminal.doing(f"sampling {sum(ended.values())}/{total}{at}")

        if not on_shapes():
            report(0, 0, 0, 0)
        return report

    def _check(self, lengths: list[int]) -> None:
        if not lengths:
            raise UserError("there are no prompts to sample from")
        if min(lengths) < 1:
            raise UserError(f"prompt {lengths.index(0)} is empty: give at least one token")
        longest = max(lengths)
        if longest > self._longest:
            raise UserError(
                f"prompt {lengths.index(longest)} has {longest} tokens, more than the "
                f"{self._longest} allowed: raise the limit on prompts (the model has "
                f"{self._positions} positions) or drop long ones"
            )

    def _batch(
        self,
        prompts: Sequence[Sequence[int]],
        limits: np.ndarray,
        ids: Sequence[int],
        rows: int,
        width: int,
    ) -> tuple[np.ndarray, ...]:
        """(prompts [rows, width], lengths, limits, ids), filled up with rows of limit 0."""
        lengths = np.array([len(prompt) for prompt in prompts], np.int32)
        tokens = np.full((rows, width), self._pad_id, np.int32)
        for row, prompt in enumerate(prompts):
            tokens[row, width - len(prompt) :] = prompt
        filler = (0, rows - len(prompts))
        return (
            tokens,
            np.pad(lengths, filler),
            np.pad(limits.astype(np.int32), filler),
            np.pad(np.asarray([int(i) & 0xFFFFFFFF for i in ids], np.uint32), filler),
        )


def _beside_each_other(function: Callable[[Any], Rollout], parts: Sequence[Any]) -> list[Rollout]:
    """function of each part, in threads of their own where there are several."""
    if len(parts) == 1:
        return [function(parts[0])]
    with concurrent.futures.ThreadPoolExecutor(len(parts)) as pool:
        return list(pool.map(function, parts))


def _unstacked(mesh: jax.sharding.Mesh | None) -> bool | None:
    """`generate`'s argument for a mesh's devices, which need not be this machine's."""
    return None if mesh is None else mesh.devices.flat[0].platform == "cpu"


def _in_order(done: list[Rollout], order: np.ndarray, G: int, pad_id: int) -> Rollout:
    """The batches' rows in the prompts' order, left-padded to one width."""
    width = max(rollout.prompt_width for rollout in done)
    done = [
        rollout._replace(
            tokens=np.pad(
                rollout.tokens,
                ((0, 0), (width - rollout.prompt_width, 0)),
                constant_values=pad_id,
            )
        )
        for rollout in done
    ]
    back = (np.argsort(order)[:, None] * G + np.arange(G)).reshape(-1)
    return Rollout(*(np.concatenate(column)[back] for column in zip(*done, strict=True)))
