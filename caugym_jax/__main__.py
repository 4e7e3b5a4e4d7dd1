"""Lists the commands, or starts one: `caugym train ...` is `python -m caugym_jax.train ...`."""

from __future__ import annotations

import ast
import importlib
import os
import sys
from pathlib import Path

import caugym_jax
from caugym_jax.cli import commands

USAGE = "usage: caugym COMMAND ...    (caugym COMMAND --help: what it does and takes)"
PACKAGE = Path(__file__).parent
OTHERS = ("data/fetch.py",)  # below the top level


def main() -> None:
    name = sys.argv[1] if sys.argv[1:] else "--help"
    known = summaries()
    if name in ("-h", "--help"):
        width = max(map(len, known))
        print(USAGE, "", *(f"  {k:{width}}  {v}" for k, v in known.items()), sep="\n")
    elif name == "--version":
        print(caugym_jax.__version__)
    elif name not in known:
        from caugym_jax.cli.config import nearest

        print(
            f"{USAGE}\ncaugym: error: no command {name!r}: {nearest(name, known)}", file=sys.stderr
        )
        sys.exit(2)
    else:
        if os.getcwd() not in sys.path:  # as `python -m`: a reward of the user's is found
            sys.path.insert(0, os.getcwd())
        sys.argv[:2] = [f"caugym {name}"]
        commands.run(importlib.import_module(f"caugym_jax.{name}").main)


def summaries() -> dict[str, str]:
    """{command: the first line of its module's docstring}, read without importing it."""
    found = {}
    for path in [*sorted(PACKAGE.glob("*.py")), *(PACKAGE / other for other in OTHERS)]:
        text = path.read_text(encoding="utf-8")
        if "commands.run(main)" in text and path.name != "__main__.py":
            doc = ast.get_docstring(ast.parse(text)) or ""
            name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
            found[name] = doc.split("\n")[0]
    return found


if __name__ == "__main__":
    main()
