"""A coarse-grained model from atomistic frames: Boltzmann inversion, then run and corrected as often as wanted.

Every iteration is a folder of its own: its model, what its run gave, and a figure. A fit that was interrupted goes on
after the last thing that was finished; one that is asked for more iterations goes on from those that are there.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np

from openmm_backmap import __version__
from openmm_backmap.analysis.evaluation.inputs import file_hashes
from openmm_backmap.analysis.kept import load_arrays, save_arrays
from openmm_backmap.chemistry import Chemistry, Target
from openmm_backmap.coarse.distributions import STEPS, Distributions, axes_of, divergence, measure, sampling_floor
from openmm_backmap.coarse.dynamics import Dynamics, State
from openmm_backmap.coarse.figures import convergence_figure, iteration_figure
from openmm_backmap.coarse.graph import BONDED, PAIR, bead_app_topology, bonded_terms
from openmm_backmap.coarse.inversion import first_term, pressure_corrected, updated_term
from openmm_backmap.coarse.model import CGModel, Constraint
from openmm_backmap.coarse.model_text import MODEL_FILE, load_cg_model, save_cg_model
from openmm_backmap.coarse.pressure import pressures
from openmm_backmap.coarse.system import create_cg_system
from openmm_backmap.errors import InputError
from openmm_backmap.geometry.checks import mapped
from openmm_backmap.geometry.internal import bond_lengths
from openmm_backmap.geometry.periodic import molecules_into_box
from openmm_backmap.io.atomistic import open_atoms
from openmm_backmap.io.folders import claim
from openmm_backmap.io.writers import replacing, write_structure, write_system
from openmm_backmap.registry import unknown_name
from openmm_backmap.units import GAS_CONSTANT

#: time between the frames that a run is judged by
EVERY_PS = 0.5
_BEFORE = 0.2
# The pressure is corrected in every second iteration, as in the thesis (sect. 6.1.3): g(r) recovers in between.
_PRESSURE_EVERY = 2
_RUN, _FIGURE = "run.npz", "distributions.png"
#: what is said of a folder with another fit, see :func:`openmm_backmap.io.folders.claim`
OTHER_FIT = "{record} belongs to a fit with other settings ({changed}); use another --out or the same settings"
_FEWER = "{folder} has a fit of {length} iterations; ask for as many or more, or use another --out"
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class FitSettings:
    """How a model is made.

    Parameters
    ----------
    iterations : int
        Corrections after the direct inversion.
    without : tuple of str
        Bonded terms that the model does not have: ``angles``, ``dihedrals``, ``impropers``, or names of single terms
        (``dihedral B-A-B-B``).
    constrain_bonds : bool
        Bonds have their mean length, in place of a potential.
    direct_bonded : bool
        Bonded potentials stay as directly inverted; only pairs are corrected.
    pressure_bar : float or None
        The pressure that pairs are corrected to; None lets it be what it is.
    cutoff_nm : float
        Of pairs; less where half the box is less.
    excluded_bonds : int
        Pairs up to so many bonds apart have no pair potential.
    ps : float
        Of each iteration's run, that is judged; a fifth of it goes before and is not.
    mixing : float
        Share of the full correction that is made, 0 to 1.
    temperature_K : float or None
        None takes the chemistry's.
    seed : int
    """

    iterations: int = 10
    without: tuple[str, ...] = ()
    constrain_bonds: bool = False
    direct_bonded: bool = False
    pressure_bar: float | None = None
    cutoff_nm: float = 1.2
    excluded_bonds: int = 3
    ps: float = 50.0
    mixing: float = 0.7
    temperature_K: float | None = None
    seed: int = 1


@dataclass(frozen=True)
class _Reference:
    """What is fitted: ``beads`` (n_frames, n_beads, 3) and ``boxes`` (n_frames, 3, 3), nm, and what they look like."""

    target: Target
    beads: np.ndarray = field(repr=False)
    boxes: np.ndarray = field(repr=False)
    distributions: Distributions
    hashes: list[str]


@dataclass(frozen=True)
class _Run:
    distributions: Distributions
    state: State
    pressures: np.ndarray


@dataclass(frozen=True)
class Score:
    """One term of one iteration: divergence from the target (see :func:`coarse.distributions.divergence`), and the
    sampling floor with its standard deviation."""

    iteration: int
    term: str
    divergence: float
    floor: float
    floor_sd: float
    pressure_bar: float


def fit_model(reference: Sequence[str | Path], chemistry: Chemistry, out: str | Path,
              settings: FitSettings = FitSettings(), *, topology: str | Path | None = None, aliases=None,
              platform: str | None = None, progress: Progress | None = None) -> tuple[CGModel, list[Score]]:
    """Make a model of atomistic frames in the folder ``out``.

    It holds ``model.yaml``, ``start.gro`` (beads to begin with), ``system.xml`` (the same as an ``openmm.System``),
    ``scores.csv``, ``convergence.png`` and a folder for each iteration.

    Parameters
    ----------
    reference : sequence of paths
        Atomistic files of one system, see :func:`openmm_backmap.io.atomistic.find_files`.
    chemistry : Chemistry
    out : path
    settings : FitSettings
    topology, aliases
        As for :func:`openmm_backmap.io.atomistic.open_atoms`.
    platform : str, optional
        OpenMM platform.
    progress : callable, optional
        ``progress(stage, done, total)``.

    Raises
    ------
    InputError
        Frames without a box, a box too small, an unknown term, or a folder of another fit.
    RefinementError
        The dynamics of an iteration failed.
    """
    out, progress = Path(out), progress or (lambda *_: None)
    if not 0 < settings.mixing <= 1:
        raise InputError(f"mixing is {settings.mixing:g}; it must be above 0 and at most 1")
    found, settings = _read(reference, chemistry, settings, topology, aliases)
    wanted = {**asdict(settings), "frames_sha256": found.hashes,
              "chemistry_sha256": found.target.chemistry.sha256}
    claim(out / "settings.json", wanted, OTHER_FIT, length="iterations", shorter=_FEWER)
    model, run, scores = _first_model(found, settings), None, []
    state = _beginning(found)
    floors = _floors(found, settings)
    for k in range(settings.iterations + 1):
        folder = out / f"iteration_{k:03d}"
        folder.mkdir(exist_ok=True)
        if not (folder / MODEL_FILE).exists():
            save_cg_model(folder / MODEL_FILE, model if run is None else _corrected(model, found, run, settings, k))
        # Read back even when new: a fit that goes on later then has the same digits.
        model = load_cg_model(folder)
        if not (folder / _RUN).exists():
            _save_run(folder / _RUN, _run(model, found, state, settings, k, platform, progress))
        run = _load_run(folder / _RUN, found)
        state = run.state
        scores += _scores(k, found, run, floors)
        if not (folder / _FIGURE).exists():
            _draw(folder / _FIGURE, iteration_figure(model, found.distributions, run.distributions))
    _finish(out, model, found, run, scores)
    return model, scores


def _read(reference, chemistry, settings: FitSettings, topology, aliases) -> tuple[_Reference, FitSettings]:
    opened = open_atoms(reference, chemistry, topology=topology, aliases=aliases)
    if opened.boxes is None:
        raise InputError(f"{opened.files[0]}: no periodic box; a CG model is made of a periodic system")
    beads = mapped(opened.target, opened.positions)
    room = np.abs(np.diagonal(opened.boxes, axis1=1, axis2=2)).min() / 2 - STEPS[PAIR] / 2
    cutoff = STEPS[PAIR] * int(min(settings.cutoff_nm, room) / STEPS[PAIR] + 1e-9)
    settings = replace(settings, cutoff_nm=round(cutoff, 9),
                       temperature_K=float(settings.temperature_K or chemistry.temperature_K))
    axes = axes_of(opened.target, beads, settings.cutoff_nm, settings.excluded_bonds)
    found = measure(opened.target, zip(beads, opened.boxes, strict=True), axes, settings.excluded_bonds)
    return _Reference(opened.target, beads, opened.boxes, found, file_hashes(opened.files)), settings


def _dropped(target: Target, without: Sequence[str]) -> set[str]:
    """Names of the bonded terms that ``without`` says."""
    names = list(bonded_terms(target))
    plurals = {f"{kind}s": kind for kind in BONDED}
    dropped = set()
    for word in without:
        kind = plurals.get(word)
        if kind is None and word not in names:
            raise unknown_name("term of these molecules", word, (*plurals, *names))
        dropped |= {name for name in names if name == word or name.split()[0] == kind}
    bonds = [name for name in dropped if name.startswith("bond")]
    if bonds:
        raise InputError(f"{min(bonds)}: without it the molecules would fall apart; bonds can be constrained, not left "
                         "out")
    return dropped


def _first_model(found: _Reference, settings: FitSettings) -> CGModel:
    target, kT = found.target, GAS_CONSTANT * settings.temperature_K
    dropped, constraints, terms = _dropped(target, settings.without), [], []
    members = bonded_terms(target)
    for name in found.distributions.x:
        if name.startswith("bond") and settings.constrain_bonds:
            length = float(bond_lengths(found.beads[:, members[name]]).mean())
            constraints.append(Constraint(tuple(name.split()[1].split("-")), length))
        elif name not in dropped:
            terms.append(first_term(name, found.distributions, kT))
    kept = {key: value for key, value in asdict(settings).items() if key != "iterations"}
    made = {"made_by": f"openmm_backmap {__version__}", "frames": len(found.beads), "iteration": 0,
            "molecules": len(target.chains), "frames_sha256": found.hashes,
            "settings": {**kept, "without": list(settings.without)}}
    return CGModel(target.chemistry, settings.temperature_K, settings.cutoff_nm, settings.excluded_bonds, tuple(terms),
                   tuple(constraints), made)


def _corrected(model: CGModel, found: _Reference, run: _Run, settings: FitSettings, iteration: int) -> CGModel:
    kT, terms = GAS_CONSTANT * settings.temperature_K, []
    for term in model.terms:
        if term.kind == PAIR or not settings.direct_bonded:
            term = updated_term(term, found.distributions, run.distributions, kT, settings.mixing)
        if term.kind == PAIR and settings.pressure_bar is not None and iteration % _PRESSURE_EVERY == 0:
            term = pressure_corrected(term, float(run.pressures.mean()) - settings.pressure_bar, kT)
        terms.append(term)
    return replace(model, terms=tuple(terms), provenance={**model.provenance, "iteration": iteration})


def _beginning(found: _Reference) -> State:
    """The frame whose volume is nearest to the mean."""
    volumes = np.abs(np.linalg.det(found.boxes))
    k = int(np.argmin(np.abs(volumes - volumes.mean())))
    return State(found.beads[k], found.boxes[k])


def _run(model: CGModel, found: _Reference, state: State, settings: FitSettings, iteration: int, platform,
         progress: Progress) -> _Run:
    dynamics = Dynamics(model, found.target, state.box, every_ps=EVERY_PS, platform=platform)
    dynamics.start(state, np.random.default_rng([settings.seed, iteration]))
    before, n = round(_BEFORE * settings.ps / EVERY_PS), max(1, round(settings.ps / EVERY_PS))
    stage, frames = f"iteration {iteration} of {settings.iterations}", []
    for k, state in enumerate(dynamics.frames(before + n)):
        progress(stage, k, before + n)
        if k >= before:
            frames.append((state.positions, state.box))
    distributions = measure(found.target, frames, found.distributions.x, settings.excluded_bonds)
    return _Run(distributions, state, pressures(model, found.target, frames, settings.temperature_K))


def _save_run(file: Path, run: _Run) -> None:
    save_arrays(file, positions=run.state.positions, velocities=run.state.velocities, box=run.state.box,
                pressures=run.pressures,
                **{f"counts {name}": rows for name, rows in run.distributions.counts.items()},
                **{f"density {name}": rows for name, rows in run.distributions.density.items()})


def _load_run(file: Path, found: _Reference) -> _Run:
    kept, x = load_arrays(file), found.distributions.x
    try:
        distributions = Distributions(x, {name: kept[f"counts {name}"] for name in x}, {
            name: kept[f"density {name}"] for name in x if name.startswith(PAIR)})
        return _Run(distributions, State(kept["positions"], kept["box"], kept["velocities"]), kept["pressures"])
    except KeyError as error:
        raise InputError(f"{file}: has no {error}; remove it and run the same command again") from None


def _floors(found: _Reference, settings: FitSettings) -> dict[str, tuple[float, float]]:
    rng = np.random.default_rng(settings.seed)
    return {name: sampling_floor(name, found.distributions, rng) for name in found.distributions.x}


def _scores(iteration: int, found: _Reference, run: _Run, floors) -> list[Score]:
    return [Score(iteration, name, divergence(name, found.distributions, run.distributions), *floor,
                  float(run.pressures.mean())) for name, floor in floors.items()]


def _draw(file: Path, figure) -> None:
    with replacing(file, overwrite=True) as part:
        figure.savefig(part, dpi=110)


def _finish(out: Path, model: CGModel, found: _Reference, run: _Run, scores: list[Score]) -> None:
    target, state = found.target, run.state
    save_cg_model(out / MODEL_FILE, model, overwrite=True)
    inside = molecules_into_box(state.positions, state.box, target.molecule_of_bead)
    write_structure(out / "start.gro", bead_app_topology(target), inside, state.box, overwrite=True)
    write_system(out / "system.xml", create_cg_system(model, target, state.box), overwrite=True)
    with replacing(out / "scores.csv", overwrite=True) as part, open(part, "w", newline="") as file:
        writer = csv.DictWriter(file, list(asdict(scores[0])))
        writer.writeheader()
        writer.writerows(asdict(score) for score in scores)
    _draw(out / "convergence.png", convergence_figure(scores))
