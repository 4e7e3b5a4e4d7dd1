"""A wheel holds configs/ as caugym_jax.configs; everything else is in pyproject.toml."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["caugym_jax*"]), "caugym_jax.configs"],
    package_dir={"caugym_jax.configs": "configs"},
)
