"""A coarse-grained force field learned from atomistic forces: multiscale coarse graining with a small network.

The forces of the potential of mean force minimise <|F_CG(R) - B f|^2> over reference frames (S. Izvekov, G. A. Voth, J.
Phys. Chem. B 109, 2469 (2005); W. G. Noid et al., J. Chem. Phys. 128, 244114 (2008)); with a network for F_CG: J. Wang
et al., ACS Cent. Sci. 5, 755 (2019), B. E. Husic et al., J. Chem. Phys. 153, 194101 (2020). Frames at the end of every
run are held out, and the weights that predict their forces best are kept.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch

from openmm_backmap import __version__
from openmm_backmap.analysis.evaluation.inputs import file_hashes
from openmm_backmap.analysis.forces.matching import chi_squared
from openmm_backmap.chemistry import Chemistry
from openmm_backmap.coarse.fit import OTHER_FIT
from openmm_backmap.coarse.force_check import TermScore, check_run, distributions_figure, term_scores
from openmm_backmap.coarse.force_data import FORCES, ForceData, Progress, read_runs
from openmm_backmap.coarse.neural import CGNetwork, NetworkSettings, forces
from openmm_backmap.coarse.neural_file import MODEL_FILE, NeuralModel, load_neural_model, save_neural_model
from openmm_backmap.errors import InputError
from openmm_backmap.io.folders import claim
from openmm_backmap.io.writers import replacing
from openmm_backmap.training.curve import curve, plot_curve, write_curve

_CHECKPOINT, _UNIT = "checkpoint.pt", "(kJ/mol/nm)^2"
_AT_ONCE, _STARTS, _LEAST_FRAMES = 4_000, 1_000, 100
_WARM_UP, _LAST_RATE = 0.05, 0.001


@dataclass(frozen=True)
class ForceSettings:
    """How a force field is learned.

    Parameters
    ----------
    epochs : int
        Passes over the training frames; the learning rate falls over all of them.
    patience : int
        Training ends after so many epochs in which the held-out frames were predicted no better.
    batch : int
        Frames of an update.
    learning_rate : float
    held_out : float
        Share of every run, at its end, that is not trained on.
    temperature_K : float or None
        Of the reference; None takes the chemistry's.
    iterations : int
        Runs by which dihedrals are corrected after training
        (:meth:`openmm_backmap.coarse.neural.CGNetwork.correct_dihedrals`).
    ps : float
        Of each of them, and of the run that the model is looked at in.
    seed : int
    network : NetworkSettings
    """

    epochs: int = 60
    patience: int = 15
    batch: int = 512
    learning_rate: float = 2e-3
    held_out: float = 0.1
    temperature_K: float | None = None
    iterations: int = 2
    ps: float = 50.0
    seed: int = 1
    network: NetworkSettings = NetworkSettings()


@dataclass(frozen=True)
class FittedForces:
    """What was learned.

    Attributes
    ----------
    model : NeuralModel
    losses : list of dict
        By epoch (``step``): ``loss`` and ``held_out``, mean squared differences of forces, (kJ/mol/nm)^2. Epoch 0 is
        the prior.
    scores : list of TermScore
        Of a run of the model.
    """

    model: NeuralModel
    losses: list[dict[str, float]]
    scores: list[TermScore]


def fit_forces(runs: Sequence[str | Path], chemistry: Chemistry, out: str | Path,
               settings: ForceSettings = ForceSettings(), *, platform: str | None = None,
               progress: Progress | None = None) -> FittedForces:
    """Learn a force field from the forces of atomistic runs, in the folder ``out``.

    It holds ``model.pt``, the losses by epoch as ``losses.csv`` and ``losses.png``, and what a run of the model looks
    like as ``scores.csv`` and ``distributions.png``. One that was interrupted goes on with the epochs that it would
    have had.

    Parameters
    ----------
    runs : sequence of paths
        Folders of one molecule, see :func:`openmm_backmap.coarse.force_data.read_runs`.
    chemistry : Chemistry
    out : path
    settings : ForceSettings
    platform : str, optional
        OpenMM platform of the run.
    progress : callable, optional
        ``progress(stage, done, total)``.

    Raises
    ------
    InputError
        Runs that cannot be read or are too short, or a folder of another fit.
    """
    out, progress = Path(out), progress or (lambda *_: None)
    settings = replace(settings, temperature_K=float(settings.temperature_K or chemistry.temperature_K))
    data = read_runs(runs, chemistry, progress)
    if min(data.lengths) < _LEAST_FRAMES:
        raise InputError(f"{runs[int(np.argmin(data.lengths))]}: {min(data.lengths)} frames; at least {_LEAST_FRAMES} "
                         "of each run are expected")
    hashes = file_hashes([Path(run) / FORCES for run in runs])
    wanted = {**asdict(settings), "method": "forces", "forces_sha256": hashes, "frames": list(data.lengths),
              "chemistry_sha256": chemistry.sha256}
    claim(out / "settings.json", wanted, OTHER_FIT)
    training = _Training(data, settings, out)
    training.run(progress)
    made = {"made_by": f"openmm_backmap {__version__}", "method": "forces", "frames": sum(data.lengths),
            "forces_sha256": hashes, "settings": asdict(settings)}
    starts = training.x[torch.linspace(0, len(data.beads) - 1, min(_STARTS, len(data.beads))).long()]
    learned = NeuralModel(data.target, training.best_network(), settings.temperature_K, starts, made)
    for k in range(settings.iterations):
        stage = lambda _, *done, k=k: progress(f"correction {k + 1} of {settings.iterations}", *done)  # noqa: E731
        run = check_run(learned, settings.ps, settings.seed + k + 1, platform, stage)
        learned.network.correct_dihedrals(training.x, torch.as_tensor(run, dtype=torch.float32))
    save_neural_model(out / MODEL_FILE, learned)
    losses = curve(training.history)
    write_curve(losses, out / "losses.csv")
    plot_curve(losses, _UNIT, out / "losses.png")
    model = load_neural_model(out)
    scores = _looked_at(model, data, settings, out, platform, progress)
    (out / _CHECKPOINT).unlink(missing_ok=True)
    return FittedForces(model, losses, scores)


def _looked_at(model: NeuralModel, data: ForceData, settings: ForceSettings, out: Path, platform: str | None,
               progress: Progress) -> list[TermScore]:
    run = check_run(model, settings.ps, settings.seed, platform, progress)
    scores = term_scores(data.target, data.beads, run)
    write_curve([asdict(score) for score in scores], out / "scores.csv")
    with replacing(out / "distributions.png", overwrite=True) as part:
        distributions_figure(data.target, data.beads, run).savefig(part, dpi=110)
    return scores


class _Training:
    """Epochs over the frames of ``data``; after each, all that the next one needs is in ``out``."""

    def __init__(self, data: ForceData, settings: ForceSettings, out: Path):
        self.settings, self.file = settings, out / _CHECKPOINT
        self.x, self.forces = torch.as_tensor(data.beads), torch.as_tensor(data.forces)
        ends = np.cumsum(data.lengths)
        held = [np.arange(end - round(settings.held_out * n), end) for end, n in zip(ends, data.lengths, strict=True)]
        self.held = torch.as_tensor(np.concatenate(held))
        self.train = torch.as_tensor(np.setdiff1d(np.arange(ends[-1]), self.held.numpy()))
        with torch.random.fork_rng():
            torch.manual_seed(settings.seed)
            self.network = CGNetwork(data.target, settings.temperature_K, settings.network)
        self.network.fit_prior(self.x[self.train])
        self.optimizer = torch.optim.Adam(self.network.parameters(), settings.learning_rate)
        self.history: list[tuple[int, float, float]] = []
        self.best = self.network.state_dict()
        if self.file.exists():
            self._continue()

    def run(self, progress: Progress) -> None:
        """All epochs that are not there yet, or until the held-out loss falls no more."""
        if not self.history:
            self.history.append((0, *(self._loss(self.network.prior, rows) for rows in (self.train, self.held))))
        for epoch in range(len(self.history), self.settings.epochs + 1):
            if epoch - self._best_epoch() > self.settings.patience:
                break
            loss = self._epoch(epoch, progress)
            self.history.append((epoch, loss, self._loss(self.network, self.held)))
            if not math.isfinite(loss):
                raise InputError(f"training diverged in epoch {epoch}; its forces may be damaged")
            if self._best_epoch() == epoch:
                self.best = {name: value.clone() for name, value in self.network.state_dict().items()}
            self._keep()

    def best_network(self) -> CGNetwork:
        self.network.load_state_dict(self.best)
        return self.network

    def _best_epoch(self) -> int:
        return min(self.history, key=lambda row: row[2])[0]

    def _epoch(self, epoch: int, progress: Progress) -> float:
        order = np.random.default_rng([self.settings.seed, epoch]).permutation(len(self.train))
        batches = self.train[torch.as_tensor(order)].split(self.settings.batch)
        total = 0.0
        for k, rows in enumerate(batches):
            progress(f"epoch {epoch} of {self.settings.epochs}", k, len(batches))
            for group in self.optimizer.param_groups:
                group["lr"] = self.settings.learning_rate * self._schedule(epoch - 1 + k / len(batches))
            loss = chi_squared(forces(self.network, self.x[rows], differentiable=True)[1], self.forces[rows])
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self.optimizer.step()
            total += loss.item() * len(rows)
        return total / len(self.train)

    def _schedule(self, epoch: float) -> float:
        done = epoch / self.settings.epochs
        return min(1.0, done / _WARM_UP) * (_LAST_RATE + (1 - _LAST_RATE) * (1 + math.cos(math.pi * done)) / 2)

    def _loss(self, energy, frames: torch.Tensor) -> float:
        found = [float(chi_squared(forces(energy, self.x[rows])[1], self.forces[rows])) * len(rows)
                 for rows in frames.split(_AT_ONCE)]
        return sum(found) / len(frames)

    def _keep(self) -> None:
        part = self.file.with_name(f".{self.file.name}.part")
        torch.save({"network": self.network.state_dict(), "optimizer": self.optimizer.state_dict(), "best": self.best,
                    "history": self.history}, part)
        os.replace(part, self.file)

    def _continue(self) -> None:
        try:
            kept = torch.load(self.file, weights_only=True)
            self.network.load_state_dict(kept["network"])
            self.optimizer.load_state_dict(kept["optimizer"])
            self.best, self.history = kept["best"], [tuple(row) for row in kept["history"]]
        except Exception as error:  # torch raises whatever a damaged file happens to break
            raise InputError(f"{self.file}: damaged ({' '.join(str(error).split())[:120]}); remove it and run the same "
                             "command again") from None
