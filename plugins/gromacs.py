"""From coarse-grained coordinates to a GROMACS run: ``aa.gro``, ``aa.top`` and ``aa.mdp``.

    python -m openmm_backmap.plugins.gromacs cg.gro --model sps
    gmx grompp -f aa.mdp -c aa.gro -p aa.top -o aa.tpr && gmx mdrun -deffnm aa
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from openmm_backmap.backmapper import Backmapped, Backmapper
from openmm_backmap.chemistry import Chemistry, create_system
from openmm_backmap.errors import BackmapError
from openmm_backmap.io.writers import check_output, replacing, write_gromacs_topology

_MDP = """\
; A first run of the backmapped atoms: {length_ps:g} ps at {temperature_K:g} K and constant volume.
integrator           = md
dt                   = 0.002
nsteps               = {steps}
nstxout-compressed   = 500
nstenergy            = 500
cutoff-scheme        = Verlet
coulombtype          = {coulomb}
rcoulomb             = {cutoff_nm:g}
rvdw                 = {cutoff_nm:g}
DispCorr             = {dispersion}
; Bonds are constrained by the topology's own [ constraints ].
constraints          = none
constraint-algorithm = lincs
tcoupl               = v-rescale
tc-grps              = System
tau-t                = 0.5
ref-t                = {temperature_K:g}
gen-vel              = yes
gen-temp             = {temperature_K:g}
gen-seed             = {seed}
"""


def prepare(cg: str | Path, out: str | Path = "aa", *, model="sps", topology: str | Path | None = None,
            frame: int = 0, seed: int | None = None, temperature: float | None = None, length_ps: float = 100.0,
            aliases: Sequence[str] = (), overwrite: bool = False) -> Backmapped:
    """Backmap one frame and write ``OUT.gro``, ``OUT.top`` and ``OUT.mdp``.

    Parameters
    ----------
    cg : str or Path
        Coarse-grained structure, or a trajectory with ``topology``.
    out : str or Path
        Names of the files without their ending.
    model : str, Path, ModelFile or Backmapper
    frame : int
        Frame of a trajectory, counted from 0.
    temperature : float, K, optional
        The chemistry's own by default.
    length_ps : float
        Length of the first run.
    """
    files = {ending: Path(f"{out}.{ending}") for ending in ("gro", "top", "mdp")}
    for file in files.values():
        check_output(file, overwrite)
    backmapper = model if isinstance(model, Backmapper) else Backmapper(model)
    atoms = next(backmapper.frames(cg, topology, first=frame, last=frame, seed=seed, temperature=temperature,
                                   aliases=aliases))
    system = create_system(atoms.target, atoms.box)
    with ExitStack() as stack:
        parts = {ending: stack.enter_context(replacing(file, overwrite)) for ending, file in files.items()}
        write_gromacs_topology(parts["top"], atoms.topology, system)
        parts["mdp"].write_text(first_run(backmapper.model.chemistry, atoms.provenance, length_ps))
        atoms.save(parts["gro"])
    return atoms


def first_run(chemistry: Chemistry, provenance: dict, length_ps: float) -> str:
    """Text of the .mdp of a first run with the settings of the chemistry's force field."""
    nonbonded = chemistry.nonbonded
    return _MDP.format(
        length_ps=length_ps, steps=round(length_ps / 0.002), temperature_K=provenance["temperature_K"],
        coulomb="PME" if nonbonded.method == "PME" else "Cut-off", cutoff_nm=nonbonded.cutoff_nm,
        dispersion="EnerPres" if nonbonded.dispersion_correction else "no",
        seed=provenance["seed"])


def main(arguments: Sequence[str] | None = None) -> None:
    """``python -m openmm_backmap.plugins.gromacs``."""
    import click

    @click.command(help="Backmap CG and write OUT.gro, OUT.top and OUT.mdp for GROMACS.")
    @click.argument("cg", type=click.Path(path_type=Path, dir_okay=False))
    @click.option("-o", "--out", default="aa", show_default=True, help="Names of the files, without their ending.")
    @click.option("-m", "--model", default="sps", show_default=True)
    @click.option("--topology", type=click.Path(path_type=Path), help="Structure that names the beads of a trajectory.")
    @click.option("--frame", type=click.IntRange(0), default=0, show_default=True)
    @click.option("--seed", type=click.IntRange(0))
    @click.option("--temperature", type=click.FloatRange(0, min_open=True), help="K.")
    @click.option("--length", "length_ps", type=click.FloatRange(0, min_open=True), default=100.0, show_default=True,
                  help="ps of the first run.")
    @click.option("--alias", "aliases", multiple=True, metavar="OLD=NEW")
    @click.option("--overwrite", is_flag=True)
    def command(cg: Path, **options) -> None:
        prepare(cg, **options)
        out = options["out"]
        click.echo(f"next: gmx grompp -f {out}.mdp -c {out}.gro -p {out}.top -o {out}.tpr")

    try:
        command.main(arguments, prog_name="python -m openmm_backmap.plugins.gromacs")
    except BackmapError as error:
        sys.exit(f"Error: {error}")


if __name__ == "__main__":
    main()
