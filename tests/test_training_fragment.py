"""The library of the fragment family: cut from snapshots, by the function and by the command."""

import numpy as np
import pytest
from click.testing import CliRunner
from small_systems import small_dataset, small_positions, small_target, write_snapshots

from openmm_backmap.cli.app import app
from openmm_backmap.errors import InputError, UnknownNameError
from openmm_backmap.generators.base import load_generator
from openmm_backmap.model_file import load_model
from openmm_backmap.training.fragment import FragmentTrainer, FragmentTraining, fragments_of
from openmm_backmap.training.train import train_from_files


def trained(dataset, held=None, **settings):
    trainer = FragmentTrainer(dataset, held or dataset, FragmentTraining(**settings))
    trainer.train()
    return trainer


def test_every_bead_of_every_snapshot_is_a_fragment():
    dataset = small_dataset(3)
    found = fragments_of(dataset)
    assert sum(len(x) for x in found.values()) == dataset.n_beads
    for x in found.values():
        assert np.abs(x).max() < 0.5 and len(x) in (6, 12)


def test_fragments_of_either_hand_are_alike():
    """Mean distances of atoms from each other agree because mirrored frames make the hands one kind."""
    target = small_target(1, 6)
    positions = small_positions(target)
    mirrored = positions * np.array([1, 1, -1])
    dataset = small_dataset(1, target=target)
    system = dataset.systems[0]
    one = fragments_of(dataset)
    flipped = type(system)(type(target)(**{**vars_of(target), "bead_hand": -target.bead_hand}),
                           mirrored[None].astype(np.float32), system.boxes)
    two = fragments_of(type(dataset)(dataset.chemistry, (flipped,)))
    for kind in one:
        assert two[kind] == pytest.approx(one[kind], abs=1e-5)


def vars_of(target):
    return {name: getattr(target, name) for name in target.__dataclass_fields__}


def test_a_library_is_no_larger_than_asked_and_the_seed_chooses():
    dataset = small_dataset(4)
    one, two, other = (trained(dataset, conformations=3, seed=seed).library for seed in (1, 1, 2))
    assert all(len(x) == 3 for x in one.values())
    assert all(np.array_equal(one[kind], two[kind]) for kind in one)
    assert any(not np.array_equal(one[kind], other[kind]) for kind in one)


def test_the_loss_tells_how_well_the_library_covers():
    dataset, held = small_dataset(4), small_dataset(2, first_seed=20)
    few, all_of_them = (trained(dataset, held, conformations=n) for n in (1, 1000))
    (_, few_loss, few_held), (_, all_loss, all_held) = few.history[-1], all_of_them.history[-1]
    assert all_loss == pytest.approx(0, abs=1e-9) and 0 < all_held < few_held and few_loss > 1e-3


def test_beads_that_only_the_validation_holds_are_named():
    with pytest.raises(InputError, match="validation snapshots hold beads that the others do not: A: "):
        trained(small_dataset(1), small_dataset(1, target=small_target(2, 1)))


@pytest.mark.parametrize(("content", "said"), [
    ({"conformation": 3}, "unknown setting conformation; known: family, conformations, seed"),
    ({"conformations": 0}, "conformations is 0"), ({"conformations": 1.5}, "conformations is 1.5"),
    ({"seed": "x"}, "seed is 'x'"), ({"seed": -1}, "seed is -1")])
def test_odd_settings_are_refused(content, said):
    with pytest.raises(InputError, match=f"mine.yaml: {said}"):
        FragmentTraining.from_dict(content, "mine.yaml")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return write_snapshots(folder / "train", 3), write_snapshots(folder / "held", 1, first_seed=7)


def test_the_command_makes_a_library_that_draws(tmp_path, data):
    (tmp_path / "fragment.yaml").write_text("family: fragment\nconformations: 5\n")
    words = ["train", data[0], "--validation", data[1], "--out", tmp_path / "mine.pt", "--settings",
             tmp_path / "fragment.yaml", "--device", "cpu", "--seed", 4]
    for _ in range(2):  # there is no checkpoint in the way
        result = CliRunner().invoke(app, list(map(str, words)))
        assert result.exit_code == 0, result.output
    assert {p.name for p in tmp_path.iterdir()} == {"mine.pt", "mine.md", "fragment.yaml"}
    model = load_model(tmp_path / "mine.pt")
    assert model.family == "fragment" and model.provenance["settings"] == {"conformations": 5, "seed": 4}
    card = (tmp_path / "mine.md").read_text()
    assert "Family `fragment`, chemistry `sps`" in card and "conformations: 5" in card
    shown = CliRunner().invoke(app, ["models", "show", str(tmp_path / "mine.pt")])
    assert shown.exit_code == 0 and "fragment" in shown.output
    generator = load_generator(model, "cpu")
    generator.minimiser.stages = ()
    target = small_target(1, 4)
    x = generator.generate(target, target.mapping @ small_positions(target), None, rng=np.random.default_rng(0))
    assert np.isfinite(x).all()


def test_an_unknown_family_is_named_with_its_file(tmp_path, data):
    settings = tmp_path / "settings.yaml"
    settings.write_text("family: fragmen\n")
    with pytest.raises(UnknownNameError, match="settings.yaml: unknown family to train 'fragmen' .did you mean 'frag"):
        train_from_files([data[0]], [data[1]], tmp_path / "mine.pt", settings_file=settings)
