"""The ``cvae`` family: the next frame of a molecule by a variational autoencoder on voxels.

Shmilovich, Stieffenhofer, Charron, Hoffmann, J. Phys. Chem. A 126, 9124 (2022), sec. 2; thesis ch. 8.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch

from openmm_backmap.chemistry import Target, build_target
from openmm_backmap.errors import InputError
from openmm_backmap.generators.coherent.base import CoherentGenerator
from openmm_backmap.generators.coherent.cvae_network import CVAEHyperparameters, CVAENetwork
from openmm_backmap.generators.coherent.frames import BeadShape
from openmm_backmap.model_file import ModelFile

_BATCH = 256


@dataclass(frozen=True)
class LatentMixture:
    """Gaussian mixture of K components on the latent vectors of the training set (paper sec. 2.4).

    Attributes
    ----------
    share : Tensor, shape (K,)
    mean : Tensor, shape (K, latent)
    root : Tensor, shape (K, latent, latent)
        Cholesky factors of the covariances.
    """

    share: torch.Tensor
    mean: torch.Tensor
    root: torch.Tensor

    def to(self, device) -> LatentMixture:
        return LatentMixture(self.share.to(device), self.mean.to(device), self.root.to(device))

    def sample(self, n: int, seed: torch.Generator | None = None) -> torch.Tensor:
        """Latent vectors (n, latent)."""
        kind = torch.multinomial(self.share, n, replacement=True, generator=seed)
        noise = torch.randn(n, self.mean.shape[1], 1, generator=seed, device=self.mean.device)
        return self.mean[kind] + (self.root[kind] @ noise).squeeze(2)


@dataclass(frozen=True)
class Seeds:
    """What may stand before the first frame of a trajectory (paper sec. 2.4).

    Attributes
    ----------
    beads : Tensor, shape (n_seeds, n_beads, 3), nm
        Of frames of the training set, centred.
    previous : Tensor, shape (n_seeds, n_atoms, 3), nm
        Atoms of the frame before each of them, centred.
    """

    beads: torch.Tensor
    previous: torch.Tensor

    def to(self, device) -> Seeds:
        return Seeds(self.beads.to(device), self.previous.to(device))

    def before(self, beads: torch.Tensor) -> torch.Tensor:
        """Atoms (B, n_atoms, 3) before the seed that is most like ``beads`` (B, n_beads, 3), centred, by RMSD, turned
        with it onto them."""
        return torch.stack([self._before(one) for one in beads])

    def _before(self, beads: torch.Tensor) -> torch.Tensor:
        centre, turn = BeadShape(beads).frames(self.beads)
        best = ((self.beads - centre) @ turn - beads).square().sum((1, 2)).argmin()
        return self.previous[best] @ turn[best]


@dataclass(frozen=True)
class Sight:
    """How the networks see a molecule: centred on its beads and, with ``shape``, laid upon that."""

    mapping: torch.Tensor
    shape: BeadShape | None = None

    def frames(self, beads: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Centres (B, 1, 3) and rotations: ``(x - centre) @ rotation`` is what the networks see."""
        if self.shape is None:
            return beads.mean(1, keepdim=True), torch.eye(3, dtype=beads.dtype, device=beads.device)
        return self.shape.frames(beads)

    def seen(self, atoms: torch.Tensor) -> torch.Tensor:
        """Atoms (B, n_atoms, 3) as the networks see them."""
        centre, turn = self.frames(self.mapping.to(atoms.dtype) @ atoms)
        return (atoms - centre) @ turn


