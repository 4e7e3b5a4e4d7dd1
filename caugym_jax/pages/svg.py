"""Charts as SVG text: lines, dots with intervals, bars, heat maps, graphs.

Colours are CSS variables of the page (`--c0` ... `--c7`, `--ink`, `--grid`, `--good`, `--bad`), so
that a chart follows the reader's light or dark mode; `standalone` gives them values. All text goes
through `escape`. Sizes are in pixels of the view box; the page scales a chart to its column.
"""

from __future__ import annotations

import dataclasses
import html
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

WIDTH = 480  # of a chart, so that 12 pixel text stays readable on a phone
COLOURS = 8  # --c0 .. --c7
STYLE = Path(__file__).with_name("style.css").read_text(encoding="utf-8")
LIGHT = dict(re.findall(r"(--\w+):(#\w+)", STYLE.partition("@media")[0]))  # name -> colour
QUARTERS = (0, 0.25, 0.5, 0.75, 1)
MOST_POINTS = 400  # of one line; longer ones are averaged in equal groups


@dataclasses.dataclass(frozen=True)
class Line:
    """One series of a line chart; places where y is not finite are gaps."""

    name: str
    x: Sequence[float]
    y: Sequence[float | None]
    colour: int = 0  # of COLOURS
    dashed: bool = False


@dataclasses.dataclass(frozen=True)
class Dot:
    """A value with its 95 % interval; without one, `low` and `high` are None."""

    value: float
    low: float | None = None
    high: float | None = None
    note: str = ""


@dataclasses.dataclass(frozen=True)
class Box:
    """The plot's inside in pixels and the values at its edges."""

    left: float
    top: float
    width: float
    height: float
    x: tuple[float, float]
    y: tuple[float, float]

    def at(self, x: float, y: float) -> tuple[float, float]:
        across = (x - self.x[0]) / ((self.x[1] - self.x[0]) or 1)
        up = (y - self.y[0]) / ((self.y[1] - self.y[0]) or 1)
        return self.left + across * self.width, self.top + (1 - up) * self.height


def escape(text: object) -> str:
    """Text for HTML and SVG; control characters, which XML does not allow, become U+FFFD."""
    return html.escape(
        re.sub(r"[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]", "�", str(text))
    )


def picture(width: int, height: int, title: str, body: str) -> str:
    """An <svg> that screen readers announce by its title."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="{escape(title)}" font-size="12" font-family="system-ui, sans-serif">'
        f"<title>{escape(title)}</title>{body}</svg>"
    )


def standalone(svg: str) -> str:
    """The same chart as a file of its own, in light colours on white: without variables, which
    not every program that draws SVG knows."""
    coloured = re.sub(r"var\((--\w+)\)", lambda found: LIGHT[found[1]], svg)
    white = f'</title><rect width="100%" height="100%" fill="{LIGHT["--paper"]}"/>'
    return coloured.replace("</title>", white, 1) + "\n"


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """At most `most` + 1 round numbers, 1, 2 or 5 times a power of ten apart, in [low, high]."""
    span = high - low
    if not (math.isfinite(span) and span > 0):
        return [low]
    raw = span / most
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(f * power for f in (1, 2, 5, 10) if f * power >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(i * step, 12) for i in range(first, math.floor(high / step + 1e-9) + 1)]


def number(value: float) -> str:
    """A number for an axis or a label: 1,200 or 12k, 0.035, 3e-05."""
    size = abs(value)
    if size >= 1e6:
        return f"{value / 1e6:.3g}M"
    if size >= 1e4:
        return f"{value / 1e3:.3g}k"
    return f"{value:,.0f}" if value == int(value) else f"{value:.3g}"


def lines(title: str, series: Sequence[Line], x_name: str, y_name: str, percent=False) -> str:
    """A line chart with a legend; one point is drawn as a dot."""
    series = [thinned(s) for s in series]
    pairs = [pair for s in series for pair in zip(s.x, s.y, strict=True)]
    points = [(x, y) for x, y in pairs if y is not None and finite(x, y)]
    width, height = WIDTH, 260
    names = sorted({(one.name, one.colour) for one in series}, key=lambda pair: pair[::-1])
    if not points:
        return picture(width, 60, title, said(20, 36, f"{title}: no finite values"))
    box = Box(
        56,
        16,
        width - 72,
        height - 64 - 16 * rows_of(names),
        spread([x for x, _ in points]),
        (quarters if percent else spread)([y for _, y in points]),
    )
    body = [axes(box, x_name, y_name, percent)]
    body += [trace(one, box) for one in series]
    return picture(width, height, title, "".join(body) + legend(names, height))


def trace(line: Line, box: Box) -> str:
    """A line's path, broken where values are missing."""
    runs: list[list[tuple[float, float]]] = [[]]
    for x, y in zip(line.x, line.y, strict=True):
        if finite(x, y):
            runs[-1].append(box.at(x, float(y or 0.0)))
        elif runs[-1]:
            runs.append([])
    out, colour = [], line.colour % COLOURS
    dashes = ' stroke-dasharray="5 3"' if line.dashed else ""
    for run in runs:
        if len(run) == 1:
            out.append(
                f'<circle cx="{run[0][0]:.1f}" cy="{run[0][1]:.1f}" r="3" fill="var(--c{colour})"/>'
            )
        elif run:
            path = " ".join(f"{x:.1f},{y:.1f}" for x, y in run)
            out.append(
                f'<polyline points="{path}" fill="none" stroke="var(--c{colour})" '
                f'stroke-width="2"{dashes}/>'
            )
    return "".join(out)


