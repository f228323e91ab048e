"""Settings of the training of the ``dbm`` family, as a file gives them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from openmm_backmap.environments.voxel_sequences import ORDERS
from openmm_backmap.errors import InputError
from openmm_backmap.generators.dbm.network import HEADS, PRESETS, DBMHyperparameters
from openmm_backmap.generators.dbm.sweep import DBMSampling
from openmm_backmap.training.settings import values_of

PRIORS = ("none", "min", "match")
_CHOICES = {"prior": PRIORS, "precision": ("float32", "bfloat16")}


@dataclass(frozen=True)
class DBMTraining:
    """Settings of a training run.

    Parameters
    ----------
    steps, warm_steps : int
        Updates of the generator in all, and those of the warm start among them.
    beads : int
        Sequences in a batch (in the warm start: atoms), over all processes.
    warm_rate, warmup : float, int
        Learning rate of the warm start, which rises for ``warmup`` steps and falls as a cosine; of Adam.
    generator_rate, critic_rate, final_rate : float
        Learning rates of the game (2021: 5e-5 and 1e-4); they fall linearly to the share ``final_rate`` of these.
    n_critic : int
        Updates of the critic for each one of the generator.
    gradient_penalty : float
        Its weight (2021: 0.1); 0 leaves it out.
    spectral_norm : bool
        Of the critic's layers.
    anchor : float
        Weight of the energy score in the game, 1/angstrom: it keeps what the warm start has learned while the critic
        is new, or small. 0, as published, leaves the game to the critic and the prior.
    prior : str
        ``none``, ``min`` or ``match``.
    prior_lj, prior_bonded, prior_coulomb, prior_mass : float
        Final weights: of Lennard-Jones, of bonds, angles and torsions, of Coulomb energies (1 mol/kJ), and of the
        distance between the centres of mass (1/nm, 2020).
    ramp_start, ramp_end : int
        Steps of the game between which the weights rise from 0.
    damping_kJ : float
        Prior energies far above it count by their logarithm; 0 takes them as they are.
    jitter_nm : float
        Largest displacement (standard deviation) of surrounding atoms in the warm start.
    average : float
        Decay of the running mean of the generator's weights.
    precision : str
        Of the networks: ``float32`` or ``bfloat16`` (mixed).
    energies : str
        File of energies (:func:`~openmm_backmap.training.dbm_data.save_energies`); without it those of the data set
        are taken (``backmap-openmm compile --energies``), or OpenMM makes them.
    channels : str
        Channels file; by default one channel for everything that occurs.
    preset : str
        Size of the networks by name, see :data:`~openmm_backmap.generators.dbm.network.PRESETS`.
    validation : int
        Batches of 64 held-out atoms in the validation loss, and of 64 held-out sequences in the divergences.
    seed : int
    network : DBMHyperparameters
    sampling : DBMSampling
        Stored in the model as its defaults.
    """

    steps: int = 30000
    warm_steps: int = 20000
    beads: int = 64
    warm_rate: float = 1e-3
    warmup: int = 200
    generator_rate: float = 5e-5
    critic_rate: float = 1e-4
    final_rate: float = 0.1
    n_critic: int = 5
    gradient_penalty: float = 0.1
    spectral_norm: bool = True
    anchor: float = 0.0
    prior: str = "match"
    prior_lj: float = 4e-2
    prior_bonded: float = 4e-3
    prior_coulomb: float = 0.0
    prior_mass: float = 0.0
    ramp_start: int = 1000
    ramp_end: int = 3000
    damping_kJ: float = 100.0
    jitter_nm: float = 0.004
    average: float = 0.999
    precision: str = "float32"
    energies: str = ""
    channels: str = ""
    preset: str = "small"
    validation: int = 6
    seed: int = 1
    network: DBMHyperparameters = field(default_factory=DBMHyperparameters)
    sampling: DBMSampling = field(default_factory=DBMSampling)

    @classmethod
    def from_dict(cls, content: dict, where: str = "settings") -> DBMTraining:
        """From a settings file; unknown keys and values that do not fit are refused."""
        parts = {"network": DBMHyperparameters, "sampling": DBMSampling}
        if not isinstance(content, dict) or not all(isinstance(content.get(k, {}), dict) for k in parts):
            raise InputError(f"{where}: settings are 'name: value' lines, those of the networks indented under "
                             "'network:', those of drawing under 'sampling:'")
        own = values_of(cls(), {k: v for k, v in content.items() if k not in parts}, where)
        if own.preset not in PRESETS:
            raise InputError(f"{where}: preset is {own.preset!r}; known: {', '.join(PRESETS)}")
        network = values_of(DBMHyperparameters(**PRESETS[own.preset]), content.get("network", {}), where)
        settings = replace(own, network=network, sampling=values_of(DBMSampling(), content.get("sampling", {}), where))
        settings._check(where)
        return settings

    def _check(self, where: str) -> None:
        choices = [(n, getattr(self, n), known) for n, known in _CHOICES.items()]
        choices += [("head", self.network.head, HEADS), ("order", self.network.order, ORDERS)]
        for name, value, known in choices:
            if value not in known:
                raise InputError(f"{where}: {name} is {value!r}; expected one of {', '.join(known)}")
        hyper = self.network
        if hyper.n_cells % 2 or hyper.width % hyper.groups or hyper.stem % hyper.groups:
            raise InputError(f"{where}: n_cells must be even, stem and width multiples of groups")
        if not 0 <= hyper.turn_deg <= 360:
            raise InputError(f"{where}: turn_deg is {hyper.turn_deg:g}; expected 0 to 360 degrees")
