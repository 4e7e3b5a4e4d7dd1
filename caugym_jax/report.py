"""One offline page about runs and evaluations: curves, accuracy, health, cost, transcripts.

  python -m caugym_jax.report --runs=runs/grpo --out=report.html
  python -m caugym_jax.report --runs=runs/study,answers --out=report.html --figures=figures

Each DIR is a run's workdir, a folder that `evaluate` or `grade` wrote, or a folder that holds such
folders. A run that was interrupted, has no evaluation, or logged NaN gives a page that says so. The
page needs no network and runs no script; --figures writes each chart as an SVG file, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from caugym_jax.cli import commands
from caugym_jax.errors import UserError


def main(argv: Sequence[str]) -> None:
    parser = commands.parser("caugym_jax.report", __doc__)
    add = parser.add_argument
    add("--runs", required=True, metavar="DIR[,DIR]", help="runs, evaluations, or folders of them")
    add("--out", type=Path, required=True, help="the .html file to write")
    add("--figures", type=Path, metavar="DIR", help="also write every chart there as an SVG file")
    args = parser.parse_args(argv)

    from caugym_jax.pages.gather import gather
    from caugym_jax.pages.page import page

    folders = [Path(name.strip()).expanduser() for name in args.runs.split(",") if name.strip()]
    if not folders:
        raise UserError("--runs= names no folder")
    text, charts = page(gather(folders))
    try:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(text, encoding="utf-8")
        if args.figures is not None:
            args.figures.mkdir(parents=True, exist_ok=True)
            for name, chart in charts.items():
                (args.figures / f"{name}.svg").write_text(chart, encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot write {error.filename or args.out}: {error.strerror}") from error
    print(f"wrote {args.out} ({len(text.encode()) / 1e6:.2f} MB, {len(charts)} charts)")


if __name__ == "__main__":
    commands.run(main)