def dots(
    title: str,
    rows: Sequence[tuple[str, Sequence[Dot]]],
    value_name: str,
    marks: Sequence[tuple[str, float]] = (),
    colours: Sequence[int] = range(COLOURS),
) -> str:
    """Named rows of dots with intervals on a scale of 0 to 100 %.

    Args:
      marks: (name, value) of vertical lines to compare with.
      colours: of the rows.
    """
    width, row = WIDTH, 30
    height = 28 + row * len(rows) + 16 * bool(value_name) + 16 * bool(marks)
    box = Box(128, 8, width - 148, row * len(rows), (0.0, 1.0), (0.0, 1.0))
    body = [x_axis(box, value_name, QUARTERS, lambda v: f"{100 * v:.0f}%")]
    for i, (name, values) in enumerate(rows):
        y, colour = box.top + row * (i + 0.5), f"--c{colours[i % len(colours)] % COLOURS}"
        body.append(said(box.left - 8, y + 4, clipped(name, 17), anchor="end"))
        for j, dot in enumerate(values):
            place = y + (j - (len(values) - 1) / 2) * min(6.0, 18 / max(1, len(values)))
            x = box.at(dot.value, 0)[0]
            if dot.low is not None and dot.high is not None:
                ends = box.at(max(0.0, dot.low), 0)[0], box.at(min(1.0, dot.high), 0)[0]
                body.append(stroke(ends[0], place, ends[1], place, colour, 2))
            body.append(
                f'<circle cx="{x:.1f}" cy="{place:.1f}" r="4" fill="var({colour})">'
                f"<title>{escape(f'{name}: {100 * dot.value:.1f}% {dot.note}')}</title></circle>"
            )
    for i, (name, value) in enumerate(marks):
        x = box.at(value, 0)[0]
        body.append(stroke(x, box.top, x, box.top + box.height, "--soft", 1, "4 3"))
        body.append(said(x, height - 4, name, "middle" if i % 2 else "end", "--soft"))
    return picture(width, height, title, "".join(body))


