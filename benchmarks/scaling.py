"""Wall time and peak memory of the whole command against the size of the melt.

    python benchmarks/scaling.py --tiles 3 30 -o benchmarks/results/scaling.json

Tiles the example melt, runs ``backmap-openmm`` on each size in a process of its own and prints a table with the ratio
to the smallest size, all measured in one run on one machine.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import click
import numpy as np
from measure import backmap_command, measured, this_machine

from openmm_backmap.geometry.periodic import make_whole

EXAMPLE = Path(__file__).parents[1] / "examples" / "sps_melt.gro"


@click.command()
@click.option("--tiles", multiple=True, type=int, default=(3, 30), show_default=True, help="Copies of the example.")
@click.option("--refine", multiple=True, default=("none", "equilibrate"), show_default=True)
@click.option("--model", default="sps", show_default=True)
@click.option("--seed", type=int, help="Passed on; the CPU platform of OpenMM then runs on one thread.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Results as JSON.")
def main(tiles: tuple[int, ...], refine: tuple[str, ...], model: str, seed: int | None, output: Path | None) -> None:
    """Measure the command on tiled copies of the example melt."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for mode in refine:
            for n in sorted(tiles):
                rows.append(measure(n, mode, model, seed, Path(folder)))
                first = next(r for r in rows if r["refine"] == mode)
                rows[-1] |= {"times_beads": rows[-1]["beads"] / first["beads"],
                             "times_seconds": rows[-1]["seconds"] / first["seconds"]}
                click.echo("{refine:12s} {beads:7d} beads {seconds:8.1f} s {peak_mb:7.0f} MB   "
                           "x{times_beads:.0f} beads, x{times_seconds:.2f} time".format(**rows[-1]))
    if output:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(json.dumps({"machine": this_machine(), "rows": rows}, indent=1) + "\n")


def measure(n: int, mode: str, model: str, seed: int | None, folder: Path) -> dict:
    """One run of the command on ``n`` tiles."""
    source = folder / f"cg_{n}.gro"
    beads = tile(n, source)
    seconds, peak_mb = measured(backmap_command(
        source, "--model", model, "--refine", mode, "-o", folder / "aa.gro", "--overwrite", "-q",
        *(["--seed", seed] if seed is not None else [])))
    return {"refine": mode, "tiles": n, "beads": beads, "seconds": seconds, "peak_mb": peak_mb}


def tile(n: int, path: Path) -> int:
    """Write ``n`` copies of the example side by side, as near to a cube as n's factors allow; returns the beads."""
    lines = EXAMPLE.read_text().splitlines()
    count = int(lines[1])
    rows, box = lines[2:2 + count], np.array(lines[2 + count].split(), dtype=float)
    names = [row[5:15] for row in rows]
    positions = np.array([[float(row[20 + 8 * k:28 + 8 * k]) for k in range(3)] for row in rows])
    chains = np.array([int(row[:5]) for row in rows])
    follows = np.flatnonzero(chains[1:] == chains[:-1])
    positions = make_whole(positions, np.diag(box), np.stack([follows, follows + 1], axis=1))
    shape = min(((i, j, n // i // j) for i in range(1, n + 1) if n % i == 0 for j in range(1, n // i + 1)
                 if n // i % j == 0), key=lambda s: max(s) - min(s))
    out, serial = [], 0
    for copy, cell in enumerate(np.ndindex(*shape)):
        shifted = positions + np.array(cell) * box
        for name, chain, x in zip(names, chains + copy * chains.max(), shifted, strict=True):
            serial += 1
            out.append(f"{chain % 100000:5d}{name}{serial % 100000:5d}" + "".join(f"{v:8.3f}" for v in x))
    edges = " ".join(f"{v:.5f}" for v in box * np.array(shape))
    path.write_text("\n".join([f"{n} copies of {EXAMPLE.name}", str(serial), *out, edges]) + "\n")
    return serial


if __name__ == "__main__":
    main()
