"""How long a program should take: operations, bytes of memory and bytes between devices.

    arithmetic = products / (peak x e.matmul) + attention / (peak x e.attention)
    memory     = bytes read and written / (bandwidth x e.memory)
    exchange   = bytes received / (link x ways x e.link) + collectives x e.latency
    time       = max(arithmetic, memory, exchange) + optimiser's bytes / (bandwidth x e.memory)

of one device, all devices doing the same; a sampler's is the time of its prefill and, after it, of
decoding. On a CPU, where nothing overlaps, the sum is taken in
place of the largest. Operations and bytes are by formula (below), what is exchanged is read from
the compiled program (`collectives.py`). `ways` are the links that lead to a collective's group:
for each axis of the torus that it spreads over two where the ring is closed, else one.

Model FLOPs utilisation counts what the mathematics needs, 3 times the forward pass with causal
attention, and nothing that is computed again.
"""

from __future__ import annotations

import collections
import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from caugym_jax.devices.chips import Chip
from caugym_jax.models.config import ModelConfig
from caugym_jax.models.work import (
    Work,
    gradient_parts,
    layer_parameters,
    parameters,
    used_parameters,
)
from caugym_jax.planning.collectives import OUTSIDE, Collective


@dataclasses.dataclass(frozen=True)
class Efficiency:
    """Which part of the stated numbers a program reaches.

    Attributes:
      matmul: of peak FLOPs in large products, with the elementwise work fused around them.
      attention: of peak FLOPs in attention kernels.
      memory, link: of the bandwidths.
      latency: seconds a collective takes whatever its size.
      outside: the same of one between slices (assumed, as a round trip between hosts).
      overlapped: arithmetic, memory and exchange run beside each other.
    """

    matmul: float
    attention: float
    memory: float
    link: float
    latency: float
    overlapped: bool
    outside: float = 1e-3


# matmul: what norms, rotations, elementwise work and the loop over layers leave; chosen so that
#   MaxText's published Llama 2 70B steps come out (0.651 for 0.65 on v5p, 0.599 for 0.57 on v5e,
#   tests/planning/test_roofline.py).
# attention: assumed; exponentials and masks run on the vector unit between the products of a tile,
#   and tiles that the diagonal cuts are done whole.
# memory: assumed; streaming seldom reaches more of what is stated. link: 9.0e10 of a stated 1.0e11
#   bytes a second (jax-ml.github.io/scaling-book/tpus). latency: assumed, about 1 us a hop.
TPU = Efficiency(0.78, 0.50, 0.85, 0.90, 10e-6, True)
# matmul: 769 to 798 of 989 TFLOP/s measured on an H200, less the same. memory: 4.3 of 4.8 TB/s.
GPU = Efficiency(0.70, 0.45, 0.85, 0.80, 20e-6, True)
# The machine itself is measured (`machine.py`): what is left is what products in a step lose to
# smaller shapes and transposed operands; chosen on the three sizes of benchmarks/roofline.py.
CPU = Efficiency(0.80, 0.50, 1.0, 1.0, 20e-6, False)


def efficiency_of(platform: str) -> Efficiency:
    return {"tpu": TPU, "gpu": GPU, "cuda": GPU}.get(platform, CPU)


# The part of the layers' products, and of attention, that a backward pass makes again.
_AGAIN = {
    "full": (1, 1),
    "attention": (1, 0),
    "dots": (0, 1),
    "dots_attention": (0, 0),
    "none": (0, 0),
}


class Operations(NamedTuple):
    """Floating-point operations of one call, over all devices."""

    model: float  # what the mathematics needs
    matmul: float  # done, in products with weights
    attention: float  # done, in attention


class Prediction(NamedTuple):
    """Seconds of one call, with the terms they follow from; `decode` is part of `seconds`."""

    seconds: float
    arithmetic: float
    memory: float
    exchange: float
    optimiser: float
    decode: float
    flops: Operations
    mfu: float
    tokens_per_second: float


