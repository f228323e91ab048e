"""The ``coherent-flow`` family: the next frame of a molecule, by flow matching that begins at the frame before."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields

import numpy as np
import torch

from openmm_backmap.chemistry import Target, build_target
from openmm_backmap.errors import InputError
from openmm_backmap.generators.coherent.base import CoherentGenerator
from openmm_backmap.generators.coherent.coordinates import BeadFeatures, Coordinates, Trend
from openmm_backmap.generators.coherent.frames import BeadShape
from openmm_backmap.generators.coherent.network import CoherentHyperparameters, CoherentNetwork
from openmm_backmap.generators.coherent.placing import Placing
from openmm_backmap.model_file import ModelFile

SCALE = 10.0
#: of a torsion that turns freely and of which nothing is known, rad: around the whole circle
ANYWHERE = 3.0
_BATCH = 4096
_MANY = 1000


@dataclass(frozen=True)
class CoherentSampling:
    """How velocities are integrated: ``steps`` midpoint steps, each two network passes."""

    steps: int = 4


@dataclass(frozen=True)
class Memory:
    """How much of a coordinate is left after one frame: where paths begin.

    They begin at a Gaussian about ``share`` times the coordinate in the frame before, of width ``spread``; without a
    frame before, about 0, of width 1, or anywhere on the circle. Both (n,), in scaled units.
    """

    share: torch.Tensor
    spread: torch.Tensor

    def to(self, device) -> Memory:
        return Memory(self.share.to(device), self.spread.to(device))

    def spread_for(self, known: torch.Tensor, rotor: torch.Tensor) -> torch.Tensor:
        """Widths (B, n), for ``known`` (B, 1)."""
        return torch.where(known > 0, self.spread, torch.where(rotor, ANYWHERE, 1.0))


@dataclass(frozen=True)
class Molecule:
    """What is known of the molecule before any training.

    Attributes
    ----------
    placing : Placing
    coordinates : Coordinates
    features : BeadFeatures
    trend : Trend
    memory : Memory
    """

    placing: Placing
    coordinates: Coordinates
    features: BeadFeatures
    trend: Trend
    memory: Memory

    def to(self, device) -> Molecule:
        placing = Placing(self.placing.beads.to(device), self.placing.rows.to(device))
        return Molecule(placing, *(getattr(self, f.name).to(device) for f in fields(self)[1:]))

    @property
    def rotor(self) -> torch.Tensor:
        """Which of the coordinates that change turn freely, (n_moving,)."""
        return self.trend.rotor

    def known(self, atoms: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Coordinates (B, n_moving) and bead features (B, n_features) of atoms (B, n_atoms, 3), angstrom, which may lie
        far from the origin if they are of double precision."""
        features = self.features(_centred(atoms[:, self.placing.beads]))
        return self.trend.without(self.coordinates.scaled(self.placing.measure(atoms).float()), features), features

    @property
    def n_context(self) -> int:
        """Numbers that a network is told: features of the beads now and before, and whether there is a before."""
        return 2 * len(self.features.mean) + 1

    def network(self, hyper: CoherentHyperparameters) -> CoherentNetwork:
        """A network for this molecule."""
        return CoherentNetwork(hyper, self.rotor, self.n_context)


