"""What a compiled program sends between devices, read from its optimised HLO text.

A collective inside a loop is counted as often as the loop runs. XLA writes a loop's trip count
down where it knows it; of others the caller says how often they run (decoding, which ends when
every row has).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

KINDS = (
    "all-gather",
    "all-reduce",
    "reduce-scatter",
    "all-to-all",
    "collective-permute",
    "collective-broadcast",
)
OUTSIDE = "between slices"  # what libtpu gives to the hosts to exchange with other slices
_BYTES = {"pred": 1, "s4": 0.5, "u4": 0.5, "bf16": 2, "f16": 2, "c64": 8, "c128": 16, "token": 0}

_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\) -> .* \{$")
_SHAPE = re.compile(r"\b(pred|token|[a-z]+\d+\w*)\[([\d,]*)\]")
_OPCODE = re.compile(r"(?<=[\s)}])([a-z][a-z0-9\-]*)\(")
_CALLED = re.compile(r"(?:calls|to_apply|true_computation|false_computation)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_WHILE = re.compile(r"condition=%?([\w.\-]+), body=%?([\w.\-]+)")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_LESS = re.compile(r"ROOT .* compare\([^%)]*%?([\w.\-]+), [^%)]*%?([\w.\-]+)\), direction=LT")
_ELEMENT = re.compile(r"get-tuple-element\(.*\), index=(\d+)")
_ADD = re.compile(r" add\(%[\w.\-]+, %([\w.\-]+)\)")
_CHAIN = re.compile(r'chain_id="(\d+)"')
_LISTED = re.compile(r"replica_groups=\{\{([\d,]*)\}")
_IOTA = re.compile(r"replica_groups=\[(\d+),(\d+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?")
_MESH = re.compile(r"replica_groups=mesh\[([^\]]*)\] \{([^}]*)\}")
_PAIRS = re.compile(r"source_target_pairs=\{\{(\d+),(\d+)\}")
_HANDED = re.compile(r'_xla_megascale_target="\{([\d,:]*)\}')
_PARTITIONS = re.compile(r"num_partitions=(\d+)")


class Collective(NamedTuple):
    """One instruction of a program.

    Attributes:
      times: how often it runs in one call.
      bytes: of the array it makes, or reduces, each time: whole on one device of the group after an
        all-gather, before a reduce-scatter.
      group: the devices of its first group, by their place in the mesh (of OUTSIDE: the slices).
      drawing: in a loop of which XLA does not know how often it runs: a sampler's.
    """

    kind: str
    times: float
    bytes: float
    group: tuple[int, ...]
    drawing: bool = False

    @property
    def received(self) -> float:
        """Bytes that a device receives in one call, by the best ring algorithm.

        With n devices and an array of b bytes: all-gather and reduce-scatter b (n - 1) / n, an
        all-reduce both of them, all-to-all b (n - 1) / n of its part, a permute b. What goes
        between slices is taken for an all-reduce, which all that is large is (gradients).
        """
        n = len(self.group)
        once = self.bytes if "permute" in self.kind else self.bytes * (n - 1) / max(1, n)
        return self.times * once * (2 if self.kind in ("all-reduce", OUTSIDE) else 1)


def collectives(hlo: str, unknown_trips: float = 1) -> list[Collective]:
    """The collectives of a program's optimised HLO text.

    Args:
      unknown_trips: how often a loop runs whose trip count XLA does not write down.
    """
    computations, entry = _computations(hlo)
    partitions = _PARTITIONS.search(hlo)
    everyone = tuple(range(int(partitions[1]) if partitions else 1))
    found: list[Collective] = []

    def visit(name: str, times: float, chains: set[str], drawing: bool = False) -> None:
        for line in computations.get(name, ()):
            one = _read(line, times, everyone, scattered="all-reduce-scatter" in name)
            if one is not None:
                one = one._replace(drawing=drawing)
                chain = _CHAIN.search(line)  # one collective, spread over several fusions
                if len(one.group) > 1 and not (chain and chain[1] in chains):
                    found.append(one)
                chains |= {chain[1]} if chain else set()
            elif loop := _WHILE.search(line):
                parts = (computations.get(name, ()) for name in loop.groups())
                trips = _trips(line, *parts)
                drawn = drawing or trips is None
                visit(loop[2], times * (unknown_trips if trips is None else trips), set(), drawn)
            else:
                for called in _called(line):
                    visit(called, times, chains, drawing)

    visit(entry, 1, set())
    return found


def totals(found: Sequence[Collective]) -> dict[str, dict[str, float]]:
    """By kind: how many run in one call, and the bytes that a device receives for them."""
    out: dict[str, dict[str, float]] = {}
    for one in found:
        row = out.setdefault(one.kind, {"count": 0, "bytes": 0})
        row["count"] += one.times
        row["bytes"] += one.received
    return dict(sorted(out.items()))


def _computations(hlo: str) -> tuple[dict[str, list[str]], str]:
    """({computation: its instructions' lines}, the entry's name)."""
    computations: dict[str, list[str]] = {}
    entry, lines = "", []
    for line in hlo.splitlines():
        if start := _COMPUTATION.match(line):
            lines = computations.setdefault(start[2], [])
            entry = start[2] if start[1] else entry
        elif " = " in line:
            lines.append(line)
    return computations, entry


def _trips(line: str, condition: Sequence[str], body: Sequence[str]) -> int | None:
    """How often a loop runs: as XLA wrote it down, or as a condition `counter < constant` says
    (counters begin at 0; a windowed product's goes on by 2). None: neither."""
    if known := _TRIPS.search(line):
        return int(known[1])
    less = next(filter(None, map(_LESS.search, condition)), None)
    bound = _constant(less[2], condition) if less else None
    if less is None or bound is None:
        return None
    place = next((_ELEMENT.search(x) for x in condition if f"{less[1]} = " in x), None)
    ends = next((x.rpartition(" tuple(")[2] for x in body if "ROOT " in x), "")
    names = re.findall(r"%([\w.\-]+)", ends.partition(")")[0])
    step = None
    if place and int(place[1]) < len(names):
        for other in body:
            if f"%{names[int(place[1])]} = " in other and (more := _ADD.search(other)):
                step = _constant(more[1], body)
    return math.ceil(bound / (step or 1))


def _constant(name: str, lines: Sequence[str]) -> int | None:
    named = re.compile(rf"%{re.escape(name)} = [su]\d+\[\]\S* constant\((\d+)\)")
    return next((int(found[1]) for found in map(named.search, lines) if found), None)


def _called(line: str) -> Iterator[str]:
    yield from _CALLED.findall(line)
    for branches in _BRANCHES.findall(line):
        yield from (name.strip().lstrip("%") for name in branches.split(","))


def _read(line: str, times: float, everyone: tuple[int, ...], scattered: bool) -> Collective | None:
    """The collective that a line starts or runs, if any; its `-done` half is not one.

    Args:
      scattered: an all-reduce is half of a fused reduce-scatter, which sends half as much.
    """
    _, _, right = line.partition(" = ")
    found = _OPCODE.search(right)
    if found is None:
        return None
    opcode, result = found[1], right[: found.start()]
    if opcode == "send" and (handed := _HANDED.search(right)):
        return Collective(OUTSIDE, times, _size(*_SHAPE.findall(result)[0]), _numbers(handed[1]))
    kind = opcode.removesuffix("-start")
    if kind not in KINDS:
        return None
    group = _group(right, everyone)
    sizes = [_size(*shape) for shape in _SHAPE.findall(result)]
    size, n = sum(sizes), len(group)
    if kind == "collective-permute":
        size, pair = max(sizes), _PAIRS.search(right)
        group = (int(pair[1]), int(pair[2])) if pair else everyone[:2]
    elif kind == "all-gather" and opcode != kind:  # its result holds operand and result
        size *= n / (n + 1)
    elif kind == "reduce-scatter":
        size *= n
    elif kind == "all-reduce" and scattered:
        kind = "reduce-scatter"
    return Collective(kind, times, size, group)


def _numbers(text: str) -> tuple[int, ...]:
    """ "0:2" and "0,1,2" are both (0, 1, 2)."""
    if ":" in text:
        first, _, last = text.partition(":")
        return tuple(range(int(first), int(last) + 1))
    return tuple(int(i) for i in text.split(",") if i)


def _size(kind: str, dims: str) -> float:
    width = _BYTES.get(kind)
    if width is None:
        digits = re.match(r"[a-z]+(\d+)", kind)
        width = int(digits[1]) / 8 if digits else 1
    return width * math.prod(int(d) for d in dims.split(",") if d)


def _group(text: str, everyone: tuple[int, ...]) -> tuple[int, ...]:
    """The first replica group: listed, as rows of a transposed range, or as axes of a mesh."""
    if listed := _LISTED.search(text):
        return tuple(int(i) for i in listed[1].split(",") if i) or everyone
    if iota := _IOTA.search(text):
        groups, size = int(iota[1]), int(iota[2])
        dims = [int(d) for d in iota[3].split(",")]
        order = np.arange(math.prod(dims)).reshape(dims)
        if iota[4]:
            order = order.transpose([int(d) for d in iota[4].split(",")])
        return tuple(int(i) for i in order.reshape(groups, size)[0])
    if mesh := _MESH.search(text):
        axes = [(a.partition("=")[0], int(a.partition("=")[2])) for a in mesh[1].split(",")]
        order = np.arange(math.prod(size for _, size in axes)).reshape([n for _, n in axes])
        chosen = tuple(slice(None) if name in mesh[2] else 0 for name, _ in axes)
        return tuple(int(i) for i in order[chosen].reshape(-1))
    return everyone
