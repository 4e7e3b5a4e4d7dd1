"""Small pieces of the page: tables, cells, numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from caugym_jax.pages.svg import escape


def percent(value: float | None, digits: int = 1) -> str:
    return "–" if value is None else f"{100 * value:.{digits}f}%"


def table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """An HTML table; cells are text unless they are (style, text)."""
    head = "".join(f"<th scope=col>{escape(cell)}</th>" for cell in header)
    body = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in rows)
    return f'<div class="wide" tabindex="0"><table><tr>{head}</tr>{body}</table></div>'


def _cell(cell: Any) -> str:
    if isinstance(cell, tuple):
        return f'<td style="{cell[0]}">{escape(cell[1])}</td>'
    return f"<td>{escape(cell)}</td>"


def shade(value: float | None) -> tuple[str, str]:
    """A cell from pale to full as the value goes from 0 to 1."""
    if value is None:
        return "", "–"
    share = round(15 + 55 * max(0.0, min(1.0, value)))
    return f"background:color-mix(in srgb,var(--c0) {share}%,transparent)", f"{100 * value:.1f}"
