"""The shipped polystyrene force field against its published parameters, evaluated here in plain numpy.

Parameters: F. Mueller-Plathe, Macromolecules 29, 4782 (1996), the all-atom polystyrene that the coarse-grained model of
Fritz et al., Macromolecules 42, 7579 (2009) was derived from: Lorentz-Berthelot mixing, no scaling of 1-4 pairs, pairs
up to two bonds apart and pairs within a phenyl group excluded, all bonds rigid.
"""

from itertools import combinations, combinations_with_replacement
from pathlib import Path

import networkx as nx
import numpy as np
import openmm as mm
import pytest
from openmm import app, unit
from scipy.special import erf, erfc

from openmm_backmap.chemistry import build_target, create_system, load_chemistry
from openmm_backmap.energy import energies_by_force
from openmm_backmap.geometry.builder import build_coordinates
from openmm_backmap.geometry.periodic import make_whole, minimum_image

DATA = Path(__file__).resolve().parents[1] / "../shared/data"
BOX = np.diag([2.2, 2.1, 2.3])
COULOMB = 138.935456   # kJ nm/(mol e^2)
LENNARD_JONES = {"C": (0.3207, 0.3519), "R": (0.3550, 0.2940), "H": (0.2318, 0.3180), "A": (0.2420, 0.1260)}
LENGTHS = {"CC": 0.153, "CH": 0.110, "RR": 0.139, "AR": 0.108, "CR": 0.151}
ANGLES = {"HCH": (109.45, 306.4), "CCH": (109.45, 448.9), "CCC": (111.0, 530.3), "HCR": (109.45, 366.9),
          "CCR": (109.45, 482.3), "CRR": (120.0, 376.6), "RRR": (120.0, 376.6), "ARR": (120.0, 418.8)}
TORSION, PLANAR = 6.0, 167.4   # threefold backbone torsion; planes of the ring, harmonic
RING = ("CG", "CD1", "CE1", "CZ", "CE2", "CD2")
SUBSTITUENTS = ("CA", "HD1", "HE1", "HZ", "HE2", "HD2")


