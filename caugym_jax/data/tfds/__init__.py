"""Problems through TensorFlow Datasets, without TensorFlow: ArrayRecord files, read at random.

`tfds:caugym/ate_base_sft[:split]` names a config of the `caugym` builder, which is generated and
written under TFDS_DATA_DIR (default ~/tensorflow_datasets) the first time; a split may be a slice
such as `train[:100]`. Any other prepared data set with the columns of `layouts` is read too.
"""

from __future__ import annotations

import contextlib
import json
import re
import sys
from collections.abc import Mapping
from typing import Any

from caugym_jax.errors import UserError

JSON_COLUMNS = ("Reason", "Structure", "reward_model", "extra_info")


def tfds_rows(name: str) -> list[dict[str, Any]]:
    """The rows of `tfds:NAME/CONFIG[:split]`. UserError where they cannot be had."""
    match = re.fullmatch(r"tfds:([\w/.-]+)(?::(.+))?", name)
    if not match:
        raise UserError(f"'{name}': expected tfds:NAME/CONFIG or tfds:NAME/CONFIG:split")
    try:
        import tensorflow_datasets as tfds

        from caugym_jax.data.tfds import caugym  # registers the builder

        tfds.disable_progress_bar()
        builder = tfds.builder(match[1], file_format="array_record")
        if isinstance(builder, caugym.Caugym):
            with contextlib.redirect_stdout(sys.stderr):  # its notices are no output of ours
                builder.download_and_prepare()
        source = builder.as_data_source(split=match[2] or "train")
        return [row_of(source[i]) for i in range(len(source))]
    except ImportError as error:
        raise UserError(
            f"{name}: {error}; pip install tensorflow-datasets importlib_resources"
        ) from error
    except Exception as error:  # unknown name, config, split or file format: each has its own type
        why = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(f"cannot read {name} ({why})") from error


def example_of(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of `rows.make_row` as flat features: one message as its text, the rest as JSON."""
    return {key: _flat(value) for key, value in row.items()}


def row_of(example: Mapping[str, Any]) -> dict[str, Any]:
    """The row that `layouts` reads, from an example with bytes and NumPy scalars."""
    row = {key: _plain(value) for key, value in example.items()}
    return {key: json.loads(row[key]) if key in JSON_COLUMNS else row[key] for key in row}


def _flat(value: Any) -> Any:
    if isinstance(value, list):
        (message,) = value
        return message["content"]
    return json.dumps(value) if isinstance(value, dict) else value


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode("utf-8")
    return value.item() if hasattr(value, "item") else value
