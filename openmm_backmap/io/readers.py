"""Structure files and trajectories to plain arrays: names, order and precision stay as the file has them.

The text formats are read here, since the readers at hand rename beads, guess elements, drop beads of equal name or
round to single precision; mdtraj reads the binary trajectories and OpenMM's tokeniser the PDBx/mmCIF tables.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np

from openmm_backmap.chemistry.cg import CGTopology
from openmm_backmap.errors import InputError
from openmm_backmap.io.cut_off import dcd_rest, whole_frames
from openmm_backmap.io.frames import CGFrame, CGSource, cell_box, named_errors, vectors_box
from openmm_backmap.io.pdbx import open_pdbx

__all__ = ["CGFrame", "CGSource", "open_cg"]

TRAJECTORIES = (".xtc", ".trr", ".dcd")
STRUCTURES = (".gro", ".pdb", ".cif", ".pdbx")


def open_cg(path: str | Path, topology: str | Path | None = None) -> CGSource:
    """Open a structure (.gro, .pdb, .cif, .pdbx) or, with a ``topology``, a trajectory (.xtc, .trr, .dcd).

    Parameters
    ----------
    path : path
        Structures may hold several frames.
    topology : path, optional
        A structure that tells the names of the beads; it has as many beads as ``path``, in the same order.

    Raises
    ------
    InputError
        The file is missing, empty, cut off or not of its kind, or does not fit the topology.
    """
    path = Path(path)
    kind = _kind(path, (*STRUCTURES, *TRAJECTORIES))
    if topology is None and kind in TRAJECTORIES:
        raise InputError(f"{path}: a {kind} file holds no names: give a structure ({', '.join(STRUCTURES)}) of the "
                         "same beads as --topology")
    names = None
    if topology is not None:
        _kind(Path(topology), STRUCTURES)
        names = open_cg(topology).topology
    with named_errors(path):
        if kind in TRAJECTORIES:
            return _open_trajectory(path, names, topology)
        source = {".gro": _open_gro, ".pdb": _open_pdb}.get(kind, open_pdbx)(path)
    if names is None:
        return source
    if source.topology.n_beads != names.n_beads:
        raise InputError(f"{path} holds {source.topology.n_beads} beads, the topology {topology} {names.n_beads}")
    return replace(source, topology=names)


def _kind(path: Path, known: tuple[str, ...]) -> str:
    kind = path.suffix.lower()
    if kind not in known:
        raise InputError(f"{path}: unknown ending {kind!r}; known: {', '.join(known)}")
    if not path.exists():
        raise InputError(f"{path} does not exist")
    if not path.is_file():
        raise InputError(f"{path} is not a file")
    if path.stat().st_size == 0:
        raise InputError(f"{path} is empty")
    return kind


# --- GROMACS .gro ---------------------------------------------------------------------------------------------------

def _open_gro(path: Path) -> CGSource:
    counts = _gro_counts(path)
    with open(path, errors="replace") as file:
        lines = _gro_lines(path, file, 0)[1]
    try:
        numbers = [int(line[:5]) for line in lines]
    except ValueError:
        raise InputError(f"{path}: a line does not begin with a residue number") from None
    topology = CGTopology.from_beads([line[10:15].strip() for line in lines], [line[5:10].strip() for line in lines],
                                     numbers, [0] * len(lines))
    return CGSource(path, topology, len(counts), lambda *selection: _gro_frames(path, *selection))


def _gro_counts(path: Path) -> list[int]:
    """Number of atoms of every frame; checks that all lines are there."""
    counts: list[int] = []
    with open(path, errors="replace") as file:
        for title in file:
            count = _gro_count(path, len(counts), file.readline()) if title.strip() or not counts else None
            if count is None:
                # Blank lines may end a file, and nothing but them.
                if any(line.strip() for line in file):
                    raise InputError(f"{path}: a blank line between frames")
                break
            found = sum(1 for _ in islice(file, count + 1))
            if found <= count:
                raise InputError(f"{path}: cut off: frame {len(counts)} holds {found} of {count} atoms"
                                 + (" but no box line" if found == count else ""))
            counts.append(count)
    return counts


def _gro_count(path: Path, frame: int, line: str) -> int:
    try:
        count = int(line)
    except ValueError:
        raise InputError(f"{path}: the second line of frame {frame} should hold the number of atoms, found "
                         f"{line.strip()[:40]!r}") from None
    if count < 1:
        raise InputError(f"{path}: frame {frame} holds {count} atoms")
    return count


def _gro_lines(path: Path, file, frame: int) -> tuple[str, list[str], str]:
    title = file.readline()
    lines = list(islice(file, _gro_count(path, frame, file.readline())))
    return title, lines, file.readline()


def _gro_frames(path: Path, first: int, stop: int, stride: int) -> Iterator[CGFrame]:
    with open(path, errors="replace") as file, named_errors(path):
        for frame in range(stop):
            title, lines, box = _gro_lines(path, file, frame)
            if frame >= first and (frame - first) % stride == 0:
                time = re.search(r"\bt=\s*([-+0-9.eE]+)", title)
                yield CGFrame(_gro_positions(path, frame, lines), _gro_box(path, frame, box),
                              float(time.group(1)) if time else None)


def _gro_positions(path: Path, frame: int, lines: list[str]) -> np.ndarray:
    # Columns are as wide as the distance between decimal points: files may carry more digits than three.
    first = lines[0].find(".", 20)
    width = lines[0].find(".", first + 1) - first
    columns = [slice(20 + k * width, 20 + (k + 1) * width) for k in range(3)]
    try:
        return np.array([[float(line[c]) for c in columns] for line in lines])
    except ValueError:
        raise InputError(f"{path}: frame {frame} holds a line without three coordinates, or has fewer or more lines "
                         "than its number of atoms says") from None


def _gro_box(path: Path, frame: int, line: str) -> np.ndarray | None:
    try:
        v = [float(word) for word in line.split()]
    except ValueError:
        v = []
    if len(v) not in (3, 9):
        raise InputError(f"{path}: frame {frame} should end with a box of 3 or 9 numbers, found {line.strip()[:60]!r}: "
                         "the number of atoms on its second line may be wrong")
    xx, yy, zz, xy, xz, yx, yz, zx, zy = v + [0.0] * (9 - len(v))
    return vectors_box([[xx, xy, xz], [yx, yy, yz], [zx, zy, zz]])


# --- PDB ------------------------------------------------------------------------------------------------------------

def _open_pdb(path: Path) -> CGSource:
    rows, connect, n_frames = _pdb_scan(path)
    if not rows:
        raise InputError(f"{path}: holds no ATOM or HETATM record")
    numbers = _pdb_numbers([line[22:26] for line, _ in rows])
    # A chain goes on until its identifier changes or a TER record ends it.
    chains = [(line[21], ters) for line, ters in rows]
    column = lambda start, stop: [line[start:stop].strip() for line, _ in rows]  # noqa: E731
    topology = CGTopology.from_beads(column(12, 16), column(17, 21), numbers, chains,
                                     _pdb_bonds(column(6, 11), connect))
    return CGSource(path, topology, n_frames, lambda *selection: _pdb_frames(path, *selection))


def _pdb_scan(path: Path) -> tuple[list[tuple[str, int]], list[str], int]:
    """Atom lines of the first frame with the number of TER records before each, CONECT lines, number of frames."""
    rows: list[tuple[str, int]] = []
    connect: list[str] = []
    ters, n_frames, in_frame = 0, 0, False
    with open(path, errors="replace") as file:
        for line in file:
            if line.startswith(("ATOM", "HETATM")):
                n_frames += not in_frame
                in_frame = True
                if n_frames == 1:
                    rows.append((line, ters))
            elif line.startswith("TER"):
                ters += 1
            elif line.startswith("CONECT"):
                connect.append(line)
            elif line.startswith("END"):
                in_frame = False
    return rows, connect, n_frames


def _pdb_numbers(fields: list[str]) -> list[int]:
    """Residue numbers; beyond 9999 files go on in hexadecimal or base 36 from A000, or give up with ``****``."""
    base = 36 if re.search("[G-Zg-z]", "".join(set(fields))) else 16
    value: dict[str, int] = {}
    numbers: list[int] = []
    for text in fields:
        if text not in value:
            try:
                value[text] = int(text)
            except ValueError:
                try:
                    value[text] = int(text, base) - int("A000", base) + 10000
                except ValueError:
                    value[text] = numbers[-1] if numbers else 0
        numbers.append(value[text])
    return numbers


def _pdb_bonds(serials: list[str], connect: list[str]) -> np.ndarray | None:
    """Bonds of CONECT records; None where there are none, or where serial numbers do not tell atoms apart.

    Serial numbers are compared as written, so that decimal, hexadecimal and base 36 need not be told apart.
    """
    index = {serial: i for i, serial in enumerate(serials)}
    pairs = [(line[6:11].strip(), line[k:k + 5].strip()) for line in connect for k in range(11, 31, 5)]
    pairs = [(a, b) for a, b in pairs if b]
    if not pairs or len(index) < len(serials) or any(a not in index or b not in index for a, b in pairs):
        return None
    return np.unique(np.sort([(index[a], index[b]) for a, b in pairs], axis=1), axis=0).astype(np.int64)


def _pdb_frames(path: Path, first: int, stop: int, stride: int) -> Iterator[CGFrame]:
    with open(path, errors="replace") as file, named_errors(path):
        frame, rows, box, time = 0, [], None, None
        for line in file:
            if line.startswith(("ATOM", "HETATM")):
                rows.append((line[30:38], line[38:46], line[46:54]))
            elif line.startswith("CRYST1"):
                box = _pdb_box(line)
            elif line.startswith("TITLE") and (found := re.search(r"\bt=\s*([-+0-9.eE]+)", line)):
                time = float(found.group(1))
            elif line.startswith("END") and rows:
                if _selected(frame, first, stop, stride):
                    yield CGFrame(np.array(rows, dtype=float) / 10, box, time)
                frame, rows = frame + 1, []
        if rows and _selected(frame, first, stop, stride):
            yield CGFrame(np.array(rows, dtype=float) / 10, box, time)


def _selected(frame: int, first: int, stop: int, stride: int) -> bool:
    return first <= frame < stop and (frame - first) % stride == 0


def _pdb_box(line: str) -> np.ndarray | None:
    lengths = [float(line[k:k + 9]) / 10 for k in (6, 15, 24)]
    angles = [float(line[k:k + 7] or 90) for k in (33, 40, 47)]
    return cell_box(lengths, angles)


# --- binary trajectories --------------------------------------------------------------------------------------------

def _open_trajectory(path: Path, names: CGTopology, topology: str | Path) -> CGSource:
    with trajectory_file(path) as file:
        is_dcd = path.suffix.lower() == ".dcd"
        n_frames, rest = (len(file), dcd_rest(path)) if is_dcd else whole_frames(path)
        n_beads = file.read(n_frames=1)[0].shape[1] if n_frames else names.n_beads
    if not n_frames:
        raise InputError(f"{path}: holds no whole frame")
    if n_beads != names.n_beads:
        raise InputError(f"{path} holds {n_beads} beads, the topology {topology} {names.n_beads}")
    return CGSource(path, names, n_frames, lambda *selection: _trajectory_frames(path, *selection), cut_off=rest > 0)


def trajectory_file(path: Path):
    """The open file (.xtc, .trr, .dcd) as mdtraj has it."""
    from mdtraj.formats import DCDTrajectoryFile, TRRTrajectoryFile, XTCTrajectoryFile

    kind = {".xtc": XTCTrajectoryFile, ".trr": TRRTrajectoryFile, ".dcd": DCDTrajectoryFile}[path.suffix.lower()]
    return kind(str(path))


def _trajectory_frames(path: Path, first: int, stop: int, stride: int) -> Iterator[CGFrame]:
    with named_errors(path), trajectory_file(path) as file:
        for frame in range(first, stop, stride):
            file.seek(frame)
            if path.suffix.lower() == ".dcd":
                xyz, lengths, angles = file.read(n_frames=1)
                box = None if lengths is None else cell_box(lengths[0] / 10, angles[0])
                yield CGFrame(xyz[0].astype(float) / 10, box)
            else:
                xyz, time, _, vectors = file.read(n_frames=1)[:4]
                box = None if vectors is None else vectors_box(vectors[0])
                yield CGFrame(xyz[0].astype(float), box, float(time[0]))
