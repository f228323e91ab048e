"""The cVAE on voxels: what its networks see and make, where a trajectory begins, how latent vectors are drawn."""

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from small_peptide import small_trajectories

from openmm_backmap.errors import InputError
from openmm_backmap.generators.base import load_generator
from openmm_backmap.generators.coherent.cvae import LatentMixture, Seeds, Sight, mapping_of, sight
from openmm_backmap.generators.coherent.cvae_network import CVAEHyperparameters, CVAENetwork
from openmm_backmap.generators.coherent.frames import BeadShape
from openmm_backmap.geometry.checks import mapped
from openmm_backmap.model_file import load_model, save_model
from openmm_backmap.training.cvae import CVAETrainer
from openmm_backmap.training.cvae_settings import CVAETraining

NETWORK = CVAEHyperparameters(width=8, latent=4, n_cells=6, edge_nm=1.6, sigma_nm=0.2, decoder_blocks=1)
TINY = CVAETraining(steps=4, pairs=8, components=2, encoded=500, seeds=5, network=NETWORK)


@pytest.fixture(scope="module")
def dataset():
    return small_trajectories(2, 6)


@pytest.fixture(scope="module")
def atoms(dataset):
    return dataset.systems[0].positions[:5].astype(float)


@pytest.fixture(scope="module")
def beads(dataset, atoms):
    return mapped(dataset.systems[0].target, atoms)


@pytest.fixture(scope="module")
def model(dataset, tmp_path_factory):
    trainer = CVAETrainer(dataset, dataset, TINY)
    trainer.train()
    path = tmp_path_factory.mktemp("model") / "tiny.pt"
    save_model(trainer.generator().to_model(dataset.chemistry, {}), path)
    return load_model(path)


@pytest.fixture(scope="module")
def generator(model):
    return load_generator(model, "cpu")


def network(**changes):
    torch.manual_seed(1)
    return CVAENetwork(CVAEHyperparameters(**{**vars(NETWORK), **changes}), 22, 6)


def test_every_particle_has_a_channel_of_its_own():
    net, seen = network(), []
    for part, n in ((net.encoder[0], 50), (net.condition, 28)):
        part.register_forward_hook(lambda layer, given, out, n=n: seen.append((n, given[0].shape[1])))
    x, r = torch.randn(3, 22, 3) * 0.2, torch.randn(3, 6, 3) * 0.2
    mean, log_variance = net.encode(x, r, x)
    density, atoms = net.decode(r, x, mean)
    assert [n for n, _ in seen] == [k for _, k in seen] == [50, 28]
    assert mean.shape == log_variance.shape == (3, 4) and density.shape == (3, 22, 6**3) and atoms.shape == (3, 22, 3)
    assert (density >= 0).all() and torch.allclose(density.sum(2), torch.full((3, 22), net.grid.mass), rtol=1e-4)


def test_the_first_guess_is_a_gaussian_about_a_weighted_mean():
    net = network()
    given = torch.rand(2, 28, 3) * 0.6 - 0.3
    weights = torch.softmax(torch.randn(22, 28), dim=1)
    net.set_guess(weights)
    torch.nn.init.zeros_(net.head.weight)
    torch.nn.init.zeros_(net.head.bias)
    density, atoms = net.decode(given[:, :6], given[:, 6:], torch.randn(2, 4))
    assert torch.allclose(atoms, weights @ given, atol=2e-3)
    assert torch.allclose(density, net.grid.gaussians(weights @ given), atol=5e-3)


@pytest.mark.parametrize("which", ["beads", "previous", "latent"])
def test_the_decoder_takes_notice_of_all_that_it_is_given(which):
    net = network(guess=False)
    given = {"beads": torch.randn(1, 6, 3) * 0.2, "previous": torch.randn(1, 22, 3) * 0.2, "latent": torch.randn(1, 4)}
    before = net.decode(**given)[1]
    given[which] = given[which] + 0.1
    assert not torch.allclose(net.decode(**given)[1], before, atol=1e-6)


