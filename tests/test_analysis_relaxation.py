"""Dynamics from structures as they are, and the time until their energy is the reference's."""

import numpy as np
import pytest
from small_systems import BOX, small_positions, small_target

from openmm_backmap.analysis.ensemble import Ensemble
from openmm_backmap.analysis.relaxation import Band, Relaxation, RelaxSettings, band, relax, time_to_band, verdicts
from openmm_backmap.chemistry import create_system
from openmm_backmap.energy.openmm_energy import energies_by_force
from openmm_backmap.errors import InputError

TIMES = np.arange(101) * 0.1
SHORT = RelaxSettings(length_ps=0.04, interval_ps=0.004)


def relaxation(*energies, failures=None):
    return Relaxation("x", TIMES, np.array(energies, dtype=float), tuple(failures or [""] * len(energies)))


@pytest.fixture(scope="module")
def sound():
    """Two structures that dynamics can start from."""
    import openmm as mm

    target = small_target(1, 3)
    found = []
    for seed in (1, 2):
        context = mm.Context(create_system(target, BOX), mm.VerletIntegrator(0.001), mm.Platform.getPlatform("CPU"))
        context.setPositions(small_positions(target, seed))
        mm.LocalEnergyMinimizer.minimize(context, 10.0, 500)
        found.append(context.getState(positions=True).getPositions(asNumpy=True)._value)
    return Ensemble("sound", target, np.array(found), np.stack([BOX] * 2), np.arange(2))


def test_the_band_is_that_of_the_last_half_of_sound_runs():
    rng = np.random.default_rng(1)
    noise = 100 + rng.normal(scale=5, size=101)
    noise[:40] += 1000
    found = band(relaxation(noise, np.full(101, np.nan), failures=["", "it blew up"]))
    assert found.mean == pytest.approx(noise[50:].mean()) and found.sd == pytest.approx(noise[50:].std())
    with pytest.raises(InputError, match="from the reference itself: it blew up"):
        band(relaxation(np.full(101, np.nan), failures=["it blew up"]))


def test_time_to_the_band():
    around = Band(100.0, 5.0)
    start, step, late, returns = np.full((4, 101), 100.0)
    step[:30] = 200
    late[:] = np.where(TIMES < 9.95, 200, 100)
    returns[:10], returns[60:65] = 200, 200
    single = start.copy()
    single[50] = 110  # a peak of one instant is noise, and moves the running mean by a tenth of it
    times = time_to_band(relaxation(start, step, late, returns, single), around)
    assert times[0] == 0 and times[4] == 0
    assert times[1] == pytest.approx(3.0)
    assert np.isinf(times[2])
    assert times[3] == pytest.approx(6.5)


def test_verdicts_are_plain():
    around = Band(0.0, 1.0)
    failed = np.full(101, np.nan)
    failed[:5] = 0
    runs = relaxation(np.zeros(101), np.full(101, 9.0), failed, failures=["", "", "it blew up (after 0.4 ps)"])
    found = verdicts(runs, around)
    assert found == ("0.0 ps", "not reached in 10 ps", "MD fails: it blew up (after 0.4 ps)")


def test_dynamics_begin_with_the_structure_as_it_is(sound):
    told = []
    found = relax(sound, SHORT, "CPU", lambda *words: told.append(words))
    system = create_system(sound.target, BOX)
    wanted = energies_by_force(system, sound.positions[0], BOX, "CPU")["total"]
    assert found.energies.shape == (1, 11) and found.failures == ("",)
    assert found.times[-1] == pytest.approx(0.04)
    assert found.energies[0, 0] == pytest.approx(wanted, abs=0.5)
    # A minimum takes up half of the heat of the temperature.
    assert found.energies[0, -1] > found.energies[0, 0] + 50
    assert told[0] == ("dynamics from sound", 0, 11) and told[-1] == ("dynamics from sound", 11, 11)


def test_an_interrupted_run_goes_on(sound, tmp_path):
    settings = RelaxSettings(length_ps=1.2, interval_ps=0.1, n_structures=2)

    def interrupt(stage, done, total):
        if done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        relax(sound, settings, "CPU", interrupt, tmp_path / "runs")
    with np.load(tmp_path / "runs" / "1.npz") as data:
        first = data["energies"].copy()
    assert np.isfinite(first).sum() == 10
    told = []
    found = relax(sound, settings, "CPU", lambda *words: told.append(words), tmp_path / "runs")
    assert told[0][1] == 10
    assert np.array_equal(found.energies[0, :10], first[:10]) and np.isfinite(found.energies).all()
    again = relax(sound, settings, "CPU", lambda *words: pytest.fail("done already"), tmp_path / "runs")
    assert np.array_equal(again.energies, found.energies)


@pytest.mark.parametrize("scale, reasons", [(0.05, ["constrained bonds cannot be met"]), (None, ["energy", "NaN"])])
def test_starts_that_dynamics_cannot_follow_are_told_plainly(sound, scale, reasons):
    x = sound.positions[:1].copy()
    if scale:
        x += np.random.default_rng(1).normal(scale=scale, size=x.shape)
    else:
        # Two molecules in one place: every bond is right.
        target = small_target(2, 3)
        x = np.concatenate([x, x + 1e-4], axis=1)
        sound = Ensemble("bad", target, x, sound.boxes[:1], np.arange(1))
    bad = Ensemble("bad", sound.target, x, sound.boxes[:1], np.arange(1))
    found = relax(bad, SHORT, "CPU")
    assert any(reason in found.failures[0] for reason in reasons)
    assert verdicts(found, Band(0.0, 1.0))[0].startswith("MD fails: ")
    assert np.isnan(found.energies[0, -1])


@pytest.mark.parametrize("change", [{"length_ps": 0}, {"interval_ps": -1.0}, {"length_ps": 0.2}, {"n_structures": 0}])
def test_settings_that_make_no_sense(change):
    with pytest.raises(InputError, match="relaxation"):
        RelaxSettings(**change)
