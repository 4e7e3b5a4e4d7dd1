"""What the tokens of a vocabulary have in common: a file beside a tokenizer's own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np

from caugym_jax.errors import UserError

FILE = "token_features.json"  # beside a tokenizer's files


class Features(NamedTuple):
    """What the tokens of a vocabulary have in common."""

    matrix: np.ndarray  # [V, F] float32: 1 where a token has a feature
    strength: np.ndarray  # [F] float32: how long a feature's vector is at the start
    written: int  # tokens 0 .. written - 1 are those that a model ever writes


def load_features(folder: str | Path) -> Features:
    """Reads the file that stands beside a tokenizer.

    Raises UserError where there is none, or it is damaged.
    """
    path = Path(folder) / FILE
    try:
        found = json.loads(path.read_text())
        matrix = np.zeros((len(found["tokens"]), len(found["strength"])), np.float32)
        for token, features in enumerate(found["tokens"]):
            matrix[token, features] = 1
        return Features(matrix, np.asarray(found["strength"], np.float32), int(found["written"]))
    except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
        raise UserError(
            f"no token features at {path} ({type(error).__name__}): make the tokenizer with "
            "`python -m caugym_jax.tokenizer`, or turn optim.shared_rows off"
        ) from error


def save_features(folder: str | Path, features: Features) -> None:
    tokens = [np.flatnonzero(row).tolist() for row in features.matrix]
    found = {"written": features.written, "strength": features.strength.tolist(), "tokens": tokens}
    (Path(folder) / FILE).write_text(json.dumps(found) + "\n")
