"""Large melts: copies of the example side by side."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from openmm_backmap.geometry.periodic import make_whole

EXAMPLE = Path(__file__).parents[1] / "examples" / "sps_melt.gro"


def tile(n: int, path: Path, frames: int = 1) -> int:
    """Write ``n`` copies of the example, as near to a cube as n's factors allow, ``frames`` times; returns the beads.
    """
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
    with open(path, "w") as file:
        for frame in range(frames):
            file.write("\n".join([f"{n} copies of {EXAMPLE.name} t= {frame:.1f}", str(serial), *out, edges]) + "\n")
    return serial
