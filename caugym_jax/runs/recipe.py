"""What a run leaves to its machine: what the backward pass makes again, over how many devices
heads are split for sampling, and how many prompts are sampled at a time.

All three change speed and memory, and of results no more than the rounding. They follow from the
model's shape, the settings, the mesh and a device's memory alone, so the planner chooses what a run
will choose. On a CPU heads stay as the mesh splits them.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax

from caugym_jax.devices import processes
from caugym_jax.devices.chips import chip_of
from caugym_jax.devices.mesh import Layout, sampling_mesh
from caugym_jax.devices.programs import memory_limit
from caugym_jax.devices.shapes import local_bytes
from caugym_jax.models.config import ModelConfig
from caugym_jax.models.lora import adapter_layout, frozen_layout
from caugym_jax.models.transformer import Model, Params, cached, layout
from caugym_jax.models.work import Work, gradient_parts, kept_itemsize, layer_parameters
from caugym_jax.objectives.logprobs import CHUNK_LOGITS
from caugym_jax.objectives.optim import Optim
from caugym_jax.runs.settings import PpoSettings, Settings
from caugym_jax.sampling.decoding import piece_width, reordered_bytes
from caugym_jax.sampling.parking import Memory, Room
from caugym_jax.sampling.waves import lays_out

REMAT = ("none", "dots_attention", "dots", "attention", "full")  # the quickest first
# Of a device's memory, filled by estimate: compilers ask for up to a tenth of a device more.
HEADROOM = 0.88
MOST_TENSOR = 8  # devices that share a token's arithmetic: more wait for each other
# Numbers that an optimiser keeps beside each weight; schedule_free keeps the averaged weights.
MOMENTS = {"adamw": 2, "lion": 1, "adafactor": 0, "muon": 1, "schedule_free": 2}
LATENCY = 10e-6  # seconds of an all-reduce, as planning/roofline.py assumes for TPUs


def device_memory(mesh: jax.sharding.Mesh) -> float | None:
    """Bytes of the smallest device of all processes, whatever lies there; None: unknown. Virtual
    devices of a CPU share one memory."""
    device = mesh.local_devices[0]
    if device.platform == "cpu":
        limit = memory_limit(device)
        own = None if limit is None else limit / len(mesh.local_devices)
    else:
        own = (device.memory_stats() or {}).get("bytes_limit")
    known = [size for size in processes.share(own) if size is not None]
    return min(known) if known else None


def settle(
    config: Settings, model: Model, mesh: jax.sharding.Mesh, memory: float | None
) -> Settings:
    """The settings with a value for each that was left to the machine.

    Args:
      model: as `opening.model_for` made it.
      memory: bytes of a device; None: unknown, and the safest is chosen.
    """
    shape, settings = model.config, config
    if config.model.remat is None:
        settings = _with(settings, "model", remat=_remat(config, model, mesh, memory))
    if config.method not in ("grpo", "ppo"):
        return settings
    device = mesh.devices.flat[0]
    if config.sampling.tensor is None and device.platform != "cpu":
        settings = _with(settings, "sampling", tensor=sampling_tensor(shape, mesh))
    if config.own.sample_batch_size is None and memory is not None:
        size = prompts_at_a_time(settings, model, mesh, memory)
        settings = _with(settings, config.method, sample_batch_size=size)
    return settings


def chosen(before: Settings, after: Settings) -> str:
    """What `settle` chose other than to keep everything and split nothing, as it would be typed."""
    keys = ("model.remat", "sampling.tensor", f"{before.method}.sample_batch_size")
    found = []
    for section, name in (key.split(".") for key in keys):
        old, new = (getattr(getattr(x, section), name, None) for x in (before, after))
        if old != new and new not in ("none", 1):
            found.append(f"{section}.{name}={new}")
    return " ".join(found)


def _with(config: Settings, section: str, **values: Any) -> Settings:
    changed: dict[str, Any] = {section: dataclasses.replace(getattr(config, section), **values)}
    return dataclasses.replace(config, **changed)


def _remat(config: Settings, model: Model, mesh: jax.sharding.Mesh, memory: float | None) -> str:
    """The quickest policy whose update fits by estimate. An accelerator never keeps everything:
    elementwise work is made again at no cost beside its products."""
    on_cpu = mesh.devices.flat[0].platform == "cpu"
    if memory is None:
        return "none" if on_cpu else "full"
    sizes, resident = dict(mesh.shape), resident_bytes(config, model.config, dict(mesh.shape))
    for policy in REMAT if on_cpu else REMAT[1:]:
        if "attention" in policy and model.attention == "cudnn":
            continue  # its backward pass needs more than a policy can name
        work = update_work(config, model, sizes)._replace(remat=policy)
        if resident + temporaries(work, sizes) <= HEADROOM * memory:
            return policy
    return "full"


def sampling_tensor(shape: ModelConfig, mesh: jax.sharding.Mesh) -> int:
    """Over how many devices a layer is split while tokens are drawn one at a time: the most (up to
    MOST_TENSOR) that divide heads and KV heads, so that no key lies twice, while what a device
    saves of reading weights is more than what two all-reduces a layer take.

    By hand: 48 layers, 40 heads, 8 KV heads on 16 v5p chips: 8. 28 and 4 heads: 4.
    """
    devices = mesh.devices.size
    chip = chip_of(mesh.devices.flat[0].device_kind)
    bandwidth = chip.bandwidth if chip else 1e12
    reading = 2 * _count(layout(shape)) / bandwidth
    waiting = 2 * shape.num_layers * LATENCY
    best = 1
    for tensor in range(2, MOST_TENSOR + 1):
        parts = (devices, shape.num_heads, shape.num_kv_heads, shape.d_ff)
        if all(part % tensor == 0 for part in parts) and reading * (1 - 1 / tensor) > waiting:
            best = tensor
    return best


def prompts_at_a_time(
    config: Settings, model: Model, mesh: jax.sharding.Mesh, memory: float
) -> int | None:
    """How many prompts are sampled at a time: all of a step (None), or the largest equal parts
    that fit by estimate. Rows that may halve have to fit while they fill their first piece of
    cache (`Room.starts_well`); others if every completion grows as long as it may."""
    own, batch = config.own, vars(config)["data"].batch_size
    places = sampling_mesh(mesh, config.sampling)
    tensor = places.shape["tensor"]
    resident = resident_bytes(config, model.config, dict(mesh.shape))
    if places is not mesh or model.dtype != "float32":  # `Sampler.place` makes a copy
        resident += _itemsize(model) * _count(layout(model.config)) / tensor
    kept = cached(model, own.cache_dtype)
    lengths = vars(config)["data"].max_prompt_length, own.max_completion_length
    for parts in range(1, batch + 1):
        size = -(-batch // parts)
        work = _sampled(kept, places, size, own.group_size, *lengths)
        if _has_room(work, dict(places.shape), memory, resident, lays_out(places)):
            return None if parts == 1 else size
    return 1


def prompts_that_fit(
    opened: tuple[Model, Params],
    places: jax.sharding.Mesh,
    most: int,
    samples: int,
    width: int,
    max_new_tokens: int,
) -> int:
    """How many prompts are answered at a time: `most`, or that halved until they fit by estimate.

    Args:
      opened: a model with its weights.
      places: the devices, arranged for sampling.
      width: of the longest prompt.
    """
    model, params = opened
    if (memory := device_memory(places)) is None:
        return most
    tensor = places.shape["tensor"]
    resident = local_bytes(params) + _itemsize(model) * _count(layout(model.config)) / tensor
    while most > 1:
        work = _sampled(model, places, most, samples, width, max_new_tokens)
        if _has_room(work, dict(places.shape), memory, resident, lays_out(places)):
            break
        most = -(-most // 2)
    return most


def _sampled(
    model: Model, places: jax.sharding.Mesh, prompts: int, samples: int, width: int, new: int
) -> Work:
    """The prefill and the cache of a wave."""
    shards = places.devices.size // places.shape["tensor"]
    return Work(
        model.config,
        -(-prompts // shards) * shards,
        width,
        scored=0,
        drawn=new,
        samples=samples,
        piece=piece_width(new),
        itemsize=_itemsize(model),
        kept_itemsize=kept_itemsize(model),
    )


def _has_room(
    work: Work, mesh: Mapping[str, int], memory: float, resident: float, tpu: bool
) -> bool:
    """Whether a wave fits by estimate beside what lies on a device."""
    tensor = mesh["tensor"]
    shards, prompts = mesh["data"] * mesh["fsdp"], (work.rows, work.width)
    room = Room.of(math.inf, prompts, work.samples, shards, work.drawn, work.piece)
    filled = HEADROOM * memory
    if len(room.ladder) == 1:
        return resident + temporaries(work, mesh) <= filled
    slot = max(1, work.model.num_kv_heads / tensor) * work.slot_bytes
    written = room.ladder[0] * room.pieces[0] * slot
    copied = reordered_bytes(work.model, tensor, work.itemsize, written) if tpu else 0
    beside = Memory(slot, room.ladder[0], work.model.vocab_size / tensor, work.drawn, copied)
    prefill = temporaries(work._replace(drawn=1), mesh)
    fits = room._replace(total=beside.slots(memory - resident)).starts_well()
    return fits and resident + prefill <= filled


def resident_bytes(config: Settings, shape: ModelConfig, mesh: Mapping[str, int]) -> float:
    """What lies on a device for the whole run: trained weights and moments in float32, an adapter's
    frozen weights, the reference, PPO's critic (taken as large as the policy)."""
    split = mesh["fsdp"] * mesh["tensor"]
    whole = 4.0 * _count(layout(shape))
    total = whole * _copies(config.optim)
    if config.lora.rank:
        total = 4.0 * _count(adapter_layout(shape, config.lora)) * _copies(config.optim)
        total += _bytes(frozen_layout(shape, config.lora.base_dtype))
    elif getattr(config.own, "beta", 0):
        total += whole
    if isinstance(config, PpoSettings):
        total += whole * _copies(config.critic_optim)
    return total / split


