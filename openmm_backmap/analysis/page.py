"""Pieces of a self-contained HTML page: tables, figures and the document around them."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_STYLE = """body{font:15px/1.5 sans-serif;max-width:60em;margin:2em auto;padding:0 1em;color:#222}
table{border-collapse:collapse;margin:1em 0}td,th{padding:.2em .8em;border-bottom:1px solid #ddd;text-align:left}
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}img{max-width:100%}.bad{color:#b00020;font-weight:bold}"""


def document(title: str, parts: Iterable[str]) -> str:
    """The page: ``title`` is text, ``parts`` are HTML."""
    title = html.escape(title)
    return (f'<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
            f"<style>{_STYLE}</style></head><body>{''.join(parts)}</body></html>")


def table(head: Sequence[str] | None, rows: Iterable[Sequence]) -> str:
    """Rows of cells; numbers are set right, text is escaped."""
    lines = [] if head is None else ["".join(f"<th{' class=n' if k else ''}>{html.escape(h)}</th>"
                                             for k, h in enumerate(head))]
    for row in rows:
        lines.append("".join(
            f"<td class=n>{_number(cell)}</td>" if isinstance(cell, (int, float)) and not isinstance(cell, bool) else
            f"<td>{html.escape(str(cell))}</td>" for cell in row))
    return "<table>" + "".join(f"<tr>{line}</tr>" for line in lines) + "</table>"


def _number(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.6g}"


def image(drawn: Figure, caption: str) -> str:
    """A figure, inside the page."""
    buffer = io.BytesIO()
    drawn.savefig(buffer, dpi=110, format="png")
    data = base64.b64encode(buffer.getvalue()).decode()
    return (f'<figure><img alt="{caption}" src="data:image/png;base64,{data}">'
            f"<figcaption>{caption}</figcaption></figure>")


def figure(*size: float) -> Figure:
    """An empty figure, inches."""
    # A figure of its own: no window, no state shared with the user's pyplot.
    from matplotlib.figure import Figure

    return Figure(figsize=size, layout="constrained")
