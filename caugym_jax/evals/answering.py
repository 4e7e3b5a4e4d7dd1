"""A model answers the problems of files, batch by batch, and goes on where it was interrupted."""

from __future__ import annotations

import dataclasses
import functools
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from caugym_jax.data.files import problem_record
from caugym_jax.data.items import LackHint, asked
from caugym_jax.data.prompts import prompt_tokens
from caugym_jax.data.tokenizer import Tokenizer
from caugym_jax.devices import processes, terminal
from caugym_jax.devices.mesh import MeshShape, make_mesh, sampling_mesh
from caugym_jax.errors import UserError
from caugym_jax.evals.accuracy import summarize
from caugym_jax.evals.answers import AnswersFile, claim, read_answers, set_name
from caugym_jax.evals.probe import require_finite
from caugym_jax.evals.suites import Question, drawn, read_items
from caugym_jax.runs.folder import of_checkpoint
from caugym_jax.runs.lock import alone
from caugym_jax.runs.log import Progress
from caugym_jax.runs.opening import ModelSettings, Opened, open_model
from caugym_jax.runs.recipe import prompts_that_fit
from caugym_jax.sampling.picking import Settings
from caugym_jax.sampling.sampler import Sampler
from caugym_jax.types import Conversation, Problem, Rollout

REPORT_EVERY = 128  # tokens, which cost more than the halt
AT_A_TIME = 64  # problems, of which a command that is killed loses the answers
NEW_TOKENS = 1024  # where no number is given and the model has at least as many positions


@dataclasses.dataclass(frozen=True)
class Protocol:
    """How problems are asked. The defaults are the published protocol's, the length apart."""

    samples: int = 5  # answers to each problem
    picking: Settings = Settings(0.6, top_p=0.95)
    max_new_tokens: int | None = None  # of an answer; None: NEW_TOKENS, or what the model takes
    lack_hint: LackHint = "insufficient"  # see `data.items.user_message`
    seed: int = 0
    # Problems at a time, which changes no answer; None: AT_A_TIME, or as many as fit by estimate.
    batch_size: int | None = None


