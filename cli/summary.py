"""What a run tells at its end."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from openmm_backmap.backmapper import Backmapped


def summary(first: Backmapped, n_frames: int, seconds: float, files: Sequence[Path], verbose: bool) -> str:
    """A few lines about the run; numbers are those of the first frame's first sample."""
    n_samples, n_atoms, _ = first.positions.shape
    lines = [f"{n_atoms:,} atoms for {len(first.beads):,} beads, {_count(n_frames, 'frame')}, "
             f"{_count(n_samples, 'sample')} each, {seconds:.1f} s, seed {first.provenance['seed']}"]
    if first.diagnostics:
        report = first.diagnostics[0]
        before, after = (sum(e.values()) for e in (report.energies_before, report.energies_after))
        lines += [
            f"energy         {before:14.4g} -> {after:.6g} kJ/mol",
            f"largest force  {report.largest_force_before:14.4g} -> {report.largest_force_after:.4g} kJ/mol/nm",
            f"bead RMSD      {report.bead_rmsd_given:14.4g} -> {report.bead_rmsd:.4g} nm"]
        lines += [f"{name:15}{pair[0]:14d} -> {pair[1]}" for name, pair in (
            ("close contacts", report.close_contacts), ("inverted", report.inverted_centres),
            ("pierced rings", report.pierced_rings))]
        if verbose:
            lines += [f"  {name:24}{report.energies_before[name]:14.4g} -> {energy:.6g} kJ/mol"
                      for name, energy in report.energies_after.items()]
            lines += [f"  {name:24}{value:.2f} s" for name, value in report.seconds.items()]
    if verbose:
        lines += [f"  {key:24}{value}" for key, value in first.provenance.items()]
    return "\n".join([*lines, f"wrote {', '.join(map(str, files))}"])


def _count(n: int, noun: str) -> str:
    return f"{n:,} {noun}" + ("" if n == 1 else "s")
