"""Errors can be caught as what they are, as ours, or as the builtin that people know."""

import pytest

from openmm_backmap import errors

LEAVES = {
    errors.InputError: ValueError, errors.ChemistryError: ValueError, errors.UnknownNameError: KeyError,
    errors.UnsupportedForceError: NotImplementedError, errors.RefinementError: RuntimeError,
    errors.MissingDependencyError: ImportError}


@pytest.mark.parametrize(("leaf", "builtin"), LEAVES.items(), ids=lambda kind: kind.__name__)
def test_leaves(leaf, builtin):
    error = leaf("what and where; the way out")
    assert isinstance(error, errors.BackmapError) and isinstance(error, builtin)
    assert str(error) == "what and where; the way out"  # a KeyError alone would put it in quotes


def test_no_leaf_is_forgotten():
    found = {kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.BackmapError)}
    assert found == {errors.BackmapError, *LEAVES}
