"""Atomistic files of a chemistry: references to compare with, structures to judge.

Residues that are templates of the chemistry are matched by name. Other programs often write a whole chain as one
residue, by the name that it has in coarse-grained files; such a chain is matched by its number of atoms and the order
of their elements, and then looked at: atoms that are bonded must be near each other.
"""

from __future__ import annotations

import glob
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from openmm_backmap.chemistry import Chemistry, Target, build_target, match_atoms
from openmm_backmap.chemistry.aliases import rename
from openmm_backmap.chemistry.cg import CGTopology
from openmm_backmap.errors import ChemistryError, InputError
from openmm_backmap.geometry.periodic import make_whole
from openmm_backmap.io.frames import stacked_boxes
from openmm_backmap.io.readers import STRUCTURES, TRAJECTORIES, open_cg

# No bond of these is longer; atoms two bonds apart are farther than this, all but those with hydrogen.
_BOND_NM, _HYDROGEN_BOND_NM = 0.25, 0.16
#: so many bonds may be too long in a bad structure; where atoms are in another order, most are
LONG_SHARE = 0.5


@dataclass(frozen=True)
class AtomFrames:
    """Atomistic frames of one system.

    Attributes
    ----------
    target : Target
    positions : ndarray, shape (n_frames, n_atoms, 3), nm
        Whole molecules.
    boxes : ndarray, shape (n_frames, 3, 3), nm, or None
    files : tuple of Path
        The file behind each frame.
    """

    target: Target = field(repr=False)
    positions: np.ndarray = field(repr=False)
    boxes: np.ndarray | None = field(repr=False)
    files: tuple[Path, ...]

    def __len__(self) -> int:
        return len(self.positions)


def find_files(words: Sequence[str | Path]) -> list[Path]:
    """Files, and what folders and patterns (``runs/*/frame_*.gro``) hold, numbers in their natural order.

    Of a folder, and of those in it, all structures (.gro, .pdb, .cif) are taken.

    Raises
    ------
    InputError
        A file or folder does not exist, or there is nothing in it.
    """
    files: list[Path] = []
    for word in map(str, words):
        path = Path(word)
        if path.is_dir():
            found = [p for p in path.rglob("*") if p.suffix.lower() in STRUCTURES and not p.name.startswith(".")]
        elif path.exists():
            found = [path]
        else:
            found = [Path(name) for name in glob.glob(word, recursive=True) if Path(name).is_file()]
        if not found:
            raise InputError(f"{word}: " + ("no structures in this folder" if path.is_dir() else "no such file"))
        files += sorted(found, key=_natural)
    doubled = {file for file in files if files.count(file) > 1}
    if doubled:
        raise InputError(f"{min(doubled)}: given twice")
    return files


def _natural(path: Path) -> list:
    return [(int(word), "") if word.isdigit() else (-1, word) for word in re.split(r"(\d+)", str(path))]


def open_atoms(paths: Sequence[str | Path], chemistry: Chemistry, *, topology: str | Path | None = None,
               aliases: Mapping[str, str] | None = None, strict: bool = True) -> AtomFrames:
    """Read all frames of atomistic files of one system.

    Parameters
    ----------
    paths : sequence of paths
        See :func:`find_files`; structures (.gro, .pdb, .cif), or trajectories (.xtc, .trr, .dcd) with a ``topology``.
    chemistry : Chemistry
    topology : path, optional
        A structure that names the atoms of trajectories.
    aliases : mapping, optional
        Residue and atom names of the files to read as others (:func:`openmm_backmap.chemistry.parse_aliases`).
    strict : bool
        Refuse any bond that is far too long, as is right for a reference. Without it, structures may be as bad as
        they are; only where atoms were matched by their order, at least half of the bonds must be plausible.

    Raises
    ------
    InputError
        A file is missing or damaged, frames differ in what they hold, or bonded atoms are far apart.
    ChemistryError
        Residues or atoms are not the chemistry's.
    """
    files = find_files(paths)
    matcher, target = AtomMatcher(chemistry, aliases or {}), None
    positions: list[np.ndarray] = []
    boxes: list[np.ndarray | None] = []
    owners: list[Path] = []
    for file in files:
        source = open_cg(file, topology if file.suffix.lower() in TRAJECTORIES else None)
        found, by_order = matcher.target(source.topology, str(file))
        if target is not None and found.chains != target.chains:
            raise InputError(f"{file}: holds {_system(found)}, {files[0]} {_system(target)}: one system at a time")
        target = target or found
        for frame in source.frames():
            whole = make_whole(frame.positions, frame.box, target.bonds)
            if strict or by_order:
                check_bonds(target, whole, source.topology, str(file), 0.0 if strict else LONG_SHARE)
            positions.append(whole)
            boxes.append(frame.box)
            owners.append(file)
    return AtomFrames(target, np.array(positions), stacked_boxes(boxes, owners), tuple(owners))


def _system(target: Target) -> str:
    return f"{len(target.chains)} molecules of {target.n_atoms} atoms in all"


