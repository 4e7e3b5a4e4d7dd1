"""What DPO and KTO share: completions on the devices, and what the first model thinks of them.

The reference log-probabilities of a file are computed once and kept beside the run, with a digest
of the data and of the weights; those of generated data, which never comes up again, are computed in
`prepare` from the first weights, which then stay in memory.
"""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from caugym_jax.algorithms.packed import Item, pack_together, shape_for
from caugym_jax.algorithms.sft import REMEDY, Targets, find_targets, score_targets, target_work
from caugym_jax.algorithms.step import Learner, in_parts, microbatch_count
from caugym_jax.data.packing import pad, width_for
from caugym_jax.devices import processes
from caugym_jax.devices.mesh import fetch, put, row_count, rows
from caugym_jax.devices.programs import Program
from caugym_jax.errors import UserError
from caugym_jax.models.transformer import Model, Params
from caugym_jax.models.work import Work, forward
from caugym_jax.objectives.logprobs import score_places
from caugym_jax.runs.log import Progress
from caugym_jax.types import Example, Packed

# A prompt and two completions of it, as tokens.
Triple = tuple[list[int], list[int], list[int]]
Score = Callable[[Sequence[Triple]], np.ndarray]


class Sequences(NamedTuple):
    """Sums over the tokens of each completion, float32, [entries ..., E]."""

    logps: Any
    lengths: Any
    entropy: Any
    correct: Any  # tokens that were the likeliest


class Placed(NamedTuple):
    """Items' completions on the devices, in entries: one for each item, or more."""

    targets: Targets | Packed
    members: np.ndarray  # [B], or packed [R, M]: of which item an entry is; -1: of none
    lengths: np.ndarray  # [B, E]: tokens of the items' completions that count
    tokens: int  # of all completions, each with its prompt
    mesh: jax.sharding.Mesh

    def put(self, values: np.ndarray) -> Any:
        """Values of items [B, ...] at their entries; 0 at those of none."""
        known = self.members.reshape(*self.members.shape, *[1] * (values.ndim - 1)) >= 0
        own = np.where(known, values[self.members], np.zeros((), values.dtype))
        return put(own, rows(self.mesh))

    def fetch(self, entries: Any) -> np.ndarray:
        """The inverse of `put`."""
        entries, known = fetch(entries), self.members >= 0
        values = np.zeros((len(self.lengths), *entries.shape[self.members.ndim :]), entries.dtype)
        values[self.members[known]] = entries[known]
        return values


class Placing(NamedTuple):
    """How completions are put on the devices: packed, or one a row, padded on the right."""

    mesh: jax.sharding.Mesh
    kernel: str
    packed: bool
    microbatches: int | None
    max_length: int
    pad_id: int

    def __call__(self, items: Sequence[Item], width: int | None = None) -> Placed:
        """A batch on the devices.

        Args:
          items: each has equally many completions.
          width: of padded rows, at least.
        """
        lengths = [[max(0, len(said) - (not p)) for said in replies] for p, replies in items]
        tokens = sum(len(p) + len(said) for p, replies in items for said in replies)
        targets, members = self._packed(items) if self.packed else self._padded(items, width)
        targets = put(targets, rows(self.mesh))
        return Placed(targets, members, np.array(lengths), tokens, self.mesh)

    def _packed(self, items: Sequence[Item]) -> tuple[Packed, np.ndarray]:
        each = len(items[0][1])
        shape = shape_for(
            each * len(items),
            self.max_length,
            each * self.max_length,
            shards=row_count(self.mesh),
            microbatches=self.microbatches,
            kernel=self.kernel,
            platform=self.mesh.devices.flat[0].platform,
            together=each,
        )
        return pack_together(items, shape)

    def _padded(self, items: Sequence[Item], width: int | None) -> tuple[Targets, np.ndarray]:
        examples = [Example(list(prompt), list(said)) for prompt, both in items for said in both]
        width = max(longest(items), width or 0)
        batch = pad(examples, width_for(width, self.max_length), self.pad_id)
        each = len(items[0][1])
        split = jax.tree.map(lambda x: x.reshape(-1, each, *x.shape[1:]), find_targets(batch))
        return split, np.arange(len(items))


def longest(items: Sequence[Item]) -> int:
    """Tokens of a prompt with one of its completions, at most."""
    return max(len(prompt) + len(said) for prompt, replies in items for said in replies)


def placing(learner: Learner, settings: Any, max_length: int, pad_id: int) -> Placing:
    """As the settings of DPO or KTO say."""
    kernel = learner.model.attention
    packed = kernel != "cudnn" if settings.packed is None else settings.packed
    return Placing(learner.mesh, kernel, packed, settings.microbatches, max_length, pad_id)


def score_sequences(model: Model, params: Params, targets: Targets | Packed) -> Sequences:
    """Teacher-forced sums over completions; of padded ones the leading axes of the targets' leaves
    are free."""
    if isinstance(targets, Packed):
        lengths = targets.lengths
        last = lengths[0].size

        def of_list(x: jax.Array, sequences: jax.Array) -> jax.Array:
            return jax.ops.segment_sum(x, sequences, num_segments=1 + last)[1:]

        scores = score_places(model, params, targets)
        sums = [jax.vmap(of_list)(x, targets.sequences).reshape(lengths.shape) for x in scores]
        return Sequences(sums[0], lengths, *sums[1:])
    lead = targets.mask.shape[:-1]
    flat = jax.tree.map(lambda x: x.reshape(-1, x.shape[-1]), targets)
    scores = score_targets(model, params, flat)
    sums = [(x * flat.mask).sum(axis=-1) for x in (scores.logprobs, 1, *scores[1:])]
    return Sequences(*(x.reshape(lead) for x in sums))


