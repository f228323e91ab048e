"""``docs/performance.md`` and its figure, from the results of ``performance.py``."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from datetime import date
from pathlib import Path

from pages import markdown_table
from stages import REST, STAGES

from openmm_backmap import __version__
from openmm_backmap.analysis.page import figure
from openmm_backmap.io.writers import replacing

ORDER = (*STAGES, REST)
#: what varies, :class:`performance.Run`
SERIES = ("size", "light", "frames", "samples", "gibbs", "refine", "ensemble")
_VARIED = {"frames": "frames", "samples": "samples", "gibbs": "Gibbs sweeps", "ensemble": "candidates a bead"}
_NO_GPU = "Nothing here was measured on a GPU: there was none. The same command measures one where torch finds it."
_WORDS = """Every run is the command in a process of its own, from its launch to the end. *Start-up* is what does not
depend on the melt: the interpreter, imports wherever they happen, the model. Times of stages are exclusive: a
stage that works within another counts for itself. *Environments* holds the tables of the bond graph, neighbours
and colours, *domains* the parts of a large melt, *checks* the search for faulty beads, *energies* OpenMM's
system, context and the energies of the report. Seconds of a processor, without start-up, are added over threads;
on a machine that others use they tell more than the wall time does. Memory is the most that was resident."""
_TRIED = """Tried, and not used: the products of the layers in bfloat16. On an EPYC with AVX512-BF16, one thread, that
takes a fifth off the network's time and moves atoms by 0.0005 nm; but then the atoms of a seed depend on the
processor."""

#: of the authors' code, below
_PUBLISHED_S, _PUBLISHED_ATOMS = 8300, 5832
_PUBLISHED = f"""The authors' public code, on two cores of such a machine with its network of 64 channels and 64
orientations, took 1.6 to 2.3 s for the sequence of a bead; 720 sequences a pass and six passes (two Gibbs sweeps, heavy
atoms and hydrogens) come to about {_PUBLISHED_S:,} s for {_PUBLISHED_ATOMS:,} atoms. The network here has 48 channels
on a grid of half as many cells along an edge, and none on the full one, which is a large part of the difference; a
candidate is an orientation with noise of its own."""


def write_page(found: dict, docs: Path) -> None:
    """``performance.md`` and ``figures/performance.png``."""
    rows, machine = found["rows"], found["machine"]
    after = [row for row in rows if row["checkout"] == "after"]
    device = after[0]["device"]
    lines = [
        "# Performance", "",
        f"The example melt (1,944 atoms) side by side with itself, model `{found['model']}`; {machine['processor']}, "
        f"{after[0]['threads']} threads, network on {device}; {date.today().isoformat()}, openmm_backmap "
        f"{__version__}. Command:", "",
        "```", f"python {shlex.join(['benchmarks/performance.py', *_command(sys.argv[1:])])}", "```", "",
        *_WORDS.splitlines(), "",
        *([_NO_GPU, ""] if device == "cpu" else []),
        "## Before and after" if len(rows) > len(after) else "## Whole runs", "", *_runs(rows), "",
        "## Stages", "", "Seconds, drawn only (`--refine none`), with all sweeps:", "",
        *_stages(after, "size", lambda row, s: s), "",
        "Melts drawn *lightly*, in one pass of one step of the flow: what is not the network costs what it costs "
        "always. Microseconds an atom, without start-up:", "",
        *_stages(after, "light", lambda row, s: 1e6 * s / row["atoms"]), "",
        *_shares(after), "",
        "![Time and memory against the number of atoms](figures/performance.png)", "",
        *_published(after),
        "## The network", "", *_network(after), "", *_TRIED.splitlines(), ""]
    with replacing(docs / "figures" / "performance.png", overwrite=True) as part:
        _drawn(rows).savefig(part, dpi=110, format="png")
    with replacing(docs / "performance.md", overwrite=True) as part:
        part.write_text("\n".join(lines))


def _command(words: list[str]) -> list[str]:
    return [word for word in words if word != "--page-only"]


def _label(row: dict) -> str:
    """Words for a run."""
    size = f"{_atoms(row):,} atoms"
    if row["series"] == "light":
        return f"{size}, lightly"
    varied = _VARIED.get(row["series"])
    parts = [f"`{row['model']}`"] if row["series"] == "ensemble" else []
    parts += [f"{row[row['series']]} {varied}"] if varied else []
    return ", ".join([size, *parts, *([row["refine"]] if row["refine"] != "none" else [])])


def _atoms(row: dict) -> int:
    return row["tiles"] * 1944


def _same(row: dict, other: dict) -> bool:
    return all(row[key] == other[key] for key in
               ("series", "tiles", "frames", "samples", "gibbs", "steps", "ensemble", "refine"))


def _drawing_seconds(row: dict, kind: str = "stage_seconds") -> float:
    """Seconds without start-up."""
    return sum(seconds for stage, seconds in row[kind].items() if stage != "start-up")


def _runs(rows: list[dict]) -> list[str]:
    """One row a run: seconds and memory of both checkouts."""
    table = []
    order = lambda row: (SERIES.index(row["series"]), row["tiles"])  # noqa: E731
    for row in sorted((row for row in rows if row["checkout"] == "after"), key=order):
        before = next((r for r in rows if r["checkout"] == "before" and _same(r, row)), None)
        cells = [_label(row)]
        for one in (before, row):
            cells += ["-"] * 4 if one is None else [
                f"{one['seconds']:.1f}", f"{_drawing_seconds(one):.1f}",
                f"{_drawing_seconds(one, 'stage_processor_seconds'):.1f}", f"{one['peak_mb']:.0f}"]
        cells.append("-" if before is None else f"{_drawing_seconds(before) / _drawing_seconds(row):.2f}")
        table.append(cells)
    columns = ("s", "without start-up", "of a processor", "MB")
    return markdown_table(["", *(f"{checkout}: {name}" for checkout in ("before", "after") for name in columns),
                           "times faster"], table)


def _stages(rows: list[dict], series: str, value: Callable[[dict, float], float]) -> list[str]:
    """One row a stage, one column a size."""
    chosen = sorted((row for row in rows if row["series"] == series), key=_atoms)
    present = [s for s in ORDER if any(row["stage_seconds"].get(s, 0) > 0.005 for row in chosen)]
    if series == "light":
        present.remove("start-up")
    at = lambda row, stage: value({**row, "atoms": _atoms(row)}, row["stage_seconds"].get(stage, 0.0))  # noqa: E731
    table = [[stage, *(f"{at(row, stage):.3g}" for row in chosen)] for stage in present]
    table.append(["sum", *(f"{sum(at(row, stage) for stage in present):.4g}" for row in chosen)])
    return markdown_table(["", *(f"{_atoms(row):,} atoms" for row in chosen)], table)


def _shares(rows: list[dict]) -> list[str]:
    """What part of the time is the network's."""
    parts = [f"{row['stage_seconds']['network'] / _drawing_seconds(row):.0%} of {_atoms(row):,} atoms"
             for row in sorted(rows, key=_atoms) if row["series"] == "size"]
    return [f"Of the time after start-up, with all sweeps, the network takes {', '.join(parts)}."]


