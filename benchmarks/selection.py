"""What the choice among candidates does to what a ``dbm`` model draws: none, the lowest energy, Boltzmann weights.

    python benchmarks/selection.py --reference 'melts/*.gro' --held-out melt.gro --cg cg.gro

Makes ``docs/selection.md``.
"""

from __future__ import annotations

import shlex
import sys
from datetime import date
from pathlib import Path

import click
from measure import this_machine
from pages import SUMMARY_WORDS, Judged, Method, judge, summary, timed, with_sampling

from openmm_backmap import __version__
from openmm_backmap.errors import BackmapError
from openmm_backmap.generators.dbm import DBMSampling
from openmm_backmap.io.atomistic import find_files
from openmm_backmap.io.writers import replacing
from openmm_backmap.model_file import load_model

DOCS = Path(__file__).parents[1] / "docs"
CHOICES = (DBMSampling(1, "first"), DBMSampling(4, "lowest"), DBMSampling(4, "boltzmann"),
           DBMSampling(4, "boltzmann", 6000.0), DBMSampling(8, "boltzmann", 6000.0))


@click.command()
@click.option("--model", default="dbm-sps", show_default=True)
@click.option("--reference", multiple=True, required=True, help="Atomistic structures; files, folders or patterns.")
@click.option("--held-out", multiple=True, required=True, help="The atomistic structure whose beads are backmapped.")
@click.option("--cg", type=click.Path(path_type=Path, exists=True, dir_okay=False), required=True,
              help="Its beads, as a file for the command.")
@click.option("--seed", type=int, default=1, show_default=True)
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), default="runs/selection", show_default=True,
              help="Folder of what is kept; a run that was interrupted goes on.")
@click.option("--docs", type=click.Path(path_type=Path, file_okay=False), default=DOCS, show_default=True)
def main(model: str, reference: tuple[str, ...], held_out: tuple[str, ...], cg: Path, seed: int, out: Path,
         docs: Path) -> None:
    """Draw with every way of choosing among candidates, and judge."""
    out.mkdir(parents=True, exist_ok=True)
    try:
        methods = [variant(model, sampling, out) for sampling in CHOICES]
        for method in methods:
            timed(method, cg, seed, out)
        judged = judge(methods, reference, held_out, load_model(model).chemistry.name, out)
    except BackmapError as error:
        raise click.ClickException(str(error)) from None
    write_page(model, judged, docs, n_reference=len(find_files(reference)))
    click.echo(f"{docs / 'selection.md'} written")


def variant(name: str, sampling: DBMSampling, out: Path) -> Method:
    """The model with another way of choosing, as a file."""
    at = f", {sampling.temperature_K:g} K" if sampling.temperature_K else ""
    label = f"{sampling.selection} of {sampling.n_ensemble}{at}"
    path = with_sampling(name, sampling, out / f"{label.replace(', ', '-').replace(' ', '-')}.pt")
    return Method(label, ("--model", str(path), "--refine", "none"))


def write_page(model: str, judged: list[Judged], docs: Path, n_reference: int) -> None:
    """``selection.md``."""
    lines = [
        "# Choosing among candidates", "",
        f"`{model}` draws each bead's atoms in several orientations (*of N*) and keeps one of them: the first, that of "
        "the lowest energy (as published), or one drawn by Boltzmann weights, at the chemistry's temperature or at a "
        "higher one. The energies are of atoms that nothing has relaxed: most differences are far above kT. Drawn, not "
        "refined "
        f"(`--refine none`). {n_reference} reference structures; {date.today().isoformat()}, openmm_backmap "
        f"{__version__}, {this_machine()['processor']}. Command:", "",
        "```", f"python {shlex.join(['benchmarks/selection.py', *sys.argv[1:]])}", "```", "",
        *summary(judged), "", SUMMARY_WORDS, ""]
    with replacing(docs / "selection.md", overwrite=True) as part:
        part.write_text("\n".join(lines))


if __name__ == "__main__":
    main()
