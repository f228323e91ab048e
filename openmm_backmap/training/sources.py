"""What a training run reads: snapshots of one or several chemistries, or data sets compiled before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from openmm_backmap.chemistry import load_chemistry
from openmm_backmap.errors import InputError
from openmm_backmap.generators.base import Progress
from openmm_backmap.io.writers import check_output
from openmm_backmap.training.dataset import Dataset, compile_dataset, load_dataset, save_dataset


def find_snapshots(paths: Sequence[str | Path]) -> list[Path]:
    """Files as given, and ``frame_*.gro`` and ``trajectory.xtc`` of folders; :class:`InputError` if there are none."""
    files: list[Path] = []
    for path in map(Path, paths):
        if path.is_dir():
            files += sorted([*path.glob("**/frame_*.gro"), *path.glob("**/trajectory.xtc")])
        elif path.is_file():
            files.append(path)
        else:
            raise InputError(f"{path}: no such file or folder")
    if not files:
        raise InputError(f"no snapshots in {', '.join(map(str, paths)) or 'nothing'}; make some with "
                         "'backmap-openmm reference'")
    return files


def read_snapshots(files: Sequence[Path], chemistries: Sequence[str | Path],
                   progress: Progress | None = None) -> Dataset:
    """The data set of snapshots, or of one compiled file, which brings its own chemistries."""
    compiled = [f for f in files if f.suffix == ".npz"]
    if compiled and len(files) > 1:
        raise InputError("give one compiled data set, or snapshots, not both")
    if compiled:
        return load_dataset(compiled[0])
    return compile_dataset(files, [load_chemistry(name) for name in chemistries], progress)


def check_all_used(dataset: Dataset, chemistries: Sequence[str | Path], files: Sequence[Path]) -> None:
    """Refuse snapshots that leave one of the chemistries out: most likely a folder was forgotten."""
    if all(f.suffix == ".npz" for f in files) or len(dataset.chemistries) == len(chemistries):
        return
    found = ", ".join(c.name for c in dataset.chemistries)
    raise InputError(f"chemistries {', '.join(map(str, chemistries))} were asked for, and the snapshots are all of "
                     f"{found}: give those of the others too, or leave the others out")


def compile_from_files(data: Sequence[str | Path], chemistries: Sequence[str | Path], out: str | Path, *,
                       energies: bool = False, overwrite: bool = False, progress: Progress | None = None) -> Dataset:
    """Write the data set of snapshots.

    Parameters
    ----------
    data : paths
        Snapshots or trajectories, or folders of ``frame_*.gro`` or ``trajectory.xtc``.
    chemistries : names or paths
        One or several; each snapshot is of that which has templates of its residues.
    out : path
        The data set (``.npz``).
    energies : bool
        Put the energies of the systems in, which the priors of the ``dbm`` family need: made by OpenMM.
    overwrite : bool
    progress : callable, optional

    Raises
    ------
    InputError
        No snapshots, snapshots of none or of several of the chemistries, none of one of them, or an output that
        cannot be written.
    """
    if Path(out).suffix != ".npz":
        raise InputError(f"{out}: a data set ends in .npz")
    check_output(out, overwrite)
    files = find_snapshots(data)
    dataset = read_snapshots(files, chemistries, progress)
    check_all_used(dataset, chemistries, files)
    if energies:
        from openmm_backmap.training.dbm_data import system_energies

        dataset = replace(dataset, systems=tuple(
            replace(system, energy=energy) for system, energy in zip(dataset.systems, system_energies(dataset))))
    save_dataset(dataset, out, overwrite)
    return dataset