def strips(
    title: str,
    rows: Sequence[tuple[str, Sequence[tuple[Dot, int]], Sequence[tuple[str, float]]]],
    names: Sequence[tuple[str, int]],
    points: bool = False,
) -> str:
    """Named rows on a scale of 0 to 100 %, each with dots of several colours and upright bars.

    Args:
      rows: (name, dots with their colours, bars to compare with: the first solid, others dashed).
      names: the legend: what each colour is.
      points: values are differences: the scale fits them and their intervals, in points.
    """
    width, row = WIDTH, 16 + 7 * max((len(dots) for _, dots, _ in rows), default=1)
    height = 34 + row * len(rows) + 18 * rows_of(names)
    ends_ = [v for _, dots_, _ in rows for d, _ in dots_ for v in (d.value, d.low, d.high, 0.0)]
    low, high = spread([v for v in ends_ if v is not None]) if points else (0.0, 1.0)
    box = Box(128, 8, width - 148, row * len(rows), (low, high), (0.0, 1.0))
    unit = (lambda v: f"{100 * v:+.0f}" if v else "0") if points else (lambda v: f"{100 * v:.0f}%")
    body = [x_axis(box, "", ticks(low, high) if points else QUARTERS, unit)]
    for i, (name, dots_, bars) in enumerate(rows):
        top = box.top + row * i
        body.append(said(box.left - 8, top + row / 2 + 4, clipped(name, 17), anchor="end"))
        for j, (label, value) in enumerate(bars):
            x = box.at(value, 0)[0]
            line = stroke(x, top + 3, x, top + row - 3, "--ink", 2, "3 2" * (j > 0))
            body.append(
                f"<g><title>{escape(f'{name}, {label}: {100 * value:.1f}%')}</title>{line}</g>"
            )
        for j, (dot, colour) in enumerate(dots_):
            y, x = top + 11 + 7 * j, box.at(dot.value, 0)[0]
            if dot.low is not None and dot.high is not None:
                ends = box.at(max(low, dot.low), 0)[0], box.at(min(high, dot.high), 0)[0]
                body.append(stroke(ends[0], y, ends[1], y, f"--c{colour % COLOURS}", 1.5))
            body.append(
                f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="var(--c{colour % COLOURS})">'
                f"<title>{escape(f'{name}, {dot.note}: {unit(dot.value)}')}</title></circle>"
            )
    return picture(width, height, title, "".join(body) + legend(names, height))


def stacked(
    title: str, rows: Sequence[tuple[str, Sequence[float]]], names: Sequence[str], unit: str
) -> str:
    """Horizontal bars of parts; each row has one value for each name."""
    width, row = WIDTH, 28
    height = 34 + 14 * (unit != "%") + row * len(rows) + 18 * rows_of(names)
    most = max((sum(values) for _, values in rows), default=0.0) or 1.0
    box = Box(128, 8, width - 148, row * len(rows), (0.0, most), (0.0, 1.0))
    shown = (lambda v: f"{100 * v:.0f}%") if unit == "%" else number
    body = [x_axis(box, "" if unit == "%" else unit, ticks(0, most), shown)]
    for i, (name, values) in enumerate(rows):
        y, start = box.top + row * i + 5, 0.0
        body.append(said(box.left - 8, y + 14, clipped(name, 17), anchor="end"))
        for j, value in enumerate(values):
            a, b = box.at(start, 0)[0], box.at(start + value, 0)[0]
            start += value
            body.append(
                f'<rect x="{a:.1f}" y="{y}" width="{max(0.0, b - a):.1f}" height="18" '
                f'fill="var(--c{j % COLOURS})"><title>'
                f"{escape(f'{name}, {names[j]}: {shown(value)}')}</title></rect>"
            )
    return picture(
        width, height, title, "".join(body) + legend([(n, j) for j, n in enumerate(names)], height)
    )


def graph(title: str, edges: Sequence[tuple[str, str]], role: dict[str, str]) -> str:
    """A directed acyclic graph, causes to the left.

    Args:
      role: node -> "treatment", "outcome", "adjusted", "mediator" or "other": its colour.
    """
    depth = depths(edges, list(role))
    columns: dict[int, list[str]] = {}
    for node in role:
        columns.setdefault(depth[node], []).append(node)
    tallest = max(map(len, columns.values()))
    width, height = 150 * len(columns) + 10, 54 * tallest + 10
    place = {
        node: (10 + 150 * column + 60, 5 + (i + 0.5) * (height - 10) / len(nodes))
        for column, nodes in columns.items()
        for i, node in enumerate(nodes)
    }
    paint = {"treatment": "--c0", "outcome": "--c1", "adjusted": "--c2", "mediator": "--c3"}
    body = [
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" '
        'markerHeight="7" orient="auto"><path d="M0,0 L8,4 L0,8 z" fill="var(--soft)"/></marker>'
        "</defs>"
    ]
    for a, b in edges:
        (x, y), (u, v) = place[a], place[b]
        bend = 26 if depth[b] - depth[a] > 1 else 0  # around the nodes in between
        body.append(
            f'<path d="M{x + 60:.0f},{y:.0f} Q{(x + u) / 2:.0f},{(y + v) / 2 - bend:.0f} '
            f'{u - 61:.0f},{v:.0f}" fill="none" stroke="var(--soft)" marker-end="url(#tip)"/>'
        )
    for node, (x, y) in place.items():
        colour = paint.get(role[node], "--soft")
        body.append(
            f'<rect x="{x - 60:.0f}" y="{y - 17:.0f}" width="120" height="34" rx="8" '
            f'fill="var(--paper)" stroke="var({colour})" stroke-width="2"/>'
            + said(x, y + 4, clipped(node, 17), "middle")
        )
    return picture(width, height, title, "".join(body))


