"""The ``coherent-beads`` family: the bead-wise flow, each bead told where its atoms were one frame before.

What a bead sees is local, whatever the size of the molecule, and its atoms are drawn given those of other beads around
it: this is for molecules whose whole conformation no training set covers. The path begins at the atoms of the frame
before, in the frame of the bead.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from functools import lru_cache

import numpy as np
import torch
from torch import nn

from openmm_backmap.chemistry import Target, build_target
from openmm_backmap.environments.local import BeadSurroundings, Environment, TargetTables, Vocabulary, bead_frames
from openmm_backmap.errors import InputError
from openmm_backmap.generators.coherent.base import CoherentGenerator
from openmm_backmap.generators.flow.generator import BaseDistribution, FlowSampling, integrated, packed, unpacked
from openmm_backmap.generators.flow.network import SCALE, Context, FlowHyperparameters, FlowNetwork
from openmm_backmap.geometry.checks import mapped
from openmm_backmap.geometry.hydrogens import with_ordered_hydrogens
from openmm_backmap.model_file import ModelFile
from openmm_backmap.sampling.sweeps import Noise, SweepSettings, sample_beads

#: molecules that do not see each other, side by side: nm from one to the next
APART_NM = 8.0
#: one pass and few steps: atoms of a frame before leave little to find, and dynamics with the beads held follows
DEFAULT_SWEEPS, DEFAULT_SAMPLING = SweepSettings(gibbs=0, max_redraws=5), FlowSampling(steps=2)


@dataclass(frozen=True)
class FollowedEnvironment(Environment):
    """Environments with the frame before.

    Attributes
    ----------
    past : (B, S, 3), nm
        Own atoms one frame before, in the bead's frame of then.
    known : (B,) bool
        Whether there is a frame before.
    """

    past: torch.Tensor
    known: torch.Tensor


class FollowedSurroundings(BeadSurroundings):
    """Surroundings of beads whose atoms one frame before were at ``previous`` (n_atoms, 3), nm, if that is known."""

    def __init__(self, tables: TargetTables, beads: np.ndarray, n_atoms: int, n_beads: int,
                 previous: np.ndarray | None = None):
        super().__init__(tables, beads, None, n_atoms, n_beads)
        target, device = tables.target, tables.device
        self.known = torch.full((target.n_beads,), previous is not None, device=device)
        self.past = torch.zeros(*tables.atoms_of_bead.shape, 3, device=device)
        if previous is not None:
            centres = mapped(target, previous)
            atoms = tables.atoms_of_bead.cpu().numpy()
            apart = (previous[atoms] - centres[:, None]) * (atoms >= 0)[..., None]
            local = np.einsum("bsi,bki->bsk", apart, bead_frames(target, centres, None))
            self.past = torch.as_tensor(local, dtype=torch.float32, device=device)

    def environment(self, bead: torch.Tensor, positions: torch.Tensor, shown: torch.Tensor) -> FollowedEnvironment:
        found = super().environment(bead, positions, shown)
        return FollowedEnvironment(**vars(found), past=self.past[bead][:, :found.slot.shape[1]], known=self.known[bead])


class SideBySide:
    """``n`` molecules of one kind as one target, far from each other."""

    def __init__(self, molecule: Target, n: int, vocabulary: Vocabulary, device: str = "cpu"):
        self.target = build_target(molecule.chemistry, list(molecule.chains) * n)
        self.tables = TargetTables(self.target, vocabulary, device)
        edge = int(np.ceil(n ** (1 / 3)))
        self.places = APART_NM * np.stack(np.unravel_index(np.arange(n), (edge,) * 3), axis=1)[:, None].astype(float)

    def joined(self, positions: np.ndarray, centres: np.ndarray) -> np.ndarray:
        """(n * m, 3) of positions (n, m, 3), nm, each molecule's centre (n, 1, 3) at its place."""
        return (positions - centres + self.places).reshape(-1, 3)

    def parted(self, positions: np.ndarray, centres: np.ndarray) -> np.ndarray:
        """The inverse of :meth:`joined`."""
        return positions.reshape(len(centres), -1, 3) - self.places + centres


