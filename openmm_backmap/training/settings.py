"""Values of a settings file, taken into the dataclasses that describe them."""

from __future__ import annotations

from dataclasses import fields, replace

from openmm_backmap.errors import InputError


def with_network(default, content: dict, where: str):
    """``default`` with the values of a file, and its ``network`` with those that stand indented under this name."""
    if not isinstance(content, dict) or not isinstance(content.get("network", {}), dict):
        raise InputError(f"{where}: settings are 'name: value' lines, those of the network indented under 'network:'")
    own = values_of(default, {k: v for k, v in content.items() if k != "network"}, where)
    return replace(own, network=values_of(default.network, content.get("network", {}), where))


def values_of(default, given: dict, where: str):
    """``default`` with the values of a file, of the types of its fields; YAML takes 1e-3 for a text."""
    known = [f.name for f in fields(default)]
    values = {}
    for name, value in given.items():
        if name not in known:
            raise InputError(f"{where}: unknown setting {name}; known: {', '.join(known)}")
        kind = type(getattr(default, name))
        number = kind in (int, float)
        try:
            values[name] = kind(value)
            if isinstance(value, bool) != (kind is bool) or number and float(values[name]) != float(value):
                raise ValueError
        except (TypeError, ValueError, OverflowError):
            raise InputError(f"{where}: {name} is {value!r}; expected {'a number' if number else 'something'} like "
                             f"{getattr(default, name)!r}") from None
    return replace(default, **values)