class AtomMatcher:
    """Names to targets; files of equal names share one."""

    def __init__(self, chemistry: Chemistry, aliases: Mapping[str, str]):
        self.chemistry, self.aliases = chemistry, aliases
        self.templates = {t for m in chemistry.monomers.values() for t in m.residues.values()}
        self.templates |= {chemistry.end.residue} if chemistry.end else set()
        self._kept: dict[tuple, tuple[Target, bool]] = {}
        self._chains: dict[tuple[str, ...], Target] = {}

    def target(self, cg: CGTopology, where: str) -> tuple[Target, bool]:
        """The target, and whether it was found by the order of the atoms."""
        cg = replace(cg, bead_names=tuple(rename(name, self.aliases) for name in cg.bead_names),
                     residue_names=tuple(rename(name, self.aliases) for name in cg.residue_names))
        key = (cg.bead_names, cg.residue_names, cg.residue_of_bead.tobytes(), cg.chain_of_residue.tobytes())
        if key not in self._kept:
            by_order = self.templates.isdisjoint(cg.residue_names)
            read = self._by_order if by_order else lambda cg, where: match_atoms(self.chemistry, cg, where=where)
            self._kept[key] = read(cg, where), by_order
        return self._kept[key]

    def _by_order(self, cg: CGTopology, where: str) -> Target:
        known = {*self.chemistry.cg.residues, *self.chemistry.monomers}
        sizes = np.bincount(cg.residue_of_bead, minlength=cg.n_residues)
        starts = np.cumsum([0, *sizes])
        found = []
        for k, residue in enumerate(cg.residue_names):
            if residue not in known:
                templates, chains = (", ".join(sorted(names)) for names in (self.templates, known))
                raise ChemistryError(f"{where}: residue {cg.residue_label(k)} is neither a template ({templates}) nor "
                                     f"a chain ({chains}) of the chemistry {self.chemistry.name}; rename it with "
                                     "--alias OLD=NEW")
            found.append(self._chain(cg, k, cg.bead_names[starts[k]:starts[k + 1]], where))
        return build_target(self.chemistry, found)

    def _chain(self, cg: CGTopology, residue: int, names: tuple[str, ...], where: str) -> tuple[str, ...]:
        """The monomers of the only chain with so many atoms, of these elements."""
        label = f"{where}: residue {cg.residue_label(residue)}"
        if names not in self._chains:
            lengths = {name: self._length(name, len(names)) for name in self.chemistry.monomers}
            chains = [(name,) * n for name, n in lengths.items() if n]
            if not chains:
                raise ChemistryError(f"{label} holds {len(names)} atoms; no chain of the chemistry "
                                     f"{self.chemistry.name} ({', '.join(lengths)}) has so many")
            targets = [build_target(self.chemistry, [chain]) for chain in chains]
            wrong = [_first_other_element(names, target.elements) for target in targets]
            if None not in wrong:
                i = wrong[0]
                raise ChemistryError(f"{label}: its atom {i + 1} is {names[i]}, where the chemistry "
                                     f"{self.chemistry.name} has {targets[0].elements[i]}: the atoms must be in the "
                                     "chemistry's order")
            self._chains[names] = targets[wrong.index(None)]
        return self._chains[names].chains[0]

    def _length(self, monomer: str, n_atoms: int) -> int:
        """Number of monomers in a chain of ``n_atoms`` atoms of one monomer; 0 where there is none."""
        residues = self.chemistry.monomers[monomer].residues
        size = {place: len(self.chemistry.templates[name].atoms) for place, name in residues.items()}
        end = len(self.chemistry.templates[self.chemistry.end.residue].atoms) if self.chemistry.end else 0
        if n_atoms - end == size.get("single"):
            return 1
        middle = size.get("middle")
        if middle is None:
            return 0
        more, rest = divmod(n_atoms - end - size.get("first", middle) - size.get("last", middle), middle)
        return more + 2 if more >= 0 and not rest else 0


def _first_other_element(names: Sequence[str], elements: Sequence[str]) -> int | None:
    """The first atom whose name does not begin with its element."""
    for i, (name, element) in enumerate(zip(names, elements, strict=True)):
        if not name.lstrip("0123456789").upper().startswith(element.upper()):
            return i
    return None


def check_bonds(target: Target, whole: np.ndarray, cg: CGTopology, where: str, allowed: float) -> None:
    """Refuse a structure ``whole`` (n_atoms, 3), nm, of which more than a share ``allowed`` of bonds is too long."""
    light = (np.array(target.elements) == "H")[target.bonds].any(axis=1)
    i, j = target.bonds.T
    excess = np.linalg.norm(whole[i] - whole[j], axis=1) - np.where(light, _HYDROGEN_BOND_NM, _BOND_NM)
    long = np.flatnonzero(excess > 0)
    if len(long) > allowed * len(target.bonds):
        k = long[np.argmax(excess[long])]
        length = np.linalg.norm(whole[i[k]] - whole[j[k]])
        atoms = " and ".join(f"{cg.bead_names[a]} of residue {cg.residue_label(cg.residue_of_bead[a])}"
                             for a in (i[k], j[k]))
        raise InputError(f"{where}: {atoms} should be bonded but are {length:.3f} nm apart ({len(long)} of "
                         f"{len(target.bonds)} bonds are too long): atoms in another order than the chemistry's, a "
                         "wrong box, or molecules broken without one")
