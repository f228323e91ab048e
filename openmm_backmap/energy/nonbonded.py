"""Lennard-Jones and Coulomb energies in torch, as OpenMM's NonbondedForce defines them."""

from __future__ import annotations

import dataclasses
import itertools
import math
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.checkpoint import checkpoint

from openmm_backmap.energy.neighbours import minimum_image, pairs_within
from openmm_backmap.energy.terms import distances

ONE_4PI_EPS0 = 138.93545764438198
_RECIPROCAL_TOLERANCE = 1e-6
_CHUNK = 4_000_000


@dataclass(frozen=True)
class NonbondedSettings:
    """How far pairs see each other.

    Attributes
    ----------
    electrostatics : str
        ``bare`` (all pairs), ``reaction-field`` or ``ewald``.
    cutoff_nm : float or None
    switch_nm : float or None
        Where the switching function of Lennard-Jones sets in.
    periodic, periodic_exceptions : bool
        Whether pairs, and exceptions, take nearest images.
    dielectric : float
        Of the surroundings beyond the cutoff; reaction field only.
    ewald_alpha : float, 1/nm
    tail_kJ_nm3 : float
        Dispersion correction times the volume.
    """

    electrostatics: str
    cutoff_nm: float | None
    switch_nm: float | None
    periodic: bool
    periodic_exceptions: bool
    dielectric: float
    ewald_alpha: float
    tail_kJ_nm3: float