def mean_over_layers(function: Callable[[int | None], float], c: ModelConfig) -> float:
    """The mean over layers of a function of their windows."""
    counts = collections.Counter(kind.window for kind in c.kinds)
    return sum(n * function(window) for window, n in counts.items()) / counts.total()


def keys_seen(width: int, window: int | None = None) -> int:
    """Pairs (query, key) of one causal row. By hand: width 4: 1 + 2 + 3 + 4 = 10; window 2: 7."""
    w = width if window is None else min(window, width)
    return w * (w + 1) // 2 + (width - w) * w


def operations(work: Work) -> Operations:
    """Two operations a multiplication and addition.

        layers     2 tokens L (matrices of a layer)
        head       2 rows scored D V
        attention  4 N H L rows (pairs of query and key)

    Backward: twice as much, of frozen matrices once as much. Done again: all of a layer under
    remat "full"; all but attention's results under "attention"; attention alone under "dots";
    nothing of them under "dots_attention"; the head's product always (log-probabilities are taken
    in chunks). Only splash's results can be kept as its backward pass needs them. That pass has 5
    products against the forward's 2, of which the scores are made again; 7 where it is two kernels
    (with a window, in long rows, under "full"), which both make them.
    """
    c = work.model
    layers = 2.0 * work.read * work.width * c.num_layers * used_parameters(c)
    head = 2.0 * work.rows * work.scored * c.d_model * c.vocab_size
    heads = 4.0 * c.num_heads * c.head_dim * c.num_layers

    def seen(window: int | None) -> float:
        return keys_seen(work.width, window)

    mixing = heads * work.read * mean_over_layers(seen, c)
    if work.drawn:
        rows = work.rows * work.samples
        layers += 2.0 * rows * work.drawn * c.num_layers * used_parameters(c)
        head += 2.0 * rows * work.drawn * c.d_model * c.vocab_size
        mixing += heads * rows * work.drawn * (work.width + work.drawn / 2)
    forward = layers + head + mixing
    if not work.train:
        return Operations(forward, layers + head, mixing)
    again = work.again or _AGAIN[work.remat]
    if work.remat != "none" and work.kernel != "splash":
        again = again[0], 1
    backward = 2 if work.adapters is None else 1

    def done(window: int | None) -> float:
        kernels = 2.5 if gradient_parts(work, window) else 3.5
        return seen(window) * (1 + again[1] + kernels)

    return Operations(
        model=forward + backward * (layers + head) + 2 * mixing,
        matmul=layers * (1 + backward + again[0]) + head * (2 + backward),
        attention=heads * work.rows * mean_over_layers(done, c),
    )


def memory_traffic(work: Work, devices: int, tensor: int = 1) -> tuple[float, float]:
    """Bytes that one device reads and writes: (during the passes, by the optimiser).

    Weights are read once for each pass and part, `1 / tensor` of them; AdamW reads and writes
    weights and two moments and reads the gradient, 28 bytes a parameter, split over all devices.
    Activations: 14 D + 4 (N + 2 K) H + 6 F numbers a token and layer forward, as many again for
    each further pass; the plain kernel's scores and the logits in float32, each gone through 6
    times a pass; the parts of queries' gradients (`gradient_parts`), written and read. A sampler
    reads the cache's pieces begun for every token.
    """
    c, size = work.model, work.itemsize
    passes = 1 if work.read else 0
    if work.train:
        passes = 3 + (work.remat in ("full", "attention"))
    weights = size * (c.num_layers * layer_parameters(c) + c.vocab_size * c.d_model) / tensor
    tokens = work.rows * work.width / devices
    wide = 14 * c.d_model + 4 * (c.num_heads + 2 * c.num_kv_heads) * c.head_dim + 6 * c.d_ff
    moved = passes * (work.parts * weights + tokens * c.num_layers * wide * size)
    if work.kernel == "plain":
        pairs = mean_over_layers(lambda window: keys_seen(work.width, window), c)
        pairs *= c.num_heads * c.num_layers * work.rows
        moved += passes * 6 * 4 * pairs / devices
    moved += passes * 6 * 4 * work.rows * work.scored * c.vocab_size / devices
    if work.drawn:
        rows = work.rows * work.samples / (devices / tensor)
        pieces = math.ceil(work.drawn / work.piece)
        slots = work.piece * (pieces + 1) / 2 + work.width / work.samples
        kv = max(1, c.num_kv_heads / tensor) * work.slot_bytes
        moved += work.drawn * (weights + rows * slots * kv)
    if not work.train:
        return moved, 0.0
    summed = mean_over_layers(lambda window: gradient_parts(work, window), c)
    moved += 2 * size * summed * tokens * c.num_layers * c.num_heads * c.head_dim
    trained = parameters(c) if work.adapters is None else work.adapters
    moved += 12.0 * work.parts * trained / devices  # gradients are added up in float32
    return moved, 28.0 * trained / devices


