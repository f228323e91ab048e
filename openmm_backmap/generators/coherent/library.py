"""The ``library`` family: of many frames of a reference the one whose beads are nearest, frame by frame.

A baseline for coherent generators (Shmilovich et al., J. Phys. Chem. A 126, 9124 (2022)) that knows nothing of the
frame before: the nearest of 40,000 training frames by root mean square distance of the beads after superposition, laid
on them.
"""

from __future__ import annotations

import numpy as np
import torch

from openmm_backmap.chemistry import Target, build_target
from openmm_backmap.errors import InputError
from openmm_backmap.generators.coherent.base import CoherentGenerator
from openmm_backmap.generators.coherent.nearest import NearestConformation
from openmm_backmap.geometry.checks import mapped
from openmm_backmap.geometry.superposition import rotations
from openmm_backmap.model_file import ModelFile

# Weights of a model file may take so much; the file has the chemistry beside them.
_MOST_BYTES = 19_000_000


class LibraryGenerator(CoherentGenerator):
    """Takes the frame of the library whose beads are nearest, whatever came before; no randomness.

    Parameters
    ----------
    molecule : Target
    frames : Tensor, shape (n_frames, n_atoms, 3), nm
    device : str
    """

    family = "library"

    def __init__(self, molecule: Target, frames: torch.Tensor, device: str = "cpu"):
        super().__init__(molecule)
        atoms = frames.double().numpy()
        beads = mapped(molecule, atoms)
        centre = beads.mean(axis=1, keepdims=True)
        self.frames, self.device = frames, device
        self.atoms, self.beads = atoms - centre, beads - centre
        self.nearest = NearestConformation(torch.as_tensor(self.beads, dtype=torch.float32, device=device))

    @classmethod
    def from_model(cls, model: ModelFile, device: str = "cpu") -> LibraryGenerator:
        """From a model file; :class:`InputError` where its content does not fit together."""
        try:
            molecule = build_target(model.chemistry, [model.hyperparameters["chain"]])
            frames = model.weights["frames"]
            sound = frames.ndim == 3 and frames.shape[1:] == (molecule.n_atoms, 3) and len(frames) and bool(
                torch.isfinite(frames).all())
        except (KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{model.name}: weights and hyperparameters do not fit together ({error})") from None
        if not sound:
            raise InputError(f"{model.name}: its frames have the shape {tuple(frames.shape)}, expected (some, "
                             f"{molecule.n_atoms}, 3) of finite numbers")
        return cls(molecule, frames, device)

    def to_model(self, chemistry, provenance: dict) -> ModelFile:
        """Pack everything into a model file."""
        return ModelFile(
            family=self.family, weights={"frames": self.frames}, chemistry_source=chemistry.source,
            force_field_xml=chemistry.force_field_xml, provenance=provenance,
            hyperparameters={"chain": list(self.molecule.chains[0])})

    def step(self, beads: np.ndarray, previous: np.ndarray | None, rng: np.random.Generator) -> np.ndarray:
        """See :meth:`CoherentGenerator.step`; ``previous`` and ``rng`` are not looked at."""
        centre = beads.mean(axis=1, keepdims=True)
        wanted = torch.as_tensor(beads - centre, dtype=torch.float32, device=self.device)
        chosen = self.nearest.of(wanted)[0].cpu().numpy()
        return self.atoms[chosen] @ rotations(self.beads[chosen], beads - centre) + centre


def stored(frames: torch.Tensor) -> torch.Tensor:
    """Frames (n_frames, n_atoms, 3), nm, as a model file holds them: centred, in single precision where a file then
    stays below 20 MB; otherwise in half precision (0.0002 nm for atoms within 1 nm of the centre), and as many of them,
    spread evenly, as it has room for."""
    frames = (frames - frames.mean(1, keepdim=True)).float()
    if frames.nbytes <= _MOST_BYTES:
        return frames
    most = _MOST_BYTES // (frames[0].numel() * 2)
    chosen = torch.linspace(0, len(frames) - 1, min(len(frames), most)).round().long()
    return frames[chosen].half()
