"""The main job: ``backmap-openmm cg.pdb -o aa.pdb``."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import click

from openmm_backmap.backmapper import Backmapped, Backmapper
from openmm_backmap.chemistry import create_system, with_solvent
from openmm_backmap.cli.outputs import Outputs, check_ending
from openmm_backmap.cli.progress import Bars
from openmm_backmap.cli.summary import summary
from openmm_backmap.follow import KeptStretches, Stretch
from openmm_backmap.io.readers import CGSource, open_cg
from openmm_backmap.io.writers import STRUCTURES, TRAJECTORIES, TrajectoryWriter
from openmm_backmap.trajectory import KeptFrames

ALSO = ("structure", "top", "system", "state", "report", "picture")
_PATH = click.Path(path_type=Path, dir_okay=False)


@click.command(context_settings={"help_option_names": ["-h", "--help"]}, short_help="Backmap (the default job).")
@click.argument("input_files", metavar="INPUT...", type=_PATH, nargs=-1, required=True)
@click.option("--topology", type=_PATH, help="Structure file that names the beads of a trajectory INPUT.")
@click.option("-m", "--model", default="sps", show_default=True,
              help="Shipped model (see 'backmap-openmm models'), path of a model file, or with --chemistry a "
                   "baseline to compare with: random, geometric, fragment.")
@click.option("--chemistry",
              help="For a baseline, or a model of family dbm on other molecules than its own: shipped name (sps, "
                   "octane, cumene, tmbt) or file. Models bring their own.")
@click.option("-o", "--output", type=_PATH, required=True,
              help="Atoms; the ending chooses the format: .pdb .cif .gro .xtc .dcd ...")
@click.option("-n", "--samples", type=click.IntRange(1), default=1, show_default=True,
              help="Draws for each frame. Of one frame they become the models or frames of the output; of a "
                   "trajectory, files OUTPUT_1, OUTPUT_2, ...")
@click.option("--seed", type=click.IntRange(0, 2**31 - 2), help="The same seed gives the same atoms. [default: fresh]")
@click.option("--refine", type=click.Choice(["none", "minimize", "equilibrate"]),
              help="How far to take the atoms drawn, with the beads held; a result that MD cannot start from is "
                   "refused, with 'none' only reported. [default: equilibrate; none for baselines, whose own "
                   "minimisation is the published one, and for adp and adp-cvae]")
@click.option("--temperature", type=click.FloatRange(0, min_open=True),
              help="Temperature in K. [default: that of the model's chemistry]")
@click.option("--first", type=click.IntRange(0), default=0, show_default=True, help="First frame, counted from 0.")
@click.option("--last", type=click.IntRange(0), help="Last frame, included. [default: the last there is]")
@click.option("--stride", type=click.IntRange(1), default=1, show_default=True, help="Take every STRIDE-th frame.")
@click.option("--alias", "aliases", multiple=True, metavar="OLD=NEW",
              help="Read a residue or bead name of INPUT as another, or a file of such lines; may be repeated.")
@click.option("--no-projection", is_flag=True, help="Do not move the atoms drawn onto their beads exactly.")
@click.option("--structure", type=_PATH,
              help="Also write the first atoms as a structure (.gro .pdb .cif): it names the atoms of a .xtc, .trr or "
                   ".dcd.")
@click.option("--top", type=_PATH, help="Also write a GROMACS topology (.top).")
@click.option("--system", type=_PATH, help="Also write the OpenMM System (.xml).")
@click.option("--state", type=_PATH, help="Also write the OpenMM State (.xml) of the first atoms.")
@click.option("--report", type=_PATH, help="Also write a report (.html) of the first frame.")
@click.option("--picture", type=_PATH, help="Also write a picture (.png) of the first frame.")
@click.option("--dask", metavar="SCHEDULER|local:N",
              help="Spread frames and samples, or the domains of one large melt, over the workers of a dask cluster, "
                   "or over N processes here.")
@click.option("--platform", help="OpenMM platform: CUDA, OpenCL, CPU, Reference. [default: the fastest that works]")
@click.option("--device", help="Torch device: cuda or cpu. [default: cuda where there is one]")
@click.option("--overwrite", is_flag=True, help="Replace output files that exist.")
@click.option("-q", "--quiet", is_flag=True, help="No progress, no summary.")
@click.option("-v", "--verbose", is_flag=True, help="Say more; show tracebacks.")
def run(**options: Any) -> None:
    """Backmap INPUT, a coarse-grained structure or trajectory, to atoms. Models that draw each frame given the one
    before take several trajectories of one topology, and write OUTPUT_1, OUTPUT_2, ...

    \b
    Examples:
      backmap-openmm cg.pdb --model sps -o aa.pdb
      backmap-openmm cg.gro -o aa.gro --top aa.top --report report.html
      backmap-openmm cg.gro -o four.pdb --samples 4 --seed 1
      backmap-openmm cg.gro -o hundred.xtc --samples 100 --dask local:4
      backmap-openmm cg.xtc --topology cg.gro -o aa.xtc --structure aa.gro --stride 10 --dask local:4
      backmap-openmm cg.pdb -o aa.pdb --alias POL=PS1
      backmap-openmm cg.gro -o aa.gro --model geometric --chemistry sps
      backmap-openmm walk_*.xtc --topology cg.pdb --model adp -o aa.xtc --structure aa.pdb

    Positions are drawn by the model, moved onto the beads, minimised and equilibrated by OpenMM with the beads
    restrained. Outputs appear when all is done. What was interrupted among several frames or samples goes on when the
    same command is given again.
    """
    if options["last"] is not None and options["last"] < options["first"]:
        raise click.BadParameter(f"--last {options['last']} comes before --first {options['first']}")
    began = time.perf_counter()
    with Bars(options["quiet"]) as bars, Outputs(options["overwrite"]) as outputs:
        n_frames, first = _backmap(options, outputs, bars)
    if not options["quiet"]:
        click.echo(summary(first, n_frames, time.perf_counter() - began, outputs.paths, options["verbose"]))


def _backmap(options: dict[str, Any], outputs: Outputs, bars: Bars) -> tuple[int, Backmapped]:
    """Do the work; the number of frames and the first of them come back."""
    sources = [open_cg(path, options["topology"]) for path in options["input_files"]]
    stop = None if options["last"] is None else options["last"] + 1
    n_frames = sum(len(range(source.n_frames)[options["first"]:stop:options["stride"]]) for source in sources)
    files = [_numbered(path, options["samples"] if n_frames > 1 else 1)
             for path in _numbered(options["output"], len(sources))]
    check_ending(options["output"], (*STRUCTURES, *TRAJECTORIES))
    if options["structure"]:
        check_ending(options["structure"], STRUCTURES)
    for path in [*itertools.chain(*files), *(options[key] for key in ALSO if options[key])]:
        outputs.add(path)
    backmapper = Backmapper(options["model"], options["chemistry"], platform=options["platform"],
                            device=options["device"])
    chosen = {name: options[name] for name in ("first", "last", "stride", "seed", "refine", "aliases")}
    chosen |= {"n_samples": options["samples"], "project": not options["no_projection"]}
    parts = [[outputs.part(path) for path in paths] for paths in files]
    if backmapper.coherent and n_frames > 1:
        first = _follow(options, backmapper, sources, n_frames, chosen, parts, bars)
    elif len(sources) > 1:
        raise click.UsageError(f"{options['model']} draws every frame by itself: give one INPUT")
    else:
        first = _draw(options, backmapper, sources[0], n_frames, chosen, parts[0], bars)
    _write_also(options, outputs, first)
    return n_frames, first


def _draw(options: dict[str, Any], backmapper: Backmapper, source: CGSource, n_frames: int, chosen: dict[str, Any],
          files: list[Path], bars: Bars) -> Backmapped:
    """Frames by themselves."""
    many = n_frames > 1
    with _kept(KeptFrames, options["output"]) if n_frames * options["samples"] > 1 else nullcontext() as kept, \
            _client(options["dask"]) as client:
        frames = backmapper.frames(source, **chosen, temperature=options["temperature"], keep=kept and kept.folder,
                                   client=client, progress=None if many else bars)
        first = next(frames)
        if many:
            _stream(itertools.chain([first], frames), n_frames, files, bars)
        else:
            first.save(files[0], overwrite=True)
    return first


def _follow(options: dict[str, Any], backmapper: Backmapper, sources: list[CGSource], n_frames: int,
            chosen: dict[str, Any], files: list[list[Path]], bars: Bars) -> Backmapped:
    """Frames of one or more trajectories, each given the one before."""
    if options["dask"] is not None:
        raise click.UsageError("--dask is for models that draw every frame by itself: leave it out")
    done, first, n_strained = 0, None, 0
    with _kept(KeptStretches, options["output"]) as kept, ExitStack() as stack:
        for parts in backmapper.follow(sources, **chosen, temperature=options["temperature"], keep=kept.folder):
            if first is None:
                first = parts[0].backmapped(0)
                writers = [[stack.enter_context(TrajectoryWriter(file, first.topology)) for file in paths]
                           for paths in files]
            for part in parts:
                _write_stretch(part, writers[part.trajectory])
                done += len(part.frames)
                n_strained += part.n_strained
                bars("frames", done, n_frames)
    if n_strained:
        click.echo(f"{n_strained} of {n_frames * chosen['n_samples']} frames stayed strained however often they were "
                   "drawn: their bonds and angles have more energy than the temperature gives, or a stereocentre is "
                   "inverted; their beads may leave atoms no room", err=True)
    return first


def _write_stretch(part: Stretch, writers: list[TrajectoryWriter]) -> None:
    for writer, atoms in zip(writers, part.positions, strict=True):
        for positions, frame in zip(atoms, part.frames, strict=True):
            writer.write(positions, frame.box, frame.time_ps)


@contextmanager
def _kept(kind: type[KeptFrames], output: Path) -> Iterator[KeptFrames]:
    """What is done, beside the output; it goes when all is done, and stays when something stops the work."""
    kept = kind(output.with_name(f".{output.name}.frames"))
    try:
        yield kept
        kept.remove()
    except BaseException:
        if kept.count():
            click.echo(f"{kept.count()} {kept.holds} are kept in {kept.folder}: the same command goes on from there",
                       err=True)
        else:
            kept.remove()
        raise


def _client(dask: str | None):
    if not dask:
        return nullcontext()
    from openmm_backmap.workers import cluster

    return cluster(dask)


def _numbered(path: Path, n: int) -> list[Path]:
    return [path] if n == 1 else [path.with_name(f"{path.stem}_{k}{path.suffix}") for k in range(1, n + 1)]


def _stream(frames: Iterable[Backmapped], n_frames: int, files: list[Path], bars: Bars) -> None:
    """One file a sample, one frame at a time."""
    with ExitStack() as stack:
        writers = []
        for done, frame in enumerate(frames):
            bars("frames", done, n_frames)
            if not writers:
                writers = [stack.enter_context(TrajectoryWriter(file, frame.topology)) for file in files]
            for writer, positions in zip(writers, frame.positions, strict=True):
                writer.write(positions, frame.box, frame.time_ps)
        bars("frames", n_frames, n_frames)


def _write_also(options: dict[str, Any], outputs: Outputs, first: Backmapped) -> None:
    """The files that go with the first frame."""
    from openmm_backmap.io import writers

    if options["structure"]:
        writers.write_structure(outputs.part(options["structure"]), first.topology, first.positions[0], first.box)
    if options["top"] or options["system"] or options["state"]:
        system = create_system(first.target, first.box)
        if options["top"]:
            writers.write_gromacs_topology(outputs.part(options["top"]), first.topology, system)
        # GROMACS has no such solvent.
        system = with_solvent(system, first.target, first.box)
        if options["system"]:
            writers.write_system(outputs.part(options["system"]), system)
        if options["state"]:
            writers.write_state(outputs.part(options["state"]), first.state(system))
    if options["report"]:
        from openmm_backmap.analysis.report import write_report

        write_report(outputs.part(options["report"]), first)
    if options["picture"]:
        from openmm_backmap.analysis.report import write_picture

        write_picture(outputs.part(options["picture"]), first)
