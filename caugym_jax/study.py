"""Compares SFT, DPO, KTO, PPO and GRPO: one model, the same problems, several seeds.

    python -m caugym_jax.study --config=study.py
    python -m caugym_jax.study --config=study.py --models=smollm2-135m,r1-distill-qwen-14b
    python -m caugym_jax.study --config=study_paper.py --models=r1-distill-qwen-14b

Every method starts from the same model and learns from the same problems: SFT imitates a solution
of each, DPO and KTO compare it with a wrong answer of the first model, PPO and GRPO are rewarded
for right answers. A second round trains each until all have computed the same. Before and after,
each model answers generated sets of every variant and the files of config.tests.files, 5 samples
each as the paper does and greedily. OUT/tables.md holds the tables; `report --runs=OUT` draws them.

A study that was stopped or killed goes on where it was when the same command is run again.
`--config=study.py --help` lists the settings; `--config=study.py:MODEL` is the study of a
pretrained model. --models runs nothing: it prints what the studies of these models would run, and
checks every configuration by planning its steps on shapes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from caugym_jax.cli import commands
from caugym_jax.cli.config import parse
from caugym_jax.devices import processes, starting
from caugym_jax.errors import UserError


def main(argv: Sequence[str]) -> None:
    parser = commands.parser("caugym_jax.study", __doc__)
    add = parser.add_argument
    add("--config", required=True, metavar="NAME.py[:MODEL]")
    add("--out", type=commands.folder, help="the study's folder (default runs/<config>)")
    add("--models", metavar="MODEL[,MODEL]", help="print what these would run; run nothing")
    options, overrides = parse(parser, argv)
    name, _, arg = options.config.partition(":")
    if options.models is not None:
        if arg:
            raise UserError(f"--config={options.config} names a model: name it in --models alone")
        _dry_run(name, options, overrides)
        return

    from caugym_jax.studies.settings import load

    study = load(options.config, overrides)
    starting.prepare()
    from absl import logging

    logging.set_verbosity(logging.FATAL)  # Orbax logs what it also raises, with a traceback
    out = options.out or _default(options.config)
    with processes.connected():
        from caugym_jax.runs.log import write_text
        from caugym_jax.studies.running import run
        from caugym_jax.studies.tables import markdown

        run(study, out)

        def report() -> None:
            text = markdown(study, out)
            write_text(out / "tables.md", text)
            print(text)
            print(f"Next: python -m caugym_jax.report --runs={out} --out={out}/report.html")

        processes.first(report)


def _default(config: str) -> Path:
    from caugym_jax.runs.folder import default_workdir

    return default_workdir(config)


def _dry_run(name: str, options, overrides: Sequence[str]) -> None:
    starting.prepare()
    from caugym_jax.studies.dry import lines
    from caugym_jax.studies.settings import load

    for model in filter(None, (word.strip() for word in options.models.split(","))):
        spec = f"{name}:{model}"
        out = options.out or _default(spec)
        print("\n".join(lines(load(spec, overrides), out)), flush=True)


if __name__ == "__main__":
    commands.run(main)