class CoherentFlowGenerator(CoherentGenerator):
    """Draws all atoms of a molecule at once, given its beads and, where there is one, the frame before.

    Parameters
    ----------
    target : Target
        One molecule.
    molecule : Molecule
    network : CoherentNetwork
    """

    family = "coherent-flow"

    def __init__(self, target: Target, molecule: Molecule, network: CoherentNetwork, device: str = "cpu",
                 sampling: CoherentSampling = CoherentSampling()):
        super().__init__(target)
        self.model, self.network = molecule.to(device), network.to(device).eval()
        self.device, self.sampling = device, sampling

    @classmethod
    def from_model(cls, model: ModelFile, device: str = "cpu") -> CoherentFlowGenerator:
        """From a model file; :class:`InputError` where its content does not fit together."""
        try:
            target = build_target(model.chemistry, [model.hyperparameters["chain"]])
            weights = dict(model.weights)
            molecule = _unpacked({name: weights.pop(name) for name in list(weights) if name.startswith("molecule.")})
            _check(target, molecule)
            network = molecule.network(CoherentHyperparameters(**model.hyperparameters["network"]))
            network.load_state_dict(weights)
            sampling = CoherentSampling(**model.hyperparameters["sampling"])
        except (KeyError, TypeError, ValueError, RuntimeError, IndexError) as error:
            raise InputError(f"{model.name}: weights and hyperparameters do not fit together "
                             f"({str(error).splitlines()[0][:120]})") from None
        return cls(target, molecule, network, device, sampling)

    def to_model(self, chemistry, provenance: dict) -> ModelFile:
        """Pack everything into a model file."""
        return ModelFile(
            family=self.family, weights={**self.network.state_dict(), **_packed(self.model)},
            chemistry_source=chemistry.source, force_field_xml=chemistry.force_field_xml, provenance=provenance,
            hyperparameters={"network": asdict(self.network.hyper), "sampling": asdict(self.sampling),
                             "chain": list(self.molecule.chains[0])})

    def step(self, beads: np.ndarray, previous: np.ndarray | None, rng: np.random.Generator) -> np.ndarray:
        """See :meth:`CoherentGenerator.step`."""
        seed = torch.Generator(device=self.device).manual_seed(int(rng.integers(2**63)))
        parts = [slice(k, k + _BATCH) for k in range(0, len(beads), _BATCH)]
        with _threads_for(len(beads)):
            return np.concatenate([self._step(beads[part], None if previous is None else previous[part], seed)
                                   for part in parts])

    @torch.inference_mode()
    def _step(self, beads: np.ndarray, previous: np.ndarray | None, seed: torch.Generator) -> np.ndarray:
        molecule, network = self.model, self.network
        places = self._tensor(beads)
        now = molecule.features(_centred(places))
        known = torch.full((len(now), 1), float(previous is not None), device=self.device)
        past, before = (now.new_zeros(len(now), len(molecule.rotor)), torch.zeros_like(now)) if previous is None else \
            molecule.known(self._tensor(previous))
        centre = molecule.memory.share * past
        encoded = network.encode(torch.cat([now, before, known], dim=-1), centre)
        noise = torch.randn(centre.shape, generator=seed, device=self.device)
        x = centre + molecule.memory.spread_for(known, molecule.rotor) * noise
        times = torch.linspace(0, 1, self.sampling.steps + 1, device=x.device)
        for start, end in zip(times[:-1, None], times[1:, None]):
            half = (end - start) / 2
            middle = x + half * network.velocity(encoded, x, start)
            x = x + 2 * half * network.velocity(encoded, middle, start + half)
        values = molecule.coordinates.values(molecule.trend.restored(x, now)).double()
        return molecule.placing.place(places, values).cpu().numpy() / SCALE

    def _tensor(self, positions: np.ndarray) -> torch.Tensor:
        """Angstrom, in double precision: molecules may lie far from the origin."""
        return torch.as_tensor(positions * SCALE, dtype=torch.float64, device=self.device)


@contextmanager
def _threads_for(n_molecules: int):
    """One thread for small batches, which several would only slow down: 1,800 frames a second by one, 800 by two."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1 if n_molecules < _MANY else threads)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _centred(beads: torch.Tensor) -> torch.Tensor:
    return (beads - beads.mean(1, keepdim=True)).float()


def _packed(molecule: Molecule) -> dict[str, torch.Tensor]:
    features = molecule.features
    return {"molecule.beads": molecule.placing.beads, "molecule.rows": molecule.placing.rows,
            **{f"molecule.{f.name}": getattr(molecule.coordinates, f.name) for f in fields(Coordinates)},
            **{f"molecule.trend.{f.name}": getattr(molecule.trend, f.name) for f in fields(Trend)},
            **{f"molecule.memory.{f.name}": getattr(molecule.memory, f.name) for f in fields(Memory)},
            "molecule.features.shape": features.shape.beads, "molecule.features.mean": features.mean,
            "molecule.features.spread": features.spread}


def _unpacked(arrays: dict[str, torch.Tensor]) -> Molecule:
    get = lambda name: arrays[f"molecule.{name}"]  # noqa: E731
    return Molecule(
        Placing(get("beads"), get("rows")), Coordinates(get("mean"), get("spread"), get("rotor")),
        BeadFeatures(BeadShape(get("features.shape")), get("features.mean"), get("features.spread")),
        Trend(get("trend.rotor"), get("trend.slope"), get("trend.colour")),
        Memory(get("memory.share"), get("memory.spread")))


def _check(target: Target, molecule: Molecule) -> None:
    """Refuse arrays that are not of the molecule."""
    placing, coordinates, trend, memory = molecule.placing, molecule.coordinates, molecule.trend, molecule.memory
    n, n_beads, n_rows = target.n_atoms, target.n_beads, target.n_atoms - target.n_beads
    n_features, n_moving = 3 * n_beads + n_beads * (n_beads - 1) // 2, int(coordinates.moving.sum())
    n_stiff = n_moving - int(trend.rotor.sum())
    shapes = {placing.beads: (n_beads,), placing.rows: (n_rows, 4), coordinates.mean: (n_rows, 3),
              coordinates.spread: (n_rows, 3), coordinates.rotor: (n_rows, 3), trend.rotor: (n_moving,),
              trend.slope: (n_stiff, n_features + 1), trend.colour: (n_stiff, n_stiff), memory.share: (n_moving,),
              memory.spread: (n_moving,), molecule.features.shape.beads: (n_beads, 3),
              molecule.features.mean: (n_features,), molecule.features.spread: (n_features,)}
    atoms = torch.cat([placing.beads, placing.rows[:, 0]])
    if (any(array.shape != shape for array, shape in shapes.items()) or sorted(atoms.tolist()) != list(range(n))
            or placing.rows.min() < 0 or placing.rows.max() >= n):
        raise ValueError("arrays of another molecule")
