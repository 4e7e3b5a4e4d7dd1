"""The small real model, where it lies on this machine; nothing is downloaded for a test."""

from pathlib import Path

import pytest

from caugym_jax.errors import UserError
from caugym_jax.models.hub import locate


def smollm2_path() -> Path:
    """The GGUF file or folder of SmolLM2-135M-Instruct; skips where there is none."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        try:
            return locate("smollm2-135m")
        except UserError as error:
            pytest.skip(str(error))