class CVAEGenerator(CoherentGenerator):
    """Decodes random latent vectors, given the beads and the frame before; see :class:`CVAENetwork`."""

    family = "cvae"

    def __init__(self, molecule: Target, network: CVAENetwork, mixture: LatentMixture, seeds: Seeds, shape: BeadShape,
                 device: str = "cpu"):
        super().__init__(molecule)
        self.network, self.device = network.to(device).eval(), device
        self.mixture, self.seeds, self.shape = mixture.to(device), seeds.to(device), BeadShape(shape.beads.to(device))
        self.sight = sight(network.hyper, mapping_of(molecule).to(device), self.shape)

    @classmethod
    def from_model(cls, model: ModelFile, device: str = "cpu") -> CVAEGenerator:
        """From a model file; :class:`InputError` where its content does not fit together."""
        try:
            molecule = build_target(model.chemistry, [model.hyperparameters["chain"]])
            hyper = CVAEHyperparameters(**model.hyperparameters["network"])
            weights = dict(model.weights)
            mixture = LatentMixture(*(weights.pop(f"mixture.{name}") for name in ("share", "mean", "root")))
            seeds = Seeds(weights.pop("seeds.beads"), weights.pop("seeds.previous"))
            shape = BeadShape(weights.pop("shape"))
            network = CVAENetwork(hyper, molecule.n_atoms, molecule.n_beads)
            network.load_state_dict(weights)
            _check(hyper, molecule, mixture, seeds, shape)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise InputError(f"{model.name}: weights and hyperparameters do not fit together "
                             f"({str(error).splitlines()[0][:120]})") from None
        return cls(molecule, network, mixture, seeds, shape, device)

    def to_model(self, chemistry, provenance: dict) -> ModelFile:
        """Pack everything into a model file."""
        weights = {**self.network.state_dict(), "mixture.share": self.mixture.share, "mixture.mean": self.mixture.mean,
                   "mixture.root": self.mixture.root, "seeds.beads": self.seeds.beads,
                   "seeds.previous": self.seeds.previous, "shape": self.shape.beads}
        return ModelFile(
            family=self.family, weights=weights, chemistry_source=chemistry.source,
            force_field_xml=chemistry.force_field_xml, provenance=provenance, hyperparameters={
                "network": asdict(self.network.hyper), "chain": list(self.molecule.chains[0])})

    def step(self, beads: np.ndarray, previous: np.ndarray | None, rng: np.random.Generator) -> np.ndarray:
        """See :meth:`CoherentGenerator.step`."""
        seed = torch.Generator(device=self.device).manual_seed(int(rng.integers(2**63)))
        parts = [slice(k, k + _BATCH) for k in range(0, len(beads), _BATCH)]
        return np.concatenate([self._step(beads[k], None if previous is None else previous[k], seed) for k in parts])

    @torch.inference_mode()
    def _step(self, beads: np.ndarray, previous: np.ndarray | None, seed: torch.Generator) -> np.ndarray:
        # Molecules may lie far from the origin: differences first, single precision then.
        origin = beads.mean(1, keepdims=True)
        now = self._centred(beads, origin)
        if previous is None:
            before = self.seeds.before(now)
        else:
            before = self._centred(previous, previous.mean(1, keepdims=True))
        _, turn = self.sight.frames(now)
        latent = self.mixture.sample(len(now), seed)
        _, atoms = self.network.decode(now @ turn, self.sight.seen(before), latent)
        return (atoms @ turn.mT).double().cpu().numpy() + origin

    def _centred(self, x: np.ndarray, origin: np.ndarray) -> torch.Tensor:
        return torch.as_tensor(x - origin, dtype=torch.float32, device=self.device)


def mapping_of(molecule: Target) -> torch.Tensor:
    """M as a dense matrix (n_beads, n_atoms)."""
    return torch.as_tensor(molecule.mapping.toarray(), dtype=torch.float32)


def sight(hyper: CVAEHyperparameters, mapping: torch.Tensor, shape: BeadShape) -> Sight:
    """How networks with these hyperparameters see a molecule."""
    return Sight(mapping, shape if hyper.orientation == "superposed" else None)


def _check(hyper: CVAEHyperparameters, molecule: Target, mixture: LatentMixture, seeds: Seeds,
           shape: BeadShape) -> None:
    """ValueError where a part of a model has another size than the networks."""
    k, n = len(mixture.share), len(seeds.beads)
    wanted: Sequence[tuple[torch.Tensor, tuple[int, ...]]] = (
        (mixture.mean, (k, hyper.latent)), (mixture.root, (k, hyper.latent, hyper.latent)),
        (seeds.beads, (n, molecule.n_beads, 3)), (seeds.previous, (n, molecule.n_atoms, 3)),
        (shape.beads, (molecule.n_beads, 3)))
    if not k or not n or any(tuple(part.shape) != size for part, size in wanted):
        raise ValueError("sizes of the mixture, of the seeds or of the shape")
