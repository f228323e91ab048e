"""Frames of a trajectory: kept on the way, spread over workers, always the same atoms."""

import os
import signal

import mdtraj
import numpy as np
import pytest
from click.testing import CliRunner

from openmm_backmap.backmapper import Backmapper
from openmm_backmap.chemistry import build_target, load_chemistry
from openmm_backmap.cli.app import app
from openmm_backmap.errors import InputError
from openmm_backmap.geometry.builder import build_coordinates
from openmm_backmap.io.readers import open_cg
from openmm_backmap.job import Job
from openmm_backmap.trajectory import KeptFrames
from openmm_backmap.workers import cluster

N_FRAMES = 6
BOX_NM = 6.0


@pytest.fixture(scope="module")
def trajectory(tmp_path_factory):
    """Beads of three octane molecules that drift, as a trajectory and the structure that names them."""
    folder = tmp_path_factory.mktemp("cg")
    target = build_target(load_chemistry("octane"), [["OCT"]] * 3)
    rng = np.random.default_rng(2)
    x = build_coordinates(target, rng)
    for m in range(3):
        own = target.molecule_of_atom == m
        x[own] += np.array([1.2 * m + 1, 3, 3]) - x[own].mean(0)
    beads = target.mapping @ x
    names = mdtraj.Topology()
    for _ in range(3):
        residue = names.add_residue("OCT", names.add_chain())
        for k in target.chemistry.monomers["OCT"].beads:
            names.add_atom(k.name, mdtraj.element.virtual, residue)
    frames = np.stack([beads + 0.02 * k for k in range(N_FRAMES)])
    whole = mdtraj.Trajectory(frames, names, unitcell_lengths=np.full((N_FRAMES, 3), BOX_NM),
                              unitcell_angles=np.full((N_FRAMES, 3), 90.0))
    whole.save_xtc(str(folder / "cg.xtc"))
    whole[0].save_gro(str(folder / "cg.gro"))
    return folder / "cg.xtc", folder / "cg.gro"


@pytest.fixture(scope="module")
def backmapper():
    return Backmapper("random", "octane", platform="CPU", device="cpu")


@pytest.fixture(scope="module")
def whole(backmapper, trajectory):
    """All frames, with one seed, in one go."""
    return [f.positions for f in backmapper.frames(*trajectory, seed=3, n_samples=2)]


@pytest.fixture(scope="module")
def client():
    with cluster("local:2") as client:
        yield client


def test_frames_do_not_depend_on_those_before_them(backmapper, trajectory, whole):
    later = [f.positions for f in backmapper.frames(*trajectory, seed=3, n_samples=2, first=2, stride=3)]
    assert np.array_equal(later, [whole[2], whole[5]])
    assert np.array_equal(backmapper.backmap(trajectory[1], seed=3).positions[0].shape, whole[0][0].shape)
    one = next(backmapper.frames(*trajectory, seed=3)).positions
    assert np.array_equal(one[0], whole[0][0])
    assert not np.allclose(whole[0][0], whole[0][1]) and not np.allclose(whole[0][0], whole[1][0] - 0.02, atol=1e-3)


def test_an_interrupted_run_goes_on(backmapper, trajectory, whole, tmp_path):
    folder = tmp_path / "frames"
    begun = backmapper.frames(*trajectory, seed=3, n_samples=2, keep=folder)
    for _ in range(2):
        next(begun)
    begun.close()
    kept = KeptFrames(folder)
    assert kept.count() == 4
    before = {file: file.stat().st_mtime_ns for file in folder.glob("frame_*.npz")}
    # No seed is given: it is that of the frames that are there.
    frames = list(backmapper.frames(*trajectory, n_samples=2, keep=folder, seed=3))
    assert np.array_equal([f.positions for f in frames], whole)
    assert {file: file.stat().st_mtime_ns for file in before} == before and kept.count() == 2 * N_FRAMES
    assert frames[0].diagnostics and frames[0].provenance["seed"] == 3 and frames[0].time_ps == 0
    assert np.allclose(frames[1].beads, frames[0].beads + 0.02, atol=2e-3)
    kept.remove()
    assert not folder.exists()


