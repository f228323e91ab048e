"""Trajectories of a peptide, backmapped from the beads of a held-out run by models with and without a memory.

    python benchmarks/coherence.py runs/adp/run_2 --chemistry adp --model adp --independent runs/adp/run_1 \
        --other library=runs/library.pt

Held-out runs are cut into segments whose beads are backmapped side by side: by the model, by the same model without
the frame before, as drawn where its frames are refined by default, and by ``--other`` models. Each trajectory is judged
against the runs by :mod:`openmm_backmap.analysis.kinetics`, and the time it took is told. Makes
``docs/coherence-CHEMISTRY.md`` with its figures. CG trajectories of other origin (``--cg``) are backmapped by the model
and judged with their clock normalised.
"""

from __future__ import annotations

import json
import shlex
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import date
from pathlib import Path

import click
import mdtraj
from measure import this_machine
from pages import markdown_table

from openmm_backmap import Backmapper, __version__
from openmm_backmap.analysis.evaluation.results import number_text
from openmm_backmap.analysis.kinetics.judge import judge_trajectories
from openmm_backmap.analysis.kinetics.results import Judgement, summary_table
from openmm_backmap.chemistry import build_target, load_chemistry
from openmm_backmap.cli.progress import Bars
from openmm_backmap.errors import BackmapError
from openmm_backmap.generators.base import default_refine, find_model
from openmm_backmap.io.atomistic import find_files
from openmm_backmap.io.writers import TrajectoryWriter, replacing

DOCS = Path(__file__).parents[1] / "docs"
#: what the reports of two comparisons, frames of the reference's beads and CG runs, are called
HELD_OUT, CG = "held-out", "cg"


class WithoutPast:
    """A generator that is not told the frame before."""

    coherent = True

    def __init__(self, generator):
        self.generator, self.molecule = generator, generator.molecule

    def generate(self, *arguments, previous=None, **options):
        return self.generator.generate(*arguments, **options)


@click.command()
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--chemistry", required=True)
@click.option("--model", required=True, help="Coherent model, judged with and without the frame before.")
@click.option("--other", "others", multiple=True, metavar="LABEL=MODEL", help="Models to compare with.")
@click.option("--independent", multiple=True, type=click.Path(path_type=Path, exists=True, file_okay=False),
              help="Another run of the same dynamics; may be given again.")
@click.option("--cg", multiple=True, metavar="FILE", help="Trajectories of a CG model; files, folders or patterns.")
@click.option("--cg-topology", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--segments", type=click.IntRange(1), default=100, show_default=True, help="Of each run.")
@click.option("--processes", type=click.IntRange(1), default=3, show_default=True)
@click.option("--cells", type=click.IntRange(2), default=100, show_default=True)
@click.option("--seed", type=int, default=1, show_default=True)
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), default="runs/coherence", show_default=True)
@click.option("--docs", type=click.Path(path_type=Path, file_okay=False), default=DOCS, show_default=True)
def main(runs: tuple[Path, ...], chemistry: str, model: str, others: tuple[str, ...], independent: tuple[Path, ...],
         cg: tuple[str, ...], cg_topology: Path | None, segments: int, processes: int, cells: int, seed: int, out: Path,
         docs: Path) -> None:
    """Backmap, judge and tell."""
    trajectories = lambda folders: [folder / "trajectory.xtc" for folder in folders]  # noqa: E731
    settings = {"chemistry": chemistry, "topology": runs[0] / "topology.pdb", "n_processes": processes,
                "n_cells": cells, "independent": trajectories(independent)}
    try:
        beads = [segment for run in runs for segment in cut(run, chemistry, segments)]
        methods = {model: (model, True, None), f"{model}, no past": (model, False, None),
                   **{label: (path, True, None) for label, _, path in (other.partition("=") for other in others)}}
        if default_refine(find_model(model)) != "none":
            methods[f"{model}, as drawn"] = model, True, "none"
        made, speeds = {}, {}
        for label, (path, remembers, refine) in methods.items():
            made[label], speeds[label] = backmapped(label, path, remembers, refine, beads, seed, out / HELD_OUT)
        with Bars() as bars:
            found = {HELD_OUT: judge_trajectories(trajectories(runs), made, out=out / HELD_OUT / "report",
                                                  progress=bars, **settings)}
            if cg:
                walks = [mdtraj.load(str(file), top=str(cg_topology)) for file in find_files(cg)]
                label = f"{model} on CG runs"
                files, speeds[label] = backmapped(label, model, True, None, walks, seed, out / CG)
                found[CG] = judge_trajectories(trajectories(runs), {label: files}, out=out / CG / "report",
                                               progress=bars, normalise=[label], **settings)
    except BackmapError as error:
        raise click.ClickException(str(error)) from None
    write_page(found, speeds, chemistry, len(beads), out, docs)
    click.echo(f"{docs / page_name(chemistry)} written")


