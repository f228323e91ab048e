"""Structure files and trajectories to plain arrays: names, order and precision stay as the file has them.

The text formats are read here, since the readers at hand rename beads, guess elements, drop beads of equal name or
round to single precision; mdtraj reads the binary trajectories and OpenMM's tokeniser the PDBx/mmCIF tables.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path

import numpy as np

from openmm_backmap.chemistry.cg import CGTopology
from openmm_backmap.errors import InputError
from openmm_backmap.geometry.periodic import reduce_box

TRAJECTORIES = (".xtc", ".trr", ".dcd")
STRUCTURES = (".gro", ".pdb", ".cif", ".pdbx")


@dataclass(frozen=True)
class CGFrame:
    """One frame.

    Attributes
    ----------
    positions : ndarray, shape (n_beads, 3), nm
    box : ndarray, shape (3, 3), nm, or None
    time_ps : float or None
        None where the file does not tell.
    """

    positions: np.ndarray
    box: np.ndarray | None
    time_ps: float | None = None


@dataclass(frozen=True)
class CGSource:
    """A file of one or many frames; frames are read when they are asked for.

    Attributes
    ----------
    path : Path
    topology : CGTopology
    n_frames : int
    """

    path: Path
    topology: CGTopology
    n_frames: int
    _read: Callable[[int, int, int], Iterator[CGFrame]] = field(repr=False)

    def frames(self, first: int = 0, last: int | None = None, stride: int = 1) -> Iterator[CGFrame]:
        """Frames ``first``, ``first + stride``, ... up to and including ``last`` (None: the last of the file).

        Raises :class:`InputError` where this selects no frame.
        """
        if first < 0 or stride < 1:
            raise InputError(f"{self.path}: the first frame ({first}) must not be negative, the stride ({stride}) at "
                             "least 1")
        if last is not None and last < first:
            raise InputError(f"{self.path}: the last frame ({last}) lies before the first ({first})")
        if first >= self.n_frames:
            raise InputError(f"{self.path}: no frame {first}: it holds {self.n_frames}, counted from 0")
        stop = self.n_frames if last is None else min(last + 1, self.n_frames)
        return self._checked(self._read(first, stop, stride))

    def _checked(self, frames: Iterator[CGFrame]) -> Iterator[CGFrame]:
        for frame in frames:
            if len(frame.positions) != self.topology.n_beads:
                raise InputError(f"{self.path}: a frame holds {len(frame.positions)} beads, the topology "
                                 f"{self.topology.n_beads}")
            yield frame


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
        raise InputError(f"{path}: a {kind} file holds no names: give a structure ({', '.join(STRUCTURES)}) of the same "
                         "beads as --topology")
    names = None
    if topology is not None:
        _kind(Path(topology), STRUCTURES)
        names = open_cg(topology).topology
    with _named_errors(path):
        if kind in TRAJECTORIES:
            return _open_trajectory(path, names, topology)
        source = {".gro": _open_gro, ".pdb": _open_pdb}.get(kind, _open_cif)(path)
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


@contextmanager
def _named_errors(path: Path):
    """Turn whatever a parser stumbles over into one line that names the file."""
    try:
        yield
    except InputError as error:
        raise error if str(path) in str(error) else InputError(f"{path}: {error}") from None
    except Exception as error:
        # Parsers of others raise what they like (even bare Exception); to the user it is one thing.
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{path}: cannot be read as {path.suffix.lower()} ({reason})") from error


def _box(vectors) -> np.ndarray | None:
    vectors = np.asarray(vectors, dtype=float)
    return reduce_box(vectors) if np.any(vectors) else None


def _cell(lengths_nm, angles_deg) -> np.ndarray | None:
    """Box of cell lengths and angles; a cell of no size, or the 1 x 1 x 1 Angstrom of "no cell" in PDB files, is none."""
    from mdtraj.utils.unitcell import lengths_and_angles_to_box_vectors

    lengths = np.asarray(lengths_nm, dtype=float)
    if not lengths.any() or np.allclose(lengths, 0.1):
        return None
    return reduce_box(np.array(lengths_and_angles_to_box_vectors(*lengths, *map(float, angles_deg))))


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
    with open(path, errors="replace") as file, _named_errors(path):
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
    return _box([[xx, xy, xz], [yx, yy, yz], [zx, zy, zz]])


# --- PDB ------------------------------------------------------------------------------------------------------------

def _open_pdb(path: Path) -> CGSource:
    rows, connect, n_frames = _pdb_scan(path)
    if not rows:
        raise InputError(f"{path}: holds no ATOM or HETATM record")
    numbers = _pdb_numbers([line[22:26] for line, _ in rows])
    # A chain goes on until its identifier changes or a TER record ends it.
    chains = [(line[21], ters) for line, ters in rows]
    topology = CGTopology.from_beads([line[12:16].strip() for line, _ in rows], [line[17:21].strip() for line, _ in rows],
                                     numbers, chains, _pdb_bonds([line[6:11].strip() for line, _ in rows], connect))
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
    with open(path, errors="replace") as file, _named_errors(path):
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
    return _cell(lengths, angles)


# --- PDBx/mmCIF -----------------------------------------------------------------------------------------------------

def _open_cif(path: Path) -> CGSource:
    from openmm.app.internal.pdbx.reader.PdbxReader import PdbxReader

    data: list = []
    with open(path, errors="replace") as file:
        PdbxReader(file).read(data)
    sites = data[0].getObj("atom_site") if data else None
    if sites is None or not sites.getRowCount():
        raise InputError(f"{path}: holds no _atom_site table")
    column = _cif_columns(sites)
    models = column("pdbx_PDB_model_num") or ["1"] * sites.getRowCount()
    xyz = np.array([column(f"Cartn_{axis}") for axis in "xyz"], dtype=float).T / 10
    starts = [0, *(i for i in range(1, len(models)) if models[i] != models[i - 1]), len(models)]
    frames = [xyz[a:b] for a, b in zip(starts, starts[1:])]
    box = _cif_box(data[0].getObj("cell"))
    topology = _cif_topology(path, column, starts[1], data[0].getObj("struct_conn"))
    return CGSource(path, topology, len(frames), lambda first, stop, stride: (
        CGFrame(positions, box) for positions in frames[first:stop:stride]))


def _cif_columns(table) -> Callable[..., list[str] | None]:
    rows = table.getRowList()

    def column(*names: str) -> list[str] | None:
        """The first of the columns that the table has."""
        for name in names:
            if (k := table.getAttributeIndex(name)) >= 0:
                return [row[k] for row in rows]
        return None

    return column


def _cif_topology(path: Path, column, n: int, connections) -> CGTopology:
    names = column("auth_atom_id", "label_atom_id")
    residues = column("auth_comp_id", "label_comp_id")
    numbers = column("auth_seq_id", "label_seq_id")
    chains = column("label_asym_id", "auth_asym_id")
    if None in (names, residues, numbers, chains):
        raise InputError(f"{path}: its _atom_site table lacks names of atoms, residues or chains, or residue numbers")
    labels = [column(f"label_{x}", f"auth_{x}")[:n] for x in ("asym_id", "seq_id", "atom_id")]
    values = [int(number) if number.lstrip("-").isdigit() else 0 for number in numbers[:n]]
    return CGTopology.from_beads(names[:n], residues[:n], values, chains[:n], _cif_bonds(labels, connections))


def _cif_bonds(labels: list[list[str]], connections) -> np.ndarray | None:
    """Bonds of the struct_conn table, if atoms can be told apart by chain, residue number and name."""
    if connections is None or not connections.getRowCount():
        return None
    keys = list(zip(*labels))
    index = {key: i for i, key in enumerate(keys)}
    column = _cif_columns(connections)
    ends = [list(zip(*(column(f"ptnr{side}_label_{x}") or [] for x in ("asym_id", "seq_id", "atom_id"))))
            for side in "12"]
    covalent = [kind.lower()[:6] in ("covale", "disulf", "modres") for kind in column("conn_type_id")]
    pairs = [(a, b) for a, b, bonded in zip(*ends, covalent) if bonded]
    if not pairs or len(index) < len(keys) or any(a not in index or b not in index for a, b in pairs):
        return None
    return np.array([(index[a], index[b]) for a, b in pairs], dtype=np.int64)


def _cif_box(cell) -> np.ndarray | None:
    if cell is None or not cell.getRowCount():
        return None
    value = _cif_columns(cell)
    try:
        return _cell([float(value(f"length_{x}")[0]) / 10 for x in "abc"],
                     [float(value(f"angle_{x}")[0]) for x in ("alpha", "beta", "gamma")])
    except (TypeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        # A cell of ? marks is no cell.
        return None


# --- binary trajectories --------------------------------------------------------------------------------------------

def _open_trajectory(path: Path, names: CGTopology, topology: str | Path) -> CGSource:
    with _trajectory_file(path) as file:
        n_frames = len(file)
        n_beads = file.read(n_frames=1)[0].shape[1] if n_frames else names.n_beads
    if not n_frames:
        raise InputError(f"{path}: holds no frame")
    if n_beads != names.n_beads:
        raise InputError(f"{path} holds {n_beads} beads, the topology {topology} {names.n_beads}")
    return CGSource(path, names, n_frames, lambda *selection: _trajectory_frames(path, *selection))


def _trajectory_file(path: Path):
    from mdtraj.formats import DCDTrajectoryFile, TRRTrajectoryFile, XTCTrajectoryFile

    kind = {".xtc": XTCTrajectoryFile, ".trr": TRRTrajectoryFile, ".dcd": DCDTrajectoryFile}[path.suffix.lower()]
    return kind(str(path))


def _trajectory_frames(path: Path, first: int, stop: int, stride: int) -> Iterator[CGFrame]:
    with _named_errors(path), _trajectory_file(path) as file:
        for frame in range(first, stop, stride):
            file.seek(frame)
            if path.suffix.lower() == ".dcd":
                xyz, lengths, angles = file.read(n_frames=1)
                box = None if lengths is None else _cell(lengths[0] / 10, angles[0])
                yield CGFrame(xyz[0].astype(float) / 10, box)
            else:
                xyz, time, _, vectors = file.read(n_frames=1)[:4]
                yield CGFrame(xyz[0].astype(float), None if vectors is None else _box(vectors[0]), float(time[0]))
