"""One melt drawn in domains by the workers of a dask cluster."""

import importlib
import os
import signal

import pytest
import torch
from small_systems import TINY
from toy_generator import toy_target, write_gro

from openmm_backmap.backmapper import Backmapper
from openmm_backmap.environments.local import Vocabulary
from openmm_backmap.errors import InputError
from openmm_backmap.generators.flow import BaseDistribution, FlowGenerator, FlowNetwork, FlowSampling
from openmm_backmap.workers import cluster


@pytest.fixture(scope="module")
def backmapper():
    target = toy_target()
    vocabulary = Vocabulary.of(target)
    torch.manual_seed(0)
    network = FlowNetwork(TINY, len(vocabulary.slots), len(vocabulary.bead_types))
    base = BaseDistribution(torch.zeros(len(vocabulary.slots), 3), torch.full((len(vocabulary.slots),), 0.7))
    generator = FlowGenerator(network, base, vocabulary, sampling=FlowSampling(1))
    return Backmapper(generator.to_model(target.chemistry, {}), platform="CPU", device="cpu")


@pytest.fixture(scope="module")
def melt(tmp_path_factory):
    return write_gro(tmp_path_factory.mktemp("cg") / "cg.gro", toy_target(6, 4), n_frames=2, box_nm=8.0)


def test_domains_of_one_frame_are_drawn_by_workers_and_a_lost_one_loses_nothing(backmapper, melt):
    options = {"first": 1, "seed": 3, "refine": "none", "project": False}
    here, killed = next(backmapper.frames(melt, **options)).positions, []
    with cluster("local:2") as client:
        def kill(stage: str, done: int, total: int) -> None:
            if stage == "drawing atoms" and done == total // 2 and not killed:
                killed.append(client.run(os.getpid).popitem()[1])
                os.kill(killed[0], signal.SIGKILL)

        there = next(backmapper.frames(melt, client=client, progress=kill, **options)).positions
        ready = client.run(lambda: len(importlib.import_module("openmm_backmap.workers")._ready))
    assert killed and sum(ready.values()) >= 1
    assert there == pytest.approx(here, abs=2e-6)


def test_families_that_draw_in_one_piece_say_so(melt):
    with pytest.raises(InputError, match="family random draw one sample of one frame in one piece"):
        next(Backmapper("random", "sps").frames(melt, last=0, client="a cluster"))
