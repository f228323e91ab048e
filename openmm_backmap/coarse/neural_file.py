"""Learned force fields as files: one file with the network, its prior, conformations to begin with and the chemistry.

The file is a :class:`openmm_backmap.model_file.ModelFile`: tensors and plain values, read as nothing else.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from openmm_backmap.chemistry import Target, build_target
from openmm_backmap.coarse.neural import CGNetwork, NetworkSettings
from openmm_backmap.errors import InputError
from openmm_backmap.model_file import ModelFile, load_model, save_model

FAMILY, MODEL_FILE = "cg-forces", "model.pt"
_STARTS = "starts"
_WIDEST, _DEEPEST, _MOST_MONOMERS = 4096, 32, 1000


@dataclass(frozen=True)
class NeuralModel:
    """A learned force field of one kind of molecule.

    Attributes
    ----------
    target : Target
        One molecule.
    network : CGNetwork
    temperature_K : float
        At which it was made; its energies are free energies, and right there only.
    starts : Tensor, shape (n, n_beads, 3), nm
        Conformations of the reference.
    provenance : dict
        What it was made from; plain values.
    sha256 : str
        Of the file that it was read from.
    """

    target: Target = field(repr=False)
    network: CGNetwork = field(repr=False)
    temperature_K: float
    starts: torch.Tensor = field(repr=False)
    provenance: dict[str, Any] = field(default_factory=dict, repr=False)
    sha256: str = ""


def save_neural_model(path: str | Path, model: NeuralModel) -> None:
    """Write a model file."""
    chemistry = model.target.chemistry
    save_model(ModelFile(
        family=FAMILY, weights={**model.network.state_dict(), _STARTS: model.starts}, chemistry_source=chemistry.source,
        force_field_xml=chemistry.force_field_xml, provenance=model.provenance, hyperparameters={
            "monomers": list(model.target.chains[0]), "temperature_K": float(model.temperature_K),
            "network": asdict(model.network.settings)}), path)


def is_neural_model(path: str | Path) -> bool:
    """Whether ``path``, a model or the folder of one, is of this kind by its name."""
    path = Path(path)
    return path.suffix == ".pt" or (path / MODEL_FILE).is_file()


def load_neural_model(path: str | Path) -> NeuralModel:
    """Read a model file, or the one in a folder that :func:`openmm_backmap.coarse.fit_forces` has left.

    Raises
    ------
    InputError
        The file is missing, no such model, or holds something that cannot be.
    """
    path = Path(path)
    path = path / MODEL_FILE if path.is_dir() else path
    if not path.is_file():
        raise InputError(f"{path}: no such file; give a model (.pt) or the folder of 'cg-model fit --method forces'")
    file = load_model(path)
    if file.family != FAMILY:
        raise InputError(f"{path}: a model of the family {file.family}, which generates atoms; expected a CG force "
                         "field of 'cg-model fit --method forces'")
    try:
        return _parsed(file)
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        if isinstance(error, InputError):
            raise InputError(f"{path}: {error}") from None
        raise InputError(f"{path}: weights and hyperparameters do not fit together "
                         f"({str(error).splitlines()[0][:120]})") from None


def _parsed(file: ModelFile) -> NeuralModel:
    monomers, temperature = file.hyperparameters["monomers"], float(file.hyperparameters["temperature_K"])
    settings = NetworkSettings(**file.hyperparameters["network"])
    if not (len(monomers) <= _MOST_MONOMERS and 0 < settings.width <= _WIDEST and 0 < settings.depth <= _DEEPEST):
        raise InputError(f"a network of width {settings.width} and depth {settings.depth} for {len(monomers)} monomers "
                         f"is larger than it can be ({_WIDEST}, {_DEEPEST}, {_MOST_MONOMERS})")
    if not 0 < temperature < 1e5:
        raise InputError(f"temperature_K is {temperature:g}; expected a number above 0")
    weights = dict(file.weights)
    starts = weights.pop(_STARTS)
    target = build_target(file.chemistry, [tuple(map(str, monomers))])
    network = CGNetwork(target, temperature, settings)
    network.load_state_dict(weights)
    if starts.ndim != 3 or starts.shape[1:] != (target.n_beads, 3) or not len(starts):
        raise InputError(f"conformations of shape {tuple(starts.shape)}; expected (any, {target.n_beads}, 3)")
    if not all(torch.isfinite(value).all() for value in (starts, *weights.values())):
        raise InputError("holds numbers that are not finite")
    return NeuralModel(target, network.requires_grad_(False), temperature, starts.float(), dict(file.provenance),
                       file.sha256)