def cut(run: Path, chemistry: str, segments: int) -> list[mdtraj.Trajectory]:
    """Beads of a run, in segments of one length."""
    atoms = mdtraj.load(str(run / "trajectory.xtc"), top=str(run / "topology.pdb"))
    known = load_chemistry(chemistry)
    target = build_target(known, [[residue.name for residue in atoms.topology.residues]])
    beads = atoms.atom_slice(sorted(target.mapping.toarray().argmax(1)))
    n = beads.n_frames // segments
    return [beads[k * n:(k + 1) * n] for k in range(segments)]


def backmapped(label: str, model: str, remembers: bool, refine: str | None, beads: list[mdtraj.Trajectory], seed: int,
               out: Path) -> tuple[list[Path], float]:
    """Files of one label, and frames a second; kept beside them, and taken from there for the same model."""
    backmapper = Backmapper(model)
    folder = out / label.replace(", ", "_").replace(" ", "-")
    made = {"sha256": backmapper.model.sha256, "remembers": remembers, "refine": refine, "seed": seed,
            "frames": sum(map(len, beads))}
    record = folder / "made.json"
    files = [folder / f"segment_{k:03d}.xtc" for k in range(len(beads))]
    if record.exists():
        found = json.loads(record.read_text())
        if {**found, **made} == found:
            return files, found["frames_per_s"]
    if not remembers:
        backmapper.generator = WithoutPast(backmapper.generator)
    folder.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    with Bars() as bars:
        write(backmapper.follow(beads, seed=seed, refine=refine), files, label, made["frames"], bars)
    speed = made["frames"] / (time.perf_counter() - start)
    with replacing(record, overwrite=True) as part:
        part.write_text(json.dumps({**made, "frames_per_s": speed}))
    return files, speed


def write(followed: Iterator, files: list[Path], label: str, n_frames: int, bars: Bars) -> None:
    """One file a trajectory."""
    writers, done = {}, 0
    with ExitStack() as stack:
        for parts in followed:
            for part in parts:
                if part.trajectory not in writers:
                    writers[part.trajectory] = stack.enter_context(TrajectoryWriter(
                        files[part.trajectory], part.backmapped(0).topology, overwrite=True))
                for positions, frame in zip(part.positions[0], part.frames, strict=True):
                    writers[part.trajectory].write(positions, frame.box, frame.time_ps)
                done += len(part.frames)
            bars(label, done, n_frames)


def page_name(chemistry: str) -> str:
    return f"coherence-{chemistry}.md"


def write_page(found: dict[str, Judgement], speeds: dict[str, float], chemistry: str, segments: int, out: Path,
               docs: Path) -> None:
    """The page, with the figures of the reports."""
    (docs / "figures").mkdir(parents=True, exist_ok=True)
    words = shlex.join(["benchmarks/coherence.py", *sys.argv[1:]])
    held_out = found[HELD_OUT]
    lines = [
        f"# Trajectories of {chemistry}, backmapped", "",
        f"Beads of dynamics that no model was trained on ({held_out.reference.measured.n_frames:,} frames, "
        f"{held_out.spacing:g} {held_out.time_unit} apart, cut into {segments} segments that are backmapped side by "
        "side), by models that are told the frame before and by others. How each number is found: "
        "[kinetics.md](kinetics.md). Divergences are in bits; the first row is the sampling floor.", "",
        f"{date.today().isoformat()}, openmm_backmap {__version__}, {this_machine()['processor']}, "
        f"{this_machine()['cores']} cores. Command:", "", "```", f"python {words}", "```", "",
        *table(held_out), "",
        "Frames a second, of all segments side by side, network, refinement and writing of `.xtc` files together: "
        + ", ".join(f"{label} {speed:,.0f}" for label, speed in speeds.items()) + ".", ""]
    for name, title in ((HELD_OUT, "Figures"), (CG, "CG runs")):
        if name in found:
            lines += [f"## {title}", ""]
            lines += [*table(found[name]), ""] if name == CG else []
            lines += pictures(out / name / "report" / "figures", docs, f"coherence-{chemistry}-{name}")
    with replacing(docs / page_name(chemistry), overwrite=True) as part:
        part.write_text("\n".join(lines))


def table(found: Judgement) -> list[str]:
    """Quantities down, labels across."""
    summary = summary_table(found)
    rows = [[q.title, *(number_text(values.get(q.key)) for _, values in summary.rows)] for q in summary.quantities]
    return markdown_table(["", *(label for label, _ in summary.rows)], rows)


def pictures(figures: Path, docs: Path, stem: str) -> list[str]:
    lines = []
    for file in sorted(figures.glob("*.png")):
        name = f"{stem}-{file.name}"
        shutil.copyfile(file, docs / "figures" / name)
        lines += [f"![{file.stem.replace('_', ' ')}](figures/{name})", ""]
    return lines


if __name__ == "__main__":
    main()
