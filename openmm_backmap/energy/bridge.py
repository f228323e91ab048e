"""The energy of an OpenMM System as a differentiable function of positions in torch.

Term names: ``bond``, ``angle``, ``torsion`` (periodic), ``rb_torsion`` (Ryckaert-Bellemans), ``improper`` (harmonic),
``lj`` (with 1-4 pairs and dispersion correction) and ``coulomb``; terms that a System lacks are absent. Energies are
in kJ/mol, lengths in nm.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
import torch

from openmm_backmap.chemistry.system import check_box
from openmm_backmap.energy.kinds import carries_no_energy
from openmm_backmap.energy.neighbours import minimum_image
from openmm_backmap.energy.nonbonded import Nonbonded
from openmm_backmap.energy.readers import read_force
from openmm_backmap.energy.terms import BondedTerms, distances, move
from openmm_backmap.errors import InputError


@dataclass(frozen=True)
class TorchEnergy:
    """Potential energy of a System; see :meth:`from_system`.

    Attributes
    ----------
    n_atoms : int
    bonded : tuple of BondedTerms
    nonbonded : tuple of Nonbonded
    """

    n_atoms: int
    bonded: tuple[BondedTerms, ...]
    nonbonded: tuple[Nonbonded, ...]

    @classmethod
    def from_system(cls, system) -> TorchEnergy:
        """Take over every force of an ``openmm.System``, in float64 on the CPU; constraints carry no energy.

        Raises
        ------
        UnsupportedForceError
            Where a force that carries energy has no torch counterpart.
        """
        parts = [read_force(force) for force in system.getForces() if not carries_no_energy(force)]
        return cls(system.getNumParticles(), tuple(p for p in parts if isinstance(p, BondedTerms)),
                   tuple(p for p in parts if isinstance(p, Nonbonded)))

    def to(self, device=None, dtype=None) -> TorchEnergy:
        """The same energy with its parameters on ``device`` and as ``dtype``."""
        return dataclasses.replace(self, bonded=tuple(move(part, device, dtype) for part in self.bonded),
                                   nonbonded=tuple(move(part, device, dtype) for part in self.nonbonded))

    def terms(self, positions: torch.Tensor, box=None) -> dict[str, torch.Tensor]:
        """Energy by term, each (...), kJ/mol.

        Parameters
        ----------
        positions : Tensor, shape (..., n_atoms, 3), nm
            Molecules whole, as for OpenMM.
        box : array or Tensor, shape (3, 3), nm, or None
            One box for all samples, in reduced form.

        Raises
        ------
        InputError
            Where shapes do not fit, the box is missing or too small for the cutoff, or positions are not finite.
        """
        box = self._checked_box(positions, box)
        x = positions.reshape(-1, self.n_atoms, 3)
        energies: dict[str, torch.Tensor] = {}
        for part in self.bonded:
            _add(energies, part.kind, part.energies(x, box).sum(-1))
        for part in self.nonbonded:
            lj, coulomb = part.terms(x, box)
            _add(energies, "lj", lj)
            _add(energies, "coulomb", coulomb)
        return {name: energy.reshape(positions.shape[:-2]) for name, energy in energies.items()}

    def total(self, positions: torch.Tensor, box=None) -> torch.Tensor:
        """Potential energy (...), kJ/mol; arguments as for :meth:`terms`."""
        return sum(self.terms(positions, box).values(), positions.new_zeros(positions.shape[:-2]))

    def local(self, atoms) -> LocalEnergy:
        """The part of the energy that depends on ``atoms`` (n_local,), to be asked for many placements of them."""
        index = torch.as_tensor(np.asarray(atoms), dtype=torch.long)
        if index.ndim != 1 or len(torch.unique(index)) != len(index) or not (
                (index >= 0) & (index < self.n_atoms)).all():
            raise InputError(f"a local energy needs different atom numbers from 0 to {self.n_atoms - 1}, got {atoms}")
        return LocalEnergy.of(self, index)

    def local_terms(self, candidates: torch.Tensor, atoms, surroundings: torch.Tensor,
                    box=None) -> dict[str, torch.Tensor]:
        """``self.local(atoms).terms(candidates, surroundings, box)``, for a set that is needed once."""
        return self.local(atoms).terms(candidates, surroundings, box)

    def _checked_box(self, positions: torch.Tensor, box) -> torch.Tensor | None:
        if positions.ndim < 2 or positions.shape[-2:] != (self.n_atoms, 3):
            raise InputError(f"positions have the shape {tuple(positions.shape)}, expected (..., {self.n_atoms}, 3): "
                             "give the atoms of the System in its order")
        cutoffs = [p.settings.cutoff_nm for p in self.nonbonded if p.settings.periodic]
        if box is None:
            if cutoffs or any(part.periodic for part in self.bonded):
                raise InputError("the System is periodic: give the box, three vectors in nm")
            return None
        box = torch.as_tensor(box, dtype=positions.dtype, device=positions.device)
        check_box(box.detach().cpu().numpy(), max(cutoffs, default=0.0))
        return box


def _add(energies: dict[str, torch.Tensor], name: str, energy: torch.Tensor) -> None:
    energies[name] = energies[name] + energy if name in energies else energy


@dataclass(frozen=True)
class LocalEnergy:
    """Energy of a few atoms in their surroundings, for many placements at once.

    All bonded terms and exceptions that touch the atoms, and their Lennard-Jones and Coulomb energy with each other
    and with the surroundings within the cutoff. Between placements it differs as the total energy does; where that is
    an Ewald sum, Coulomb is approximated by a reaction field with a conductor beyond the cutoff.

    Attributes
    ----------
    atoms : Tensor of int, shape (n_local,)
    involved : Tensor of int, shape (n_involved,)
        Atoms of the bonded terms and exceptions, the local ones first; those terms count atoms in this list.
    bonded : tuple of BondedTerms
    nonbonded : tuple of Nonbonded
        With all atoms' parameters, and exceptions that count in ``involved``.
    whole : TorchEnergy
    """

    atoms: torch.Tensor
    involved: torch.Tensor
    bonded: tuple[BondedTerms, ...]
    nonbonded: tuple[Nonbonded, ...]
    whole: TorchEnergy

    @classmethod
    def of(cls, energy: TorchEnergy, atoms: torch.Tensor) -> LocalEnergy:
        parts = (*energy.bonded, *energy.nonbonded)
        device = (parts[0].atoms if energy.bonded else parts[0].charges).device if parts else None
        atoms = atoms.to(device)
        bonded = [part.touching(atoms) for part in energy.bonded]
        nonbonded = [part.touching(atoms) for part in energy.nonbonded]
        indices = [atoms, *(p.atoms.flatten() for p in bonded), *(p.exceptions.flatten() for p in nonbonded)]
        others = torch.unique(torch.cat(indices))
        involved = torch.cat([atoms, others[~torch.isin(others, atoms)]])
        place = torch.full((energy.n_atoms,), -1, dtype=torch.long, device=device)
        place[involved] = torch.arange(len(involved), device=device)
        return cls(atoms, involved,
                   tuple(dataclasses.replace(p, atoms=place[p.atoms]) for p in bonded),
                   tuple(dataclasses.replace(p, exceptions=place[p.exceptions]) for p in nonbonded), energy)

    def terms(self, candidates: torch.Tensor, surroundings: torch.Tensor, box=None) -> dict[str, torch.Tensor]:
        """Energy by term, each (n_candidates,), kJ/mol, of each placement.

        Parameters
        ----------
        candidates : Tensor, shape (n_candidates, n_local, 3), nm
            Placements of the local atoms, differentiable.
        surroundings : Tensor, shape (n_atoms, 3), nm
            Positions of all atoms; those of the local ones are not looked at.
        box : array or Tensor, shape (3, 3), nm, or None
        """
        box = self.whole._checked_box(surroundings, box)
        if candidates.ndim != 3 or candidates.shape[1:] != (len(self.atoms), 3):
            raise InputError(f"candidates have the shape {tuple(candidates.shape)}, expected (n_candidates, "
                             f"{len(self.atoms)}, 3)")
        fixed = surroundings[self.involved[len(self.atoms):]]
        x = torch.cat([candidates, fixed.expand(len(candidates), -1, -1)], dim=1)
        energies: dict[str, torch.Tensor] = {}
        for part in self.bonded:
            _add(energies, part.kind, part.energies(x, box).sum(-1))
        for part in self.nonbonded:
            cell = box if part.settings.periodic else None
            exceptions = part.exception_energies(x, cell)
            inner, outer = self._inner(part, candidates, cell), self._outer(part, candidates, surroundings, cell)
            for name, *pieces in zip(("lj", "coulomb"), exceptions, inner, outer, strict=True):
                _add(energies, name, sum(piece.sum(-1) for piece in pieces))
        return energies

    def total(self, candidates: torch.Tensor, surroundings: torch.Tensor, box=None) -> torch.Tensor:
        """Local energy (n_candidates,), kJ/mol; arguments as for :meth:`terms`."""
        return sum(self.terms(candidates, surroundings, box).values(), candidates.new_zeros(len(candidates)))

    def _inner(self, part: Nonbonded, candidates: torch.Tensor, box):
        """Energies of pairs of local atoms, each (n_candidates, n_pairs)."""
        pairs = torch.triu_indices(len(self.atoms), len(self.atoms), 1, device=candidates.device)
        i, j = pairs[:, part.allowed(self.atoms[pairs[0]], self.atoms[pairs[1]])]
        r = distances(minimum_image(candidates[:, i] - candidates[:, j], box))
        return part.pair_energies(r, self.atoms[i], self.atoms[j], local=True)

    def _outer(self, part: Nonbonded, candidates: torch.Tensor, surroundings: torch.Tensor, box):
        """Energies of pairs of a local atom and one of the surroundings, each (n_candidates, n_pairs)."""
        near = _in_reach(candidates.detach(), surroundings.detach(), box, part.settings.cutoff_nm)
        near[:, self.atoms] = False
        i, j = torch.nonzero(near, as_tuple=True)
        allowed = part.allowed(self.atoms[i], j)
        i, j = i[allowed], j[allowed]
        r = distances(minimum_image(candidates[:, i] - surroundings[j], box))
        return part.pair_energies(r, self.atoms[i], j, local=True)


def _in_reach(candidates: torch.Tensor, surroundings: torch.Tensor, box, cutoff: float | None) -> torch.Tensor:
    """Which atoms (n_local, n_atoms) may lie within the cutoff of any placement of each local atom."""
    everything = torch.ones((candidates.shape[1], len(surroundings)), dtype=torch.bool, device=candidates.device)
    if cutoff is None:
        return everything
    centres = candidates.mean(dim=0)
    reach = cutoff + torch.linalg.norm(candidates - centres, dim=-1).amax(dim=0)
    if box is not None and reach.max() > 0.5 * box.diagonal().min():
        return everything   # nearest images of the centres are not certain that far out
    vectors = minimum_image(surroundings - centres[:, None], box)
    return (vectors * vectors).sum(-1) <= reach[:, None] ** 2
