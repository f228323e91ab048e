"""Chemical transfer: polystyrene from models that were trained on it, and on octane and cumene alone, by prior.

    python benchmarks/transfer.py --data runs --reference 'melts/*.gro' --held-out melt.gro --cg cg.gro

The comparison of Stieffenhofer et al., APL Mater. 9, 031107 (2021): adversarial training with no prior, with energies
lowered (``min``) and with those of the reference met (``match``). Each model begins with the weights of the shipped
model of its data and plays the same game, of ``benchmarks/transfer.yaml``. What is drawn (``--refine none``) is
compared with the reference. Makes ``docs/transfer.md`` with its figure.

The folder ``--data`` holds ``sps``, ``octane`` and ``cumene`` as ``backmap-openmm reference`` writes them; of each
melt the last two snapshots are for validation.
"""

from __future__ import annotations

import json
import shlex
import sys
from datetime import date
from pathlib import Path

import click
import numpy as np
import yaml
from measure import this_machine
from pages import (
    KINDS,
    SUMMARY_WORDS,
    Judged,
    Method,
    every_divergence,
    judge,
    quantities,
    summary,
    timed,
    with_sampling,
)

from openmm_backmap import __version__
from openmm_backmap.analysis import page
from openmm_backmap.analysis.evaluation.results import number_text
from openmm_backmap.cli.progress import Bars
from openmm_backmap.errors import BackmapError
from openmm_backmap.generators.dbm import DBMSampling
from openmm_backmap.io.atomistic import find_files
from openmm_backmap.io.writers import replacing
from openmm_backmap.model_file import load_model
from openmm_backmap.training.train import train_from_files

HERE = Path(__file__).parent
DOCS = HERE.parent / "docs"
PRIORS = ("none", "min", "match")
#: the shipped model by what it saw in training
START = {"specific": "dbm-sps", "transferred": "dbm-transfer", "all three": "dbm-all"}
#: what those see that play the game
GAMES = {"specific": ("sps",), "transferred": ("octane", "cumene")}
_HELD = 2
COLOURS = ("#9a9a9a", "#2f6db3", "#d9822b", "#3a9a5b")


@click.command()
@click.option("--data", type=click.Path(path_type=Path, exists=True, file_okay=False), required=True,
              help="Folder of the melts sps, octane and cumene.")
@click.option("--reference", multiple=True, required=True, help="Atomistic polystyrene; files, folders or patterns.")
@click.option("--held-out", multiple=True, required=True, help="The atomistic structure whose beads are backmapped.")
@click.option("--cg", type=click.Path(path_type=Path, exists=True, dir_okay=False), required=True,
              help="Its beads, as a file for the command.")
@click.option("--seed", type=int, default=1, show_default=True)
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), default="runs/transfer", show_default=True,
              help="Folder of models and structures; a run that was interrupted goes on.")
@click.option("--docs", type=click.Path(path_type=Path, file_okay=False), default=DOCS, show_default=True)
def main(data: Path, reference: tuple[str, ...], held_out: tuple[str, ...], cg: Path, seed: int, out: Path,
         docs: Path) -> None:
    """Train, judge and compare models by what they have seen and by their prior."""
    out.mkdir(parents=True, exist_ok=True)
    try:
        methods = [Method(f"{kind}, start", apply(started(kind, out))) for kind in START]
        for kind in GAMES:
            methods += [Method(f"{kind}, {prior}", apply(trained(kind, prior, data, out))) for prior in PRIORS]
        for method in methods:
            timed(method, cg, seed, out)
        judged = judge(methods, reference, held_out, "sps", out)
    except BackmapError as error:
        raise click.ClickException(str(error)) from None
    write_page(judged, docs, n_reference=len(find_files(reference)))
    click.echo(f"{docs / 'transfer.md'} written")


def apply(model: str | Path) -> tuple[str, ...]:
    return "--model", str(model), "--chemistry", "sps", "--refine", "none"


def started(kind: str, out: Path) -> Path:
    """The shipped model, choosing among candidates as the games do."""
    return with_sampling(START[kind], DBMSampling(**_game()["sampling"]), out / f"{kind.replace(' ', '-')}-start.pt")


def _game() -> dict:
    return yaml.safe_load((HERE / "transfer.yaml").read_text())


def trained(kind: str, prior: str, data: Path, out: Path) -> Path:
    """The model that begins with the shipped one and plays the game with ``prior``; trained where it is not there."""
    chemistries, start = GAMES[kind], START[kind]
    model, settings = out / f"{kind}-{prior}.pt", out / f"{kind}-{prior}.json"
    if model.exists():
        return model
    network = load_model(start).hyperparameters["network"]
    settings.write_text(json.dumps({**_game(), "prior": prior, "network": dict(network)}))
    frames = [find_files([data / name / "melt_1" / "frame_*.gro"]) for name in chemistries]
    train, held = ([file for files in frames for file in files[part]]
                   for part in (slice(None, -_HELD), slice(-_HELD, None)))
    with Bars() as bars:
        return train_from_files(train, held, model, chemistry=chemistries, settings_file=settings, start=start,
                                progress=bars, resume=model.with_suffix(".checkpoint").exists())


