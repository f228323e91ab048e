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
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}img{max-width:100%}.bad{color:#b00020;font-weight:bold}
figure{margin:1em 0}figcaption{color:#555;font-size:14px}h2{margin-top:2em}"""


class Bad(str):
    """Text of a cell that stands out, for it says what is wrong."""


class Number(str):
    """A number already written as it is to be read; set right as others are."""


def document(title: str, parts: Iterable[str]) -> str:
    """The page: ``title`` is text, ``parts`` are HTML."""
    title = html.escape(title)
    return (f'<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
            f"<style>{_STYLE}</style></head><body>{''.join(parts)}</body></html>")


def table(head: Sequence[str] | None, rows: Iterable[Sequence]) -> str:
    """Rows of cells; numbers and their heads are set right, text is escaped, :class:`Bad` text stands out."""
    rows = [list(row) for row in rows]
    lines = ["".join(_cell(cell) for cell in row) for row in rows]
    if head is not None:
        right = [any(_is_number(cell) for cell in column) for column in zip(*rows)] or [False] * len(head)
        lines.insert(0, "".join(f"<th{' class=n' if n else ''}>{html.escape(h)}</th>" for h, n in zip(head, right)))
    return "<table>" + "".join(f"<tr>{line}</tr>" for line in lines) + "</table>"


def _is_number(cell) -> bool:
    return isinstance(cell, (int, float, Number)) and not isinstance(cell, bool)


def _cell(cell) -> str:
    if _is_number(cell):
        return f"<td class=n>{f'{cell:.6g}' if isinstance(cell, float) else cell}</td>"
    return f"<td{' class=bad' if isinstance(cell, Bad) else ''}>{html.escape(str(cell))}</td>"


def image(drawn: Figure, caption: str) -> str:
    """A figure, inside the page."""
    buffer = io.BytesIO()
    drawn.savefig(buffer, dpi=110, format="png")
    data = base64.b64encode(buffer.getvalue()).decode()
    caption = html.escape(caption)
    return (f'<figure><img alt="{caption}" src="data:image/png;base64,{data}">'
            f"<figcaption>{caption}</figcaption></figure>")


def figure(*size: float) -> Figure:
    """An empty figure, inches."""
    # A figure of its own: no window, no state shared with the user's pyplot.
    from matplotlib.figure import Figure

    return Figure(figsize=size, layout="constrained")
