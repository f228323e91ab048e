"""What a run tells at its end."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from openmm_backmap.backmapper import Backmapped
from openmm_backmap.geometry.checks import close_contacts, inverted_centres, pierced_rings
from openmm_backmap.refine import RefineReport
from openmm_backmap.refine.pipeline import LARGEST_FORCE


def summary(first: Backmapped, n_frames: int, seconds: float, files: Sequence[Path], verbose: bool) -> str:
    """A few lines about the run; numbers are those of the first frame's first sample."""
    n_samples, n_atoms, _ = first.positions.shape
    lines = [f"{n_atoms:,} atoms for {len(first.beads):,} beads, {_count(n_frames, 'frame')}, "
             f"{_count(n_samples, 'sample')} each, {seconds:.1f} s, seed {first.provenance['seed']}"]
    if first.diagnostics:
        report = first.diagnostics[0]
        before, after = (sum(e.values()) for e in (report.energies_before, report.energies_after))
        if report.energies_after:
            lines += [
                f"energy         {before:14.4g} -> {after:.6g} kJ/mol",
                f"largest force  {report.largest_force_before:14.4g} -> {report.largest_force_after:.4g} kJ/mol/nm"]
        lines.append(f"bead RMSD      {report.bead_rmsd_given:14.4g} -> {report.bead_rmsd:.4g} nm")
        lines += [f"{name:15}{pair[0]:14d} -> {pair[1]}" for name, pair in (
            ("close contacts", report.close_contacts), ("inverted", report.inverted_centres),
            ("pierced rings", report.pierced_rings))]
        if verbose:
            lines += [f"  {name:24}{report.energies_before[name]:14.4g} -> {energy:.6g} kJ/mol"
                      for name, energy in report.energies_after.items()]
            lines += [f"  {name:24}{value:.2f} s" for name, value in report.seconds.items()]
    else:
        counted = [_counted(first, k) for k in range(n_samples)]
        lines += [f"{name:15}{n:14d}" for name, n in counted[0].items()]
    if verbose:
        lines += [f"  {key:24}{value}" for key, value in first.provenance.items()]
    checks = map(_checked, first.diagnostics) if first.diagnostics else ((*c.values(), 0.0) for c in counted)
    unfit = list(filter(None, (_unfit(*found) for found in checks)))
    if unfit:
        which = f" ({len(unfit)} of {n_samples} samples)" if n_samples > 1 else ""
        lines.append(f"not fit to start MD from{which}: {', '.join(unfit[0])}")
    return "\n".join([*lines, f"wrote {', '.join(map(str, files))}"])


def _counted(first: Backmapped, sample: int) -> dict[str, int]:
    """Defects of a sample that was left as drawn, by the words of the summary."""
    target, positions, box = first.target, first.positions[sample], first.box
    return {"close contacts": len(close_contacts(target, positions, box)),
            "inverted": int(inverted_centres(target, positions).sum()),
            "pierced rings": len(pierced_rings(target, positions, box))}


def _checked(report: RefineReport) -> tuple[int, int, int, float]:
    """Close contacts that count, inverted centres, pierced rings and the largest force after refinement."""
    force = report.largest_force_after
    # Atoms may be near each other as long as forces are sound.
    touching = report.close_contacts[1] if force > LARGEST_FORCE else 0
    return touching, report.inverted_centres[1], report.pierced_rings[1], force


def _unfit(touching: int, inverted: int, pierced: int, force: float) -> list[str]:
    """Why MD cannot start from a sample; nothing where it can."""
    reasons = [_count(n, noun) for n, noun in ((inverted, "inverted centre"), (pierced, "pierced ring"),
                                               (touching, "close contact")) if n]
    return reasons + [f"a force of {force:.3g} kJ/mol/nm"] * bool(force > LARGEST_FORCE)


def _count(n: int, noun: str) -> str:
    return f"{n:,} {noun}" + ("" if n == 1 else "s")
