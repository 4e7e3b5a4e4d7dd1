"""Answers every problem of official-format files with a model and scores the answers.

  python -m caugym_jax.evaluate --model=runs/grpo --data=base_dataset.json --out=answers
  python -m caugym_jax.evaluate --model=smollm2-135m --data=a.json,b.jsonl --out=answers --limit=20

MODEL is a run's workdir, a Hugging Face folder, a GGUF file, a preset's name, a hub id or
`embedded` (the tiny model in the package). For each file NAME.json OUT gets NAME.jsonl: the items'
own fields with `all_generated_answers` (texts), `truncated` and `num_tokens`, one value a sample.
OUT/results.json holds the figures of both scorers. An interrupted evaluation goes on where it
stopped when the same command is run again; a larger --limit adds items to a finished one.

The published protocol is 5 samples at temperature 0.6, top-p 0.95, at most 8192 new tokens, and the
hint that LACK_CONDITION may be the answer on the insufficient set only.
"""

from __future__ import annotations

import argparse
import json
import os
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from caugym_jax.cli import commands
from caugym_jax.data.files import problem_record, read_problems, write_json
from caugym_jax.devices import processes
from caugym_jax.errors import UserError
from caugym_jax.evals.accuracy import results, summarize, table
from caugym_jax.evals.answers import read_answers
from caugym_jax.runs.log import Progress, write_text
from caugym_jax.types import Problem, Rollout

if TYPE_CHECKING:
    from caugym_jax.data.tokenizer import Tokenizer

NEW_TOKENS = 1024  # unless told otherwise, or the model has fewer positions


def main(argv: Sequence[str]) -> None:
    args = _arguments(argv)
    with processes.connected():
        evaluate(args)


def evaluate(args: argparse.Namespace) -> None:
    """Answers, writes and scores; of several processes only the first writes and prints."""
    from caugym_jax.data.prompts import prompt_tokens
    from caugym_jax.devices.mesh import make_mesh, sampling_mesh
    from caugym_jax.runs.opening import ModelSettings, open_model
    from caugym_jax.sampling.picking import Settings
    from caugym_jax.sampling.sampler import Sampler

    picking = Settings(args.temperature, args.top_k, args.top_p, args.min_p).check()
    problems = {path: read_problems(path)[: args.limit] for path in args.data}
    mesh = make_mesh(data=-1, fsdp=args.fsdp, tensor=args.tensor)
    chosen = ModelSettings(args.model, dtype=args.dtype, step=args.step)
    model, params, tokenizer = open_model(chosen, mesh)
    prompts = {
        path: [prompt_tokens(problem, tokenizer, args.lack_hint) for problem in problems[path]]
        for path in args.data
    }
    positions = model.config.max_position
    new = args.max_new_tokens or min(NEW_TOKENS, positions - 1)
    settings = {
        "samples": args.samples,
        **picking._asdict(),
        "max_new_tokens": new,
        "lack_hint": args.lack_hint,
        "seed": args.seed,
    }
    settled = {"model": args.model, "checkpoint": _checkpoint(args), **settings}
    processes.first(lambda: claim(args.out, settled))
    sampler = Sampler(
        model,
        end_ids=tokenizer.end_ids,
        pad_id=tokenizer.pad_id,
        max_new_tokens=new,
        batch_size=args.batch_size,
        mesh=sampling_mesh(mesh),
    )
    sets = {}
    for path in args.data:
        name = _name(path)
        stream = zlib.crc32(name.encode())  # a file's samples do not depend on the other files

        def ask(items: Sequence[int], path=path, stream=stream) -> Rollout:
            return sampler(
                params,
                [prompts[path][i] for i in items],
                ids=items,
                seed=args.seed,
                step=stream,
                samples_per_prompt=args.samples,
                **picking._asdict(),
            )

        answers = args.out / f"{name}.jsonl"
        fits = [len(tokens) < positions for tokens in prompts[path]]
        answer(problems[path], fits, ask, tokenizer, answers, args.samples, args.batch_size)
        if not all(fits):
            processes.say(
                f"{name}: {fits.count(False)} of {len(fits)} prompts do not fit the model's "
                f"{positions} positions: left unanswered, which counts as wrong"
            )
        thinking = tokenizer.decode(prompts[path][0]).rstrip().endswith("<think>")
        if processes.is_first():
            sets[name] = summarize(read_answers(answers)[: len(problems[path])], thinking)
    settings |= {"limit": args.limit, "checkpoint": _checkpoint(args)}
    processes.first(lambda: _report(args, settings, sets))


