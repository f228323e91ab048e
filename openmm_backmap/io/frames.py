"""What readers of all formats share: frames, sources of frames, boxes and errors that name the file."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from openmm_backmap.chemistry.cg import CGTopology
from openmm_backmap.errors import InputError
from openmm_backmap.geometry.periodic import reduce_box


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
        Whole frames.
    cut_off : bool
        A part of a frame follows the last whole one.
    """

    path: Path
    topology: CGTopology
    n_frames: int
    _read: Callable[[int, int, int], Iterator[CGFrame]] = field(repr=False)
    cut_off: bool = False

    def frames(self, first: int = 0, last: int | None = None, stride: int = 1) -> Iterator[CGFrame]:
        """Frames ``first``, ``first + stride``, ... up to and including ``last`` (None: the last of the file).

        Raises :class:`InputError` where this selects no frame, and where one is not whole or not finite. A file that is
        cut off has no last frame: ``last`` must name a whole one.
        """
        if first < 0 or stride < 1:
            raise InputError(f"{self.path}: the first frame ({first}) must not be negative and the stride ({stride}) "
                             "be at least 1")
        if last is not None and last < first:
            raise InputError(f"{self.path}: the last frame ({last}) lies before the first ({first})")
        if first >= self.n_frames:
            raise InputError(f"{self.path}: no frame {first}: it holds {self.n_frames}, counted from 0")
        if self.cut_off and (last is None or last >= self.n_frames):
            raise InputError(f"{self.path}: cut off in frame {self.n_frames} (from 0), or still being written; what is "
                             f"whole ends with frame {self.n_frames - 1}: ask for no later one")
        stop = self.n_frames if last is None else min(last + 1, self.n_frames)
        return self._checked(self._read(first, stop, stride), itertools.count(first, stride))

    def _checked(self, frames: Iterator[CGFrame], numbers: Iterator[int]) -> Iterator[CGFrame]:
        for frame, number in zip(frames, numbers):
            if len(frame.positions) != self.topology.n_beads:
                raise InputError(f"{self.path}: a frame holds {len(frame.positions)} beads, the topology "
                                 f"{self.topology.n_beads}")
            bad = np.flatnonzero(~np.isfinite(frame.positions).all(axis=1))
            if len(bad):
                raise InputError(f"{self.path}: frame {number} (from 0) has positions that are not finite, first that "
                                 f"of particle {bad[0] + 1}")
            yield frame


@contextmanager
def named_errors(path: Path):
    """Turn whatever a parser stumbles over into one line that names the file."""
    try:
        yield
    except InputError as error:
        raise error if str(path) in str(error) else InputError(f"{path}: {error}") from None
    except Exception as error:
        # Parsers of others raise what they like (even bare Exception); to the user it is one thing.
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{path}: cannot be read as {path.suffix.lower()} ({reason})") from error


def stacked_boxes(boxes: Sequence[np.ndarray | None], names: Sequence) -> np.ndarray | None:
    """Boxes (n_frames, 3, 3), nm, of frames that all have one, or None where none has; :class:`InputError` names the
    first of ``names`` that lacks what others have."""
    lacking = [box is None for box in boxes]
    if any(lacking) and not all(lacking):
        raise InputError(f"{names[lacking.index(True)]}: no periodic box, while others have one")
    return None if any(lacking) else np.array(boxes)


def vectors_box(vectors) -> np.ndarray | None:
    """Box of three vectors, reduced; None where they are all zero."""
    vectors = np.asarray(vectors, dtype=float)
    return reduce_box(vectors) if np.any(vectors) else None


def cell_box(lengths_nm, angles_deg) -> np.ndarray | None:
    """Box of cell lengths and angles, or None.

    A cell of no size, or of 1 x 1 x 1 Angstrom, which is how PDB files say that there is no cell, is none.
    """
    from mdtraj.utils.unitcell import lengths_and_angles_to_box_vectors

    lengths = np.asarray(lengths_nm, dtype=float)
    if not lengths.any() or np.allclose(lengths, 0.1):
        return None
    return reduce_box(np.array(lengths_and_angles_to_box_vectors(*lengths, *map(float, angles_deg))))
