"""Packages: ``cli/`` and ``plugins/`` lie beside the library and install inside it."""

from setuptools import find_packages, setup

BESIDE = {"openmm_backmap.cli": "cli", "openmm_backmap.plugins": "plugins"}

setup(
    packages=find_packages(include=["openmm_backmap", "openmm_backmap.*"]) + list(BESIDE),
    package_dir=BESIDE,
    package_data={
        "openmm_backmap.chemistry": ["*.yaml", "*.xml"],
        "openmm_backmap.models": ["*.pt", "*.md", "*.yaml"],
    },
)
