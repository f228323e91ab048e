"""Structures judged against a reference, and the tables of pages in ``docs``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import click
import numpy as np
from measure import backmap_command, measured

from openmm_backmap.analysis.describe import Description, describe
from openmm_backmap.analysis.divergence import Comparison, compare
from openmm_backmap.analysis.evaluation.inputs import read_inputs, read_structures
from openmm_backmap.analysis.evaluation.results import number_text
from openmm_backmap.chemistry import load_chemistry
from openmm_backmap.generators.base import find_model
from openmm_backmap.generators.dbm import DBMSampling
from openmm_backmap.io.writers import replacing
from openmm_backmap.model_file import load_model, save_model

#: kinds of distributions, and what a table calls the mean divergence over their types
KINDS = {"angle": "angles", "dihedral": "dihedrals", "improper": "impropers"}
_RING = ("dihedral", "C_AR-C_AR-C_AR-C_AR")
_LJ = "lennard-jones"
SUMMARY_WORDS = """\
Jensen-Shannon divergences in bits: means over types, of the backbone alone (C-C-C, C-C-C-C), and of the Lennard-Jones
energy of a molecule, whose median is given in kJ/mol. g(r): mean difference. Ring spread: standard deviation of the
dihedrals in phenyl rings, degrees; the first row has that of the reference."""


@dataclass(frozen=True)
class Method:
    """One row: a label and the words of the command that makes it."""

    label: str
    words: tuple[str, ...]


@dataclass(frozen=True)
class Judged:
    """A structure and how far it is from the reference."""

    label: str
    description: Description
    comparison: Comparison

    def mean(self, kind: str, of: str = "divergence") -> float:
        """Mean divergence, or ``floor``, over the types of a kind."""
        return float(np.mean([getattr(row, of) for row in self.comparison.rows if row.kind == kind]))

    def row(self, kind: str, name: str):
        """One distribution, by kind and type."""
        return next(row for row in self.comparison.rows if (row.kind, row.name) == (kind, name))


def with_sampling(model: str, sampling: DBMSampling, path: Path) -> Path:
    """A model of the family dbm that chooses among candidates in another way, as a file."""
    known = load_model(model)
    save_model(replace(known, hyperparameters={**known.hyperparameters, "sampling": asdict(sampling)}), path)
    return path


def structure_of(method: Method, out: Path) -> Path:
    return out / f"{method.label.replace(', ', '_').replace(' ', '-')}.gro"


def timed(method: Method, cg: Path, seed: int, out: Path) -> tuple[float, float]:
    """Seconds and MB of the command; kept beside what it wrote, and taken from there for the same model and words."""
    structure = structure_of(method, out)
    record = structure.with_suffix(".json")
    given = dict(zip(method.words, method.words[1:]))
    made = {"words": [str(cg.resolve()), *method.words, "--seed", str(seed)],
            "model": find_model(given["--model"], given.get("--chemistry")).sha256}
    if record.exists():
        found = json.loads(record.read_text())
        if {**found, **made} == found:
            return tuple(found["cost"])
    click.echo(f"{method.label} ...", err=True)
    cost = measured(backmap_command(*made["words"], "-o", structure, "--overwrite", "-q"))
    with replacing(record, overwrite=True) as part:
        part.write_text(json.dumps({**made, "cost": cost}))
    return cost


def judge(methods: Sequence[Method], reference: Sequence[str], held_out: Sequence[str], chemistry: str,
          out: Path) -> list[Judged]:
    """The held-out structure first, then what each method has written in ``out``."""
    inputs = read_inputs(load_chemistry(chemistry), reference, held_out)
    made = [read_structures(m.label, [structure_of(m, out)], inputs) for m in methods]
    described = describe(inputs.reference)
    judged = []
    for ensemble in (inputs.held_out, *made):
        found = describe(ensemble)
        judged.append(Judged(ensemble.name, found, compare(described, found, rng=np.random.default_rng(1))))
    return judged


def quantities(one: Judged) -> dict[str, float]:
    """The numbers of a row of polystyrene, by title."""
    return {**{title: one.mean(kind) for kind, title in KINDS.items()},
            "C-C-C": one.row("angle", "C-C-C").divergence, "C-C-C-C": one.row("dihedral", "C-C-C-C").divergence,
            "LJ energy": one.row("energy", _LJ).divergence,
            "LJ median": float(np.median(one.description.energies[_LJ])),
            "g(r)": float(np.mean([row.difference for row in one.comparison.radial])),
            "ring spread": one.row(*_RING).sd}


def floors(one: Judged) -> dict[str, float]:
    """The same of parts of the reference against the rest, where there is such a number."""
    return {**{title: one.mean(kind, "floor") for kind, title in KINDS.items()},
            "C-C-C": one.row("angle", "C-C-C").floor, "C-C-C-C": one.row("dihedral", "C-C-C-C").floor,
            "LJ energy": one.row("energy", _LJ).floor,
            "g(r)": float(np.mean([row.floor for row in one.comparison.radial])),
            "ring spread": one.row(*_RING).sd_reference}


def summary(judged: Sequence[Judged]) -> list[str]:
    """One row an ensemble."""
    titles = list(quantities(judged[0]))
    rows = [("floor", floors(judged[0])), *((j.label, quantities(j)) for j in judged)]
    return markdown_table(["", *titles], [[label, *(number_text(values.get(title)) for title in titles)]
                                          for label, values in rows])


def every_divergence(columns: dict[str, Comparison]) -> list[str]:
    """One row a distribution, one column an ensemble, by label."""
    rows = []
    for same in zip(*([*c.rows, *c.radial] for c in columns.values()), strict=True):
        first = same[0]
        radial = not hasattr(first, "kind")
        values = [row.difference if radial else row.divergence for row in same]
        rows.append([f"{'g(r)' if radial else first.kind} {first.name}", *map(number_text, (first.floor, *values))])
    return markdown_table(["", "floor", *columns], rows)


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table, numbers to the right."""
    return [f"| {' | '.join(cells)} |" for cells in (head, ["---", *["---:"] * (len(head) - 1)], *rows)]