def evaluate(
    chosen: ModelSettings,
    shape: MeshShape,
    files: Sequence[str],
    out: Path,
    protocol: Protocol,
    limit: int | None = None,
    step: int | str | None = None,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Answers the items of each file, or `limit` of them (`suites.drawn`), into OUT/NAME.jsonl, and
    grades the answers.

    Args:
      step: which checkpoint of a run, a number or "best"; None: the newest.

    Returns:
      (settings, sets) of results.json; only process 0 has sets.

    Raises:
      UserError: a file, the model, a setting or the answers in OUT cannot be used.
    """
    picking = protocol.picking.check()
    places, problems = {}, {}
    for path in files:
        places[path], problems[path] = _drawn(path, limit, protocol.seed, _answers(out, path))
    mesh = make_mesh(**vars(shape))
    terminal.doing(f"opening {chosen.name}")
    opened, checkpoint = of_checkpoint(
        chosen.name,
        chosen.step if step is None else step,
        lambda number: (open_model(dataclasses.replace(chosen, step=number), mesh), number),
    )
    # All prompts first: a problem that cannot be asked stops the command before any answer.
    prompts = {
        path: list(_prompts(path, places[path], problems[path], protocol, opened.tokenizer))
        for path in files
    }
    positions = opened.model.config.longest
    new = protocol.max_new_tokens or min(NEW_TOKENS, positions - 1)
    settings = {
        "samples": protocol.samples,
        **picking._asdict(),
        "max_new_tokens": new,
        "lack_hint": protocol.lack_hint,
        "seed": protocol.seed,
    }
    fixed = {"model": chosen.name, "checkpoint": checkpoint, **settings}
    processes.first(lambda: claim(out, fixed))
    devices = sampling_mesh(mesh)
    if protocol.batch_size is None:
        longest = max((len(tokens) for of in prompts.values() for tokens in of), default=1)
        width = min(longest, positions - 1)
        assert opened.params is not None  # of the model's own files
        weights = opened.model, opened.params
        size = prompts_that_fit(weights, devices, AT_A_TIME, protocol.samples, width, new)
        protocol = dataclasses.replace(protocol, batch_size=size)
    sampler = Sampler(
        opened.model,
        end_ids=opened.tokenizer.end_ids,
        pad_id=opened.tokenizer.pad_id,
        max_new_tokens=new,
        batch_size=protocol.batch_size,
        mesh=devices,
        report_every=REPORT_EVERY,
    )
    sets = {}
    with alone(out, "--out"):
        for path in files:
            answers = _answers(out, path)
            asked_here = problems[path], prompts[path], places[path]
            _answer_file(*asked_here, opened, sampler, protocol, answers)
            if processes.is_first():
                sets[answers.stem] = summarize(read_answers(answers)[: len(problems[path])])
    terminal.clear()
    return settings | {"limit": limit, "checkpoint": checkpoint}, sets


def _answers(out: Path, path: str) -> Path:
    return out / f"{set_name(path)}.jsonl"


def _drawn(
    path: str, limit: int | None, seed: int, answers: Path
) -> tuple[list[int], list[Problem | Question]]:
    """(places in the file, items) of what is asked, in its order; what is not is reported.

    All items are asked in the file's order, unless answers to some that were drawn are there.
    """
    items, left_out = read_items(path)
    if left_out:
        processes.say(f"{path}: {left_out} rows have no answer that is graded without a person")
    if limit is not None and limit < len(items):
        tasks = len({item.task for item in items})
        processes.say(
            f"{path}: {limit} of {len(items)} items, evenly over {tasks} tasks, by seed {seed}"
        )
    order = drawn(items, len(items) if limit is None else limit, seed)
    begun = processes.first(lambda: AnswersFile(answers).texts)
    if limit is None and begun == [item.text for item in items[: len(begun)]]:
        order = list(range(len(items)))
    return order, [items[i] for i in order]


def _prompts(
    path: str,
    places: Sequence[int],
    problems: Sequence[Problem | Question],
    protocol: Protocol,
    tokenizer: Tokenizer,
) -> Iterator[list[int]]:
    for place, problem in zip(places, problems, strict=True):
        try:
            yield prompt_tokens(_conversation(problem, protocol.lack_hint), tokenizer)
        except UserError as error:
            row = problem.row if isinstance(problem, Question) else place
            raise UserError(f"{path}, item {row} (counting from 0): {error}") from error


def _conversation(item: Problem | Question, lack_hint: LackHint) -> Conversation:
    if isinstance(item, Problem):
        return asked(item, lack_hint)
    return ({"role": "user", "content": item.text},)


def _answer_file(
    problems: Sequence[Problem | Question],
    prompts: Sequence[list[int]],
    places: Sequence[int],
    opened: Opened,
    sampler: Sampler,
    protocol: Protocol,
    answers: Path,
) -> None:
    positions = opened.model.config.longest
    stream = zlib.crc32(answers.stem.encode())  # a file's samples do not depend on other files

    params = opened.params
    assert params is not None  # `evaluate` asks for them

    def ask(items: Sequence[int]) -> Rollout:
        return require_finite(
            sampler(
                params,
                [prompts[i] for i in items],
                ids=[places[i] for i in items],
                seed=protocol.seed,
                step=stream,
                samples_per_prompt=protocol.samples,
                **protocol.picking._asdict(),
            )
        )

    fits = [len(tokens) < positions for tokens in prompts]
    thinking = opened.tokenizer.decode(prompts[0]).rstrip().endswith("<think>")
    answer(problems, fits, ask, opened.tokenizer, answers, protocol, thinking)
    if not all(fits):
        processes.say(
            f"{answers.stem}: {fits.count(False)} of {len(fits)} prompts do not fit the model's "
            f"{positions} positions: left unanswered, which counts as wrong"
        )


def answer(
    problems: Sequence[Problem | Question],
    fits: Sequence[bool],
    ask: Callable[[Sequence[int]], Rollout],
    tokenizer: Tokenizer,
    path: Path,
    protocol: Protocol,
    thinking: bool = False,
) -> None:
    """Completes the answers file at `path`, batch by batch, after the answers that it holds.

    Args:
      fits: whether the model can take each problem; one that it cannot gets empty answers.
      ask: indices of problems -> Rollout with `samples` samples of each.
      thinking: the prompts open a thought, which the answers say, to be graded anywhere.

    Raises:
      UserError: the answers there are to other problems.
    """
    samples, total = protocol.samples, len(problems)
    file = processes.first(lambda: AnswersFile(path))
    done = processes.first(lambda: file.done(problems))
    if done >= total and processes.first(lambda: file.complete):
        return
    processes.first(file.reopen)
    progress = Progress(done, total, every=1, unit="item")
    processes.say(f"{path.stem}: {done} of {total} problems are answered already")
    nothing: dict[str, Any] = {
        "all_generated_answers": [""] * samples,
        "truncated": [True] * samples,
        "num_tokens": [0] * samples,
    }
    size = protocol.batch_size or AT_A_TIME
    for start in range(done, total, size):
        items = range(start, min(start + size, total))
        clock, shown = time.perf_counter(), {}
        answers = dict.fromkeys(items, nothing)
        if asked := [i for i in items if fits[i]]:
            rollout = ask(asked)
            answers |= zip(asked, answers_of(rollout, tokenizer, samples), strict=True)
            rate = rollout.completion_length.sum() / (time.perf_counter() - clock)
            shown = {"new tokens/s": rate, "truncated": 1 - rollout.ended.mean()}
        opened = {"thinking": True} if thinking else {}
        answered = [_record(problems[i]) | answers[i] | opened for i in items]
        processes.first(functools.partial(file.add, answered))
        progress.show(items.stop, shown, tuple(shown))
    processes.first(file.finish)


def _record(item: Problem | Question) -> dict[str, Any]:
    return problem_record(item) if isinstance(item, Problem) else item.record


def answers_of(rollout: Rollout, tokenizer: Tokenizer, samples: int) -> Iterator[dict[str, Any]]:
    """What a rollout adds to each of its items."""
    P, lengths = rollout.prompt_width, rollout.completion_length.tolist()
    texts = [
        tokenizer.decode_completion(row[P : P + n])
        for row, n in zip(rollout.tokens, lengths, strict=True)
    ]
    for first in range(0, len(texts), samples):
        of_item = slice(first, first + samples)
        yield {
            "all_generated_answers": texts[of_item],
            "truncated": (~rollout.ended[of_item]).tolist(),
            "num_tokens": lengths[of_item],
        }
