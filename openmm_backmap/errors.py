"""The errors that users meet: one base, a few leaves, each also a builtin.

The command line turns a :class:`BackmapError` into one line and an exit code; library users may catch either the
leaf, the base or the builtin that they know.
"""


class BackmapError(Exception):
    """Base of every error that openmm_backmap raises on purpose."""

    def __str__(self) -> str:
        return " ".join(str(arg) for arg in self.args)


class InputError(BackmapError, ValueError):
    """A file or value from the user cannot be used; the message names it and the way out."""


class ChemistryError(BackmapError, ValueError):
    """A chemistry is inconsistent, or beads and residues do not match it."""


class UnknownNameError(BackmapError, KeyError):
    """A name (model, generator, chemistry, platform) is not known; the message lists what is."""


class UnsupportedForceError(BackmapError, NotImplementedError):
    """An OpenMM force has no torch counterpart; the message names it."""


class RefinementError(BackmapError, RuntimeError):
    """Refinement could not bring the structure to a state that MD can start from."""


class MissingDependencyError(BackmapError, ImportError):
    """An optional package is needed; the message says how to install it."""
