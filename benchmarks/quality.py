"""The benchmark page: all baselines and all shipped models of a chemistry, judged and timed in one run.

    python benchmarks/quality.py --reference 'runs/sps/melt_1/frame_*.gro' --held-out runs/sps/melt_2/frame_0040.gro

Every method backmaps the beads of the held-out structure by the command line, in a process of its own whose time and
peak memory are taken; what it wrote is then compared with the reference. Makes ``docs/benchmarks.md`` with its figure.
"""

from __future__ import annotations

import shlex
import sys
from datetime import date
from pathlib import Path

import click
from measure import this_machine
from pages import Method, every_divergence, markdown_table, structure_of, timed

from openmm_backmap import __version__
from openmm_backmap.analysis.evaluate import evaluate
from openmm_backmap.analysis.evaluation.figures import summary_figure
from openmm_backmap.analysis.evaluation.processes import default_workers
from openmm_backmap.analysis.evaluation.results import HEADLINE, Evaluation, number_text, summary_table, verdict
from openmm_backmap.cli.progress import Bars
from openmm_backmap.errors import BackmapError
from openmm_backmap.generators.base import untrained_families
from openmm_backmap.io.atomistic import find_files
from openmm_backmap.io.writers import replacing
from openmm_backmap.model_file import load_model, shipped_models

DOCS = Path(__file__).parents[1] / "docs"
# In the order of what went before them, so that the ranking can be read off.
BASELINES = ("random", "geometric", "fragment")


@click.command()
@click.option("--reference", multiple=True, required=True, help="Atomistic structures; files, folders or patterns.")
@click.option("--held-out", multiple=True, required=True, help="Atomistic structures whose beads are backmapped.")
@click.option("--cg", type=click.Path(path_type=Path, exists=True, dir_okay=False), required=True,
              help="The beads of the held-out structure, as a file for the command.")
@click.option("--chemistry", default="sps", show_default=True)
@click.option("--relax", type=float, default=20.0, show_default=True, help="ps of dynamics from each structure.")
@click.option("--seed", type=int, default=1, show_default=True)
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), default="runs/benchmark", show_default=True,
              help="Folder of what is kept; a run that was interrupted goes on.")
@click.option("--docs", type=click.Path(path_type=Path, file_okay=False), default=DOCS, show_default=True)
def main(reference: tuple[str, ...], held_out: tuple[str, ...], cg: Path, chemistry: str, relax: float, seed: int,
         out: Path, docs: Path) -> None:
    """Judge and time every baseline and every shipped model of a chemistry."""
    out.mkdir(parents=True, exist_ok=True)
    methods = list_methods(chemistry)
    costs = {method.label: timed(method, cg, seed, out) for method in methods}
    try:
        with Bars() as bars:
            evaluation = evaluate(
                reference, out=out / "evaluation", held_out=held_out, chemistry=chemistry, seed=seed, relax_ps=relax,
                structures={m.label: [structure_of(m, out)] for m in methods}, workers=default_workers(),
                progress=bars)
    except BackmapError as error:
        raise click.ClickException(str(error)) from None
    write_page(evaluation, costs, docs, n_reference=len(find_files(reference)))
    click.echo(f"{docs / 'benchmarks.md'} written")


def list_methods(chemistry: str) -> list[Method]:
    """Baselines first, as published and then moved onto the beads; then each trained model, as drawn and by default."""
    methods = []
    for name in BASELINES:
        if name in untrained_families() or f"{name}-{chemistry}" in shipped_models():
            words = ("--model", name, "--chemistry", chemistry)
            methods += [Method(name, (*words, "--no-projection")), Method(f"{name}, on the beads", words)]
    for name in shipped_models():
        model = load_model(name)
        if model.chemistry.name == chemistry and model.family not in BASELINES:
            methods += [Method(f"{name}, drawn", ("--model", name, "--refine", "none")),
                        Method(name, ("--model", name))]
    return methods


def write_page(evaluation: Evaluation, costs: dict[str, tuple[float, float]], docs: Path, n_reference: int) -> None:
    """``benchmarks.md`` and its figure."""
    figure = docs / "figures" / "benchmarks.png"
    figure.parent.mkdir(parents=True, exist_ok=True)
    with replacing(figure, overwrite=True) as part:
        summary_figure(evaluation).savefig(part, dpi=110, format="png")
    machine, target = this_machine(), evaluation.inputs.target
    lines = [
        "# Benchmark", "",
        f"{target.chemistry.title}: {target.n_beads:,} beads, {target.n_atoms:,} atoms, "
        f"{n_reference} reference structures. {date.today().isoformat()}, openmm_backmap {__version__}, "
        f"{machine['processor']}, {machine['cores']} cores. Command:", "",
        "```", f"python {shlex.join(['benchmarks/quality.py', *sys.argv[1:]])}", "```", "",
        *results(evaluation, costs), "", HOW_TO_READ, "",
        "## Dynamics", "", *dynamics(evaluation), "", "## Ranking", "", *rankings(evaluation), "",
        "![the headline divergences as multiples of the floor](figures/benchmarks.png)", "",
        "## Every divergence", "", "Jensen-Shannon, bits; g(r): mean difference.", "",
        *every_divergence({j.label: j.comparison for j in evaluation.judged if j.comparison is not None}),
        "", "## Energies of a molecule", "", "Mean (standard deviation), kJ/mol.", "", *energies(evaluation), ""]
    with replacing(docs / "benchmarks.md", overwrite=True) as part:
        part.write_text("\n".join(lines))


