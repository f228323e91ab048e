"""Quantities from users to plain floats in the internal units, once, at the edge."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from openmm_backmap.errors import InputError

#: kJ/mol/K
GAS_CONSTANT = 8.31446261815324e-3


def _converter(name: str, unit_of: Callable[[Any], Any]) -> Callable[[Any], float | np.ndarray]:
    def convert(value) -> float | np.ndarray:
        try:
            array = np.array(_plain(value, unit_of), dtype=float)
        except (TypeError, ValueError):
            raise InputError(f"{value!r} is not a quantity in {name} (a number, an array or an openmm.unit.Quantity of "
                             "that dimension is expected)") from None
        return float(array) if array.ndim == 0 else array

    convert.__doc__ = f"""``value`` in {name}: a float for a scalar, else a float array of the same shape.

    Plain numbers are taken to be in {name} already; an ``openmm.unit.Quantity`` (or a sequence of them) is converted.
    Raises :class:`InputError` for another dimension and for what is not a number.
    """
    return convert


def _plain(value, unit_of):
    if hasattr(value, "value_in_unit"):
        from openmm import unit

        return value.value_in_unit(unit_of(unit))
    if isinstance(value, (list, tuple)):
        return [_plain(item, unit_of) for item in value]
    if value is None:
        raise TypeError("NumPy would make a NaN of None")
    return value


to_nm = _converter("nm", lambda unit: unit.nanometer)
to_ps = _converter("ps", lambda unit: unit.picosecond)
to_kelvin = _converter("kelvin", lambda unit: unit.kelvin)
to_kj_per_mol = _converter("kJ/mol", lambda unit: unit.kilojoule_per_mole)
to_bar = _converter("bar", lambda unit: unit.bar)
to_per_ps = _converter("1/ps", lambda unit: unit.picosecond**-1)