def write_page(judged: list[Judged], docs: Path, n_reference: int) -> None:
    """``transfer.md`` and its figure."""
    with replacing(docs / "figures" / "transfer.png", overwrite=True) as part:
        figure(judged).savefig(part, dpi=110, format="png")
    columns = {j.label: j.comparison for j in judged}
    lines = [
        "# Chemical transfer and priors", "",
        "Polystyrene from `dbm` models that were trained on it (*specific*), and on liquid octane and cumene alone "
        "(*transferred*): as their warm start left them (*start*: the shipped `dbm-sps` and `dbm-transfer`; `dbm-all` "
        "learned from all three), and after the same short adversarial game with no prior, with energies lowered "
        "(`min`) and with those of the reference met (`match`). Drawn, not refined. "
        f"{n_reference} reference structures; {date.today().isoformat()}, openmm_backmap {__version__}, "
        f"{this_machine()['processor']}. Command:", "",
        "```", f"python {shlex.join(['benchmarks/transfer.py', *sys.argv[1:]])}", "```", "",
        "Settings of the game: [transfer.yaml](../benchmarks/transfer.yaml). All keep the lowest of four candidates,",
        "also the models of the start, whose own choice may be another.", "",
        *summary(judged), "", SUMMARY_WORDS, "",
        "![divergences by prior](figures/transfer.png)", "",
        "## Which prior is best", "", *winners(judged), "", "## What was published, and what is found here", "",
        *findings(judged), "", "## Every divergence", "", *every_divergence(columns), ""]
    with replacing(docs / "transfer.md", overwrite=True) as part:
        part.write_text("\n".join(lines))


def by_prior(judged: list[Judged], kind: str) -> dict[str, dict[str, float]]:
    """Numbers of the three games of ``kind``, by prior."""
    return {prior: quantities(next(j for j in judged if j.label == f"{kind}, {prior}")) for prior in PRIORS}


def winners(judged: list[Judged]) -> list[str]:
    """For each divergence the priors from the best to the worst."""
    lines = []
    for kind in GAMES:
        games = by_prior(judged, kind)
        for title in (*KINDS.values(), "C-C-C", "LJ energy", "g(r)"):
            order = sorted(PRIORS, key=lambda prior: games[prior][title])
            words = (f"{prior} ({number_text(games[prior][title])})" for prior in order)
            lines.append(f"- {kind}, {title}: {', '.join(words)}.")
    return lines


def findings(judged: list[Judged]) -> list[str]:
    """The statements of the paper next to the numbers that bear on them."""
    own, other = by_prior(judged, "specific"), by_prior(judged, "transferred")
    told = lambda games, title: ", ".join(f"{p} {number_text(games[p][title])}" for p in PRIORS)  # noqa: E731
    spread = lambda games, title: number_text(np.ptp([games[p][title] for p in PRIORS]))  # noqa: E731
    return [
        "- Published: backbone angles are where transferred models lose most, whatever the prior. Here C-C-C: specific "
        f"{told(own, 'C-C-C')}; transferred {told(other, 'C-C-C')}.",
        "- Published: the prior does not influence dihedrals. Here the largest difference between priors is "
        f"{spread(own, 'dihedrals')} (specific) and {spread(other, 'dihedrals')} (transferred).",
        "- Published: Lennard-Jones energies of specific models are right with `match` and without a prior, too low "
        "with `min`; of transferred ones `min` is by far the best. Here the medians are, specific: "
        f"{told(own, 'LJ median')}; transferred: {told(other, 'LJ median')} kJ/mol (held-out structure: "
        f"{number_text(quantities(judged[0])['LJ median'])}).",
        f"- Published: g(r) hardly depends on the prior. Here: specific {told(own, 'g(r)')}; transferred "
        f"{told(other, 'g(r)')}."]


def figure(judged: list[Judged]):
    """Divergences by prior, of specific and of transferred models side by side."""
    titles = (*KINDS.values(), "C-C-C", "g(r)")
    drawn = page.figure(9, 3.4)
    axes = drawn.subplots(1, 2, sharey=True)
    for ax, kind in zip(axes, GAMES):
        rows = [j for j in judged if j.label.startswith(kind)]
        for k, one in enumerate(rows):
            values = quantities(one)
            ax.bar(np.arange(len(titles)) + 0.2 * (k - (len(rows) - 1) / 2), [values[t] for t in titles], 0.18,
                   label=one.label.split(", ")[1], color=COLOURS[k])
        ax.plot([quantities(judged[0])[t] for t in titles], "k_", markersize=34, label="held-out structure")
        ax.set(title=kind, yscale="log", xticks=range(len(titles)), xticklabels=titles)
        ax.grid(axis="y", color="#e4e4e4", zorder=0)
        ax.set_axisbelow(True)
    axes[0].set_ylabel("divergence")
    axes[1].legend(frameon=False, fontsize=8)
    return drawn


if __name__ == "__main__":
    main()
