"""Results on disk: the frozen dataclasses of analysis as NumPy files, without pickles."""

from __future__ import annotations

import importlib
import json
import zipfile
import zlib
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np

from openmm_backmap.errors import InputError
from openmm_backmap.io.writers import replacing

_PACKAGE = "openmm_backmap.analysis."


def keep(path: Path, value: Any) -> None:
    """Write dataclasses of :mod:`openmm_backmap.analysis`, dicts, lists, tuples, arrays and plain values."""
    arrays: dict[str, np.ndarray] = {}
    save_arrays(path, layout=np.array(json.dumps(_packed(value, arrays))), **arrays)


def save_arrays(path: Path, **arrays) -> None:
    """An .npz file that appears whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path, overwrite=True) as part:
        np.savez(part, **arrays)


def load_arrays(path: Path) -> dict[str, np.ndarray]:
    """What :func:`save_arrays` wrote; :class:`InputError` where the file is damaged."""
    try:
        # Opened here: numpy would leave a damaged file open.
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as data:
            return dict(data)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(f"{path}: damaged ({' '.join(str(error).split())}); remove it and run the same command "
                         "again") from None


def kept(path: Path) -> Any:
    """What :func:`keep` wrote."""
    arrays = load_arrays(path)
    try:
        return _unpacked(json.loads(str(arrays["layout"])), arrays)
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: of another version, or damaged ({error}); remove it and run the same command "
                         "again") from None


def _packed(value: Any, arrays: dict[str, np.ndarray]) -> Any:
    if isinstance(value, np.ndarray):
        arrays[f"a{len(arrays)}"] = value
        return {"array": f"a{len(arrays) - 1}"}
    if is_dataclass(value):
        content = {field.name: _packed(getattr(value, field.name), arrays) for field in fields(value)}
        return {"dataclass": f"{type(value).__module__}:{type(value).__qualname__}", "fields": content}
    if isinstance(value, dict):
        return {"dict": [[_packed(k, arrays), _packed(v, arrays)] for k, v in value.items()]}
    if isinstance(value, (list, tuple)):
        return {type(value).__name__: [_packed(item, arrays) for item in value]}
    return value.item() if isinstance(value, np.generic) else value


def _unpacked(value: Any, arrays: dict[str, np.ndarray]) -> Any:
    if not isinstance(value, dict):
        return value
    match value:
        case {"array": name}:
            return arrays[name]
        case {"dataclass": name, "fields": content}:
            return _class(name)(**{key: _unpacked(item, arrays) for key, item in content.items()})
        case {"dict": rows}:
            return {_unpacked(k, arrays): _unpacked(v, arrays) for k, v in rows}
        case {"list": items}:
            return [_unpacked(item, arrays) for item in items]
        case {"tuple": items}:
            return tuple(_unpacked(item, arrays) for item in items)
    raise ValueError("unknown layout")


def _class(name: str) -> type:
    """A dataclass of our own analysis; files may come from others, and say nothing else."""
    module, _, attribute = name.partition(":")
    found = getattr(importlib.import_module(module), attribute) if module.startswith(_PACKAGE) else None
    if not (isinstance(found, type) and is_dataclass(found)):
        raise ValueError(f"{name} is no result of analysis")
    return found