def _report(args: argparse.Namespace, settings: dict[str, Any], sets: dict[str, Any]) -> None:
    write_json(args.out / "results.json", results(args.model, settings, sets))
    print(table(sets))
    print(f"\nwrote {args.out / 'results.json'}")


def answer(
    problems: Sequence[Problem],
    fits: Sequence[bool],
    ask: Callable[[Sequence[int]], Rollout],
    tokenizer: Tokenizer,
    path: Path,
    samples: int,
    batch_size: int,
) -> None:
    """Completes the answers file at `path`, batch by batch, from wherever it stands.

    Lines are added to a .partial file, each batch forced to disk; the file takes its name when all
    problems are answered. A line that a kill cut short is made again.

    Args:
      fits: whether the model can take each problem; one that it cannot gets empty answers.
      ask: indices of problems -> Rollout with `samples` rows each.

    Raises:
      UserError: the answers there are to other problems.
    """
    partial = path.with_name(f"{path.stem}.partial.jsonl")
    done, whole = processes.first(
        lambda: (_whole_lines(partial if partial.exists() else path), path.exists())
    )
    for i, (line, problem) in enumerate(zip(done, problems, strict=False)):
        try:
            answered = json.loads(line)["problem"]
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"line {i + 1} of the answers in {path.parent} is damaged: remove it and what "
                f"follows it from {partial.name if partial.exists() else path.name}"
            ) from error
        if answered != problem.text:
            raise UserError(
                f"{path} answers other problems than the data's (item {i}, counting from 0): "
                "choose another --out"
            )
    if len(done) >= len(problems) and whole:
        return
    processes.first(lambda: write_text(partial, "".join(line + "\n" for line in done)))
    progress = Progress(len(done), len(problems), every=1, unit="item")
    progress.note(f"{path.stem}: {len(done)} of {len(problems)} problems are answered already")
    nothing = {
        "all_generated_answers": [""] * samples,
        "truncated": [True] * samples,
        "num_tokens": [0] * samples,
    }
    for start in range(len(done), len(problems), batch_size):
        items = range(start, min(start + batch_size, len(problems)))
        clock, shown = time.perf_counter(), {}
        answers = dict.fromkeys(items, nothing)
        if asked := [i for i in items if fits[i]]:
            rollout = ask(asked)
            answers |= zip(asked, _answers(rollout, tokenizer, samples), strict=True)
            rate = rollout.completion_length.sum() / (time.perf_counter() - clock)
            shown = {"new tokens/s": rate, "truncated": 1 - rollout.ended.mean()}
        rows = [problem_record(problems[i]) | answers[i] for i in items]
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        processes.first(lambda text=text: _append(partial, text))
        progress.show(items.stop, shown, tuple(shown))
    processes.first(lambda: os.replace(partial, path))


