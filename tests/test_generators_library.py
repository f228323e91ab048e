"""The library: the nearest frame is the nearest, laid on the beads; models are written and read."""

import dipeptide as adp
import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from openmm_backmap.errors import InputError
from openmm_backmap.generators.base import load_generator
from openmm_backmap.generators.coherent import library
from openmm_backmap.generators.coherent.library import LibraryGenerator, stored
from openmm_backmap.generators.coherent.nearest import NearestConformation
from openmm_backmap.geometry.checks import mapped
from openmm_backmap.geometry.superposition import rotations
from openmm_backmap.model_file import load_model, save_model
from openmm_backmap.training.dataset import Dataset, Frames
from openmm_backmap.training.library import LibraryTrainer, LibraryTraining


@pytest.fixture(scope="module")
def target():
    return adp.dipeptide()


@pytest.fixture(scope="module")
def frames(target):
    rng = np.random.default_rng(1)
    return adp.frames(target, rng.uniform(-180, 180, 400), rng.uniform(-180, 180, 400))


def turned(x, seed):
    """Frames turned and moved, each its own way."""
    rng = np.random.default_rng(seed)
    turns = Rotation.random(len(x), random_state=seed).as_matrix()
    return x @ turns + rng.normal(size=(len(x), 1, 3))


def superposed(a, b):
    """Root mean square distance of every pair of conformations (n, k, 3), (m, k, 3)."""
    a, b = (x - x.mean(1, keepdims=True) for x in (a, b))
    a, b = np.broadcast_arrays(a[:, None], b[None])
    return np.sqrt(((a @ rotations(a, b) - b) ** 2).sum(-1).mean(-1))


@pytest.mark.parametrize("n_points", [3, 6, 10])
def test_the_nearest_is_that_of_a_search_through_all(n_points):
    rng = np.random.default_rng(n_points)
    own = np.cumsum(rng.normal(size=(300, n_points, 3)), axis=1) * 0.1
    wanted = turned(np.concatenate([own[:20] + rng.normal(size=(20, n_points, 3)) * 0.03, own[20:40] * [1, 1, -1]]), 1)
    everything = superposed(wanted, own)
    index, distance = NearestConformation(torch.as_tensor(own, dtype=torch.float32)).of(
        torch.as_tensor(wanted, dtype=torch.float32))
    assert np.allclose(distance, everything.min(1), atol=2e-4)
    assert np.allclose(everything[np.arange(40), index], everything.min(1), atol=2e-4)


def test_frames_of_the_library_come_back(target, frames):
    given = turned(frames[::7], 2)
    generator = LibraryGenerator(target, stored(torch.as_tensor(frames)))
    assert generator.coherent and generator.default_refine == "none"
    found = generator.step(mapped(target, given), None, np.random.default_rng(1))
    assert np.allclose(found, given, atol=1e-5)


def test_model_files_come_back(tmp_path, target, frames):
    save_model(LibraryGenerator(target, stored(torch.as_tensor(frames))).to_model(target.chemistry, {}),
               tmp_path / "library.pt")
    found = load_generator(load_model(tmp_path / "library.pt"), "cpu")
    given = mapped(target, frames[:3])
    drawn = found.generate(target, given, None, n_samples=3, rng=np.random.default_rng(1))
    assert np.allclose(drawn, frames[:3], atol=1e-5)


def test_damaged_models_are_refused(target, frames):
    model = LibraryGenerator(target, stored(torch.as_tensor(frames))).to_model(target.chemistry, {})
    for weights in ({}, {"frames": torch.zeros(3, 5, 3)}, {"frames": torch.full((2, 22, 3), torch.nan)}):
        with pytest.raises(InputError, match="model: (weights and|its frames)"):
            LibraryGenerator.from_model(type(model)(**{**vars(model), "weights": weights}))


def test_large_libraries_fit_in_a_file(frames, monkeypatch):
    own = torch.as_tensor(frames)
    assert stored(own).dtype == torch.float32
    monkeypatch.setattr(library, "_MOST_BYTES", 100 * 22 * 3 * 2)
    half = stored(own)
    assert half.dtype == torch.float16 and len(half) == 100
    assert (half[0].float() - stored(own[:1])[0].float()).abs().max() < 3e-4


def test_a_trained_library_covers_what_is_held_out(target, frames):
    def dataset(x):
        return Dataset(target.chemistry, (Frames(target, x.astype(np.float32), None, starts=np.array([0])),))

    rng = np.random.default_rng(3)
    held = adp.frames(target, rng.uniform(-180, 180, 50), rng.uniform(-180, 180, 50), seed=5)
    losses = []
    for n in (10, 400):
        trainer = LibraryTrainer(dataset(frames), dataset(held), LibraryTraining.from_dict({"frames": n}))
        trainer.train()
        assert len(trainer.generator().atoms) == n
        losses.append(trainer.history[-1][2])
    assert losses[1] < losses[0] / 4
    with pytest.raises(InputError, match="x.yaml: unknown setting size"):
        LibraryTraining.from_dict({"size": 3}, "x.yaml")
