"""Trains a model: --config=NAME[:ARG] [--workdir=DIR] [--config.key=value ...]

`--config=NAME --help` prints every key with its default and meaning (docs/settings.md).

Resumes by itself where WORKDIR holds a checkpoint; a finished run reprints its summary. The bare
names grpo.py and sft.py run on any machine in minutes, without a download. ARG names a model.

  python -m caugym_jax.train --config=grpo.py
  python -m caugym_jax.train --config=sft.py:smollm2-135m --config.steps=2

Several processes train together where they find each other: docs/processes.md, launch/local.sh.
"""

from __future__ import annotations

from collections.abc import Sequence

from caugym_jax.cli import commands
from caugym_jax.cli.config import parse
from caugym_jax.devices import processes, starting


def main(argv: Sequence[str]) -> None:
    parser = commands.parser("caugym_jax.train", __doc__)
    parser.add_argument("--config", required=True, metavar="NAME.py[:ARG]")
    parser.add_argument("--workdir", type=commands.folder, help="default: runs/<config>")
    options, overrides = parse(parser, argv)

    starting.prepare()
    from absl import logging

    from caugym_jax.runs.settings import load

    logging.set_verbosity(logging.FATAL)  # Orbax logs what it also raises, with a traceback
    config = load(options.config, overrides)
    with processes.connected():
        from caugym_jax.runs.folder import default_workdir
        from caugym_jax.runs.loop import train

        text = train(config, options.workdir or default_workdir(options.config))
        if processes.is_first():
            print(text)


if __name__ == "__main__":
    commands.run(main)
