"""Names to objects: lazily, with a good word for those that do not exist."""

import pytest

from openmm_backmap.errors import BackmapError, UnknownNameError
from openmm_backmap.generators.base import FAMILIES
from openmm_backmap.registry import Registry, unknown_name


def test_entries_are_loaded_on_demand():
    registry = Registry("thing", {"path": "pathlib:Path", "absent": "no_such_module:x"}, group="none.such")
    assert registry.names() == ["absent", "path"]
    assert registry.get("path").__name__ == "Path"
    with pytest.raises(ModuleNotFoundError):
        registry.get("absent")


def test_unknown_names_say_what_is_known():
    with pytest.raises(UnknownNameError, match=r"unknown thing 'pahts' \(did you mean 'paths'\?\); known: paths, ways"):
        raise unknown_name("thing", "pahts", ["ways", "paths"])


def test_third_parties_add_theirs(toy_package):
    assert {"flow", "toy", "broken"} <= set(FAMILIES.names())
    assert FAMILIES.get("toy").__name__ == "ToyGenerator"


def test_a_broken_plugin_fails_only_when_asked_for(toy_package):
    with pytest.raises(BackmapError, match="'broken' of toy_generator:Missing failed to load"):
        FAMILIES.get("broken")
