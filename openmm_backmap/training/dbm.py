"""Training of the ``dbm`` family: a supervised warm start, then the adversarial game on unrolled sequences.

The warm start draws each atom twice from its environment in the reference and lowers the energy score, which is least
where the draws are distributed as the reference: it needs no critic, and leaves a generator that places atoms about
right, with about the right spread. The game is that of Stieffenhofer et al. (2020, 2021; thesis 4.4, 4.5).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
import torch

from openmm_backmap.chemistry import Target
from openmm_backmap.energy.bridge import TorchEnergy
from openmm_backmap.environments.voxel_channels import Channels, with_default
from openmm_backmap.environments.voxels import turned
from openmm_backmap.errors import InputError
from openmm_backmap.generators.dbm.generator import DBMGenerator
from openmm_backmap.generators.dbm.network import DBMCritic, DBMNetwork, precision
from openmm_backmap.generators.dbm.placing import Scene, place
from openmm_backmap.model_file import ModelFile
from openmm_backmap.training.dataset import Dataset
from openmm_backmap.training.dbm_data import Batch, SnapshotBatches, load_energies, system_energies
from openmm_backmap.training.dbm_losses import (
    BONDED,
    centre_of_mass_loss,
    critic_loss,
    energy_score,
    gradient_penalty,
    prior_loss,
)
from openmm_backmap.training.dbm_ranks import Ranks
from openmm_backmap.training.dbm_settings import DBMTraining
from openmm_backmap.training.dbm_validation import Comparison
from openmm_backmap.training.loop import NetworkTrainer, cosine

ANGSTROM = 10.0
_VALIDATION_BEADS = 64


class DBMTrainer(NetworkTrainer):
    """A training run.

    Under ``torchrun`` every process makes the same trainer; each takes its part of a batch, gradients are averaged,
    and only the process with ``writes`` may write files.

    Parameters
    ----------
    dataset, validation : Dataset
    settings : DBMTraining
    device : str
    energies : sequence of TorchEnergy, optional
        One for each system of ``dataset``, where a prior needs them; by default read from ``settings.energies``,
        or else those that the data set holds, or else made by OpenMM.
    start : ModelFile, optional
        Begin with the generator of this model; its channels are taken where ``settings`` name none.
    """

    settings_type, loss_unit, starts = DBMTraining, "angstrom", True
    kept, rate_setting = ("network", "critic", "average"), "the learning rate"

    def __init__(self, dataset: Dataset, validation: Dataset, settings: DBMTraining, device: str = "cpu",
                 energies: Sequence[TorchEnergy] | None = None, start: ModelFile | None = None):
        self.ranks = Ranks.from_environment(device)
        super().__init__(settings, dataset.chemistry, self.ranks.device(device))
        if settings.beads % self.ranks.world:
            raise InputError(f"beads is {settings.beads}, not a multiple of the {self.ranks.world} processes")
        self.channels = self._channels([system.target for system in dataset.systems], start)
        hyper = settings.network
        make = lambda data, energies, share: SnapshotBatches(  # noqa: E731
            data, self.channels, hyper.grid, hyper.order, self.device, energies, settings.seed, share)
        self.batches = make(dataset, self._energies(dataset, energies), (self.ranks.rank, self.ranks.world))
        self.held_out = make(validation, None, (0, 1))
        torch.manual_seed(settings.seed)
        sizes = (hyper, self.channels.n_channels, len(self.channels.types))
        self.network = DBMNetwork(*sizes).to(self.device)
        self.critic = DBMCritic(*sizes, settings.spectral_norm).to(self.device)
        self.average = copy.deepcopy(self.network).requires_grad_(False)
        adam = lambda model, rate, betas: torch.optim.Adam(model.parameters(), rate, betas=betas)  # noqa: E731
        self.optimizers = {"warm": adam(self.network, settings.warm_rate, (0.9, 0.99)),
                           "generator": adam(self.network, settings.generator_rate, (0.0, 0.9)),
                           "critic": adam(self.critic, settings.critic_rate, (0.0, 0.9))}
        #: (step, parts of the loss since the record before, and divergences on the held-out snapshots, bits)
        self.records: list[tuple[int, dict[str, float]]] = []
        if start is not None:
            self._start_from(start)

    def _channels(self, targets: Sequence[Target], start: ModelFile | None) -> Channels:
        if start is None or self.settings.channels:
            return with_default(self.settings.channels, targets)
        channels = Channels.from_dict(start.hyperparameters.get("channels"), f"{start.name}: channels")
        for target in targets:
            channels.check(target)
        return channels

    def _energies(self, dataset: Dataset, given: Sequence[TorchEnergy] | None) -> Sequence[TorchEnergy] | None:
        if self.settings.prior == "none" or self.settings.steps <= self.settings.warm_steps:
            return None
        own = [system.energy for system in dataset.systems]
        found = given or (load_energies(self.settings.energies) if self.settings.energies else
                          own if None not in own else system_energies(dataset))
        if [e.n_atoms for e in found] != [system.target.n_atoms for system in dataset.systems]:
            raise InputError(f"{self.settings.energies or 'energies'}: not of the systems of this data set")
        return found

    def _start_from(self, start: ModelFile) -> None:
        given = DBMGenerator.from_model(start, self.device)
        if (given.network.hyper, given.channels) != (self.settings.network, self.channels):
            raise InputError(f"{start.name}: its network or its channels are not those of this training: give the same "
                             "'network:' settings, and no 'channels:'")
        for network in (self.network, self.average):
            network.load_state_dict(given.network.state_dict())

    @property
    def writes(self) -> bool:
        """Whether this process writes files."""
        return self.ranks.rank == 0

    def _in_time(self, deadline: float | None) -> bool:
        return deadline is None or self.ranks.agree(super()._in_time(deadline), self.device)

    def _record(self, parts: list[dict[str, float]]) -> dict[str, float]:
        found = {**super()._record(parts), **self.validation_divergences()}
        self.records.append((self.step, found))
        return found

    def _mean(self, values: list[float]) -> float:
        return self.ranks.mean(super()._mean(values), self.device)

    def _update(self) -> dict[str, float]:
        return self._warm_update() if self.step < self.settings.warm_steps else self._game_update()

    def _clip(self, parameters: list[torch.nn.Parameter]) -> torch.Tensor:
        self.ranks.average_gradients(parameters)
        return super()._clip(parameters)

    def _warm_update(self) -> dict[str, float]:
        s = self.settings
        batch = self.batches.placements(s.beads, s.jitter_nm, self.seed)
        loss = self._score(self.network, batch, self.batches, s.beads, self.seed)
        rate = s.warm_rate * cosine(self.step, s.warm_steps, s.warmup, 0.01)
        self._descend(self.optimizers["warm"], loss, rate)
        return {"loss": loss.item()}

    def _score(self, network: DBMNetwork, batch: Batch, batches: SnapshotBatches, n: int,
               seed: torch.Generator) -> torch.Tensor:
        """Energy score, angstrom, of two draws of each atom of a batch made for ``n`` rows."""
        scene, noise = self._scene(batch, batches, n, seed, 2)
        column = batch.columns[:, 0]
        environment, kind = scene.environment(column, batch.seen), scene.kind(column)
        with precision(self.settings.precision, self.device):
            seen = network.encode(environment)
            _, points = network.decode(torch.cat([seen, seen]), torch.cat([kind, kind]), noise.flatten(0, 1))
        return ANGSTROM * energy_score(*points.chunk(2), self._reference(scene, batch, column))

    @staticmethod
    def _reference(scene: Scene, batch: Batch, column: torch.Tensor) -> torch.Tensor:
        """Where own atom ``column`` is in the snapshot, in the scene's orientation."""
        at = batch.reference[torch.arange(len(column), device=column.device), column]
        return turned(at[:, None], scene.angle)[:, 0, 0]

    def _scene(self, batch: Batch, batches: SnapshotBatches, n: int, seed: torch.Generator, n_noise: int):
        """The batch in random orientations, and noise (n_noise, B, n_noise_dim)."""
        share = torch.rand(n, 1, generator=seed)
        angle = batches.rows(self.settings.network.orientations(share)).to(self.device)
        noise = batches.rows(torch.randn(n_noise, n, self.settings.network.noise, generator=seed), 1).to(self.device)
        return Scene(batch.snapshot.tables, self.settings.network.grid, batch.env, angle), noise

    def _game_update(self) -> dict[str, float]:
        """``n_critic`` updates of the critic, then one of the generator."""
        s = self.settings
        done = (self.step - s.warm_steps) / max(1, s.steps - s.warm_steps)
        rate = 1 - (1 - s.final_rate) * done
        parts: dict[str, float] = {}
        for _ in range(s.n_critic):
            loss, apart = self._critic_loss()
            self._descend(self.optimizers["critic"], loss, s.critic_rate * rate)
            parts["critic"] = apart.item()
        loss, score, prior = self._generator_loss()
        self._descend(self.optimizers["generator"], loss, s.generator_rate * rate)
        return {**parts, "loss": loss.item(), "score": score.item(), "prior": prior.item()}

    def _sequences(self) -> tuple[Batch, Scene, torch.Tensor]:
        n = self.settings.beads
        batch = self.batches.sequences(n, self.seed)
        return batch, *self._scene(batch, self.batches, n, self.seed, batch.columns.shape[1])

    def _unroll(self, batch: Batch, scene: Scene, noise: torch.Tensor):
        """Environments, types and densities of all atoms of the sequences, each generated among those before it."""
        with precision(self.settings.precision, self.device):
            steps = list(place(self.network, scene, batch.columns, batch.seen, noise))
        return [torch.cat(part) for part in zip(*((x.environment, x.kind, x.density) for x in steps))]

    @staticmethod
    def _as_reference(batch: Batch, scene: Scene) -> tuple[torch.Tensor, torch.Tensor]:
        """Environments and densities of the same atoms where they are in the snapshot."""
        seen, environments, densities = batch.seen, [], []
        for column in batch.columns.unbind(1):
            environments.append(scene.environment(column, seen))
            densities.append(scene.reference_density(column, batch.reference))
            seen = seen.scatter(1, column[:, None], True)
        return torch.cat(environments), torch.cat(densities)

    def _critic_loss(self) -> tuple[torch.Tensor, torch.Tensor]:
        batch, scene, noise = self._sequences()
        with torch.no_grad():
            real = self._as_reference(batch, scene)
            environment, kind, density = self._unroll(batch, scene, noise)
        fake = (environment, density)
        with precision(self.settings.precision, self.device):
            loss = critic_loss(self.critic, real, fake, kind)
        share = self.batches.rows(torch.rand(noise.shape[0], self.settings.beads, generator=self.seed), 1)
        if not self.settings.gradient_penalty:
            return loss, -loss.detach()
        penalty = gradient_penalty(self.critic, real, fake, kind, share.flatten().to(self.device))
        return loss + self.settings.gradient_penalty * penalty, -loss.detach()

    def _generator_loss(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The loss, and of its parts the critic's score and the prior."""
        batch, scene, noise = self._sequences()
        environment, kind, density = self._unroll(batch, scene, noise)
        self.critic.requires_grad_(False)
        with precision(self.settings.precision, self.device):
            score = -self.critic(environment, kind, density).mean()
        self.critic.requires_grad_(True)
        prior = self._prior(batch, scene.own_local()[:, 0])
        return score + prior + self._anchor(), score.detach(), prior.detach()

    def _anchor(self) -> torch.Tensor | float:
        s = self.settings
        if not s.anchor:
            return 0.0
        batch = self.batches.placements(s.beads, s.jitter_nm, self.seed)
        return s.anchor * self._score(self.network, batch, self.batches, s.beads, self.seed)

    def ramp(self) -> float:
        """Share of the final weights of the prior at this step."""
        s = self.settings
        return min(1.0, max(0.0, (self.step - s.warm_steps - s.ramp_start) / max(1, s.ramp_end - s.ramp_start)))

    def _prior(self, batch: Batch, own: torch.Tensor) -> torch.Tensor:
        s, ramp = self.settings, self.ramp()
        prior = own.new_zeros(())
        if s.prior_mass and ramp:
            atoms = batch.snapshot.tables.base.atoms_of_bead[batch.bead].gather(1, batch.columns)
            masses = torch.as_tensor(batch.snapshot.tables.target.masses, dtype=own.dtype, device=own.device)[atoms]
            at = batch.columns[..., None].expand(-1, -1, 3)
            prior = prior + s.prior_mass * centre_of_mass_loss(own.gather(1, at), batch.reference.gather(1, at), masses)
        if s.prior != "none" and ramp:
            weights = {**dict.fromkeys(BONDED, s.prior_bonded), "lj": s.prior_lj, "coulomb": s.prior_coulomb}
            terms = lambda x: batch.snapshot.terms(batch.bead, batch.columns, x, batch.light)  # noqa: E731
            reference = terms(batch.reference) if s.prior == "match" else None
            prior = prior + prior_loss(s.prior, terms(own), reference, weights, s.damping_kJ)
        return ramp * prior

    @torch.no_grad()
    def validation_loss(self) -> float:
        """Energy score, angstrom, of the averaged weights on the held-out snapshots, always on the same draws."""
        seed, n = torch.Generator().manual_seed(self.settings.seed + 1), _VALIDATION_BEADS
        return float(np.mean([self._score(self.average, self.held_out.placements(n, 0.0, seed), self.held_out, n,
                                          seed).item() for _ in range(self.settings.validation)]))

    @torch.no_grad()
    def validation_divergences(self) -> dict[str, float]:
        """Jensen-Shannon divergences, bits, of the bonds, angles and dihedrals that whole generated sequences make
        among held-out atoms; means over types."""
        seed, n = torch.Generator().manual_seed(self.settings.seed + 2), _VALIDATION_BEADS
        found = Comparison()
        for _ in range(self.settings.validation):
            batch = self.held_out.sequences(n, seed)
            scene, noise = self._scene(batch, self.held_out, n, seed, batch.columns.shape[1])
            for _ in place(self.average, scene, batch.columns, batch.seen, noise):
                pass
            found.add(batch, scene.own_local()[:, 0])
        return found.divergences()

    def generator(self) -> DBMGenerator:
        """The generator with the averaged weights."""
        return DBMGenerator(self.average, self.channels, self.device, self.settings.sampling)

    def _same(self) -> dict[str, str]:
        return {**super()._same(), "channels": repr(self.channels)}

    def state(self) -> dict | None:
        """See :meth:`NetworkTrainer.state`; None in processes that do not write."""
        if not self.writes:
            return None
        return {**super().state(), "records": self.records,
                "optimizers": {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()}}

    def load_state(self, state: dict, where: str = "checkpoint") -> None:
        """See :meth:`NetworkTrainer.load_state`."""
        super().load_state(state, where)
        for name, optimizer in self.optimizers.items():
            optimizer.load_state_dict(state["optimizers"][name])
        self.records = [tuple(row) for row in state["records"]]
