"""Wall time and peak memory of the command and of its stages, against atoms, frames, samples, sweeps and refinement.

    python benchmarks/performance.py
    python benchmarks/performance.py --against OTHER_CHECKOUT --tiles 3 --tiles 27
    python benchmarks/performance.py --page-only

Tiles the example melt, runs ``backmap-openmm`` on each in a process of its own (:mod:`stages`) and writes
``benchmarks/results/performance.json``, ``docs/performance.md`` and its figure. With ``--against``, every run is made
by another checkout of the package too, one after the other: before and after, on one machine in one run. Runs that are
in the results already are not made again. Where torch finds a GPU, the network runs there.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import click
from measure import this_machine
from performance_page import SERIES, write_page
from tiles import tile

from openmm_backmap.io.writers import replacing

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Run:
    """One run of the command.

    Attributes
    ----------
    series : str
        What varies: "size", "light" (size as well, of melts drawn in one pass of one step of the flow: what is not the
        network costs the same an atom, and melts of a million atoms take minutes), "frames", "samples", "gibbs",
        "refine" or "ensemble" (of a model of the family dbm).
    tiles, frames, samples : int
    gibbs, steps, ensemble : int or None
        Sweeps, steps of the flow, and candidates of dbm; None for those of the model.
    refine : str
    """

    series: str
    tiles: int
    frames: int = 1
    samples: int = 1
    gibbs: int | None = None
    steps: int | None = None
    ensemble: int | None = None
    refine: str = "none"


def planned(tiles: tuple[int, ...], full: int, frames, samples, gibbs, refine, ensemble) -> list[Run]:
    """All runs; melts of more than ``full`` tiles are only drawn lightly."""
    sizes = sorted(tiles)
    first = Run("size", sizes[0])
    return [*(replace(first, tiles=n) for n in sizes if n <= full),
            *(Run("light", n, gibbs=0, steps=1) for n in sizes),
            *(replace(first, series="frames", frames=n) for n in frames),
            *(replace(first, series="samples", samples=n) for n in samples),
            *(replace(first, series="gibbs", gibbs=n) for n in gibbs),
            *(replace(first, series="refine", refine=mode) for mode in refine),
            *(Run("ensemble", 1, ensemble=n) for n in ensemble)]


def measured(run: Run, root: Path, model: str, seed: int, folder: Path) -> dict:
    """One run by the checkout at ``root``: what :mod:`stages` found."""
    source, result = folder / f"cg_{run.tiles}_{run.frames}.gro", folder / "stages.json"
    beads = tile(run.tiles, source, run.frames)
    changed = [word for name in ("gibbs", "steps", "ensemble") if getattr(run, name) is not None
               for word in (f"--{name}", str(getattr(run, name)))]
    command = [sys.executable, str(Path(__file__).with_name("stages.py")), "--root", str(root), "--result", str(result),
               *changed, "--launched", repr(time.time()), "--", str(source), "--model", model, "--refine", run.refine,
               "--samples", str(run.samples), "--seed", str(seed), "-o", str(folder / "aa.gro"), "--overwrite", "-q"]
    if subprocess.run(command).returncode:
        raise click.ClickException(f"{' '.join(command)} failed")
    found = json.loads(result.read_text())
    return {**asdict(run), "beads": beads, **found}


@click.command()
@click.option("--series", multiple=True, type=click.Choice(SERIES), default=SERIES,
              help="What to vary.  [default: all]")
@click.option("--tiles", multiple=True, type=click.IntRange(1), default=(3, 27, 125, 512), show_default=True,
              help="Sizes: copies of the example (1,944 atoms).")
@click.option("--full", type=int, default=27, show_default=True,
              help="Most tiles that are drawn with all sweeps and steps; larger melts are drawn lightly.")
@click.option("--frames", multiple=True, type=click.IntRange(2), default=(4,), show_default=True)
@click.option("--samples", multiple=True, type=click.IntRange(2), default=(4,), show_default=True)
@click.option("--gibbs", multiple=True, type=click.IntRange(0), default=(0, 4), show_default=True)
@click.option("--refine", multiple=True, type=click.Choice(["minimize", "equilibrate"]),
              default=("minimize", "equilibrate"), show_default=True)
@click.option("--ensemble", multiple=True, type=click.IntRange(1), default=(4, 64), show_default=True)
@click.option("--model", default="sps", show_default=True)
@click.option("--dbm-model", default="dbm-sps", show_default=True, help="Model whose number of candidates varies.")
@click.option("--seed", type=int, default=1, show_default=True)
@click.option("--against", type=click.Path(path_type=Path, exists=True, file_okay=False, resolve_path=True),
              help="Folder of another checkout, to be measured beside this one.")
@click.option("-o", "--output", type=click.Path(path_type=Path, dir_okay=False),
              default=ROOT / "benchmarks" / "results" / "performance.json")
@click.option("--docs", type=click.Path(path_type=Path, file_okay=False), default=ROOT / "docs")
@click.option("--fresh", is_flag=True, help="Make runs again that are in the results.")
@click.option("--page-only", is_flag=True, help="Write the page from the results that are there.")
def main(series: tuple[str, ...], tiles: tuple[int, ...], full: int, frames: tuple[int, ...], samples: tuple[int, ...],
         gibbs: tuple[int, ...], refine: tuple[str, ...], ensemble: tuple[int, ...], model: str, dbm_model: str,
         seed: int, against: Path | None, output: Path, docs: Path, fresh: bool, page_only: bool) -> None:
    """Measure the command on tiled copies of the example melt."""
    checkouts = {"after": ROOT} | ({"before": against} if against else {})
    rows = json.loads(output.read_text())["rows"] if output.exists() and not fresh else []
    with tempfile.TemporaryDirectory() as folder:
        runs = [run for run in planned(tiles, full, frames, samples, gibbs, refine, ensemble) if run.series in series]
        for run in [] if page_only else runs:
            for checkout, root in checkouts.items():
                if any(row["checkout"] == checkout and asdict(run).items() <= row.items() for row in rows):
                    continue
                used = dbm_model if run.ensemble else model
                rows.append({"checkout": checkout, "model": used, **measured(run, root, used, seed, Path(folder))})
                click.echo("{checkout:7s}{series:8s}{tiles:4d} tiles {refine:12s}{seconds:9.1f} s "
                           "{peak_mb:7.0f} MB".format(**rows[-1]))
                output.parent.mkdir(parents=True, exist_ok=True)
                with replacing(output, overwrite=True) as part:
                    part.write_text(json.dumps({"machine": this_machine(), "model": model, "rows": rows}, indent=1))
    write_page(json.loads(output.read_text()), docs)
    click.echo(f"{docs / 'performance.md'} written")


if __name__ == "__main__":
    main()
