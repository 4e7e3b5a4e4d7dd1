"""The shipped configurations as a package: `from caugym_jax.configs import grpo`.

In a checkout they are the files of configs/ at its root. A wheel holds them in the folder
caugym_jax/configs, which Python prefers to this file. Any configuration may import them by this
name; a package `configs` in the working directory is never looked at.
"""

from pathlib import Path

__path__ = [str(Path(__file__).resolve().parents[1] / "configs")]
