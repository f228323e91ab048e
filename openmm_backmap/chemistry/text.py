"""What all texts of a chemistry have in common: YAML mappings with known keys."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from openmm_backmap.errors import ChemistryError


def read_mapping(text: str, where: str) -> dict[str, Any]:
    """The content of a YAML text; :class:`ChemistryError` where it is not a mapping."""
    import yaml

    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ChemistryError(f"{where}: not readable as YAML ({' '.join(str(error).split())})") from None
    if not isinstance(content, dict):
        raise ChemistryError(f"{where}: not a chemistry file (a YAML mapping is expected)")
    return content


def only_known(content: Mapping, where: str, known: str) -> None:
    """Refuse keys of ``content`` that are not among the words of ``known``."""
    unknown = sorted(set(content) - set(known.split()))
    if unknown:
        raise ChemistryError(f"{where}: unknown entry {', '.join(map(repr, unknown))}; known: {known}")
