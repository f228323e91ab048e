"""What several tests share: a model with a toy generator, registered as a third party would do it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

# Small tensors gain nothing from threads, and lose much where the cores are busy with something else; and sums come out
# as in the processes that tests start.
os.environ["OMP_NUM_THREADS"] = "1"

TESTS = Path(__file__).parent


@pytest.fixture(scope="session")
def toy_package(tmp_path_factory):
    """A folder on ``sys.path`` that offers the generator family ``toy`` by an entry point."""
    folder = tmp_path_factory.mktemp("installed")
    info = folder / "toy_generator-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toy-generator\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[openmm_backmap.generators]\ntoy = toy_generator:ToyGenerator\nbroken = toy_generator:Missing\n")
    sys.path.insert(0, str(folder))
    yield folder
    sys.path.remove(str(folder))


@pytest.fixture(scope="session")
def toy_model(toy_package):
    """The path of a model of the family ``toy`` for polystyrene."""
    import torch

    from openmm_backmap.chemistry import load_chemistry
    from openmm_backmap.model_file import ModelFile, save_model

    chemistry = load_chemistry("sps")
    path = toy_package / "toy.pt"
    save_model(ModelFile("toy", {}, {"w": torch.zeros(3)}, chemistry.source, chemistry.force_field_xml,
                         {"recipe": "none", "scores": {"angles": 0.5}}), path)
    return path


@pytest.fixture
def command(toy_package):
    """Run the command line in a process of its own: ``command(*words)`` -> CompletedProcess."""
    def run(*words, **options):
        return subprocess.run([*PROGRAM, *map(str, words)], capture_output=True, text=True,
                              env=environment(toy_package), timeout=120, **options)
    return run


def heed_interrupts() -> None:
    """In a new process: Ctrl-C acts, also where these tests run in the background, which ignores it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


PROGRAM = [sys.executable, "-c", "import conftest; from openmm_backmap.cli import main; main()"]


def environment(toy_package: Path) -> dict[str, str]:
    """For a process that finds the toy generator, and the package as this one does."""
    paths = [str(toy_package), str(TESTS.parent), str(TESTS)]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OPENMM_CPU_THREADS": "1", "OMP_NUM_THREADS": "1"}
