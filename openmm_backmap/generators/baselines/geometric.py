"""The ``geometric`` family: atoms by the rules of the chemistry, then minimised.

Wassenaar, Pluhackova, Böckmann, Marrink, Tieleman, J. Chem. Theory Comput. 10, 676 (2014), as the DeepBackmap papers
compare with it: each atom at a weighted mean of beads, displaced a little at random; cis, trans, out and chiral
modifiers; 200 steps of minimisation without nonbonded forces, and 5000 with them. Beads are not restrained.
"""

from __future__ import annotations

import numpy as np

from openmm_backmap.chemistry import Target
from openmm_backmap.environments.local import bead_frames
from openmm_backmap.generators.base import check_chemistry
from openmm_backmap.generators.baselines.minimise import Stage, StagedMinimiser
from openmm_backmap.generators.baselines.placing import correct, rules_of
from openmm_backmap.model_file import ModelFile

STAGES = (Stage(200, without=("nonbonded",)), Stage(5000))
KICK_NM = 0.01


class GeometricGenerator:
    """Places atoms by the section ``placement`` of the chemistry, and minimises.

    Parameters
    ----------
    model : ModelFile
        Its chemistry is what counts.
    platform : str, optional
        OpenMM platform of the minimisation; the fastest that works by default.
    stages : sequence of Stage
        None at all leaves the atoms as placed.
    kick_nm : float
        Standard deviation, along each axis, of the displacement of every atom before the modifiers.
    """

    trained, uses_openmm, default_refine = False, True, "none"

    def __init__(self, model: ModelFile, platform: str | None = None, stages: tuple[Stage, ...] = STAGES,
                 kick_nm: float = KICK_NM):
        self.model, self.kick_nm = model, kick_nm
        self.minimiser = StagedMinimiser(stages, platform)

    @classmethod
    def from_model(cls, model: ModelFile, device: str = "cpu", platform: str | None = None) -> GeometricGenerator:
        return cls(model, platform)

    def generate(self, target: Target, beads: np.ndarray, box, *, n_samples: int = 1, rng: np.random.Generator,
                 progress=None) -> np.ndarray:
        """See :meth:`openmm_backmap.generators.base.Generator.generate`."""
        check_chemistry(self.model, target)
        rules = rules_of(target)
        frames = bead_frames(target, beads, box)[target.bead_of_atom]
        start, drawn = rules.means @ beads, []
        for k in range(n_samples):
            # In the frame of the bead, so that atoms turn with the beads.
            kick = np.einsum("ak,aki->ai", rng.normal(scale=self.kick_nm, size=start.shape), frames)
            drawn.append(self.minimiser.minimise(target, correct(rules, start + kick), beads, box, progress))
            if progress:
                progress("drawing", k + 1, n_samples)
        return np.stack(drawn)
