"""One self-contained page about a result, and a picture of it."""

from __future__ import annotations

import html
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from openmm_backmap.analysis import page, viewer
from openmm_backmap.analysis.expectations import (
    BROADEST,
    FARTHEST_SPREADS,
    MOST_SPREADS_OFF,
    NARROWEST,
    Expectation,
    expectations,
)
from openmm_backmap.analysis.pictures import (
    chain_figure,
    deviation_figure,
    dihedral_figure,
    expectation_figure,
    system_figure,
)
from openmm_backmap.chemistry import Target
from openmm_backmap.geometry.checks import (
    close_contacts,
    inverted_centres,
    mapped,
    pierced_rings,
    ring_planarity,
    rings,
)
from openmm_backmap.geometry.internal import by_type, dihedral_angles, dihedrals_of
from openmm_backmap.geometry.periodic import minimum_image
from openmm_backmap.io.writers import replacing
from openmm_backmap.refine.pipeline import residue_label

if TYPE_CHECKING:
    from openmm_backmap.backmapper import Backmapped

_WORST_BEADS = 8
_DIHEDRALS_SHOWN = 8
_EXPECTED = f"""<p>The force field gives each bond, angle and improper an energy
k/2 (q &minus; q<sub>0</sub>)<sup>2</sup>. Alone, at the temperature of the run, it would have the mean q<sub>0</sub>
and the spread (standard deviation) &radic;(k<sub>B</sub>T/k); constrained bonds have a length and no spread. Atoms are
not alone: neighbours and packing shift the mean of an angle by some degrees, and angles that share an atom or a ring
hold each other, which makes them narrower. So small differences are right. Marked are means that are off by more than
{MOST_SPREADS_OFF:g} spreads, spreads below {NARROWEST:g} (a minimum, not a temperature) or above {BROADEST:g} times
what is expected, and single values more than {FARTHEST_SPREADS:g} spreads off.</p>"""


def write_report(path: str | Path, result: Backmapped, *, overwrite: bool = False) -> None:
    """Write a page of HTML that needs nothing else: settings, energies, checks, geometry and a view to turn.

    Parameters
    ----------
    path : str or Path
    result : Backmapped
        View, pictures and energies are those of its first sample; everything else covers all of them.
    overwrite : bool
        Replace a file that exists.
    """
    name = str(result.provenance.get("input", ""))
    checks = _Checks(result)
    found, ignored = expectations(result.target, result.positions, _temperature(result))
    body = [f"<h1>Backmapped: {html.escape(name)}</h1>", _what(result), _verdict(checks, found), viewer.library(),
            viewer.structure_view(result.target, result.positions[0], result.beads, result.box,
                                  "Atoms and, translucent, the beads that they were drawn for."),
            "<h2>Run</h2>", page.table(None, _settings(result)),
            "<h2>Energies (kJ/mol)</h2>", _energies(result), "<h2>Checks</h2>", checks.html(),
            "<h2>Beads</h2>", _consistency(result),
            "<h2>Bonds, angles and impropers against the force field</h2>", _geometry(found, ignored),
            "<h2>Dihedrals</h2>", _dihedrals(result), "<h2>Pictures</h2>",
            page.image(system_figure(result), "All atoms."),
            page.image(chain_figure(result), "The first molecule: atoms and, translucent, their beads.")]
    with replacing(path, overwrite) as part:
        part.write_text(page.document(name, body), encoding="utf-8")


def write_picture(path: str | Path, result: Backmapped, *, overwrite: bool = False) -> None:
    """Write a picture (.png) of all atoms of the first sample."""
    with replacing(path, overwrite) as part:
        system_figure(result).savefig(part, dpi=150, format="png")


def _temperature(result: Backmapped) -> float:
    return float(result.provenance.get("temperature_K", result.target.chemistry.temperature_K))