@dataclass(frozen=True)
class Nonbonded:
    """Lennard-Jones and Coulomb interactions of all atoms.

    Attributes
    ----------
    charges, sigmas, epsilons : Tensor, shape (n_atoms,), e, nm, kJ/mol
    exceptions : Tensor of int, shape (n_exceptions, 2)
        Pairs that interact differently or not at all.
    exception_parameters : Tensor, shape (n_exceptions, 3)
        Charge product (e^2), sigma (nm), epsilon (kJ/mol).
    exception_keys : Tensor of int, shape (n_exceptions,)
        Sorted i * n_atoms + j with i < j.
    settings : NonbondedSettings
    """

    charges: torch.Tensor
    sigmas: torch.Tensor
    epsilons: torch.Tensor
    exceptions: torch.Tensor
    exception_parameters: torch.Tensor
    exception_keys: torch.Tensor
    settings: NonbondedSettings

    def terms(self, x: torch.Tensor, box: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        """Lennard-Jones and Coulomb energies, each (n_samples,), kJ/mol, of ``x`` (n_samples, n_atoms, 3), nm."""
        box = box if self.settings.periodic else None
        pairs = self._pairs(x, box)
        counts = [len(p) for p in pairs]
        sample = torch.repeat_interleave(torch.arange(len(x)), torch.tensor(counts)).to(x.device)
        i, j = torch.cat(pairs).unbind(1)
        r = distances(minimum_image(x[sample, i] - x[sample, j], box))
        lj, coulomb = (torch.stack([part.sum() for part in e.split(counts)]) for e in self.pair_energies(r, i, j))
        lj_exceptions, coulomb_exceptions = self.exception_energies(x, box)
        lj, coulomb = lj + lj_exceptions.sum(-1), coulomb + coulomb_exceptions.sum(-1)
        if self.settings.electrostatics == "ewald":
            coulomb = coulomb + self._ewald(x, box)
        if box is not None:
            lj = lj + self.settings.tail_kJ_nm3 / torch.linalg.det(box)
        return lj, coulomb

    def touching(self, atoms: torch.Tensor) -> Nonbonded:
        """The same, with only those exceptions in which one of ``atoms`` takes part."""
        keep = torch.isin(self.exceptions, atoms).any(dim=1)
        return dataclasses.replace(self, exceptions=self.exceptions[keep],
                                   exception_parameters=self.exception_parameters[keep])

    def allowed(self, i: torch.Tensor, j: torch.Tensor) -> torch.Tensor:
        """Which of the pairs ``i``, ``j`` (n_pairs,) are no exceptions."""
        keys = torch.minimum(i, j) * len(self.charges) + torch.maximum(i, j)
        if not len(self.exception_keys):
            return torch.ones_like(keys, dtype=torch.bool)
        at = torch.searchsorted(self.exception_keys, keys).clamp(max=len(self.exception_keys) - 1)
        return self.exception_keys[at] != keys

    def pair_energies(self, r: torch.Tensor, i: torch.Tensor, j: torch.Tensor,
                      local: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
        """Lennard-Jones and direct-space Coulomb energies of pairs ``i``, ``j`` (n_pairs,) at distances ``r``.

        ``local`` replaces the direct part of an Ewald sum, which is nothing by itself, by a reaction field with a
        conductor beyond the cutoff: the energy of a group of atoms in its surroundings.
        """
        s = self.settings
        lj = lennard_jones(r, 0.5 * (self.sigmas[i] + self.sigmas[j]), torch.sqrt(self.epsilons[i] * self.epsilons[j]))
        coulomb = ONE_4PI_EPS0 * self.charges[i] * self.charges[j] * self._coulomb_of_unit_charges(r, local)
        if s.cutoff_nm is None:
            return lj, coulomb
        if s.switch_nm is not None:
            lj = lj * switch(r, s.switch_nm, s.cutoff_nm)
        inside = r < s.cutoff_nm
        return torch.where(inside, lj, 0.0), torch.where(inside, coulomb, 0.0)

    def exception_energies(self, x: torch.Tensor, box: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        """Lennard-Jones and bare Coulomb energies of the exceptions, each (..., n_exceptions)."""
        r = self._exception_distances(x, box)
        product, sigma, epsilon = self.exception_parameters.unbind(-1)
        return lennard_jones(r, sigma, epsilon), ONE_4PI_EPS0 * product / r

    def _exception_distances(self, x: torch.Tensor, box: torch.Tensor | None) -> torch.Tensor:
        ends = x[..., self.exceptions, :]
        images = box if self.settings.periodic_exceptions else None
        return distances(minimum_image(ends[..., 0, :] - ends[..., 1, :], images))

    def _pairs(self, x: torch.Tensor, box: torch.Tensor | None) -> list[torch.Tensor]:
        samples = x.detach().cpu().numpy().astype(float)
        cell = None if box is None else box.detach().cpu().numpy().astype(float)
        found = []
        for sample in samples:
            pairs = torch.as_tensor(pairs_within(sample, cell, self.settings.cutoff_nm), device=x.device)
            found.append(pairs[self.allowed(pairs[:, 0], pairs[:, 1])])
        return found

    def _coulomb_of_unit_charges(self, r: torch.Tensor, local: bool) -> torch.Tensor:
        s = self.settings
        if s.electrostatics == "bare":
            return 1 / r
        if s.electrostatics == "ewald" and not local:
            return torch.erfc(s.ewald_alpha * r) / r
        # Tironi et al., J. Chem. Phys. 102, 5451 (1995); a conductor is the limit of a large dielectric constant.
        k, c = (0.5, 1.5) if s.electrostatics == "ewald" else (
            (s.dielectric - 1) / (2 * s.dielectric + 1), 3 * s.dielectric / (2 * s.dielectric + 1))
        return 1 / r + k * r * r / s.cutoff_nm ** 3 - c / s.cutoff_nm

    def _ewald(self, x: torch.Tensor, box: torch.Tensor) -> torch.Tensor:
        """Reciprocal, self and exclusion part of the Ewald sum, (n_samples,); a net charge is neutralised evenly."""
        alpha, volume = self.settings.ewald_alpha, torch.linalg.det(box)
        i, j = self.exceptions.unbind(1)
        r = self._exception_distances(x, box)
        excluded = (self.charges[i] * self.charges[j] * torch.erf(alpha * r) / r).sum(-1)
        own = alpha / math.sqrt(math.pi) * (self.charges ** 2).sum()
        background = math.pi / (2 * alpha ** 2 * volume) * self.charges.sum() ** 2
        return ONE_4PI_EPS0 * (self._reciprocal(x, box) - excluded - own - background)

    def _reciprocal(self, x: torch.Tensor, box: torch.Tensor) -> torch.Tensor:
        alpha = self.settings.ewald_alpha
        waves = wave_vectors(box, 2 * alpha * math.sqrt(-math.log(_RECIPROCAL_TOLERANCE)))
        squares = (waves * waves).sum(-1)
        # Half of the wave vectors, hence twice 2 pi.
        weights = 4 * math.pi / torch.linalg.det(box) * torch.exp(-squares / (4 * alpha ** 2)) / squares
        charged = torch.nonzero(self.charges).squeeze(1)
        x, charges = x[:, charged], self.charges[charged]
        size = max(1, _CHUNK // max(1, x.shape[0] * x.shape[1]))
        chunks = list(zip(waves.split(size), weights.split(size), strict=True))
        if len(chunks) == 1:
            return _structure_energy(x, charges, *chunks[0])
        # Phases are computed again in the backward pass: all of them would fill the memory.
        return sum(checkpoint(_structure_energy, x, charges, *chunk, use_reentrant=False) for chunk in chunks)


def _structure_energy(x, charges, waves, weights) -> torch.Tensor:
    phase = x @ waves.T
    real, imaginary = ((charges[:, None] * f(phase)).sum(1) for f in (torch.cos, torch.sin))
    return (weights * (real ** 2 + imaginary ** 2)).sum(-1)


def wave_vectors(box: torch.Tensor, longest: float) -> torch.Tensor:
    """Vectors of the reciprocal lattice of ``box`` no longer than ``longest``, 1/nm, one of each pair k, -k."""
    edges = torch.linalg.norm(box, dim=1)
    highest = [int(n) for n in torch.floor(longest * edges / (2 * math.pi))]
    a, b, c = (torch.arange(-n, n + 1, device=box.device) for n in highest)
    indices = torch.cartesian_prod(a, b, c)
    na, nb, nc = indices.unbind(1)
    half = (na > 0) | ((na == 0) & ((nb > 0) | ((nb == 0) & (nc > 0))))
    waves = indices[half].to(box.dtype) @ (2 * math.pi * torch.linalg.inv(box).T)
    return waves[(waves * waves).sum(-1) <= longest ** 2]


def lennard_jones(r: torch.Tensor, sigma: torch.Tensor, epsilon: torch.Tensor) -> torch.Tensor:
    """4 epsilon ((sigma/r)^12 - (sigma/r)^6)."""
    attraction = (sigma / r) ** 6
    return 4 * epsilon * attraction * (attraction - 1)


def switch(r, start: float, cutoff: float):
    """1 up to ``start``, 0 beyond ``cutoff``, with two continuous derivatives; for tensors."""
    t = torch.clamp((r - start) / (cutoff - start), 0, 1)
    return 1 + t ** 3 * (-10 + t * (15 - 6 * t))


def dispersion_tail(sigmas: np.ndarray, epsilons: np.ndarray, cutoff: float, start: float | None) -> float:
    """Mean Lennard-Jones energy beyond the cutoff, and of what the switching function takes away, times the volume.

    Averages over all pairs of atoms, each atom with itself included, as OpenMM does (Shirts et al.,
    J. Phys. Chem. B 111, 13052 (2007)).

    Parameters
    ----------
    sigmas, epsilons : ndarray, shape (n_atoms,), nm, kJ/mol
    cutoff, start : float, nm
        ``start`` of the switching function, or None.
    """
    kinds, count = np.unique(np.stack([sigmas, epsilons], axis=1), axis=0, return_counts=True)
    repulsion, attraction = 1 / (9 * cutoff ** 9), 1 / (3 * cutoff ** 3)
    if start is not None:
        nodes, weights = np.polynomial.legendre.leggauss(64)
        r = 0.5 * (cutoff - start) * nodes + 0.5 * (cutoff + start)
        lost = 0.5 * (cutoff - start) * weights * (1 - switch(torch.as_tensor(r), start, cutoff).numpy())
        repulsion, attraction = repulsion + (lost / r ** 10).sum(), attraction + (lost / r ** 4).sum()
    total = 0.0
    for (p, (s1, e1)), (q, (s2, e2)) in itertools.combinations_with_replacement(enumerate(kinds), 2):
        n = count[p] * (count[p] + 1) / 2 if p == q else count[p] * count[q]
        sixth = (0.5 * (s1 + s2)) ** 6
        total += n * np.sqrt(e1 * e2) * sixth * (sixth * repulsion - attraction)
    n = len(sigmas)
    return float(8 * np.pi * n ** 2 * total / (n * (n + 1) / 2))