def ways(group: Sequence[int], coordinates: Sequence[tuple[int, ...]], closed: int) -> int:
    """Links that lead into a device of a group from the group.

    Args:
      coordinates: of every device, by its place in the mesh; empty where there is no torus.
      closed: from how many devices along an axis its ring is closed.
    """
    if not coordinates:
        return 1
    sizes = [len(set(along)) for along in zip(*coordinates, strict=True)]
    cube = len(sizes) < 3 or min(sizes) >= closed  # 3D slices below a cube are no torus
    total = 0
    for axis, size in enumerate(sizes):
        spread = len({coordinates[i][axis] for i in group})
        if spread > 1:
            total += 2 if spread == size >= closed and cube else 1
    return max(1, total)


def exchange(
    found: Sequence[Collective],
    chip: Chip,
    efficiency: Efficiency,
    coordinates: Sequence[tuple[int, ...]] = (),
) -> float:
    """Seconds that a program's collectives take, one after the other."""
    seconds = 0.0
    for one in found:
        if one.kind == OUTSIDE:
            seconds += one.received / chip.outside + one.times * efficiency.outside
            continue
        lanes = min(chip.links, ways(one.group, coordinates, chip.whole))
        seconds += one.received / (chip.link * lanes * efficiency.link)
        seconds += one.times * efficiency.latency
    return seconds


def predict(
    work: Work,
    chip: Chip,
    efficiency: Efficiency,
    devices: int,
    *,
    tensor: int = 1,
    exchanged: float = 0.0,
    drawing: float = 0.0,
) -> Prediction:
    """One call's time on `devices` of these chips; a sampler's is that of its prefill and that of
    its decoding, which follows.

    Args:
      tensor: over how many devices a layer's weights are split where they are used.
      exchanged: seconds, from `exchange`, but for
      drawing: those of the collectives in the loop that draws tokens.

    By hand: 1e9 parameters in the layers' matrices, 1e6 tokens trained without attention, head or
    recomputation on 10 devices of 1e14 FLOP/s at 0.5: 6e15 / (10 x 5e13) = 12 s.
    """
    peak = chip.flops * devices

    def terms(work: Work) -> tuple[Operations, tuple[float, float], float]:
        flops = operations(work)
        arithmetic = flops.matmul / (peak * efficiency.matmul)
        arithmetic += flops.attention / (peak * efficiency.attention)
        moved, optimiser = memory_traffic(work, devices, tensor)
        rate = chip.bandwidth * efficiency.memory
        return flops, (arithmetic, moved / rate), optimiser / rate

    def together(*parts: float) -> float:
        return max(parts) if efficiency.overlapped else sum(parts)

    flops, first, optimiser = terms(work._replace(drawn=0))
    seconds, decode = together(*first, exchanged), 0.0
    whole = first
    if work.drawn:
        flops, whole, _ = terms(work)
        decode = together(*(w - f for w, f in zip(whole, first, strict=True)), drawing)
    total = seconds + decode + optimiser
    return Prediction(
        total,
        *whole,
        exchanged + drawing,
        optimiser,
        decode,
        flops,
        flops.model / (total * peak),
        work.tokens / total,
    )
