"""Training of the ``cvae`` family on consecutive frames (Shmilovich et al. 2022, secs. 2.3 and 2.4)."""

from __future__ import annotations

import copy

import numpy as np
import torch

from openmm_backmap.energy.bridge import TorchEnergy
from openmm_backmap.errors import InputError, MissingDependencyError
from openmm_backmap.generators.coherent.cvae import CVAEGenerator, LatentMixture, Seeds, Sight, mapping_of, sight
from openmm_backmap.generators.coherent.cvae_network import CVAENetwork
from openmm_backmap.generators.coherent.frames import BeadShape
from openmm_backmap.generators.dbm.energies import flexible_energy
from openmm_backmap.model_file import ModelFile
from openmm_backmap.training.cvae_losses import (
    distance_loss,
    divergence_loss,
    energy_loss,
    position_loss,
    voxel_loss,
)
from openmm_backmap.training.cvae_settings import CVAETraining
from openmm_backmap.training.dataset import Dataset
from openmm_backmap.training.loop import NetworkTrainer
from openmm_backmap.training.pairs import Pairs, check_same_molecule

_FRAMES = 5000
_ENCODED_AT_ONCE = 500
_SPREAD = 1e-4


class _SeenPairs:
    """Pairs of frames as the networks see them, made once for all batches."""

    def __init__(self, pairs: Pairs, view: Sight, device: str):
        self.pairs, self.turned, self.device = pairs, view.shape is None, device
        self.atoms = torch.cat([view.seen(x) for x in pairs.positions.split(_FRAMES)])

    def draw(self, n: int, seed: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """Atoms (n, n_atoms, 3), nm, of frames before and after; in one random orientation a pair, unless molecules
        are laid upon their shape."""
        before, after = (self.atoms[k] for k in self.pairs.draw(n, seed))
        if self.turned:
            turn = random_rotations(n, seed)
            before, after = before @ turn, after @ turn
        return before.to(self.device), after.to(self.device)


class CVAETrainer(NetworkTrainer):
    """A training run.

    Parameters
    ----------
    dataset, validation : Dataset
    settings : CVAETraining
    device : str
    start : ModelFile, optional
        Begin with the networks of this model.
    """

    settings_type, loss_unit, starts = CVAETraining, "angstrom^2", True

    def __init__(self, dataset: Dataset, validation: Dataset, settings: CVAETraining, device: str = "cpu",
                 start: ModelFile | None = None):
        _mixture_type()
        super().__init__(settings, dataset.chemistry, device)
        pairs, held_out = Pairs.of(dataset), Pairs.of(validation)
        self.molecule, mapping = pairs.molecule, mapping_of(pairs.molecule)
        check_same_molecule(self.molecule, held_out.molecule)
        torch.manual_seed(settings.seed)
        hyper = settings.network
        self.network = CVAENetwork(hyper, self.molecule.n_atoms, self.molecule.n_beads).to(device)
        given = None if start is None else self._given(start)
        self.shape = given.shape if given else BeadShape.of(mapping @ _some(pairs.positions, _FRAMES))
        view = sight(hyper, mapping, self.shape)
        self.batches, self.held_out = _SeenPairs(pairs, view, device), _SeenPairs(held_out, view, device)
        self._check_room()
        self.mapping = mapping.to(device)
        if hyper.guess and given is None:
            self.network.set_guess(self._regression())
        self.energy = self._energy(dataset) if settings.energy else None
        self.average = copy.deepcopy(self.network).requires_grad_(False)
        self.optimizer = torch.optim.Adam(self.network.parameters(), settings.learning_rate)
        #: (step, mean of each part of the loss since the record before)
        self.records: list[tuple[int, dict[str, float]]] = []

    def _given(self, start: ModelFile) -> CVAEGenerator:
        given = CVAEGenerator.from_model(start, self.device)
        if given.network.hyper != self.settings.network or given.molecule.chains != self.molecule.chains:
            raise InputError(f"{start.name}: its network or its molecule is not that of this training: give the same "
                             "'network:' settings and chemistry")
        self.network.load_state_dict(given.network.state_dict())
        return given

    def _check_room(self) -> None:
        """The grid has to hold the Gaussians of all atoms, in every orientation that they come in."""
        hyper, x = self.settings.network, self.batches.atoms
        farthest = float((x.norm(dim=2) if self.batches.turned else x.abs()).max())
        if farthest > hyper.edge_nm / 2 - hyper.sigma_nm:
            raise InputError(f"edge_nm is {hyper.edge_nm:g}, and atoms reach {farthest:.2f} nm from the middle: give "
                             f"at least {2 * (farthest + hyper.sigma_nm):.2f}")

    def _energy(self, dataset: Dataset) -> TorchEnergy:
        """That of one molecule by itself, bonds included."""
        own = dataset.systems[0].energy
        if own is None or own.n_atoms != self.molecule.n_atoms or any(p.settings.periodic for p in own.nonbonded):
            try:
                own = flexible_energy(self.molecule, None)
            except ImportError:
                raise MissingDependencyError("the data set holds no energy of a molecule, and OpenMM, which makes it, "
                                             "is not installed: train with 'energy: 0'") from None
        return own.to(self.device, torch.float64)

    def _regression(self) -> torch.Tensor:
        """Weights (n_atoms, n_beads + n_atoms), of sum 1, that best make atoms of beads and former atoms."""
        before, after = self.batches.draw(_FRAMES, torch.Generator().manual_seed(self.settings.seed))
        given = torch.cat([self.mapping @ after, before], 1).double()
        first = given[:, :1]
        x = (given - first)[:, 1:].transpose(1, 2).flatten(0, 1)
        y = (after.double() - first).transpose(1, 2).flatten(0, 1)
        ridge = _SPREAD**2 * len(x) * torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
        weights = torch.linalg.solve(x.T @ x + ridge, x.T @ y).T
        return torch.cat([1 - weights.sum(1, keepdim=True), weights], 1)

    def _record(self, parts: list[dict[str, float]]) -> dict[str, float]:
        means = super()._record(parts)
        self.records.append((self.step, means))
        return means

    def _update(self) -> dict[str, float]:
        weight = self.settings.energy_weight(self.step)
        parts = self._parts(self.network, self.batches, self.seed, self.energy if weight else None)
        loss = self._reconstruction(parts) + self.settings.divergence_weight(self.step) * parts["divergence"]
        if weight:
            loss = loss + weight * parts["energy"]
        self._descend(self.optimizer, loss, self.settings.rate(self.step))
        return {**{name: part.item() for name, part in parts.items()}, "loss": self._reconstruction(parts).item()}

    def _clip(self, parameters: list[torch.nn.Parameter]) -> torch.Tensor:
        norm = super()._clip(parameters)
        # The gradients of a finite energy may not be.
        self._check_finite(norm)
        return norm

    def _loss(self, network: CVAENetwork, batches: _SeenPairs, seed: torch.Generator) -> torch.Tensor:
        """Reconstruction, angstrom^2: what is comparable on held-out pairs."""
        return self._reconstruction(self._parts(network, batches, seed, None))

    def _reconstruction(self, parts: dict[str, torch.Tensor]) -> torch.Tensor:
        """What does not change its weight: comparable throughout a run."""
        return sum(getattr(self.settings, name) * parts[name] for name in ("voxel", "position", "beads", "distances"))

    def _parts(self, network: CVAENetwork, batches: _SeenPairs, seed: torch.Generator,
               energy: TorchEnergy | None) -> dict[str, torch.Tensor]:
        """The parts of eq. 3 for a random batch, the energy only where it is given."""
        before, after = batches.draw(self.settings.pairs, seed)
        beads, previous = self.mapping @ after, self._blurred(before, seed)
        mean, log_variance = network.encode(after, beads, previous)
        noise = torch.randn(mean.shape, generator=seed).to(self.device)
        density, atoms = network.decode(beads, previous, mean + (0.5 * log_variance).exp() * noise)
        parts = {"voxel": voxel_loss(density, network.grid.gaussians(after)),
                 "position": position_loss(atoms, after), "beads": position_loss(self.mapping @ atoms, beads),
                 "distances": distance_loss(atoms, after), "divergence": divergence_loss(mean, log_variance)}
        if energy is not None:
            self._check_finite(atoms)
            parts["energy"] = energy_loss(energy, atoms, after, self.settings.damping_kJ)
        return parts

    def _blurred(self, before: torch.Tensor, seed: torch.Generator) -> torch.Tensor:
        """Frames before, some of them with noise."""
        size = self.settings.jitter_nm * (torch.rand(len(before), 1, 1, generator=seed) * 2 - 1).clamp(min=0)
        return before + (size * torch.randn(before.shape, generator=seed)).to(self.device)

    def generator(self) -> CVAEGenerator:
        """The generator with the averaged weights, and a mixture fitted to what they make of the training set."""
        return CVAEGenerator(self.molecule, copy.deepcopy(self.average), self._mixture(), self._seeds(), self.shape,
                             self.device)

    @torch.no_grad()
    def _mixture(self) -> LatentMixture:
        """Fitted to one latent vector, drawn as in training, of each of many training pairs."""
        seed, latent = torch.Generator().manual_seed(self.settings.seed), []
        for _ in range(max(1, self.settings.encoded // _ENCODED_AT_ONCE)):
            before, after = self.batches.draw(_ENCODED_AT_ONCE, seed)
            mean, log_variance = self.average.encode(after, self.mapping @ after, before)
            noise = torch.randn(mean.shape, generator=seed).to(self.device)
            latent.append((mean + (0.5 * log_variance).exp() * noise).cpu().numpy())
        fitted = _mixture_type()(self.settings.components, random_state=self.settings.seed, reg_covar=_SPREAD).fit(
            np.concatenate(latent).astype(float))
        return LatentMixture(*(torch.as_tensor(part, dtype=torch.float32) for part in (
            fitted.weights_, fitted.means_, np.linalg.cholesky(fitted.covariances_))))

    def _seeds(self) -> Seeds:
        pairs = self.batches.pairs
        k = _some(torch.arange(len(pairs.later)), self.settings.seeds)
        beads = mapping_of(self.molecule) @ pairs.positions[pairs.later[k]]
        return Seeds(beads - beads.mean(1, keepdim=True), pairs.positions[pairs.later[k] - pairs.step[k]])

    def state(self) -> dict:
        """See :meth:`NetworkTrainer.state`."""
        return {**super().state(), "records": self.records}

    def load_state(self, state: dict, where: str = "checkpoint") -> None:
        """See :meth:`NetworkTrainer.load_state`."""
        super().load_state(state, where)
        self.records = [tuple(row) for row in state["records"]]


def _mixture_type() -> type:
    """Asked for at the beginning of a training, so that it is not missed at the end."""
    try:
        from sklearn.mixture import GaussianMixture
    except ImportError:
        raise MissingDependencyError("training a cvae fits a Gaussian mixture to its latent vectors, and scikit-learn, "
                                     "which does that, is not installed: pip install scikit-learn") from None
    return GaussianMixture


def random_rotations(n: int, seed: torch.Generator) -> torch.Tensor:
    """Uniform rotations (n, 3, 3): unit quaternions of four normal numbers (Shoemake, Graphics Gems III (1992))."""
    w, x, y, z = torch.nn.functional.normalize(torch.randn(n, 4, generator=seed), dim=1).unbind(1)
    rows = [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w),
            2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w),
            2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)]
    return torch.stack(rows, 1).view(n, 3, 3)


def _some(values: torch.Tensor, n: int) -> torch.Tensor:
    """About ``n`` of them, spread evenly over all."""
    return values[::max(1, len(values) // n)]