def results(evaluation: Evaluation, costs: dict[str, tuple[float, float]]) -> list[str]:
    """One row a method; the best in bold."""
    table = summary_table(evaluation)
    shown = [q for q in table.quantities if q.key != "seconds"]
    rows = []
    for k, (label, values) in enumerate(table.rows):
        cells = [f"**{number_text(values.get(q.key))}**" if (k, q.key) in table.best else number_text(values.get(q.key))
                 for q in shown]
        rows.append([label, *cells, *(f"{cost:.0f}" for cost in costs[label])] if label in costs else
                    [label, *cells, "-", "-"])
    return markdown_table(["", *(q.title for q in shown), "seconds", "MB"], rows)


def dynamics(evaluation: Evaluation) -> list[str]:
    """What became of each run, in words."""
    return [f"- {j.label}: {verdict(j, evaluation.band)}" for j in evaluation.judged if verdict(j, evaluation.band)]


def energies(evaluation: Evaluation) -> list[str]:
    """One row an energy, one column a method."""
    judged = [j for j in evaluation.judged if j.comparison is not None]
    columns = [[row for row in j.comparison.rows if row.kind == "energy"] for j in judged]
    spread = lambda mean, sd: f"{number_text(mean)} ({number_text(sd)})"  # noqa: E731
    rows = [[same[0].name, spread(same[0].mean_reference, same[0].sd_reference),
             *(spread(row.mean, row.sd) for row in same)] for same in zip(*columns, strict=True)]
    return markdown_table(["", "reference", *(j.label for j in judged)], rows)


def rankings(evaluation: Evaluation) -> list[str]:
    """For each headline number, all methods from the best to the worst, and whether that is the order expected."""
    table = summary_table(evaluation)
    judged = [j.label for j in evaluation.judged if j.kind != "held out"]
    lines = ["Expected, from the best: trained models by default, then fragment, geometric, random.", ""]
    for quantity in (q for q in table.quantities if q.key in (*HEADLINE, "auc")):
        off = {label: abs(values[quantity.key] - quantity.best) for label, values in table.rows if label in judged}
        order = ", ".join(label.replace(", ", " ") for label in sorted(off, key=off.get))
        lines.append(f"- {quantity.title}: {order}. {_as_expected(off)}")
    return lines


def _as_expected(off: dict[str, float]) -> str:
    """Whether each method is at least as good as the baselines that it should beat, in words."""
    wrong = []
    for kind in ("", ", on the beads"):
        ladder = [f"{name}{kind}" for name in BASELINES if f"{name}{kind}" in off]
        trained = [label for label in off if label.partition(", ")[0] not in BASELINES and ", drawn" not in label]
        steps = [*zip(ladder, ladder[1:]), *((ladder[-1], label) for label in trained if ladder)]
        wrong += [f"{better} ({off[better]:.3g}) after {worse} ({off[worse]:.3g})" for worse, better in steps
                  if off[better] > off[worse]]
    return f"Not as expected: {'; '.join(wrong)}." if wrong else "As expected."


HOW_TO_READ = """\
Angles, dihedrals and the Lennard-Jones energy of a molecule: Jensen-Shannon divergence in bits, mean over types. g(r):
mean difference, heavy atoms. Psi: sum over bonds, angles and dihedrals of the integral of |p - p_reference|.
Classifier AUC: how well a classifier tells local environments from the reference's; 0.5 is perfect. Map: divergence of
the two-dimensional map (sketch-map) of environments. Bead RMSD: M(r) against the beads given, by the file's rounding
at best. Defects are counts. MD to band: time until the potential energy of unrestrained dynamics at the chemistry's
temperature, started from the structure as it is, stays in the band of the reference. *Floor*: parts of the reference
against the rest. *Held out*: the atomistic structure whose beads were backmapped. Bold: the best of the methods.
Seconds and memory are those of the whole command with a seed, on one OpenMM thread. Baselines are as published, and
once more moved onto the beads, which is this package's default."""


if __name__ == "__main__":
    main()
