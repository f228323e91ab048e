"""The ``fragment`` family: rigid fragments of reference snapshots on the beads, then minimised.

As VOTCA backmaps in chapter 6 of M. Stieffenhofer's thesis (Johannes Gutenberg University Mainz): fragments lie with
their mapped point on the bead; four cycles of minimisation follow: bonds and angles alone, dihedrals with them, then
all forces twice. Beads are restrained in the first three. The thesis does not tell the numbers of steps, nor how
fragments are turned; here a fragment keeps its place in the frame that the neighbouring beads give.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from openmm_backmap.chemistry import Chemistry, Target
from openmm_backmap.environments.local import bead_frames
from openmm_backmap.errors import InputError
from openmm_backmap.generators.base import check_chemistry
from openmm_backmap.generators.baselines.chains import copied, distinct_chains
from openmm_backmap.generators.baselines.minimise import Stage, StagedMinimiser
from openmm_backmap.model_file import ModelFile

_TORSIONS = ("torsion", "rb_torsion", "improper")
STAGES = (Stage(500, without=("nonbonded", *_TORSIONS), restrained=True),
          Stage(500, without=("nonbonded",), restrained=True),
          Stage(2000, restrained=True),
          Stage(2000))


class FragmentGenerator:
    """Draws a fragment for each bead, puts it in the frame of the bead, and minimises.

    Parameters
    ----------
    model : ModelFile
        Its chemistry, and the library: ``fragments.N`` (n_fragments, n_atoms, 3), nm, of the kind that
        ``hyperparameters["kinds"][N]`` names (:func:`kinds_of`), in the frame of the bead.
    platform : str, optional
        OpenMM platform of the minimisation; the fastest that works by default.
    stages : sequence of Stage
        None at all leaves the fragments as placed.
    """

    uses_openmm, default_refine = True, "none"

    def __init__(self, model: ModelFile, library: Mapping[str, np.ndarray], platform: str | None = None,
                 stages: tuple[Stage, ...] = STAGES):
        self.model, self.library = model, dict(library)
        self.minimiser = StagedMinimiser(stages, platform)

    @classmethod
    def from_model(cls, model: ModelFile, device: str = "cpu", platform: str | None = None) -> FragmentGenerator:
        """From a model file; :class:`InputError` where its content does not fit together."""
        try:
            kinds = [str(kind) for kind in model.hyperparameters["kinds"]]
            library = {kind: model.weights[f"fragments.{k}"].double().numpy() for k, kind in enumerate(kinds)}
        except (KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{model.name}: fragments and kinds do not fit together ({error} is missing)") from None
        for kind, fragments in library.items():
            n_atoms = len(_atoms_of(kind))
            sound = fragments.ndim == 3 and fragments.shape[1:] == (n_atoms, 3) and np.isfinite(fragments).all()
            if not sound or not len(fragments):
                raise InputError(f"{model.name}: fragments and kinds do not fit together: those of {kind} have the "
                                 f"shape {fragments.shape}, expected (some, {n_atoms}, 3) of finite numbers")
        return cls(model, library, platform)

    def to_model(self, chemistry: Chemistry, provenance: dict) -> ModelFile:
        """Pack everything into a model file."""
        return library_model(chemistry, self.library, provenance)

    def generate(self, target: Target, beads: np.ndarray, box, *, n_samples: int = 1, rng: np.random.Generator,
                 progress=None) -> np.ndarray:
        """See :meth:`openmm_backmap.generators.base.Generator.generate`."""
        check_chemistry(self.model, target)
        kinds = kinds_of(target)
        self._check_kinds(kinds)
        frames = bead_frames(target, beads, box)
        drawn = []
        for k in range(n_samples):
            placed = self._placed(target, kinds, beads, frames, rng)
            drawn.append(self.minimiser.minimise(target, placed, beads, box, progress))
            if progress:
                progress("drawing", k + 1, n_samples)
        return np.stack(drawn)

    def _check_kinds(self, kinds: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> None:
        unknown = sorted(set(kinds) - set(self.library))
        if unknown:
            raise InputError(f"{self.model.name}: the library has no fragment of a bead with the atoms "
                             f"{', '.join(_atoms_of(unknown[0]))} in this place of a chain ({unknown[0]}): make one "
                             "from snapshots that hold such beads")

    def _placed(self, target: Target, kinds, beads: np.ndarray, frames: np.ndarray, rng) -> np.ndarray:
        positions = np.empty((target.n_atoms, 3))
        for kind, (bead, atoms) in kinds.items():
            fragments = self.library[kind]
            chosen = fragments[rng.integers(len(fragments), size=len(bead))]
            positions[atoms] = beads[bead, None] + np.einsum("baj,bjk->bak", chosen, frames[bead])
        return positions


def library_model(chemistry: Chemistry, library: Mapping[str, np.ndarray], provenance: dict) -> ModelFile:
    """A model file of the fragments (n_fragments, n_atoms, 3), nm, of each kind."""
    kinds = sorted(library)
    return ModelFile(
        family="fragment", hyperparameters={"kinds": kinds}, chemistry_source=chemistry.source,
        force_field_xml=chemistry.force_field_xml, provenance=provenance,
        weights={f"fragments.{k}": torch.tensor(library[kind], dtype=torch.float32) for k, kind in enumerate(kinds)})


def kinds_of(target: Target) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Beads (n,) and their atoms (n, n_atoms) by kind.

    Beads are of one kind where they have the same type, atoms of the same names, and a frame by neighbours in the same
    places. Hands are not told apart: frames of left-handed monomers are mirrored.
    """
    types = [target.chemistry.bead_types[k] for k in target.bead_type]
    towards = np.where(target.bead_frame >= 0, target.bead_frame - np.arange(target.n_beads)[:, None], 0)
    found: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
    for copies in distinct_chains(target):
        for k, atoms in enumerate(copies.atoms_of_bead):
            bead = copies.first_bead[0] + k
            names = " ".join(target.atom_names[a] for a in copies.first_atom[0] + atoms)
            frame = " ".join(f"{step:+d}" for step in towards[bead] if step)
            found.setdefault(f"{types[bead]}: {names} | {frame}", []).append(
                (k + copies.first_bead, copied(atoms[None], copies.first_atom)))
    return {kind: tuple(np.concatenate(part) for part in zip(*rows)) for kind, rows in found.items()}


def _atoms_of(kind: str) -> list[str]:
    """Atom names of a kind as :func:`kinds_of` writes it."""
    return kind.partition(":")[2].partition("|")[0].split()
