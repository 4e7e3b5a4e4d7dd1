"""Tests run on eight virtual CPU devices, so that meshes are real; most use only the first."""

import os

import jaxtyping

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("CAUGYM_HEAP", "0")  # commands called in the tests' own process
_FLAG = "--xla_force_host_platform_device_count"
if _FLAG not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_FLAG}=8".strip()

# The shapes and types that signatures state are checked in tests, and only there.
_CHECKED = ("advantages", "dpo", "gae", "kto", "logprobs", "sft", "shared_rows", "value")
jaxtyping.install_import_hook(
    [*(f"caugym_jax.objectives.{name}" for name in _CHECKED), "caugym_jax.sampling.picking"],
    "beartype.beartype",
)
