"""The ``dbm`` family: DeepBackmap, atom by atom from voxel environments (Stieffenhofer et al. 2020, 2021)."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
import torch

from openmm_backmap.chemistry import Target
from openmm_backmap.environments.voxel_channels import Channels
from openmm_backmap.environments.voxels import VoxelSurroundings, VoxelTables
from openmm_backmap.errors import InputError
from openmm_backmap.generators.dbm.energies import BeadEnergies, flexible_energy
from openmm_backmap.generators.dbm.network import DBMHyperparameters, DBMNetwork
from openmm_backmap.generators.dbm.sweep import DBMSampling, DBMSweep
from openmm_backmap.model_file import ModelFile
from openmm_backmap.sampling.sweeps import SweepSettings

#: two Gibbs sweeps, as in the authors' settings; an environment reaches 0.7 nm, atoms about 0.3 nm beyond their bead
DEFAULT_SWEEPS = SweepSettings(gibbs=2, reach_nm=0.85)


class DBMGenerator:
    """Draws atoms one by one, those of many beads at once; see :mod:`openmm_backmap.generators.dbm.sweep`.

    A model may be applied to molecules that it was not trained on, as long as its channels name their types.
    """

    family = "dbm"
    transfers = True

    def __init__(self, network: DBMNetwork, channels: Channels, device: str = "cpu",
                 sampling: DBMSampling = DBMSampling(), sweeps: SweepSettings = DEFAULT_SWEEPS):
        self.network, self.channels = network.to(device).eval(), channels
        self.device, self.sampling, self.sweeps = device, sampling, sweeps

    @classmethod
    def from_model(cls, model: ModelFile, device: str = "cpu") -> DBMGenerator:
        """From a model file; :class:`InputError` where its content does not fit together."""
        try:
            hyper = DBMHyperparameters(**model.hyperparameters["network"])
            channels = Channels.from_dict(model.hyperparameters["channels"], f"{model.name}: channels")
            sampling = DBMSampling(**model.hyperparameters["sampling"])
            sweeps = SweepSettings(**model.hyperparameters["sweeps"])
            network = DBMNetwork(hyper, channels.n_channels, len(channels.types))
            network.load_state_dict(dict(model.weights))
        except (KeyError, TypeError, RuntimeError) as error:
            raise InputError(f"{model.name}: weights and hyperparameters do not fit together "
                             f"({str(error).splitlines()[0][:120]})") from None
        return cls(network, channels, device, sampling, sweeps)

    def to_model(self, chemistry, provenance: dict) -> ModelFile:
        """Pack everything into a model file."""
        return ModelFile(
            family=self.family, weights=self.network.state_dict(), chemistry_source=chemistry.source,
            force_field_xml=chemistry.force_field_xml, provenance=provenance, hyperparameters={
                "network": asdict(self.network.hyper), "channels": self.channels.to_dict(),
                "sampling": asdict(self.sampling), "sweeps": asdict(self.sweeps)})

    @torch.inference_mode()
    def generate(self, target: Target, beads: np.ndarray, box, *, n_samples: int = 1, rng: np.random.Generator,
                 progress=None) -> np.ndarray:
        """See :meth:`openmm_backmap.generators.base.Generator.generate`."""
        tables = VoxelTables(target, self.channels, self.device)
        around = VoxelSurroundings(tables, beads, box, self.network.grid)
        energies = None
        if self.sampling.needs_energies:
            energies = BeadEnergies(tables, flexible_energy(target, box), beads, box)
        samples = [DBMSweep(around, self.network, self.sampling, self.sweeps, energies, box, rng).run(progress)
                   for _ in range(n_samples)]
        return torch.stack(samples).cpu().numpy().astype(float)

