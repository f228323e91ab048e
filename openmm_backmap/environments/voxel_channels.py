"""Feature channels of a voxel environment, by names of type classes and bead types (Stieffenhofer et al. 2021, II.B).

A channels file is YAML; every entry of a list is one channel, or several names that share one::

    atoms: [C, C_AR, H, H_AR]             # atoms of a type, whatever the atom that is placed
    bonds: [C-C, [C-H, C_AR-H_AR]]        # atoms on a path of one, two or three bonds that starts at the atom placed
    angles: [C-C-C, C-C-H]
    torsions: [C-C-C-C]
    lennard_jones: [C, [H, H_AR], C-C_AR] # atoms farther along the molecule or of others: by type, or by pair of types
    beads: [A, B]
    aliases:                              # what a chemistry calls otherwise: its name, then the one used here
      types: {CT: C}
      beads: {S: B}

A path is named from either end. Paths that no entry names are drawn in no channel, as published; types that nothing
names are an error, since an atom of such a type could not be placed. ``channels_text(default_channels([target]))`` is
a file to start from.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from openmm_backmap.chemistry import Target
from openmm_backmap.errors import InputError
from openmm_backmap.geometry.internal import angles_of, dihedrals_of

#: channels are bits of a 64-bit integer, whose sign is left alone
MAX_CHANNELS = 62
_PATHS = {"bonds": 2, "angles": 3, "torsions": 4}
_KEYS = ("atoms", *_PATHS, "lennard_jones", "beads", "aliases")

Entry = tuple[str, ...]


@dataclass(frozen=True)
class Channels:
    """What each channel holds; see the module's text.

    Attributes
    ----------
    atoms, bonds, angles, torsions, lennard_jones, beads : tuple of tuple of str
        One inner tuple a channel. Channels are numbered in this order.
    type_aliases, bead_aliases : mapping of str to str
        A chemistry's name -> the name used here.
    """

    atoms: tuple[Entry, ...] = ()
    bonds: tuple[Entry, ...] = ()
    angles: tuple[Entry, ...] = ()
    torsions: tuple[Entry, ...] = ()
    lennard_jones: tuple[Entry, ...] = ()
    beads: tuple[Entry, ...] = ()
    type_aliases: Mapping[str, str] = field(default_factory=dict)
    bead_aliases: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def from_dict(cls, content, where: str = "channels") -> Channels:
        """From the content of a channels file; :class:`InputError` where it is not laid out as one."""
        if not isinstance(content, Mapping) or set(content) - set(_KEYS):
            odd = ", ".join(map(str, set(content) - set(_KEYS))) if isinstance(content, Mapping) else repr(content)[:40]
            raise InputError(f"{where}: unknown entry {odd}; a channels file has {', '.join(_KEYS)}")
        lists = {key: _entries(content.get(key, []), key, where) for key in _KEYS[:-1]}
        aliases = content.get("aliases") or {}
        if not isinstance(aliases, Mapping) or set(aliases) - {"types", "beads"}:
            raise InputError(f"{where}: aliases has 'types' and 'beads', each a list of 'name: name' lines")
        channels = cls(**lists, type_aliases=dict(aliases.get("types") or {}),
                       bead_aliases=dict(aliases.get("beads") or {}))
        channels._check(where)
        return channels

    def to_dict(self) -> dict:
        """Plain containers that :meth:`from_dict` reads, as a model file stores them."""
        content = {key: [list(entry) for entry in getattr(self, key)] for key in _KEYS[:-1]}
        return {**content, "aliases": {"types": dict(self.type_aliases), "beads": dict(self.bead_aliases)}}

    @property
    def n_channels(self) -> int:
        return sum(len(getattr(self, key)) for key in _KEYS[:-1])

    @property
    def types(self) -> tuple[str, ...]:
        """All atom types that a channel names, sorted: the vocabulary of atoms that can be placed."""
        named = {word for key in ("atoms", *_PATHS, "lennard_jones") for entry in getattr(self, key)
                 for name in entry for word in name.split("-")}
        return tuple(sorted(named))

    def first(self, key: str) -> int:
        """Number of the first channel of a list."""
        return sum(len(getattr(self, k)) for k in _KEYS[:_KEYS.index(key)])

    def bits(self, key: str) -> dict[str, int]:
        """Channels as bit masks by name; paths and pairs under both readings."""
        masks: dict[str, int] = {}
        for k, entry in enumerate(getattr(self, key), self.first(key)):
            for name in entry:
                for reading in {name, "-".join(reversed(name.split("-")))}:
                    masks[reading] = masks.get(reading, 0) | 1 << k
        return masks

    def type_names(self, target: Target) -> list[str]:
        """Names of ``target.chemistry.type_classes`` as this file writes them."""
        return [self.type_aliases.get(name, name) for name in target.chemistry.type_classes]

    def bead_names(self, target: Target) -> list[str]:
        """Names of ``target.chemistry.bead_types`` as this file writes them."""
        return [self.bead_aliases.get(name, name) for name in target.chemistry.bead_types]

    def check(self, target: Target) -> None:
        """:class:`InputError` that names the atom and bead types of ``target`` that no channel knows."""
        types, beads = self.type_names(target), self.bead_names(target)
        known = {name for entry in self.beads for name in entry}
        missing = [f"atom type {types[t]}" for t in np.unique(target.atom_type) if types[t] not in self.types]
        missing += [f"bead type {beads[t]}" for t in np.unique(target.bead_type) if beads[t] not in known]
        if missing:
            raise InputError(
                f"the channels do not cover chemistry {target.chemistry.name}: no channel for {', '.join(missing)}; "
                "name them among the channels' aliases, or train with channels that hold them")

    def _check(self, where: str) -> None:
        if self.n_channels > MAX_CHANNELS:
            raise InputError(f"{where}: {self.n_channels} channels, at most {MAX_CHANNELS}; let some share a channel")
        if not self.beads or not self.types:
            raise InputError(f"{where}: channels need bead types under 'beads' and atom types, for instance 'atoms'")
        for key in _KEYS[:-1]:
            lengths = {1, 2} if key == "lennard_jones" else {_PATHS.get(key, 1)}
            for name in (name for entry in getattr(self, key) for name in entry):
                if len(name.split("-")) not in lengths or not all(name.split("-")):
                    raise InputError(f"{where}: {key}: {name!r} is not {' or '.join(map(str, sorted(lengths)))} "
                                     "names joined by '-'")


def _entries(content, key: str, where: str) -> tuple[Entry, ...]:
    entries = [[item] if isinstance(item, str) else item for item in content or []]
    if not all(isinstance(entry, list) and entry and all(isinstance(n, str) for n in entry) for entry in entries):
        raise InputError(f"{where}: {key} is a list of names, or of lists of names that share a channel")
    return tuple(tuple(entry) for entry in entries)


def load_channels(path: str | Path) -> Channels:
    """Read a channels file (YAML)."""
    import yaml

    try:
        content = yaml.safe_load(Path(path).read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"{path}: not a readable channels file ({' '.join(str(error).split())})") from None
    return Channels.from_dict(content, str(path))


def default_channels(targets) -> Channels:
    """One channel for every atom type, path type, partner type and bead type that occurs in any of ``targets``.

    Targets may be of several chemistries: types are told by name.
    """
    found: dict[str, set[str]] = {key: set() for key in _KEYS[:-1]}
    for target in targets:
        names = target.chemistry.type_classes
        found["atoms"] |= {names[t] for t in np.unique(target.atom_type)}
        found["beads"] |= {target.chemistry.bead_types[t] for t in np.unique(target.bead_type)}
        for key, members in _paths(target).items():
            rows = np.unique(target.atom_type[members], axis=0)
            found[key] |= {"-".join(min(w, w[::-1])) for w in ([names[t] for t in row] for row in rows)}
    found["lennard_jones"] = found["atoms"]
    return Channels.from_dict({key: sorted(names) for key, names in found.items()}, "default channels")


def with_default(channels: Channels | Mapping | str | None, targets) -> Channels:
    """Channels as given (a value, file content or a path), or the default of ``targets``."""
    if isinstance(channels, Channels):
        return channels
    if isinstance(channels, Mapping):
        return Channels.from_dict(channels)
    return load_channels(channels) if channels else default_channels(targets)


def _paths(target: Target) -> dict[str, np.ndarray]:
    return {"bonds": target.bonds, "angles": angles_of(target), "torsions": dihedrals_of(target)}


def pair_masks(target: Target, channels: Channels) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Channels of atoms up to three bonds apart.

    Returns
    -------
    placed, other : ndarray of int, shape (n_pairs,)
        Sorted by ``placed``, then ``other``.
    mask : ndarray of int, shape (n_pairs,)
        Bits of the channels in which ``other`` is drawn while ``placed`` is placed.
    """
    n = target.n_atoms
    row, column, _ = target.graph_pairs(3)
    rows = [row * n + column]
    masks = [type_masks(target, channels)[0][target.atom_type[column]]]
    names = np.array(channels.type_names(target), dtype=object)
    for key, members in _paths(target).items():
        bits = channels.bits(key)
        kinds, kind = np.unique(target.atom_type[members], axis=0, return_inverse=True)
        of_kind = np.array([bits.get("-".join(names[k]), 0) for k in kinds], dtype=np.int64)
        mask = of_kind[kind.ravel()]
        for path in (members, members[:, ::-1]):
            for step in range(1, path.shape[1]):
                rows.append(path[:, 0] * n + path[:, step])
                masks.append(mask)
    keys, masks = np.concatenate(rows), np.concatenate(masks)
    order = np.argsort(keys, kind="stable")
    keys, masks = keys[order], masks[order]
    first = np.flatnonzero(np.r_[True, keys[1:] != keys[:-1]]) if len(keys) else np.zeros(0, np.int64)
    merged = np.bitwise_or.reduceat(masks, first) if len(keys) else masks
    return keys[first] // n, keys[first] % n, merged


def type_masks(target: Target, channels: Channels) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Bits by type: (n_types,) of an atom, (n_types, n_types) of a partner while another is placed, (n_bead_types,).

    A partner is farther than three bonds away, or of another molecule (thesis 4.3.2).
    """
    names = channels.type_names(target)
    atoms, partners = channels.bits("atoms"), channels.bits("lennard_jones")
    one = np.array([atoms.get(name, 0) for name in names], dtype=np.int64)
    two = np.array([[one[k] | partners.get(other, 0) | partners.get(f"{placed}-{other}", 0)
                     for k, other in enumerate(names)] for placed in names], dtype=np.int64)
    beads = channels.bits("beads")
    return one, two, np.array([beads.get(name, 0) for name in channels.bead_names(target)], dtype=np.int64)


def channels_text(channels: Channels) -> str:
    """The channels as a file that :func:`load_channels` reads; channels of one name are written without brackets."""
    import yaml

    content = channels.to_dict()
    for key in _KEYS[:-1]:
        content[key] = [entry[0] if len(entry) == 1 else entry for entry in content[key]]
    return yaml.safe_dump(content, sort_keys=False, default_flow_style=None, width=110)