def _what(result: Backmapped) -> str:
    n_samples, n_atoms, _ = result.positions.shape
    return (f"<p>{n_atoms:,} atoms in {len(result.target.chains):,} molecules for {len(result.beads):,} beads; "
            f"{n_samples} sample(s).</p>")


def _settings(result: Backmapped) -> list[tuple[str, str]]:
    box = "none" if result.box is None else "; ".join(" ".join(f"{x:.4g}" for x in row) for row in result.box)
    return [(key, str(value)) for key, value in (*result.provenance.items(), ("box (nm)", box))]


def _verdict(checks: _Checks, found: list[Expectation]) -> str:
    marked = [f"{expected.kind} {expected.name} ({', '.join(expected.remarks)})" for expected in found
              if expected.remarks]
    said = []
    if checks.unsound:
        said.append("<p class=bad>Inverted centres or pierced rings: do not start a simulation from these atoms.</p>")
    if checks.n_contacts:
        said.append(f"<p class=bad>{checks.n_contacts} close contacts.</p>")
    if marked:
        said.append(f"<p>Unlike what the force field expects: {html.escape('; '.join(marked))}.</p>")
    return "".join(said) or ("<p>Nothing unusual: no inverted centre, no pierced ring, no close contact; bonds, angles "
                             "and impropers as the force field expects them.</p>")


class _Checks:
    """What is wrong with the atoms of each sample, now and before refinement."""

    def __init__(self, result: Backmapped):
        self.result, target = result, result.target
        self.contacts = [len(close_contacts(target, x, result.box)) for x in result.positions]
        self.inverted = inverted_centres(target, result.positions).sum(axis=-1).tolist()
        self.pierced = [len(pierced_rings(target, x, result.box)) for x in result.positions]
        self.bent = [float(ring_planarity(target, x).max(initial=0.0)) for x in result.positions]

    @property
    def unsound(self) -> bool:
        return any(self.inverted) or any(self.pierced)

    @property
    def n_contacts(self) -> int:
        return sum(self.contacts)

    def html(self) -> str:
        target, reports = self.result.target, self.result.diagnostics
        head = ["sample", "close contacts", f"inverted centres (of {len(target.stereo):,})",
                f"pierced rings (of {len(rings(target)):,})", "most bent ring (nm)"]
        counted = zip(self.contacts, self.inverted, self.pierced, self.bent)
        rows = [[k + 1, *counts, page.Number(f"{bent:.4f}")] for k, (*counts, bent) in enumerate(counted)]
        if reports:
            head += ["bond error (nm)", "seconds"]
            for row, r in zip(rows, reports, strict=True):
                before = (r.close_contacts[0], r.inverted_centres[0], r.pierced_rings[0])
                row[1:4] = [page.Number(f"{was} → {now}") for was, now in zip(before, row[1:4])]
                row += [page.Number(f"{r.bond_error:.1g}"), page.Number(f"{sum(r.seconds.values()):.1f}")]
        return page.table(head, rows) + (
            "<p>Close contacts are heavy atoms nearer than 0.25 nm and more than three bonds apart; a pierced ring has "
            "a bond through it; the most bent ring has an atom so far from its mean plane."
            f"{' The first of two counts is from before refinement.' if reports else ''}</p>")


def _energies(result: Backmapped) -> str:
    if not result.diagnostics:
        return "<p>The atoms are as the generator drew them: neither projected nor refined.</p>"
    report = result.diagnostics[0]
    if not report.energies_after:
        return "<p>Energies of a melt this large are only looked at when it is refined.</p>"
    pairs = [(name, before, report.energies_after[name]) for name, before in report.energies_before.items()]
    pairs.append(("total", sum(report.energies_before.values()), sum(report.energies_after.values())))
    pairs.append(("largest force (kJ/mol/nm)", report.largest_force_before, report.largest_force_after))
    rows = [(name, *(page.Number(f"{value:,.1f}" if abs(value) < 1e7 else f"{value:.3g}") for value in values))
            for name, *values in pairs]
    return page.table(("force", "before", "after"), rows) + (
        "<p>Before: as drawn, moved onto beads and bond lengths. After: as written. Overlaps of atoms as drawn make "
        "the nonbonded energy before refinement large; its size says little.</p>")


