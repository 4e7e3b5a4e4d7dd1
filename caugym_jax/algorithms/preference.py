"""What DPO and KTO share: two completions of each prompt, and what the first model thinks of them.

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

from caugym_jax.algorithms.sft import Targets, find_targets, score_targets, target_work
from caugym_jax.algorithms.step import Learner, in_parts, microbatch_count
from caugym_jax.data.packing import pad, width_for
from caugym_jax.devices import processes
from caugym_jax.devices.mesh import fetch, put, rows
from caugym_jax.devices.programs import Program
from caugym_jax.errors import UserError
from caugym_jax.models.transformer import Model, Params
from caugym_jax.models.work import Work
from caugym_jax.runs.log import Progress
from caugym_jax.types import Example

# A prompt and two completions of it, as tokens.
Triple = tuple[list[int], list[int], list[int]]
Score = Callable[[Targets], jax.Array]


class Sequences(NamedTuple):
    """Sums over the tokens of each completion, float32, of the targets' leading shape."""

    logps: Any
    lengths: Any
    entropy: Any
    correct: Any  # tokens that were the likeliest


def lay_out(triples: Sequence[Triple], max_length: int, pad_id: int) -> Targets:
    """NumPy leaves of shape [B, 2, ...]: one row for each completion, padded on the right."""
    examples = [Example(prompt, said) for prompt, *both in triples for said in both]
    longest = max(len(e.prompt) + len(e.completion) for e in examples)
    targets = find_targets(pad(examples, width_for(longest, max_length), pad_id))
    paired: Targets = jax.tree.map(lambda x: x.reshape(-1, 2, *x.shape[1:]), targets)
    return paired


def score_sequences(model: Model, params: Params, targets: Targets) -> Sequences:
    """Teacher-forced sums over completions; the leading axes of the targets' leaves are free."""
    lead = targets.mask.shape[:-1]
    flat = jax.tree.map(lambda x: x.reshape(-1, x.shape[-1]), targets)
    scores = score_targets(model, params, flat)
    sums = [(x * flat.mask).sum(axis=-1) for x in (scores.logprobs, 1, *scores[1:])]
    return Sequences(*(x.reshape(lead) for x in sums))


def reference_scorer(learner: Learner, microbatches: int | None, remedy: str) -> Score:
    """A program from targets [B, 2, ...] to the first model's log-probabilities [B, 2]: as many
    rows at a time as the update takes, so that both are equal where the weights are."""
    model = learner.model

    def logps(targets: Targets, weights: Params) -> jax.Array:
        def one(part: Targets) -> Any:
            return score_sequences(model, weights, part).logps

        found: jax.Array = in_parts(one, targets, 1, microbatches)
        return found

    def work(targets: Targets) -> Work:
        return target_work(model, targets)._replace(parts=microbatch_count(targets, microbatches))

    return Program(
        "reference",
        logps,
        f"{remedy}, or raise microbatches",
        last=(learner.reference,),
        places=rows(learner.mesh),
        work=work,
    )


def cached_reference(
    path: Path,
    triples: Sequence[Triple],
    score: Score,
    digest: str,
    mesh: jax.sharding.Mesh,
    *,
    batch_size: int,
    max_length: int,
    pad_id: int,
) -> np.ndarray:
    """Reference log-probabilities [N, 2] of a whole file, from `path` or computed and kept there.

    What is found there is used only if it was computed from the same tokens and the same `digest`;
    else it is computed anew, in the same batches whichever the reason, so to the same bits.

    Args:
      path: an .npz file; it is written whole or not at all.
      digest: of all else that the numbers follow from (`weights_digest`, the compute type).
    """
    key = _digest_of(triples, f"{digest} {batch_size} {max_length}")
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
        targets = put(lay_out(filled, max_length, pad_id), rows(mesh))
        logps[places] = fetch(score(targets))[: len(places)]
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