def test_latent_vectors_have_the_means_and_covariances_of_the_mixture():
    root = torch.tensor([[[1.0, 0.0], [0.5, 0.2]], [[0.3, 0.0], [0.0, 0.1]]])
    mixture = LatentMixture(torch.tensor([0.25, 0.75]), torch.tensor([[5.0, 5.0], [-5.0, 0.0]]), root)
    z = mixture.sample(40000, torch.Generator().manual_seed(1))
    first = z[:, 0] > 0
    assert first.float().mean() == pytest.approx(0.25, abs=0.01)
    for k, own in enumerate((z[first], z[~first])):
        assert torch.allclose(own.mean(0), mixture.mean[k], atol=0.05)
        assert torch.allclose(own.T.cov(), root[k] @ root[k].T, atol=0.05)


def test_a_trajectory_begins_with_the_seed_whose_beads_are_most_alike(beads, atoms):
    centred = beads - beads.mean(1, keepdims=True)
    seeds = Seeds(torch.as_tensor(centred), torch.as_tensor(atoms - atoms.mean(1, keepdims=True)))
    turn = torch.as_tensor(Rotation.random(3, random_state=1).as_matrix())
    found = seeds.before(seeds.beads[[3, 0, 4]] @ turn)
    assert torch.allclose(found, seeds.previous[[3, 0, 4]] @ turn, atol=1e-6)


def test_published_orientation_is_kept_and_ours_laid_on_the_shape(dataset, atoms, beads):
    mapping = mapping_of(dataset.systems[0].target)
    shape = BeadShape.of(torch.as_tensor(beads))
    x = torch.as_tensor(atoms)
    kept = sight(CVAEHyperparameters(orientation="random"), mapping, shape).seen(x)
    assert torch.allclose(kept, x - torch.as_tensor(beads).mean(1, keepdim=True))
    turned = x @ torch.as_tensor(Rotation.random(random_state=1).as_matrix()) + 5.0
    laid = Sight(mapping, shape)
    assert torch.allclose(laid.seen(x), laid.seen(turned), atol=1e-6)


def test_a_model_file_gives_the_same_atoms(dataset, model, generator, atoms, beads):
    again = load_generator(model, "cpu")
    for previous in (None, atoms):
        one, two = (g.step(beads, previous, np.random.default_rng(1)) for g in (generator, again))
        assert np.array_equal(one, two) and one.shape == atoms.shape and np.isfinite(one).all()
        other = generator.step(beads, previous, np.random.default_rng(2))
        assert not np.allclose(one, other, atol=1e-6)


def test_atoms_turn_with_their_beads_far_from_the_origin(generator, atoms, beads):
    turn, shift = Rotation.random(random_state=2).as_matrix(), np.array([40.0, -3.0, 7.0])
    one = generator.step(beads, atoms, np.random.default_rng(3))
    two = generator.step(beads @ turn + shift, atoms @ turn + shift, np.random.default_rng(3))
    assert two == pytest.approx(one @ turn + shift, abs=2e-5)


def test_many_molecules_go_in_parts(generator, beads, monkeypatch):
    monkeypatch.setattr("openmm_backmap.generators.coherent.cvae._BATCH", 2)
    assert generator.step(beads, None, np.random.default_rng(1)).shape == (5, 22, 3)


@pytest.mark.parametrize(("change", "said"), [
    (lambda h, w: w.pop("mixture.root"), "do not fit together"),
    (lambda h, w: w.update({"mixture.mean": torch.zeros(2, 3)}), "sizes of the mixture"),
    (lambda h, w: w.update({"seeds.beads": torch.zeros(5, 7, 3)}), "sizes of the mixture, of the seeds"),
    (lambda h, w: w.update(shape=torch.zeros(4, 3)), "or of the shape"),
    (lambda h, w: h["network"].update(width=12), "do not fit together"),
    (lambda h, w: h["network"].update(depth=12), "do not fit together"),
])
def test_odd_model_files_are_refused(model, change, said):
    hyper = {**model.hyperparameters, "network": dict(model.hyperparameters["network"])}
    weights = dict(model.weights)
    change(hyper, weights)
    odd = type(model)("cvae", hyper, weights, model.chemistry_source, model.force_field_xml, name="odd.pt")
    with pytest.raises(InputError, match=said):
        load_generator(odd, "cpu")
