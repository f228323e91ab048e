"""The clock by which benchmarks time the stages of the command."""

import importlib
import importlib.util
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "benchmarks"


def _load(name):
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


STAGES_MODULE = _load("stages")


class Watch:
    """Time that passes when it is told to."""

    now = 100.0

    def time(self):
        return self.now

    perf_counter = process_time = time


@pytest.fixture
def watch(monkeypatch):
    watch = Watch()
    monkeypatch.setattr(STAGES_MODULE, "time", watch)
    return watch


@pytest.fixture
def clock(watch):
    return STAGES_MODULE.Clock(launched=97.0)


def test_a_stage_within_another_counts_for_itself_alone(clock, watch):
    with clock.stage("outer"):
        watch.now += 1
        with clock.stage("inner"):
            watch.now += 2
        watch.now += 4
    assert clock.seconds == {"start-up": 3, "outer": 5, "inner": 2}


def test_of_a_generator_the_time_between_items_is_not_its_own(clock, watch):
    def items():
        watch.now += 1
        yield "a"
        watch.now += 2

    found = clock.timed("items", items)()
    assert next(found) == "a"
    watch.now += 8
    assert list(found) == []
    assert clock.seconds["items"] == 3


def test_an_error_ends_its_stage(clock, watch):
    def fails():
        watch.now += 1
        raise ValueError

    with pytest.raises(ValueError):
        clock.timed("failing", fails)()
    with clock.stage("next"):
        watch.now += 2
    assert clock.seconds["failing"] == 1 and clock.seconds["next"] == 2


def test_memory_of_a_stage_is_the_most_it_held(clock):
    with clock.stage("little"):
        pass
    with clock.stage("much"):
        bytearray(b"1") * 200_000_000
    assert clock.peak_mb["much"] > clock.peak_mb["little"] + 150


def test_everything_that_is_timed_is_there():
    for places in STAGES_MODULE.STAGES.values():
        for place in places:
            module_name, _, name = place.partition(":")
            owner = importlib.import_module(f"openmm_backmap.{module_name}")
            for part in name.split("."):
                owner = getattr(owner, part)
            assert callable(owner), place
