"""What a CustomTorsionForce computes: whether its energy expression is a harmonic torsion, however it is written."""

from __future__ import annotations

import ast
import operator
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

_OPERATORS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
              ast.Pow: operator.pow, ast.USub: operator.neg, ast.UAdd: operator.pos}
_FUNCTIONS = {
    "min": np.minimum, "max": np.maximum, "abs": np.abs, "floor": np.floor, "ceil": np.ceil, "sqrt": np.sqrt,
    "exp": np.exp, "log": np.log, "sin": np.sin, "cos": np.cos, "tan": np.tan, "asin": np.arcsin, "acos": np.arccos,
    "atan": np.arctan, "atan2": np.arctan2, "square": np.square, "cube": lambda x: x ** 3, "recip": lambda x: 1 / x,
    "step": lambda x: np.where(x >= 0, 1.0, 0.0), "delta": lambda x: np.where(x == 0, 1.0, 0.0),
    "select": lambda condition, yes, no: np.where(condition != 0, yes, no)}
_PROBES = 200


def evaluate(expression: str, variables: Mapping[str, np.ndarray]) -> np.ndarray:
    """The value of an expression in OpenMM's syntax (``^`` is power, definitions follow after ``;``).

    Raises
    ------
    ValueError
        Where it uses anything unknown.
    """
    main, *definitions = [part.strip() for part in expression.split(";") if part.strip()]
    named = dict(part.split("=", 1) for part in definitions)
    trees = {name.strip(): _parse(text) for name, text in named.items()}
    values = dict(variables)

    def value(node: ast.AST):
        match node:
            case ast.Constant(value=int() | float() as number):
                return float(number)
            case ast.Name(id=name) if name in values:
                return values[name]
            case ast.Name(id=name) if name in trees:
                values[name] = value(trees.pop(name))   # popped, so that a circular definition ends as unknown
                return values[name]
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
                return _OPERATORS[type(op)](value(left), value(right))
            case ast.UnaryOp(op=op, operand=operand) if type(op) in _OPERATORS:
                return _OPERATORS[type(op)](value(operand))
            case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in _FUNCTIONS:
                return _FUNCTIONS[name](*map(value, args))
        raise ValueError(f"cannot evaluate {ast.unparse(node)}")

    with np.errstate(all="ignore"):
        return np.asarray(value(_parse(main)), dtype=float)


def _parse(text: str) -> ast.AST:
    try:
        return ast.parse(text.strip().replace("^", "**"), mode="eval").body
    except SyntaxError as error:
        raise ValueError(f"cannot read {text!r}") from error


@dataclass(frozen=True)
class HarmonicTorsion:
    """factor * k * (theta - theta0)^2, the difference taken into (-pi, pi] where ``wrapped``.

    ``k`` names a per-torsion parameter, or is None where ``factor`` holds it all; ``theta0`` names a per-torsion or
    global parameter, or is None for 0.
    """

    factor: float
    k: str | None
    theta0: str | None
    wrapped: bool


def harmonic_torsion(expression: str, parameters: tuple[str, ...],
                     constants: Mapping[str, float]) -> HarmonicTorsion | None:
    """Recognise a harmonic torsion by its values at random angles and parameters, not by its spelling.

    Parameters
    ----------
    expression : str
        Energy as a function of ``theta``.
    parameters : tuple of str
        Names of per-torsion parameters.
    constants : mapping
        Global parameters and their values.
    """
    rng = np.random.default_rng(0)
    names = ("theta", *parameters)
    probes = dict(zip(names, rng.uniform(-np.pi, np.pi, (len(names), _PROBES)), strict=True))
    variables = {**constants, **probes}
    try:
        energy = np.broadcast_to(evaluate(expression, variables), _PROBES)
    except (ValueError, TypeError):
        return None
    for theta0 in (*parameters, *constants, None):
        difference = probes["theta"] - (variables[theta0] if theta0 else 0.0)
        nearest = difference - 2 * np.pi * np.round(difference / (2 * np.pi))
        for k in (*parameters, None):
            for wrapped, angle in ((True, nearest), (False, difference)):
                shape = angle ** 2 * (probes[k] if k else 1.0)
                factor = float(energy @ shape / (shape @ shape))
                # Expressions often carry pi with six digits only.
                if np.abs(energy - factor * shape).max() < 1e-4 * np.abs(energy).max():
                    return HarmonicTorsion(_rounded(factor), k, theta0, wrapped)
    return None


def _rounded(factor: float) -> float:
    """The fitted factor, free of the error of a short pi where it is a short number itself."""
    short = round(factor, 3)
    return short if abs(short - factor) < 1e-4 * abs(factor) else factor