def test_a_seed_that_was_not_given_is_remembered(backmapper, trajectory, tmp_path):
    begun = backmapper.frames(*trajectory, keep=tmp_path / "frames")
    first = next(begun)
    begun.close()
    again = list(backmapper.frames(*trajectory, keep=tmp_path / "frames"))
    assert {f.provenance["seed"] for f in again} == {first.provenance["seed"]}
    assert np.array_equal(again[0].positions, first.positions)


def test_kept_frames_of_other_runs_are_refused(backmapper, trajectory, tmp_path):
    keep = tmp_path / "frames"
    list(backmapper.frames(*trajectory, seed=3, last=1, keep=keep))
    with pytest.raises(InputError, match=r"other settings \(seed\)"):
        list(backmapper.frames(*trajectory, seed=4, keep=keep))
    with pytest.raises(InputError, match="model, sha256|model"):
        list(Backmapper("geometric", "octane").frames(*trajectory, seed=3, keep=keep))
    moved = mdtraj.load(str(trajectory[0]), top=str(trajectory[1]))
    moved.xyz += 0.1
    moved.save_xtc(str(tmp_path / "cg.xtc"))
    source = open_cg(trajectory[0], trajectory[1])
    other = open_cg(tmp_path / "cg.xtc", trajectory[1])
    object.__setattr__(other, "path", source.path)  # the same name, another content
    with pytest.raises(InputError, match="the input has changed since"):
        list(backmapper.frames(other, seed=3, keep=keep))
    (keep / "frame_0000001_0000.npz").write_bytes(b"PK half")
    with pytest.raises(InputError, match="frame_0000001_0000.npz: damaged"):
        list(backmapper.frames(*trajectory, seed=3, keep=keep))
    (keep / "settings.json").write_text("{")
    with pytest.raises(InputError, match="settings.json: damaged"):
        list(backmapper.frames(*trajectory, seed=3, keep=keep))


def test_folders_of_others_are_left_alone(backmapper, trajectory, tmp_path):
    folder = tmp_path / ".aa.xtc.frames"
    folder.mkdir()
    (folder / "mine.txt").write_text("precious")
    with pytest.raises(InputError, match="holds no frames of this package"):
        list(backmapper.frames(*trajectory, keep=folder))
    KeptFrames(folder).remove()
    assert (folder / "mine.txt").read_text() == "precious"


def test_workers_draw_the_same_atoms(backmapper, trajectory, whole, client):
    frames = list(backmapper.frames(*trajectory, seed=3, n_samples=2, client=client))
    assert np.array_equal([f.positions for f in frames], whole)
    assert frames[0].topology.getNumAtoms() == whole[0].shape[1]
    assert [f.time_ps for f in frames] == [0, 1, 2, 3, 4, 5]


def test_errors_of_workers_are_ours(trajectory, client, tmp_path):
    # Equilibrated without a box that holds the cutoff: refused where the work is done.
    small = mdtraj.load(str(trajectory[0]), top=str(trajectory[1]))
    small.unitcell_lengths[:] = 1.0
    small.save_xtc(str(tmp_path / "small.xtc"))
    with pytest.raises(InputError, match="box"):
        list(Backmapper("random", "octane").frames(tmp_path / "small.xtc", trajectory[1], seed=1, client=client))


def test_samples_of_one_frame_are_spread(backmapper, trajectory, client, tmp_path):
    here = backmapper.backmap(trajectory[1], seed=3, n_samples=5)
    folder, told = tmp_path / "kept", []
    some = backmapper.backmap(trajectory[1], seed=3, n_samples=2, client=client, keep=folder)
    before = {file: file.stat().st_mtime_ns for file in folder.glob("frame_*.npz")}
    there = backmapper.backmap(trajectory[1], seed=3, n_samples=5, client=client, keep=folder,
                               progress=lambda *step: told.append(step))
    assert len(before) == 2 and {file: file.stat().st_mtime_ns for file in before} == before
    assert np.array_equal(there.positions, here.positions) and np.array_equal(some.positions, here.positions[:2])
    assert len(there.diagnostics) == 5 and there.diagnostics[4].bead_rmsd == here.diagnostics[4].bead_rmsd
    assert told == [("samples", k, 5) for k in range(6)]