def update_work(config: Settings, model: Model, mesh: Mapping[str, int]) -> Work:
    """The update's largest microbatch, with rows as long as they may be."""
    data, own = vars(config)["data"], config.own
    shards = mesh["data"] * mesh["fsdp"]
    if config.method in ("grpo", "ppo"):
        longest = min(data.max_prompt_length + own.max_completion_length, model.config.longest)
        rows = data.batch_size * own.group_size // own.num_minibatches
    else:
        longest = min(data.max_length, model.config.longest)
        rows = data.batch_size
        if getattr(data, "mixture", None) is not None:  # its batch_size counts tokens
            rows = -(-rows // longest)
    parts = own.microbatches or max(1, rows // shards)
    if config.method == "dpo":
        rows *= 2
    return Work(
        model.config,
        rows,
        longest,
        scored=longest,
        train=True,
        parts=parts,
        kernel=model.attention,
        adapters=_count(adapter_layout(model.config, config.lora)) if config.lora.rank else None,
        itemsize=_itemsize(model),
    )


def temporaries(work: Work, mesh: Mapping[str, int]) -> float:
    """What a program should take of a device beside its arguments and what stays there.

    Of an update: gradients, twice where they are accumulated; what the layers keep for the backward
    pass under their remat policy (the plain kernel's scores among it under "none"); two layers' and
    the tables' weights, gathered; what one layer works on, with the parts of its queries' gradient;
    four chunks of logits. Of the sampler: the cache, and what the prefill works on.
    """
    c, size, tensor = work.model, work.itemsize, mesh["tensor"]
    d_ff = c.d_ff * max(1, c.experts_per_token)  # of a token's experts together
    batch = mesh["data"] * mesh["fsdp"]
    tables = size * 2 * c.vocab_size * c.d_model / tensor
    gathered = 2 * size * layer_parameters(c) / tensor + tables if mesh["fsdp"] > 1 else 0.0
    if work.drawn:
        rows = work.rows * work.samples / batch
        slots = rows * work.drawn + work.rows / batch * work.width
        if work.room is not None:  # the cache is among its arguments
            slots = 0.0
        cache = max(1, c.num_kv_heads / tensor) * work.slot_bytes * slots
        wide = work.read / batch * work.width * (3 * d_ff / tensor + 8 * c.d_model) * size
        return gathered + 1.02 * cache + wide + 2 * 4 * rows * c.vocab_size / tensor
    places = work.rows * work.width / work.parts / batch / mesh["context"]
    inner = (3 * d_ff + (c.num_heads + 2 * c.num_kv_heads) * c.head_dim) / tensor
    kept = float(c.d_model * (1 if work.train else 0))
    dots = ((2 * c.num_heads + 2 * c.num_kv_heads) * c.head_dim + 2 * d_ff) / tensor + c.d_model
    # Attention's result and the logarithms of its sums, for each window that layers have.
    windows = len({kind.window for kind in c.kinds}) if work.kernel == "splash" else 1
    mixed = windows * c.num_heads * (c.head_dim + 2) / tensor
    kept += {"full": 0.0, "attention": mixed, "dots_attention": dots + mixed}.get(work.remat, dots)
    if work.remat == "none" and work.train:
        kept += 6 * c.d_model + 2 * d_ff / tensor
        if work.kernel == "plain":
            kept += 2 * 4 / size * c.num_heads * work.width / tensor
    layers = places * c.num_layers * kept * size if work.train else 0
    working = places * (2 * inner + 8 * c.d_model) * size
    if work.train:
        parts = max(gradient_parts(work, kind.window) for kind in c.kinds)
        working += places * parts * c.num_heads * c.head_dim / tensor * size
    logits = min(CHUNK_LOGITS, places * c.vocab_size) * 4 * 4 / tensor
    gradients = 0.0
    if work.train:
        trained = _count(layout(c)) if work.adapters is None else work.adapters
        gradients = 4 * trained / (mesh["fsdp"] * tensor) * (2 if work.parts > 1 else 1)
    return gathered + layers + working + logits + gradients


def _copies(optim: Optim) -> int:
    """Numbers kept for each trained weight, itself among them."""
    return 1 + MOMENTS[optim.name] + (optim.ema > 0)


def _itemsize(model: Model) -> int:
    return 2 if model.dtype == "bfloat16" else 4


def _count(of: Layout) -> int:
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(of.shapes))


def _bytes(of: Layout) -> int:
    return sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(of.shapes))
