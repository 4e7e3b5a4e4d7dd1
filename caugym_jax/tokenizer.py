"""Makes the tokenizer of worked solutions, on which a new model is trained.

    python -m caugym_jax.tokenizer --out=runs/tokenizer

OUT holds tokenizer.json and its configuration, which `transformers` loads without code of ours, and
token_features.json: what tokens have in common (optim.shared_rows), and how many are ever written.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from caugym_jax.cli import commands
from caugym_jax.errors import UserError


def main(argv: Sequence[str]) -> None:
    parser = commands.parser("caugym_jax.tokenizer", __doc__)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument(
        "--max_length", type=int, default=2048, help="longest sequence of the model, in tokens"
    )
    args = parser.parse_args(argv)
    if args.out.exists() and (not args.out.is_dir() or any(args.out.iterdir())):
        raise UserError(f"{args.out} exists already: choose another --out")

    from caugym_jax.data.solutions import vocabulary
    from caugym_jax.data.token_features import save_features

    try:
        vocabulary.save(vocabulary.build(), args.out, args.max_length)
        save_features(args.out, vocabulary.features())
    except OSError as error:
        raise UserError(f"cannot write {args.out}: {error.strerror}") from error
    size, written = len(vocabulary.vocabulary()), vocabulary.solution_size()
    print(f"wrote {args.out}: {size} tokens, of which a model writes {written}")


if __name__ == "__main__":
    commands.run(main)