def test_a_lost_worker_loses_nothing(backmapper, trajectory, whole):
    here = backmapper.backmap(trajectory[1], seed=3, n_samples=12).positions
    with cluster("local:2") as client:
        def kill(stage: str = "", done: int = 3, total: int = 0) -> None:
            if done == 3:
                os.kill(next(iter(client.run(os.getpid).values())), signal.SIGKILL)

        drawn = backmapper.frames(*trajectory, seed=3, n_samples=2, client=client)
        found = [next(drawn).positions]
        kill()
        found += [f.positions for f in drawn]
        there = backmapper.backmap(trajectory[1], seed=3, n_samples=12, client=client, progress=kill).positions
    assert np.array_equal(found, whole) and np.array_equal(there, here)


def test_the_command_spreads_frames(trajectory, tmp_path):
    words = [str(trajectory[0]), "--topology", str(trajectory[1]), "--model", "random", "--chemistry", "octane",
             "--seed", "3", "-q"]
    for name, more in (("plain.dcd", []), ("spread.dcd", ["--dask", "local:2"])):
        done = CliRunner().invoke(app, [*words, "-o", str(tmp_path / name), *more], catch_exceptions=False)
        assert done.exit_code == 0, done.output
    target = build_target(load_chemistry("octane"), [["OCT"]] * 3)
    names = mdtraj.Topology.from_openmm(target.topology)
    plain, spread = (mdtraj.load(str(tmp_path / name), top=names).xyz for name in ("plain.dcd", "spread.dcd"))
    assert len(plain) == N_FRAMES and np.array_equal(plain, spread)
    assert {p.name for p in tmp_path.iterdir()} == {"plain.dcd", "spread.dcd"}


@pytest.mark.parametrize("address, message", [
    ("tcp://127.0.0.1:9", "no dask scheduler answers"), ("local:0", "write local:N"), ("local", "write local:N"),
    ("nonsense", "no dask scheduler answers")])
def test_clusters_that_are_none(address, message, monkeypatch):
    monkeypatch.setattr("openmm_backmap.workers._TIMEOUT_S", 1)
    with pytest.raises(InputError, match=message), cluster(address):
        pass


def test_an_interrupted_ensemble_goes_on(backmapper, trajectory, tmp_path, monkeypatch):
    draw = Job.draw

    class Stopped(Exception):
        pass

    def stop(stage: str, done: int, total: int) -> None:
        if KeptFrames(tmp_path / "kept").count() == 2:
            raise Stopped

    whole = backmapper.backmap(trajectory[1], seed=3, n_samples=4)
    with pytest.raises(Stopped):
        backmapper.backmap(trajectory[1], seed=3, n_samples=4, keep=tmp_path / "kept", progress=stop)
    drawn = []
    monkeypatch.setattr("openmm_backmap.job.Job.draw", lambda job, frame, number, sample, *rest: (
        drawn.append(sample), draw(job, frame, number, sample, *rest))[1])
    again = backmapper.backmap(trajectory[1], seed=3, n_samples=4, keep=tmp_path / "kept")
    assert drawn == [2, 3] and np.array_equal(again.positions, whole.positions)


def test_a_single_frame_cannot_be_spread(trajectory, tmp_path):
    done = CliRunner().invoke(app, [str(trajectory[1]), "-m", "random", "--chemistry", "octane", "-o",
                                    str(tmp_path / "aa.gro"), "--dask", "local:2"])
    assert done.exit_code != 0 and "in one piece" in str(done.exception)


def test_an_interrupted_command_says_what_is_kept(trajectory, tmp_path):
    cg = mdtraj.load(str(trajectory[0]), top=str(trajectory[1]))
    cg.xyz[4] = np.nan
    cg.save_dcd(str(tmp_path / "cg.dcd"))
    words = [str(tmp_path / "cg.dcd"), "--topology", str(trajectory[1]), "--model", "random", "--chemistry", "octane",
             "-q", "-o", str(tmp_path / "aa.dcd")]
    done = CliRunner().invoke(app, words)
    assert done.exit_code != 0 and "4 structures are kept in" in done.output
    assert not (tmp_path / "aa.dcd").exists() and (tmp_path / ".aa.dcd.frames").is_dir()
