"""Random numbers by counter."""

import numpy as np
import pytest
import torch

from openmm_backmap.sampling.noise import normals, philox


@pytest.mark.parametrize("counter, key, words", [
    # The known answers that come with the authors' Random123 library.
    ([0, 0, 0, 0], 0, [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
    ([2**32 - 1] * 4, 2**64 - 1, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
    ([0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344], 0x299F31D0A4093822,
     [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1])])
def test_known_answers(counter, key, words):
    assert philox(torch.tensor(counter), key).tolist() == words


def test_numbers_are_normal_and_not_related():
    x = normals(5, torch.arange(20_000), 0, 10).numpy().astype(float)
    assert x.mean(0) == pytest.approx(np.zeros(10), abs=0.03) and x.std(0) == pytest.approx(np.ones(10), abs=0.02)
    assert (x**4).mean() == pytest.approx(3, abs=0.1)
    assert np.corrcoef(x.T) == pytest.approx(np.eye(10), abs=0.04)
    assert np.corrcoef(x[:-1, 0], x[1:, 0])[0, 1] == pytest.approx(0, abs=0.03)
    for other in (normals(6, torch.arange(20_000), 0, 10), normals(5, torch.arange(20_000), 1, 10)):
        assert np.corrcoef(x.ravel(), other.numpy().ravel())[0, 1] == pytest.approx(0, abs=0.02)


def test_a_number_does_not_depend_on_those_beside_it():
    some = torch.tensor([7, 2, 9])
    assert torch.equal(normals(3, torch.arange(10), 4, 7)[some], normals(3, some, 4, 7))
    assert torch.equal(normals(3, some, 4, 11)[:, :4], normals(3, some, 4, 4))