def _published(rows: list[dict]) -> list[str]:
    """Models of the family dbm against the code of its authors."""
    table = [[f"`{row['model']}`", str(row["ensemble"]), f"{_drawing_seconds(row) / _atoms(row) * 1e3:.2f}",
              f"{_PUBLISHED_S / _PUBLISHED_ATOMS * _atoms(row) / _drawing_seconds(row):.0f}"]
             for row in rows if row["series"] == "ensemble"]
    columns = ["", "candidates a bead", "ms an atom", "times faster"]
    return ["## DeepBackmap", "", *_PUBLISHED.splitlines(), "", *markdown_table(columns, table), ""] if table else []


def _network(rows: list[dict]) -> list[str]:
    """FLOP/s of the network, and of a product of large matrices in the same run."""
    table = []
    for row in sorted((row for row in rows if row["series"] == "size"), key=_atoms):
        rate = row["network_flop"] / row["stage_seconds"]["network"]
        float32, bfloat16 = (row["matrix_flop_per_s"][kind] for kind in ("float32", "bfloat16"))
        table.append([f"{_atoms(row):,}", str(row["beads_drawn"]), str(row["network_passes"]), f"{rate / 1e9:.0f}",
                      f"{float32 / 1e9:.0f}", f"{bfloat16 / 1e9:.0f}", f"{rate / float32:.0%}"])
    return ["GFLOP/s of the network's matrix products over the whole time of the stage, and of one product of large "
            "matrices in the same run.", "",
            *markdown_table(["atoms", "beads drawn", "batches", "network", "matrices, float32", "bfloat16",
                             "of float32"], table)]


def _drawn(rows: list[dict]):
    """Time an atom and memory against the number of atoms, and the stages of light runs."""
    drawn = figure(11, 3.8)
    time, stages, memory = drawn.subplots(1, 3)
    for checkout, style in (("before", "o--"), ("after", "o-")):
        for series, colour in (("size", "C0"), ("light", "C1")):
            chosen = sorted((r for r in rows if r["checkout"] == checkout and r["series"] == series), key=_atoms)
            if chosen:
                label = f"{checkout}{', lightly' if series == 'light' else ''}"
                x = [_atoms(row) for row in chosen]
                look = {"c": colour, "mfc": colour if checkout == "after" else "w", "label": label}
                time.loglog(x, [1e6 * _drawing_seconds(r) / _atoms(r) for r in chosen], style, **look)
                memory.loglog(x, [r["peak_mb"] / 1e3 for r in chosen], style, **look)
    light = sorted((r for r in rows if r["checkout"] == "after" and r["series"] == "light"), key=_atoms)
    for stage in ORDER[1:]:
        y = [1e6 * r["stage_seconds"].get(stage, 0.0) / _atoms(r) for r in light]
        if max(y, default=0) > 0.5:
            stages.loglog([_atoms(r) for r in light], y, marker=".", label=stage)
    for axes, title in ((time, "without start-up, µs an atom"), (stages, "stages, drawn lightly, µs an atom"),
                        (memory, "memory, GB")):
        axes.set(xlabel="atoms", title=title)
        if axes.has_data():
            axes.legend(fontsize=7)
    return drawn