def _consistency(result: Backmapped) -> str:
    """How far the beads of the atoms, M(r), are from those given."""
    target = result.target
    off = np.linalg.norm(minimum_image(mapped(target, result.positions) - result.beads, result.box), axis=-1)
    types = target.chemistry.bead_types
    deviations = {f"bead {types[t]}": off[:, target.bead_type == t].ravel() for t in np.unique(target.bead_type)}
    marks = {"root mean square": float(np.sqrt((off**2).mean()))}
    if result.diagnostics:
        drawn = [report.bead_rmsd_given for report in result.diagnostics]
        marks["root mean square as drawn"] = float(np.sqrt(np.mean(np.square(drawn))))
    worst = np.argsort(off, axis=None)[::-1][:_WORST_BEADS]
    rows = [(_bead_label(target, bead), int(sample) + 1, page.Number(f"{off[sample, bead]:.4f}"))
            for sample, bead in zip(*np.unravel_index(worst, off.shape))]
    refined = bool(result.diagnostics) and result.diagnostics[0].mode == "equilibrate"
    why = (" In equilibration beads are held by springs, so that they stray by about 0.01 nm." if refined else "")
    return (f"<p>Mapped back, atoms should give the beads that they were drawn for.{why}</p>"
            + page.image(deviation_figure(deviations, marks), "Distances of mapped atoms from their beads.")
            + "<p>The farthest:</p>" + page.table(("bead", "sample", "distance (nm)"), rows))


def _bead_label(target: Target, bead: int) -> str:
    atom = int(np.argmax(target.bead_of_atom == bead))
    return (f"{target.chemistry.bead_types[target.bead_type[bead]]} of "
            f"{residue_label(target, target.residue_of_atom[atom])}")


def _geometry(found: list[Expectation], ignored: list[str]) -> str:
    head = ("", "type", "number", "unit", "expected", "spread", "found", "spread", "difference (spreads)", "")
    rows = [_row(expected) for expected in found]
    left_out = (f"<p>Left out of account, though they act on bonds or angles: {html.escape('; '.join(ignored))}. "
                "Types that they act on may differ more.</p>" if ignored else "")
    if not found:
        return left_out or "<p>The force field has no harmonic terms.</p>"
    drawn = [expected for expected in found if expected.spread or expected.remarks]
    plots = page.image(expectation_figure(drawn), "What was found (filled) and what is expected (line); constrained "
                       "lengths are left out where they are met.") if drawn else ""
    return _EXPECTED + left_out + page.table(head, rows) + plots


def _row(expected: Expectation) -> tuple:
    digits = 4 if expected.unit == "nm" else 1
    mean, spread, found, scatter = (page.Number(f"{round(float(value), digits) + 0.0:.{digits}f}") for value in (
        expected.mean, expected.spread, expected.values.mean(), expected.values.std()))
    difference = "" if expected.difference is None else page.Number(f"{expected.difference:+.2f}")
    return (expected.kind, expected.name, expected.values.size, expected.unit, mean,
            spread if expected.spread else "constrained", found, scatter, difference,
            page.Bad("; ".join(expected.remarks)))


def _dihedrals(result: Backmapped) -> str:
    target = result.target
    light = np.array(target.elements) == "H"
    types = by_type(target, dihedrals_of(target))
    shown = sorted(types.items(), key=lambda item: (light[item[1][0]].any(), -len(item[1])))[:_DIHEDRALS_SHOWN]
    if not shown:
        return "<p>There are none.</p>"
    found = {name: dihedral_angles(result.positions[:, rows]).ravel() for name, rows in shown}
    return page.image(dihedral_figure(found), "Dihedral angles by type, 180 is trans: those without hydrogen first.")
