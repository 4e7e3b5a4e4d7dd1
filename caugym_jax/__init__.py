"""caugym_jax: post-train language models into verified causal reasoners, in JAX.

    import caugym_jax

    model = caugym_jax.load("embedded")
    problem = caugym_jax.problems(["ATE"], n=1, seed=0)[0]
    (answer,) = model.ask(problem)
    caugym_jax.grade(answer, problem)

docs/library.md has more. Importing the package imports no jax; what is used is imported then.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from caugym_jax.data.library import problems as problems
    from caugym_jax.data.library import solve as solve
    from caugym_jax.evals.scorers import grade as grade
    from caugym_jax.runs.library import load as load
    from caugym_jax.runs.library import train as train

# Functions of the package, and the modules that define them.
_FUNCTIONS = {
    "load": "runs.library",
    "train": "runs.library",
    "problems": "data.library",
    "solve": "data.library",
    "grade": "evals.scorers",
}


def __getattr__(name: str) -> Any:
    if name not in _FUNCTIONS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    function = getattr(importlib.import_module(f"{__name__}.{_FUNCTIONS[name]}"), name)
    globals()[name] = function
    return function


def __dir__() -> list[str]:
    return sorted({*globals(), *_FUNCTIONS})


class _Package(ModuleType):
    """`caugym_jax.train` is the function, also where the command of that name was imported.

    Python sets a module as an attribute of its package; `from caugym_jax.train import main` reads
    the module and does not need that attribute.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _FUNCTIONS and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