def sequence_work(model: Model, targets: Targets | Packed, max_length: int) -> Work:
    """Of `score_sequences`, if all documents are as long as may be: splash attends within them. Of
    packed rows every place may be a target."""
    if not isinstance(targets, Packed):
        return target_work(model, targets)
    rows, width = targets.tokens.shape
    each = width // max_length if model.attention == "splash" else 1
    return forward(model, (rows * each, width // each), width // each)


def reference_scorer(learner: Learner, microbatches: int | None, max_length: int) -> Program:
    """A program from targets to the first model's log-probabilities of their completions: as many
    rows at a time as the update takes, so that both are equal where the weights are."""
    model = learner.model

    def logps(targets: Targets | Packed, weights: Params) -> jax.Array:
        def one(part: Targets | Packed) -> Any:
            return score_sequences(model, weights, part).logps

        found: jax.Array = in_parts(one, targets, 1, microbatches)
        return found

    def work(targets: Targets | Packed) -> Work:
        parts = microbatch_count(targets, microbatches)
        return sequence_work(model, targets, max_length)._replace(parts=parts)

    return Program(
        "reference",
        logps,
        f"{REMEDY}, or raise microbatches",
        last=(learner.reference,),
        places=rows(learner.mesh),
        work=work,
    )


def triple_scorer(place: Placing, score: Program, paired: bool) -> Score:
    """A function from a batch of triples to the first model's log-probabilities [B, 2].

    Args:
      paired: place the two completions together, as DPO does; else all first ones, then all others.
    """

    def scored(items: Sequence[Item]) -> np.ndarray:
        placed = place(items)
        return placed.fetch(score(placed.targets))

    def logps(triples: Sequence[Triple]) -> np.ndarray:
        if paired:
            return scored([(prompt, both) for prompt, *both in triples])
        each = ([(triple[0], (triple[i],)) for triple in triples] for i in (1, 2))
        return np.concatenate(list(map(scored, each)), axis=1)

    return logps


def cached_reference(
    path: Path, triples: Sequence[Triple], score: Score, digest: str, batch_size: int
) -> np.ndarray:
    """Reference log-probabilities [N, 2] of a whole file, from `path` or computed and kept there.

    What is found there is used only if it was computed from the same tokens and the same `digest`;
    else it is computed anew, in the same batches whichever the reason, so to the same bits.

    Args:
      path: an .npz file; it is written whole or not at all.
      digest: of all else that the numbers follow from (`weights_digest`, the compute type, the
        sizes of batches and rows).
    """
    key = _digest_of(triples, digest)
    stored = processes.first(lambda: _read(path))
    if stored is not None and stored[0] == key and stored[1].shape == (len(triples), 2):
        return stored[1]
    if stored is not None:
        processes.say(f"{path}: made from other data, weights or batches; computed anew")

    # Equal lengths together, so that little is padding; the last batch is filled up.
    def length(i: int) -> int:
        return len(triples[i][0]) + max(map(len, triples[i][1:]))

    order = sorted(range(len(triples)), key=length)
    logps = np.zeros((len(triples), 2), np.float32)
    progress = Progress(0, len(triples), batch_size * 50, unit="reference pair")
    for start in range(0, len(order), batch_size):
        places = order[start : start + batch_size]
        filled = [triples[i] for i in (places * batch_size)[:batch_size]]
        logps[places] = score(filled)[: len(places)]
        progress.show(start + len(places), {}, ())
    processes.first(lambda: _write(path, key, logps))
    return logps


def weights_digest(params: Params) -> str:
    """A fingerprint of weights, the same on any mesh: any one changed bit changes it.

    Each array gives the sum of its numbers' bits, each times an odd number that follows from its
    place, modulo 2^32: whole numbers, so the order of summation does not matter.
    """
    sums = fetch(_checksums(params))
    parts = [
        (jax.tree_util.keystr(path), leaf.shape, str(leaf.dtype), int(total))
        for (path, leaf), total in zip(
            jax.tree.leaves_with_path(params), jax.tree.leaves(sums), strict=True
        )
    ]
    return hashlib.sha256(repr(parts).encode()).hexdigest()


@jax.jit
def _checksums(params: Params) -> Any:
    def checksum(x: jax.Array) -> jax.Array:
        bits = jax.lax.bitcast_convert_type(x, jnp.dtype(f"uint{8 * x.dtype.itemsize}"))
        place = jnp.zeros(x.shape, jnp.uint32)
        for axis in range(x.ndim):
            place = place * 1_000_003 + jax.lax.broadcasted_iota(jnp.uint32, x.shape, axis)
        return jnp.sum(bits.astype(jnp.uint32) * (2 * place + 1), dtype=jnp.uint32)

    return jax.tree.map(checksum, params)


def _digest_of(triples: Sequence[Triple], rest: str) -> str:
    whole = hashlib.sha256(rest.encode())
    for triple in triples:
        for tokens in triple:
            whole.update(len(tokens).to_bytes(8, "little"))
            whole.update(np.asarray(tokens, "<i4").tobytes())
    return whole.hexdigest()


def _read(path: Path) -> tuple[str, np.ndarray] | None:
    if not path.exists():
        return None
    try:
        with np.load(path) as stored:
            return str(stored["digest"]), stored["logps"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return "unreadable", np.zeros((0, 2), np.float32)


def _write(path: Path, digest: str, logps: np.ndarray) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("wb") as file:
            np.savez(file, digest=np.asarray(digest), logps=logps)
        temporary.replace(path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from error
