import numpy as np
import pytest
from openmm import Vec3, unit

from openmm_backmap.errors import InputError
from openmm_backmap.units import to_bar, to_kelvin, to_kj_per_mol, to_nm, to_ps


def test_plain_numbers_are_internal_units():
    assert to_nm(1.5) == 1.5 and isinstance(to_nm(1), float)
    assert to_kelvin(np.float32(300)) == 300.0
    np.testing.assert_array_equal(to_nm([[1, 2, 3]]), [[1.0, 2.0, 3.0]])


@pytest.mark.parametrize("convert, quantity, value", [
    (to_nm, 15 * unit.angstrom, 1.5), (to_ps, 2 * unit.femtosecond, 0.002), (to_kelvin, 300 * unit.kelvin, 300.0),
    (to_kj_per_mol, 1 * unit.kilocalorie_per_mole, 4.184), (to_bar, 1 * unit.atmosphere, 1.01325)])
def test_quantities_are_converted(convert, quantity, value):
    assert convert(quantity) == pytest.approx(value)


def test_quantities_of_vectors_and_sequences_of_quantities():
    vectors = [Vec3(1, 2, 3), Vec3(4, 5, 6)] * unit.angstrom
    np.testing.assert_allclose(to_nm(vectors), [[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]])
    np.testing.assert_allclose(to_nm([1 * unit.nanometer, 1 * unit.angstrom]), [1.0, 0.1])


@pytest.mark.parametrize("value", [3 * unit.kelvin, "three", None, [1, [2, 3]]])
def test_wrong_dimension_or_no_number(value):
    with pytest.raises(InputError, match="nm"):
        to_nm(value)