def depths(edges: Sequence[tuple[str, str]], nodes: Sequence[str]) -> dict[str, int]:
    """Node -> length of the longest path that ends there; a cycle stops at the number of nodes."""
    depth = dict.fromkeys(nodes, 0)
    for _ in nodes:
        for a, b in edges:
            depth[b] = min(len(nodes), max(depth[b], depth[a] + 1))
    return depth


def axes(box: Box, x_name: str, y_name: str, percent: bool) -> str:
    body = [x_axis(box, x_name, ticks(*box.x), number)]
    for value in ticks(*box.y):
        y = box.at(0, value)[1]
        body.append(stroke(box.left, y, box.left + box.width, y, "--grid"))
        body.append(
            said(box.left - 6, y + 4, f"{100 * value:.0f}%" if percent else number(value), "end")
        )
    return "".join(body) + said(box.left, 11, y_name, colour="--soft")


def x_axis(box: Box, name: str, values: Sequence[float], shown) -> str:
    bottom = box.top + box.height
    body = [stroke(box.left, bottom, box.left + box.width, bottom, "--soft")]
    for value in values:
        x = box.at(value, 0)[0]
        body.append(stroke(x, box.top, x, bottom, "--grid"))
        body.append(said(x, bottom + 15, shown(value), "middle"))
    return "".join(body) + said(box.left + box.width, bottom + 31, name, "end", "--soft")


def legend(names: Sequence[tuple[str, int]], height: float) -> str:
    """Names with their colours, four to a row, at the bottom."""
    if len(names) < 2:
        return ""
    body, rows = [], rows_of(names)
    for i, (name, colour) in enumerate(names):
        x, y = 40 + 108 * (i % 4), height - 16 * rows + 16 * (i // 4) + 8
        body.append(
            f'<rect x="{x}" y="{y - 9}" width="10" height="10" fill="var(--c{colour % COLOURS})"/>'
        )
        body.append(said(x + 15, y, clipped(name, 14)))
    return "".join(body)


def rows_of(series: Sequence[Any]) -> int:
    """Rows of a legend; one series needs none."""
    return math.ceil(len(series) / 4) if len(series) > 1 else 0


def said(x: float, y: float, text: str, anchor: str = "start", colour: str = "--ink") -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="var({colour})">'
        f"{escape(text)}</text>"
    )


def stroke(
    x: float, y: float, u: float, v: float, colour: str, width: float = 1, dash: str = ""
) -> str:
    dashed = f' stroke-dasharray="{dash}"' if dash else ""
    return (
        f'<line x1="{x:.1f}" y1="{y:.1f}" x2="{u:.1f}" y2="{v:.1f}" stroke="var({colour})" '
        f'stroke-width="{width}"{dashed}/>'
    )


def clipped(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def finite(*values: float | None) -> bool:
    """Whether all can be drawn: also sums and differences of such values are finite."""
    return all(v is not None and abs(v) < 1e300 for v in values)


def spread(values: Sequence[float]) -> tuple[float, float]:
    """The range of some values; of equal ones, half of their size to each side."""
    low, high = min(values), max(values)
    if low == high:
        half = abs(low) / 2 or 0.5
        return low - half, high + half
    return low, high


def quarters(values: Sequence[float]) -> tuple[float, float]:
    """The range of some shares, widened to whole quarters."""
    low, high = math.floor(4 * min(values)) / 4, math.ceil(4 * max(values)) / 4
    return (low, high) if low < high else (max(0.0, low - 0.25), max(0.25, high))


def thinned(line: Line) -> Line:
    """At most MOST_POINTS points: means of equal groups of neighbours."""
    size = math.ceil(len(line.x) / MOST_POINTS)
    if size <= 1:
        return line
    xs, ys = [], []
    for start in range(0, len(line.x), size):
        chosen = [
            (x, y)
            for x, y in zip(line.x[start : start + size], line.y[start : start + size], strict=True)
            if finite(x, y)
        ]
        xs.append(line.x[start] if not chosen else sum(x for x, _ in chosen) / len(chosen))
        ys.append(None if not chosen else sum(float(y or 0.0) for _, y in chosen) / len(chosen))
    return dataclasses.replace(line, x=xs, y=ys)
