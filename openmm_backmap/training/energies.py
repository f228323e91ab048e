"""Energies of systems as plain arrays: a machine that trains needs no OpenMM then."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict

import numpy as np
import torch

from openmm_backmap.energy.bridge import TorchEnergy
from openmm_backmap.energy.nonbonded import Nonbonded, NonbondedSettings
from openmm_backmap.energy.terms import BondedTerms

_NONBONDED = ("charges", "sigmas", "epsilons", "exceptions", "exception_parameters", "exception_keys")


def energies_to_arrays(energies: Sequence[TorchEnergy]) -> tuple[list[dict], dict[str, np.ndarray]]:
    """What :func:`energies_from_arrays` reads: a header of plain values, and arrays by name."""
    arrays, header = {}, []
    for n, energy in enumerate(energies):
        header.append({"n_atoms": energy.n_atoms, "bonded": [[p.kind, p.periodic] for p in energy.bonded],
                       "nonbonded": [asdict(p.settings) for p in energy.nonbonded]})
        for k, part in enumerate(energy.bonded):
            arrays[f"{n}_{k}_atoms"], arrays[f"{n}_{k}_parameters"] = part.atoms.numpy(), part.parameters.numpy()
        for k, part in enumerate(energy.nonbonded):
            arrays.update({f"{n}_{k}_{name}": getattr(part, name).numpy() for name in _NONBONDED})
    return header, arrays


def energies_from_arrays(header: list[dict], arrays: Mapping[str, np.ndarray]) -> tuple[TorchEnergy, ...]:
    """The energies; KeyError, TypeError or ValueError where these are not such arrays."""
    tensor = lambda name: torch.as_tensor(arrays[name])  # noqa: E731
    return tuple(TorchEnergy(
        h["n_atoms"],
        tuple(BondedTerms(kind, tensor(f"{n}_{k}_atoms"), tensor(f"{n}_{k}_parameters"), periodic)
              for k, (kind, periodic) in enumerate(h["bonded"])),
        tuple(Nonbonded(**{name: tensor(f"{n}_{k}_{name}") for name in _NONBONDED},
                        settings=NonbondedSettings(**settings))
              for k, settings in enumerate(h["nonbonded"])))
        for n, h in enumerate(header))