def claim(out: Path, settings: dict[str, Any]) -> None:
    """Makes OUT, or checks that what it holds was asked for with the same settings.

    Raises:
      UserError: it was not (the differences are listed).
    """
    stored = out / "settings.json"
    try:
        out.mkdir(parents=True, exist_ok=True)
        before = json.loads(stored.read_text()) if stored.exists() else settings
    except ValueError as error:
        raise UserError(
            f"{stored} is damaged: choose another --out, or remove that file to go on with the "
            "settings given"
        ) from error
    except OSError as error:
        raise UserError(f"cannot use {out}: {error.strerror}") from error
    changed = [
        f"{key} was {before.get(key)!r}, is {settings.get(key)!r}"
        for key in sorted({*before, *settings})
        if before.get(key) != settings.get(key)
    ]
    if changed:
        raise UserError(
            f"{out} holds answers given with other settings ({'; '.join(changed)}): choose another "
            "--out, or remove that one"
        )
    write_text(stored, json.dumps(settings, indent=1) + "\n")


def _answers(rollout: Rollout, tokenizer: Tokenizer, samples: int) -> Iterator[dict[str, Any]]:
    """What a rollout adds to each of its items."""
    P, lengths = rollout.prompt_width, rollout.completion_length.tolist()
    texts = [
        tokenizer.decode_completion(row[P : P + n])
        for row, n in zip(rollout.tokens, lengths, strict=True)
    ]
    for first in range(0, len(texts), samples):
        rows = slice(first, first + samples)
        yield {
            "all_generated_answers": texts[rows],
            "truncated": (~rollout.ended[rows]).tolist(),
            "num_tokens": lengths[rows],
        }


def _whole_lines(path: Path) -> list[str]:
    """The lines of a file that end in a newline; none if there is no file."""
    if not path.exists():
        return []
    return path.read_text(encoding="utf-8").split("\n")[:-1]


def _append(path: Path, text: str) -> None:
    try:
        with open(path, "a", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise UserError(
            f"cannot write {path} ({error.strerror}): run the same command again to go on"
        ) from error


def _checkpoint(args: argparse.Namespace) -> int | None:
    """The checkpoint of a workdir that is meant; None for any other model."""
    if not (Path(args.model) / "checkpoints").is_dir():
        return None
    if args.step is not None:
        return args.step
    from caugym_jax.runs.checkpoints import Checkpoints

    with Checkpoints(args.model, read_only=True) as checkpoints:
        return checkpoints.latest


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = commands.parser("caugym_jax.evaluate", __doc__)
    add = parser.add_argument
    add("--model", required=True, help="workdir, folder, .gguf, preset, hub id or `embedded`")
    add("--data", required=True, help="problem files; several: by commas")
    add("--out", type=Path, required=True, help="folder to write")
    add("--samples", type=_positive, default=5, help="answers per problem (default 5)")
    add("--temperature", type=float, default=0.6, help="0: greedy (default 0.6)")
    add("--top_p", type=float, default=0.95, help="1: off (default 0.95)")
    add("--top_k", type=int, default=0, help="0: off (default)")
    add("--min_p", type=float, default=0.0, help="0: off (default)")
    add("--max_new_tokens", type=_positive, help=f"(default {NEW_TOKENS})")
    add("--limit", type=_positive, help="only the first N problems of each file")
    add("--lack_hint", choices=("insufficient", "all", "none"), default="insufficient")
    add("--seed", type=int, default=0)
    add("--batch_size", type=_positive, default=16, help="problems at a time (default 16)")
    add("--step", type=int, help="which checkpoint of a workdir (default: the newest)")
    add("--dtype", choices=("float32", "bfloat16"), help="(default bfloat16, on a CPU float32)")
    add("--fsdp", type=_positive, default=1, help="devices that share the weights' width")
    add("--tensor", type=_positive, default=1, help="devices that share heads and vocabulary")
    args = parser.parse_args(argv)
    args.data = [name.strip() for name in args.data.split(",") if name.strip()]
    names = [_name(path) for path in args.data]
    if not names or len(set(names)) != len(names):
        raise UserError(f"--data={','.join(args.data)}: expected files with different names")
    return args


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value


def _name(path: str) -> str:
    """What a file's answers are called: its own name without the ending."""
    return Path(path).stem.replace(":", "-")


if __name__ == "__main__":
    commands.run(main)
