"""What all commands share: argument parsing and exit codes. Imports no jax.

Exit status: 0 success, 2 bad usage (argparse prints what was expected), 1 a failure told in one
line on standard error.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence

from caugym_jax.errors import UserError


def parser(module: str, doc: str) -> argparse.ArgumentParser:
    """An argument parser for `python -m MODULE` whose help is the module's docstring."""
    return argparse.ArgumentParser(
        prog=f"python -m {module}",
        description=doc,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def run(main: Callable[[Sequence[str]], None]) -> None:
    """Calls `main(argv)` and turns a UserError into one line and exit status 1."""
    try:
        main(sys.argv[1:])
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # e.g. `... | head`: the reader has seen enough
        sys.stderr.close()
        sys.exit(0)