class Published:
    """Energies of polystyrene molecules by the published parameters; types C, H aliphatic and R, A aromatic."""

    def __init__(self, target):
        self.graph = nx.Graph(target.bonds.tolist())
        self.residues = [dict() for _ in target.residue_names]
        for atom, (name, residue) in enumerate(zip(target.atom_names, target.residue_of_atom, strict=True)):
            self.residues[residue][name] = atom
        rings = [{r[name] for name in RING} for r in self.residues if "CG" in r]
        ring = set().union(*rings)
        on_ring = {n for a in ring for n in self.graph[a]} - ring
        self.types = ["R" if i in ring else e if e == "C" else "A" if i in on_ring else "H"
                      for i, e in enumerate(target.elements)]
        self.n = target.n_atoms
        # Only the carbon that leads a phenyl group is uncharged.
        self.charges = np.zeros(self.n)
        for residue in self.residues:
            for name in (n for n in residue if "CG" in residue and n[1:] in ("D1", "E1", "Z", "E2", "D2")):
                self.charges[residue[name]] = -0.115 if name[0] == "C" else 0.115
        self.phenyls = [{r[name] for name in (*RING, *SUBSTITUENTS[1:])} for r in self.residues if "CG" in r]

    def angle(self, x):
        energy = 0.0
        for centre in self.graph:
            for i, k in combinations(self.graph[centre], 2):
                ends = "".join(sorted(self.types[i] + self.types[k]))
                name = ends[0] + self.types[centre] + ends[1]
                degrees, k_angle = ANGLES.get(name) or ANGLES["".join(sorted(name))]
                a, b = x[i] - x[centre], x[k] - x[centre]
                theta = np.arccos(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
                energy += 0.5 * k_angle * (theta - np.radians(degrees)) ** 2
        return energy

    def torsion(self, x):
        """All torsions along backbone carbons, and one that holds a hydrogen at either end of each chain."""
        energy = 0.0
        chains = [sorted(c) for c in nx.connected_components(self.graph)]
        for chain in chains:
            residues = [r for r in self.residues if "CB" in r and r["CB"] in chain]
            path = [r[name] for r in residues for name in ("CB", "CA")]
            path = [residues[0]["HB1"], *path, residues[-1]["HA"]]
            for four in zip(path, path[1:], path[2:], path[3:], strict=False):
                energy += TORSION * (1 + np.cos(3 * dihedral(x, *four)))
        return energy

    def improper(self, x):
        energy = 0.0
        for residue in (r for r in self.residues if "CG" in r):
            ring, outer = ([residue[name] for name in names] for names in (RING, SUBSTITUENTS))
            for k in range(6):
                around = [ring[(k + m) % 6] for m in range(4)]
                plane = [ring[k], ring[(k + 1) % 6], ring[k - 1], outer[k]]
                energy += 0.5 * PLANAR * (dihedral(x, *around) ** 2 + dihedral(x, *plane) ** 2)
        return energy

    def excluded(self):
        pairs = {tuple(sorted(p)) for p in self.graph.edges}
        pairs |= {tuple(sorted(p)) for centre in self.graph for p in combinations(self.graph[centre], 2)}
        return pairs | {p for phenyl in self.phenyls for p in combinations(sorted(phenyl), 2)}

    def pairs(self):
        """Atoms of all interacting pairs, their sigma, epsilon and product of charges."""
        excluded = self.excluded()
        i, j = np.array([p for p in combinations(range(self.n), 2) if p not in excluded]).T
        sigma, epsilon = np.array([LENNARD_JONES[t] for t in self.types]).T
        return i, j, (sigma[i] + sigma[j]) / 2, np.sqrt(epsilon[i] * epsilon[j]), self.charges[i] * self.charges[j]

    def nonbonded(self, x):
        i, j, sigma, epsilon, product = self.pairs()
        r = np.linalg.norm(x[i] - x[j], axis=1)
        return (lennard_jones(r, sigma, epsilon) + COULOMB * product / r).sum()

    def nonbonded_periodic(self, x, box, cutoff=1.0, alpha=4.0):
        """Lennard-Jones up to the cutoff with the mean of the rest; Coulomb by a converged Ewald sum."""
        i, j, sigma, epsilon, product = self.pairs()
        r = np.linalg.norm(minimum_image(x[i] - x[j], box), axis=1)
        near = r < cutoff
        direct = lennard_jones(r, sigma, epsilon) + COULOMB * product * erfc(alpha * r) / r
        a, b = np.array(sorted(self.excluded())).T
        d = np.linalg.norm(x[a] - x[b], axis=1)
        hidden = (self.charges[a] * self.charges[b] * erf(alpha * d) / d).sum() + alpha / np.sqrt(np.pi) * (
            self.charges ** 2).sum()
        return direct[near].sum() + self.tail(cutoff) / np.linalg.det(box) + COULOMB * (
            self.reciprocal(x, box, alpha) - hidden)

    def reciprocal(self, x, box, alpha):
        index = np.stack(np.meshgrid(*[np.arange(-13, 14)] * 3), axis=-1).reshape(-1, 3)
        waves = 2 * np.pi * index[index.any(axis=1)] @ np.linalg.inv(box).T
        squares = (waves ** 2).sum(axis=1)
        charged = self.charges != 0
        structure = np.exp(1j * waves @ x[charged].T) @ self.charges[charged]
        return 2 * np.pi / np.linalg.det(box) * (
            np.exp(-squares / (4 * alpha ** 2)) / squares * np.abs(structure) ** 2).sum()

    def tail(self, cutoff):
        total = 0.0
        for a, b in combinations_with_replacement(LENNARD_JONES, 2):
            n_a, n_b = self.types.count(a), self.types.count(b)
            n_pairs = n_a * (n_a + 1) / 2 if a == b else n_a * n_b
            (s1, e1), (s2, e2) = LENNARD_JONES[a], LENNARD_JONES[b]
            sigma = (s1 + s2) / 2
            total += n_pairs * np.sqrt(e1 * e2) * (sigma ** 12 / (9 * cutoff ** 9) - sigma ** 6 / (3 * cutoff ** 3))
        return 16 * np.pi * self.n / (self.n + 1) * total


def lennard_jones(r, sigma, epsilon):
    return 4 * epsilon * ((sigma / r) ** 12 - (sigma / r) ** 6)


def dihedral(x, i, j, k, m):
    a, b, c = x[j] - x[i], x[k] - x[j], x[m] - x[k]
    return np.arctan2(np.linalg.norm(b) * a @ np.cross(b, c), np.cross(a, b) @ np.cross(b, c))


@pytest.fixture(scope="module")
def melt():
    """Three 4-mers side by side in a small box, relaxed for some steps and jittered."""
    target = build_target(load_chemistry("sps"), [["STY"] * 4] * 3)
    rng = np.random.default_rng(2)
    x = build_coordinates(target, rng)
    for m, spot in enumerate(np.array([[0, 0, 0], [0.5, 0.5, 0], [0.5, 0, 0.5]]) @ BOX):
        chain = target.molecule_of_atom == m
        x[chain] += spot - x[chain].mean(0)
    system = create_system(target, BOX)
    context = mm.Context(system, mm.VerletIntegrator(0.001), mm.Platform.getPlatformByName("Reference"))
    context.setPositions(x)
    mm.LocalEnergyMinimizer.minimize(context, 10.0, 40)
    x = context.getState(positions=True).getPositions(asNumpy=True).value_in_unit(unit.nanometer)
    return target, system, x + rng.normal(scale=0.004, size=x.shape), Published(target)


def test_bonded_energies_are_the_published(melt):
    _, system, x, published = melt
    energies = energies_by_force(system, x, BOX, "Reference")
    assert energies["angle"] == pytest.approx(published.angle(x), rel=1e-6)
    assert energies["torsion"] == pytest.approx(published.torsion(x), rel=1e-6)
    assert energies["improper"] == pytest.approx(published.improper(x), rel=1e-6)
    assert energies["bond"] == 0.0


def test_nonbonded_energy_in_the_open_is_the_published(melt):
    target, _, x, published = melt
    energies = energies_by_force(create_system(target, None), x, None, "Reference")
    assert energies["nonbonded"] == pytest.approx(published.nonbonded(x), rel=1e-6)


def test_nonbonded_energy_in_the_melt_is_the_published(melt):
    target, _, x, published = melt
    system = create_system(target, BOX)
    nonbonded(system).setEwaldErrorTolerance(1e-6)
    energies = energies_by_force(system, x, BOX, "Reference")
    assert energies["nonbonded"] == pytest.approx(published.nonbonded_periodic(x, BOX), rel=1e-5)


def nonbonded(system):
    return next(f for f in system.getForces() if isinstance(f, mm.NonbondedForce))


def test_all_bonds_are_rigid_at_the_published_lengths(melt):
    target, system, _, published = melt
    found = {}
    for k in range(system.getNumConstraints()):
        i, j, length = system.getConstraintParameters(k)
        found[tuple(sorted((i, j)))] = length.value_in_unit(unit.nanometer)
    expected = {tuple(sorted(bond)): LENGTHS["".join(sorted(published.types[i] for i in bond))]
                for bond in target.bonds.tolist()}
    assert found == pytest.approx(expected)


def test_pairs_within_a_ring_are_excluded_and_others_unscaled(melt):
    _, system, _, published = melt
    force = nonbonded(system)
    excluded, seen = published.excluded(), set()
    for k in range(force.getNumExceptions()):
        i, j, product, sigma, epsilon = force.getExceptionParameters(k)
        product, sigma, epsilon = (v.value_in_unit_system(unit.md_unit_system) for v in (product, sigma, epsilon))
        pair = tuple(sorted((i, j)))
        if pair in excluded:
            assert (product, epsilon) == (0.0, 0.0)
            seen.add(pair)
        else:
            (s1, e1), (s2, e2) = (LENNARD_JONES[published.types[a]] for a in pair)
            assert (product, sigma, epsilon) == pytest.approx(
                (published.charges[i] * published.charges[j], (s1 + s2) / 2, np.sqrt(e1 * e2)))
    assert seen == excluded


@pytest.fixture(scope="module")
def snapshot():
    """A published snapshot of 36 10-mers at 568 K, molecules made whole: positions, box, our energies.

    On the CPU platform: in this box the neighbour list of OpenMM's Reference platform misses 0.3 % of the pairs.
    """
    file = DATA / "sps568/aa/validation_100.gro"
    if not file.exists():
        pytest.skip(f"{file} is not there")
    lines = file.read_text().splitlines()
    n = int(lines[1])
    x = np.array([[float(line[20 + 8 * k:28 + 8 * k]) for k in range(3)] for line in lines[2:2 + n]])
    xx, yy, zz, xy, xz, yx, yz, zx, zy = map(float, lines[2 + n].split())
    box = np.array([[xx, xy, xz], [yx, yy, yz], [zx, zy, zz]])
    target = build_target(load_chemistry("sps"), [["STY"] * 10] * 36)
    # As written by a tool that makes molecules whole: three decimals again. The box has five, so rounding moves atoms
    # on either side of it against each other, worth 14 kJ/mol of nonbonded energy.
    x = make_whole(x, box, target.bonds).round(3)
    return x, box, energies_by_force(create_system(target, box), x, box, "CPU")


def test_snapshot_has_the_recorded_energies(snapshot):
    _, _, energies = snapshot
    assert energies["angle"] == pytest.approx(17298.47, abs=0.01)
    assert energies["torsion"] == pytest.approx(1257.60, abs=0.01)
    assert energies["improper"] == pytest.approx(6620.75, abs=0.01)
    assert energies["nonbonded"] == pytest.approx(-9040.66, abs=0.3)


@pytest.mark.filterwarnings("ignore::ResourceWarning")   # OpenMM leaves the topology file to be closed by itself
def test_snapshot_has_the_energies_of_the_published_topology(snapshot, tmp_path):
    x, box, found = snapshot
    top = app.GromacsTopFile(str(_gromacs_topology(tmp_path)),
                             periodicBoxVectors=[mm.Vec3(*row) for row in box] * unit.nanometer)
    theirs = top.createSystem(nonbondedMethod=app.PME, nonbondedCutoff=1.0, constraints=app.AllBonds,
                              removeCMMotion=False)
    expected = energies_by_force(theirs, x, box, "CPU")
    assert {name: found[name] for name in expected} == pytest.approx(expected, rel=1e-6)


def _gromacs_topology(folder: Path) -> Path:
    """A GROMACS topology from the published tables (``ff2.txt``) and the molecule (``aa_PS1.itp``)."""
    tables, name = {}, None
    for line in (DATA / "topology/ff2.txt").read_text().splitlines():
        words = line.split(";")[0].split()
        if words and words[0].startswith("["):
            name = words[0].strip("[]")
        elif words:
            tables.setdefault(name, []).append(words)
    rows = {
        "atomtypes": [[t, m, q, "A", sigma, epsilon] for t, _, m, q, sigma, epsilon in tables["atom_types"]],
        "bondtypes": [[i, j, f, b, k] for i, j, _, f, b, k in tables["bond_types"]],
        "angletypes": [[i, j, k, f, a, c] for i, j, k, _, f, a, c in tables["angle_types"]]}
    text = "[ defaults ]\n1 2 no 1.0 1.0\n"
    for section, entries in rows.items():
        text += f"[ {section} ]\n" + "".join(" ".join(entry) + "\n" for entry in entries)
    molecule = (DATA / "topology/aa_PS1.itp").read_text()
    file = folder / "melt.top"
    file.write_text(f"{text}{molecule}\n[ system ]\nmelt\n[ molecules ]\nPS1 36\n")
    return file
