"""`Array` in signatures: jax's own, or NumPy's, which jax's functions take too."""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax
import numpy as np

if TYPE_CHECKING:
    from jax import Array as Array
else:
    Array = jax.Array | np.ndarray
