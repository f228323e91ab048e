"""How a training run went, as a table and as a figure."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from openmm_backmap.io.writers import replacing

_DIVERGENCES = ("bond", "angle", "dihedral")
_WIDTH_INCH, _HEIGHT_INCH = 6.4, 2.9


def curve(history: Sequence[tuple[int, float, float]],
          records: Sequence[tuple[int, dict[str, float]]] = ()) -> list[dict[str, float]]:
    """One row for each time the losses were looked at: ``step``, ``loss``, ``held_out``, and what is in ``records``."""
    more = dict(records)
    return [{"step": step, "loss": loss, "held_out": held,
             **{name: value for name, value in more.get(step, {}).items() if name != "loss"}}
            for step, loss, held in history]


def write_curve(rows: Sequence[dict[str, float]], path: str | Path) -> None:
    """Rows of :func:`curve` as CSV; what a row lacks is left empty."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    with replacing(path, overwrite=True) as part, part.open("w", newline="") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(rows)


def plot_curve(rows: Sequence[dict[str, float]], loss_unit: str, path: str | Path) -> bool:
    """Losses, and divergences where there are any, over the steps; False where there is no matplotlib to draw them."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return False
    panels = [("loss", loss_unit, ("loss", "held_out"))]
    if any(name in row for row in rows for name in _DIVERGENCES):
        panels.append(("held-out divergence", "bits", _DIVERGENCES))
    figure = Figure((_WIDTH_INCH * len(panels) / 2 + 1, _HEIGHT_INCH), layout="constrained")
    for axes, (title, unit, names) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels):
        for name in names:
            points = [(row["step"], row[name]) for row in rows if name in row]
            if points:
                axes.plot(*zip(*points), marker="." if len(points) < 3 else "", label=name.replace("_", " "))
        axes.set(xlabel="step", ylabel=f"{title} ({unit})")
        axes.legend(frameon=False)
    with replacing(path, overwrite=True) as part:
        figure.savefig(part, dpi=150)
    return True
