"""Settings of the training of the ``cvae`` family, as a file gives them, and the schedules that they mean."""

from __future__ import annotations

from dataclasses import dataclass, field

from openmm_backmap.errors import InputError
from openmm_backmap.generators.coherent.cvae_network import ORIENTATIONS, CVAEHyperparameters
from openmm_backmap.training.loop import cosine
from openmm_backmap.training.settings import with_network

#: share of its final weight with which the energy begins
_FIRST_ENERGY = 1e-4


@dataclass(frozen=True)
class CVAETraining:
    """Settings of a training run. The paper leaves its numbers to the SI; these are ours, measured on two CPU cores.

    Parameters
    ----------
    steps : int
        Updates of the weights; the learning rate falls over all of them.
    pairs : int
        Pairs of frames in a batch.
    learning_rate, warmup : float, int
        Of Adam: peak of the schedule, and its first steps; it falls as a cosine.
    voxel, position, beads, distances : float
        Weights of these parts of the loss (eq. 3, where all are 1); lengths in angstrom.
    energy : float
        Final weight, mol^2/kJ^2, of the squared energy difference.
    energy_start, energy_end : float
        Shares of the run: the weight is 0 up to the one, and rises exponentially to the other.
    damping_kJ : float
        Energy differences far above it count by their logarithm; 0 takes them as they are.
    beta : float
        Weight of the divergence of latent vectors from the normal distribution.
    beta_cycles : int
        The weight rises from 0 in the first half of each cycle (Fu et al., arXiv:1903.10145); 0 keeps it constant.
    jitter_nm : float
        Largest displacement (standard deviation) of the frame before, so that its faults are not handed on; 0 as
        published.
    average : float
        Decay of the running mean of the weights.
    components, encoded : int
        Of the Gaussian mixture, and training pairs that it is fitted to.
    seeds : int
        Frames that the model keeps to begin trajectories with.
    seed : int
    network : CVAEHyperparameters
    """

    steps: int = 20000
    pairs: int = 32
    learning_rate: float = 2e-3
    warmup: int = 50
    voxel: float = 1.0
    position: float = 1.0
    beads: float = 1.0
    distances: float = 1.0
    energy: float = 2e-5
    energy_start: float = 0.4
    energy_end: float = 0.8
    damping_kJ: float = 100.0
    beta: float = 3e-4
    beta_cycles: int = 4
    jitter_nm: float = 0.003
    average: float = 0.999
    components: int = 10
    encoded: int = 20000
    seeds: int = 1000
    seed: int = 1
    network: CVAEHyperparameters = field(default_factory=CVAEHyperparameters)

    @classmethod
    def from_dict(cls, content: dict, where: str = "settings") -> CVAETraining:
        """From a settings file; unknown keys and values that do not fit are refused."""
        settings = with_network(cls(), content, where)
        network = settings.network
        if network.orientation not in ORIENTATIONS:
            raise InputError(f"{where}: orientation is {network.orientation!r}; expected one of "
                             f"{', '.join(ORIENTATIONS)}")
        if network.n_cells % 2:
            raise InputError(f"{where}: n_cells is {network.n_cells}; it must be even")
        return settings

    def rate(self, step: int) -> float:
        """Learning rate of a step."""
        return self.learning_rate * cosine(step, self.steps, self.warmup, 0.005)

    def energy_weight(self, step: int) -> float:
        """Lambda of eq. 3: 0, then exponentially up to ``energy``."""
        done = step / self.steps
        if done < self.energy_start:
            return 0.0
        share = min(1.0, (done - self.energy_start) / max(1e-9, self.energy_end - self.energy_start))
        return self.energy * _FIRST_ENERGY ** (1 - share)

    def divergence_weight(self, step: int) -> float:
        """Beta of eq. 3."""
        if not self.beta_cycles:
            return self.beta
        return self.beta * min(1.0, 2 * ((step * self.beta_cycles / self.steps) % 1.0))
