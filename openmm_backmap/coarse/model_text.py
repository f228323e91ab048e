"""Coarse-grained models as text: one YAML file that holds its tables, and the chemistry it is for.

A file may come from anybody: it is read as plain values, and everything in it is checked.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from openmm_backmap.chemistry import Chemistry, parse_chemistry
from openmm_backmap.coarse.graph import BONDED
from openmm_backmap.coarse.model import KINDS, UNITS, CGModel, Constraint, Term
from openmm_backmap.errors import ChemistryError, InputError
from openmm_backmap.io.writers import replacing

FORMAT, VERSION = "openmm_backmap CG model", 1
MODEL_FILE = "model.yaml"
_KEYS = "format version temperature_K cutoff_nm excluded_bonds constraints terms provenance chemistry force_field"
_MOST_BYTES, _MOST_ROWS, _MOST_TERMS = 32_000_000, 20_000, 1_000
_LARGEST_KJ, _LONGEST_NM, _MOST_EXCLUDED = 1e6, 20.0, 20
# Text has ten digits: steps of a table agree to that.
_EVEN = 1e-4


def save_cg_model(path: str | Path, model: CGModel, *, overwrite: bool = False) -> None:
    """Write a model as YAML."""
    text = model_text(model)
    with replacing(path, overwrite) as part:
        part.write_text(text)


def model_text(model: CGModel) -> str:
    """The content of a model file."""
    import yaml

    class Dumper(yaml.SafeDumper):
        pass

    Dumper.add_representer(str, lambda dumper, text: dumper.represent_scalar(
        "tag:yaml.org,2002:str", text, style="|" if "\n" in text else None))
    content = {
        "format": FORMAT, "version": VERSION, "temperature_K": float(model.temperature_K),
        "cutoff_nm": float(model.cutoff_nm), "excluded_bonds": int(model.excluded_bonds),
        "constraints": [{"types": list(c.types), "length_nm": float(c.length_nm)} for c in model.constraints],
        "terms": [{"kind": t.kind, "types": list(t.types), "table": _table_text(t)} for t in model.terms],
        "provenance": model.provenance, "chemistry": model.chemistry.source,
        "force_field": model.chemistry.force_field_xml}
    return yaml.dump(content, Dumper=Dumper, sort_keys=False, width=120)


def _table_text(term: Term) -> str:
    rows = "".join(f"{x:.10g} {u:.8g}\n" for x, u in zip(term.x.tolist(), term.energy.tolist(), strict=True))
    return f"# {UNITS[term.kind]}, kJ/mol\n{rows}"


def load_cg_model(path: str | Path) -> CGModel:
    """Read a model file, or the one in a folder that :func:`openmm_backmap.coarse.fit_model` has left.

    Raises
    ------
    InputError
        The file is missing, no model, or holds something that cannot be.
    """
    path = Path(path)
    path = path / MODEL_FILE if path.is_dir() else path
    if not path.is_file():
        raise InputError(f"{path}: no such file; give a CG model (.yaml) or the folder of 'cg-model fit'")
    if path.stat().st_size > _MOST_BYTES:
        raise InputError(f"{path}: larger than a CG model can be ({_MOST_BYTES // 1_000_000} MB)")
    try:
        return _parsed(_content(path))
    except (InputError, ChemistryError) as error:
        raise InputError(f"{path}: {error}") from None
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{path}: not laid out as a CG model ({type(error).__name__}: {error})") from None


def _content(path: Path) -> Mapping[str, Any]:
    import yaml

    try:
        content = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"not readable as YAML ({' '.join(str(error).split())})") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise InputError(f"not a CG model: its 'format' should be {FORMAT!r}")
    if content.get("version") != VERSION:
        raise InputError(f"a CG model of version {content.get('version')}; this program reads {VERSION}")
    unknown = set(content) - set(_KEYS.split())
    if unknown:
        raise InputError(f"unknown entry {min(map(str, unknown))!r}; known: {_KEYS}")
    return content


def _parsed(content: Mapping[str, Any]) -> CGModel:
    chemistry = parse_chemistry(str(content["chemistry"]), str(content["force_field"]))
    if len(content["terms"]) > _MOST_TERMS:
        raise InputError(f"{len(content['terms'])} terms; at most {_MOST_TERMS}")
    terms = tuple(_term(row, chemistry) for row in content["terms"])
    constraints = tuple(Constraint(_types(row["types"], 2, chemistry),
                                   _number(row["length_nm"], "length_nm", 0.0, _LONGEST_NM))
                        for row in content["constraints"])
    names = [value.name for value in (*terms, *constraints)]
    doubled = {name for name in names if names.count(name) > 1}
    if doubled:
        raise InputError(f"{min(doubled)}: given twice")
    return CGModel(chemistry, _number(content["temperature_K"], "temperature_K", 0.0, 1e5),
                   _number(content["cutoff_nm"], "cutoff_nm", 0.0, _LONGEST_NM),
                   int(_number(content["excluded_bonds"], "excluded_bonds", -1, _MOST_EXCLUDED)), terms, constraints,
                   dict(content.get("provenance") or {}))


def _term(row: Mapping[str, Any], chemistry: Chemistry) -> Term:
    kind = str(row["kind"])
    if kind not in KINDS:
        raise InputError(f"kind {kind!r} of a term; known: {', '.join(KINDS)}")
    types = _types(row["types"], BONDED.get(kind, 2), chemistry)
    where = f"{kind} {'-'.join(types)}"
    lines = [line for line in str(row["table"]).splitlines() if line.strip() and not line.startswith("#")]
    if not 4 <= len(lines) <= _MOST_ROWS:
        raise InputError(f"{where}: a table of {len(lines)} rows; 4 to {_MOST_ROWS} are expected")
    try:
        table = np.array([[float(word) for word in line.split()] for line in lines])
    except ValueError:
        table = np.empty(0)
    if table.shape != (len(lines), 2):
        raise InputError(f"{where}: its table should have two numbers a row, {UNITS[kind]} and kJ/mol")
    if not np.isfinite(table).all() or np.abs(table[:, 1]).max() > _LARGEST_KJ:
        raise InputError(f"{where}: its table holds energies beyond {_LARGEST_KJ:g} kJ/mol, or no numbers")
    _check_grid(kind, table[:, 0], where)
    return Term(kind, types, table[:, 0].copy(), table[:, 1].copy())


def _check_grid(kind: str, x: np.ndarray, where: str) -> None:
    steps = np.diff(x)
    if steps.min() <= 0 or np.ptp(steps) > _EVEN * steps.mean() + 1e-9:
        raise InputError(f"{where}: the first column must ascend in even steps")
    if kind == "angle":
        right = abs(x[0]) < 1e-6 and abs(x[-1] - 180) < 1e-6
        wanted = "0 to 180"
    elif kind in ("dihedral", "improper"):
        right = abs(x[0] + 180) < 1e-6 and abs(x[-1] + steps.mean() - 180) < 1e-3 * steps.mean()
        wanted = "-180 to one step before 180"
    else:
        right, wanted = x[0] >= 0 and x[-1] <= _LONGEST_NM, f"0 to {_LONGEST_NM:g}, or a part of it"
    if not right:
        raise InputError(f"{where}: goes from {x[0]:g} to {x[-1]:g} {UNITS[kind]}; expected {wanted}")


def _types(words, size: int, chemistry: Chemistry) -> tuple[str, ...]:
    types = tuple(map(str, words))
    unknown = [t for t in types if t not in chemistry.bead_types]
    if unknown or len(types) != size:
        raise InputError(f"bead types {', '.join(types)}: {size} of {', '.join(chemistry.bead_types)} are expected")
    return types


def _number(value, name: str, above: float, most: float) -> float:
    number = float(value)
    if not above < number <= most:
        raise InputError(f"{name} is {value!r}; expected a number above {above:g} and up to {most:g}")
    return number