class FollowingNetwork(FlowNetwork):
    """v(x_t, t | environment, own atoms one frame before)."""

    def __init__(self, hyper: FlowHyperparameters, n_slots: int, n_bead_types: int):
        super().__init__(hyper, n_slots, n_bead_types)
        d = hyper.width
        self.past = nn.Sequential(nn.Linear(3, d), nn.SiLU(), nn.Linear(d, d))
        self.fresh = nn.Parameter(torch.zeros(d))

    def encode(self, env: FollowedEnvironment) -> Context:
        context = super().encode(env)
        known = env.known[:, None, None].float()
        return replace(context, slot=context.slot + self.past(env.past * SCALE) * known + self.fresh * (1 - known))


@dataclass(frozen=True)
class FollowingBase(BaseDistribution):
    """Where paths begin: about the atoms of the frame before with a width of ``step`` (n_slots,), angstrom."""

    step: torch.Tensor

    def of(self, env: FollowedEnvironment) -> tuple[torch.Tensor, torch.Tensor]:
        mean, spread = super().of(env)
        known = env.known[:, None, None]
        return torch.where(known, env.past * SCALE, mean), torch.where(known, self.step[env.slot][..., None], spread)


class CoherentBeadsGenerator(CoherentGenerator):
    """Draws the atoms of one bead after another, those of all molecules side by side.

    Parameters
    ----------
    molecule : Target
        One molecule.
    network : FollowingNetwork
    base : FollowingBase
    vocabulary : Vocabulary
    """

    family, default_refine = "coherent-beads", "equilibrate"
    #: frames that are drawn between two signs of life: a frame takes seconds
    stretch = 10

    def __init__(self, molecule: Target, network: FollowingNetwork, base: FollowingBase, vocabulary: Vocabulary,
                 device: str = "cpu", sampling: FlowSampling = DEFAULT_SAMPLING,
                 sweeps: SweepSettings = DEFAULT_SWEEPS):
        super().__init__(molecule)
        self.network, self.base, self.vocabulary = network.to(device).eval(), base.to(device), vocabulary
        self.device, self.sampling, self.sweeps = device, sampling, sweeps
        self._side_by_side = lru_cache(maxsize=2)(lambda n: SideBySide(molecule, n, vocabulary, device))

    @classmethod
    def from_model(cls, model: ModelFile, device: str = "cpu") -> CoherentBeadsGenerator:
        """From a model file; :class:`InputError` where its content does not fit together."""
        try:
            molecule = build_target(model.chemistry, [model.hyperparameters["chain"]])
            network, base, vocabulary = unpacked(model, FollowingNetwork, FollowingBase)
            if set(Vocabulary.of(molecule).slots) - set(vocabulary.slots):
                raise ValueError("atoms of another molecule")
            sampling = FlowSampling(**model.hyperparameters["sampling"])
            sweeps = SweepSettings(**model.hyperparameters["sweeps"])
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise InputError(f"{model.name}: weights and hyperparameters do not fit together "
                             f"({str(error).splitlines()[0][:120]})") from None
        return cls(molecule, network, base, vocabulary, device, sampling, sweeps)

    def to_model(self, chemistry, provenance: dict) -> ModelFile:
        """Pack everything into a model file."""
        weights, hyperparameters = packed(self.network, self.base, self.vocabulary)
        return ModelFile(
            family=self.family, weights=weights, chemistry_source=chemistry.source,
            force_field_xml=chemistry.force_field_xml, provenance=provenance, hyperparameters={
                **hyperparameters, "sampling": asdict(self.sampling), "sweeps": asdict(self.sweeps),
                "chain": list(self.molecule.chains[0])})

    @torch.inference_mode()
    def step(self, beads: np.ndarray, previous: np.ndarray | None, rng: np.random.Generator) -> np.ndarray:
        """See :meth:`CoherentGenerator.step`."""
        together, hyper = self._side_by_side(len(beads)), self.network.hyper
        centres = beads.mean(1, keepdims=True)
        before = None if previous is None else together.joined(previous, previous.mean(1, keepdims=True))
        around = FollowedSurroundings(together.tables, together.joined(beads, centres), hyper.context_atoms,
                                      hyper.context_beads, before)
        drawn = sample_beads(around, None, self._draw, self.sweeps, rng)
        return with_ordered_hydrogens(self.molecule, together.parted(drawn.cpu().numpy().astype(float), centres))

    def _draw(self, env: FollowedEnvironment, noise: Noise) -> torch.Tensor:
        return integrated(self.network, self.base, self.sampling, env, noise)
