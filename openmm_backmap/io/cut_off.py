"""Where the frames of a binary trajectory end, to tell a file that was cut off: mdtraj reads one as if it ended with a
whole frame, or fails on the way.

Layouts: GROMACS' XDR files (.xtc, .trr) and CHARMM's records (.dcd), as their own libraries write them.
"""

from __future__ import annotations

import struct
from pathlib import Path

#: molecules so small are not compressed
_XTC_PLAIN = 9


def whole_frames(path: Path) -> tuple[int, int]:
    """Number of whole frames of a ``.xtc`` or ``.trr``, and bytes behind the last of them."""
    size, n, at = path.stat().st_size, 0, 0
    end_of = {".xtc": _xtc_end, ".trr": _trr_end}[path.suffix.lower()]
    with open(path, "rb") as file:
        while at < size and at < (end := end_of(file, at)) <= size:
            n, at = n + 1, end
    return n, size - at


def _numbers(file, at: int, layout: str) -> tuple:
    file.seek(at)
    data = file.read(struct.calcsize(layout))
    # What is missing at the end of the file counts as nothing: such a frame ends beyond it in any case.
    return struct.unpack(layout, data.ljust(struct.calcsize(layout), b"\0"))


def _xtc_end(file, at: int) -> int:
    header = at + 52
    (n_atoms,) = _numbers(file, header, ">i")
    if n_atoms <= _XTC_PLAIN:
        return header + 4 + 12 * max(n_atoms, 1)
    (n_bytes,) = _numbers(file, header + 36, ">i")
    return header + 40 + 4 * -(-max(n_bytes, 1) // 4)


def _trr_end(file, at: int) -> int:
    *sizes, n_atoms, _, _ = _numbers(file, at + 24, ">13i")
    real = 8 if n_atoms and max(sizes[7:]) == 24 * n_atoms else 4
    return at + 76 + 2 * real + sum(sizes)


def dcd_rest(path: Path) -> int:
    """Bytes of a ``.dcd`` behind its last whole frame."""
    with open(path, "rb") as file:
        order = "<" if _numbers(file, 0, "<i") == (84,) else ">"
        flags = _numbers(file, 8, f"{order}20i")
        at = 92
        for _ in range(2):  # the record of titles, and that of the number of atoms
            at += 8 + _numbers(file, at, f"{order}i")[0]
        (n_atoms,) = _numbers(file, at - 8, f"{order}i")
    if flags[8]:
        return 0  # atoms that do not move stand in the first frame only
    frame = 3 * (8 + 4 * n_atoms) + (56 if flags[10] else 0) + (8 + 4 * n_atoms if flags[11] else 0)
    return (path.stat().st_size - at) % frame
