"""What every generator offers, the names of those there are, and how a model is found by name."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import numpy as np

from openmm_backmap.chemistry import Target, load_chemistry
from openmm_backmap.errors import BackmapError, InputError
from openmm_backmap.model_file import ModelFile, load_model, shipped_models
from openmm_backmap.registry import Registry, unknown_name

Progress = Callable[[str, int, int], None]

#: family name -> class with ``from_model(model_file, device)``; :class:`Generator` says what else it may have
FAMILIES = Registry("generator family", {
    "coherent-beads": "openmm_backmap.generators.coherent.beads:CoherentBeadsGenerator",
    "coherent-flow": "openmm_backmap.generators.coherent.flow:CoherentFlowGenerator",
    "cvae": "openmm_backmap.generators.coherent.cvae:CVAEGenerator",
    "dbm": "openmm_backmap.generators.dbm:DBMGenerator",
    "flow": "openmm_backmap.generators.flow:FlowGenerator",
    "fragment": "openmm_backmap.generators.baselines.fragment:FragmentGenerator",
    "geometric": "openmm_backmap.generators.baselines.geometric:GeometricGenerator",
    "library": "openmm_backmap.generators.coherent.library:LibraryGenerator",
    "random": "openmm_backmap.generators.baselines.random:RandomGenerator",
}, group="openmm_backmap.generators")


class Generator(Protocol):
    """Draws atoms for given beads: p(r | R, c).

    A family that differs says so by class attributes: ``trained = False`` where a chemistry is all that it needs,
    ``transfers = True`` where a model may be applied to other molecules than those it was trained on,
    ``default_refine`` (otherwise "equilibrate") for how far its atoms are refined if nothing is said,
    ``uses_openmm = True`` where it has energies of its own, and ``from_model`` takes ``platform``, and
    ``divides = True`` where ``generate`` takes ``workers`` (:class:`openmm_backmap.sampling.domains.Workers`) to draw
    domains of a melt, which they do by its ``prepared``.
    """

    def generate(self, target: Target, beads: np.ndarray, box: np.ndarray | None, *, n_samples: int = 1,
                 rng: np.random.Generator, progress: Progress | None = None) -> np.ndarray:
        """Draw atom positions.

        Parameters
        ----------
        target : Target
            What to place.
        beads : ndarray, shape (n_beads, 3), nm
            Bead positions of whole molecules, in target order.
        box : ndarray, shape (3, 3), nm, or None
        n_samples : int
            Independent draws.
        rng : numpy.random.Generator
            The only source of randomness: the same state gives the same atoms.
        progress : callable, optional
            Called as ``progress(stage, done, total)``.

        Returns
        -------
        ndarray, shape (n_samples, n_atoms, 3), nm
            Whole molecules; beads held as well as the generator can.
        """
        ...


def load_generator(model: ModelFile, device: str | None = None, platform: str | None = None) -> Generator:
    """The generator of a model file.

    Parameters
    ----------
    device : str, optional
        Torch device, ``cuda`` or ``cpu``; cuda where there is one by default.
    platform : str, optional
        OpenMM platform of a generator that minimises; the fastest that works by default.
    """
    family, device = FAMILIES.get(model.family), pick_device(device)
    if getattr(family, "uses_openmm", False):
        return family.from_model(model, device, platform=platform)
    return family.from_model(model, device)


def check_chemistry(model: ModelFile, target: Target) -> None:
    """Refuse a target of another chemistry than the model's."""
    own, other = model.chemistry, target.chemistry
    if (own.source, own.force_field_xml) != (other.source, other.force_field_xml):
        raise InputError(f"model {model.name} is for another chemistry: {own.name}, not {other.name}")


def default_refine(model: ModelFile) -> str:
    """How far atoms of this model are refined if nothing is said."""
    return getattr(FAMILIES.get(model.family), "default_refine", "equilibrate")


def untrained_families() -> list[str]:
    """Families that place atoms by a chemistry alone."""
    found = []
    for name in FAMILIES.names():
        with contextlib.suppress(BackmapError):  # a broken plug-in is told of when it is asked for
            if not getattr(FAMILIES.get(name), "trained", True):
                found.append(name)
    return found


def find_model(model: str | Path | ModelFile, chemistry: str | Path | None = None) -> ModelFile:
    """The model that ``--model`` and ``--chemistry`` mean.

    Parameters
    ----------
    model : str, Path or ModelFile
        A model already loaded, the name of a shipped one or the path of a model file: these bring their chemistry,
        and those of a family that transfers take another. Or
        a family (``random``, ``geometric``, ``fragment``), for the chemistry that is given: a trained family
        then means the shipped model ``FAMILY-CHEMISTRY``.
    chemistry : str or Path, optional
        Shipped name or file.

    Raises
    ------
    InputError
        A chemistry where the model brings one, none where it is needed, or a trained family that has no shipped model
        of the chemistry.
    UnknownNameError
        No such model, family or chemistry.
    """
    if takes_chemistry(model):
        return _of_family(str(model), chemistry)
    found = model if isinstance(model, ModelFile) else load_model(_known(model))
    if chemistry is None:
        return found
    if not transfers(found):
        raise InputError(f"model {found.name} brings its own chemistry: leave --chemistry {chemistry} out")
    other = load_chemistry(chemistry)
    return replace(found, chemistry_source=other.source, force_field_xml=other.force_field_xml)


def takes_chemistry(model: str | Path | ModelFile) -> bool:
    """Whether ``model`` names a family, to which a chemistry has to be given, and not a model."""
    return not isinstance(model, ModelFile) and str(model) in FAMILIES.names() and str(model) not in shipped_models()


def transfers(model: ModelFile) -> bool:
    """Whether ``model`` may be applied to other molecules than its own."""
    return getattr(FAMILIES.get(model.family), "transfers", False)


def _known(model: str | Path | ModelFile) -> str | Path | ModelFile:
    if isinstance(model, ModelFile) or str(model) in shipped_models() or Path(model).is_file():
        return model
    raise unknown_name("model", str(model), {*shipped_models(), *FAMILIES.names()},
                       hint="or the path of a model file (.pt)")


def _of_family(family: str, chemistry: str | Path | None) -> ModelFile:
    if chemistry is None:
        raise InputError(f"{family} is a family of generators, and needs to know the molecules: "
                         "give --chemistry, a shipped name or a chemistry file")
    found = load_chemistry(chemistry)
    if not getattr(FAMILIES.get(family), "trained", True):
        return ModelFile(family=family, hyperparameters={}, weights={}, chemistry_source=found.source,
                         force_field_xml=found.force_field_xml, provenance={"recipe": "untrained"}, name=family)
    name = f"{family}-{chemistry}"
    if name in shipped_models():
        return load_model(name)
    raise InputError(f"there is no shipped model {name}: make one with 'backmap-openmm train SNAPSHOTS --validation "
                     f"OTHERS --chemistry {chemistry} --settings FILE --out {family}.pt' and 'family: {family}' in "
                     f"FILE, and give it as --model {family}.pt")


def pick_device(name: str | None) -> str:
    """``name``, or the best device of this machine; :class:`InputError` where it is not to be had."""
    import torch

    if name is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name.split(":")[0] not in ("cpu", "cuda"):
        raise InputError(f"device {name!r} is not known; use cpu or cuda")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise InputError(f"device {name!r}: torch {torch.__version__} finds no CUDA device here; use --device cpu")
    return name
