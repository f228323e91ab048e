"""A peptide in solution: the chemistry's force field with an implicit solvent or with water around it."""

from __future__ import annotations

import io

import numpy as np

from openmm_backmap.chemistry import Chemistry, Target, create_system, with_box, with_solvent
from openmm_backmap.reference.stages import scale_molecules

WATER = "tip3p.xml"
CUTOFF_NM = 1.0


def implicit_system(target: Target, hydrogen_mass: float | None = None):
    """The ``openmm.System`` of one molecule in the implicit solvent that its chemistry names.

    That of the shipped peptides is OBC(II) of Onufriev, Bashford and Case (Proteins 55, 383 (2004)) with the surface
    term and radii of OpenMM's ``amber99_obc.xml``.
    """
    return with_solvent(create_system(target, None, hydrogen_mass=hydrogen_mass), target, None)


def explicit_system(target: Target, n_waters: int, box: np.ndarray):
    """The atoms of ``target`` and, after them, rigid TIP3P water (J. Chem. Phys. 79, 926 (1983)), with PME.

    Returns
    -------
    openmm.app.Topology, openmm.System
    """
    from openmm import app, unit

    topology = with_box(_with_water(target, n_waters), box)
    return topology, _force_field(target.chemistry, WATER).createSystem(
        topology, nonbondedMethod=app.PME, nonbondedCutoff=CUTOFF_NM * unit.nanometer, constraints=app.HBonds,
        rigidWater=True, removeCMMotion=False)


def _with_water(target: Target, n_waters: int):
    from openmm import app

    topology = target.new_topology()
    chain = topology.addChain()
    oxygen, hydrogen = app.element.oxygen, app.element.hydrogen
    for _ in range(n_waters):
        residue = topology.addResidue("HOH", chain)
        centre, *ends = (topology.addAtom(name, element, residue)
                         for name, element in (("O", oxygen), ("H1", hydrogen), ("H2", hydrogen)))
        for end in ends:
            topology.addBond(centre, end)
    return topology


def add_water(target: Target, positions: np.ndarray, n_waters: int, edge_nm: float) -> np.ndarray:
    """Positions (n, 3), nm, of a molecule and ``n_waters`` around it, in a cube of ``edge_nm``; not yet relaxed."""
    from openmm import app, unit

    modeller = app.Modeller(target.topology, (positions - positions.min(axis=0)) * unit.nanometer)
    modeller.addSolvent(_force_field(target.chemistry, WATER), model="tip3p", numAdded=n_waters, neutralize=False)
    placed = np.array(modeller.positions.value_in_unit(unit.nanometer))
    edge = modeller.topology.getPeriodicBoxVectors()[0][0].value_in_unit(unit.nanometer)
    molecule = np.r_[np.zeros(target.n_atoms, np.int64), 1 + np.arange(3 * n_waters) // 3]
    return scale_molecules(molecule, placed, edge_nm / edge)


def _force_field(chemistry: Chemistry, solvent: str):
    from openmm import app

    return app.ForceField(io.StringIO(chemistry.force_field_xml), solvent)
