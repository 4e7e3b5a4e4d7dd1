"""Checkpoints of a run: Orbax, asynchronous, atomic, sharded; the newest N and the best are kept.

A checkpoint holds the training state and what else the host needs to go on (the loader's position,
the run's counts), as JSON in its item `loader`. WORKDIR/checkpoints/STEP counts only once Orbax has
marked it whole: a run killed at any moment resumes from the last whole one. Before that its files'
digests are written (`digests.py`); they are compared before it is read. A damaged one is renamed to
STEP.damaged, which is reported on stderr; the one before it is used.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint import checkpoint_managers

from caugym_jax.devices import processes
from caugym_jax.devices.mesh import fetch
from caugym_jax.errors import UserError, require
from caugym_jax.runs import digests, stored
from caugym_jax.runs.log import write_text
from caugym_jax.types import TrainState

_ELSEWHERE = "elsewhere.txt"  # in WORKDIR/checkpoints: the folder that holds them instead
_MAIN = ("strict", "reward", "loss")  # the figure that decides by itself, the first that there is
_LESS = ("loss", "truncated", "completions/mean_length", "kl", "entropy")  # of which less is better
_CHUNK = 1 << 23  # bytes of an array that are compressed, and read back, as one


@dataclasses.dataclass(frozen=True)
class CheckpointSettings:
    """When the training state is saved, and where.

    Attributes:
      every: steps from one checkpoint to the next.
      keep: how many of the newest are kept.
      best: the figure of the evaluation whose best checkpoint is kept too, as it is logged
        (eval/strict, eval/loss, eval/rewards/math, ...): an evaluation that is a new best is saved.
        "main": strict, else reward, else loss; None: only the newest are kept.
      folder: where to keep them, e.g. gs://bucket/run (needs gcsfs); empty: in
        WORKDIR/checkpoints. The workdir remembers it for every later reader.
    """

    every: int = 50
    keep: int = 2
    best: str | None = "main"
    folder: str = ""

    def __post_init__(self):
        require(self, "every", "keep", at_least=1)

    def check(self, figures: Iterable[str]) -> None:
        """Refuses a `best` that is none of the evaluation's figures.

        Raises:
          UserError: it is none of them.
        """
        known = sorted(figures)
        if self.best not in (None, "main") and _bare(self.best) not in known:
            choices = ", ".join([*known, "main"])
            why = "" if known else ": there is no evaluation (evaluation.every, evaluation.path)"
            raise UserError(
                f"config.checkpoint.best={self.best}: must be one of {choices} or none{why}"
            )

    def quality(self, figures: Mapping[str, float]) -> tuple[float, float] | None:
        """(what is highest of the best, the figure itself); None where there is no such figure."""
        name = next((x for x in _MAIN if x in figures), "") if self.best == "main" else self.best
        value = figures.get(_bare(name or ""))
        if value is None:
            return None
        return (-value if _bare(name or "") in _LESS else value), value


def _bare(name: str) -> str:
    return name.removeprefix("eval/")


class _Manager(ocp.CheckpointManager):
    """Opens although a step's metrics are damaged: the digests say so when that step is read."""

    def metrics(self, step: int) -> Any:
        try:
            return super().metrics(step)
        except ValueError:  # JSON that was cut short or changed
            return None


class Checkpoints:
    """The checkpoints of one workdir.

    Args:
      read_only: make no folder, and leave alone what a live run is writing and what is damaged.
        Without it unfinished saves are removed, and damaged checkpoints are renamed.

    All processes make the same calls; each compares a part of the digests.

    Raises:
      UserError: no checkpoint of those that are there is whole, or the folder cannot be written.
    """

    def __init__(
        self,
        workdir: str | Path,
        settings: CheckpointSettings = CheckpointSettings(),
        *,
        read_only: bool = False,
    ):
        self._directory = _place(Path(workdir), settings.folder, read_only)
        self._damage: dict[int, str] = {}  # what is wrong with a step; "": nothing
        self._may_move, self._closed = not read_only, False
        if not read_only:
            self._newest()
        self._settings = settings

        def quality(metrics: dict[str, float]) -> float:
            found = settings.quality(metrics)
            return -math.inf if found is None else found[0]

        policies = [checkpoint_managers.LatestN(settings.keep)]
        if settings.best is not None:
            policies.append(
                checkpoint_managers.BestN(
                    get_metric_fn=quality, n=1, keep_checkpoints_without_metrics=False
                )
            )
        try:
            self._manager = _Manager(
                self._directory,
                options=ocp.CheckpointManagerOptions(
                    preservation_policy=checkpoint_managers.AnyPreservationPolicy(policies),
                    best_fn=quality,  # without it Orbax writes no metrics
                    # Orbax's own read_only warns on stderr each time and adds nothing to these two.
                    create=not read_only,
                    cleanup_tmp_directories=not read_only,
                    save_decision_policy=checkpoint_managers.FixedIntervalPolicy(1),
                    temporary_path_class=digests.committing(self._directory),
                    # One process reads all files for their digests before they count.
                    async_options=ocp.AsyncOptions(timeout_secs=3600),
                ),
                item_names=("state", "loader"),
            )
        except OSError as error:
            raise UserError(f"cannot write checkpoints to {self._directory}: {error}") from error
        self._figures = {}  # of the steps that were evaluated
        if settings.best is not None:
            self._figures = processes.first(
                lambda: {step: self._figure(step) for step in self._manager.all_steps()}
            )

    def _figure(self, step: int) -> tuple[float, float] | None:
        """What decides which checkpoint is best (`CheckpointSettings.quality`)."""
        try:
            return self._settings.quality(self._manager.metrics(step) or {})
        except (OSError, ValueError, KeyError):
            return None  # it is being deleted, or has none

    @property
    def best(self) -> tuple[int, float] | None:
        """The evaluated checkpoint that is best by `checkpoint.best` (of equal ones the newest),
        and its figure."""
        found = [(x[0], step, x[1]) for step, x in self._figures.items() if x is not None]
        return max(found)[1:] if found else None

    def is_best(self, figures: dict[str, float] | None) -> bool:
        """Whether a model with these figures is better than all that were saved."""
        quality = self._settings.quality(figures or {})
        known = [x for x in self._figures.values() if x is not None]
        return quality is not None and (not known or quality[0] > max(known)[0])

    @property
    def latest(self) -> int | None:
        """The newest whole checkpoint's step, if any; reports newer ones that are damaged."""
        return self._newest()

    @property
    def steps(self) -> list[int]:
        return sorted(self._manager.all_steps())

    def save(self, state: TrainState, host: Any, metrics: dict[str, float] | None = None) -> None:
        """Starts saving in the background; waits for the one before. `host` is what JSON can hold.

        Raises:
          UserError: it could not be written (disk full), or is not finite. Earlier checkpoints are
            intact.
        """
        step = int(state.step)
        if wrong := not_finite(state):
            raise UserError(
                f"step {step} is not saved: {wrong[0]} is not finite{_others(wrong)}; the last "
                "checkpoint is intact: start from it in another --workdir, with "
                "--config.model.name=WORKDIR and a lower learning rate"
            )
        self._damage[step] = ""
        self._figures[step] = self._settings.quality(metrics or {})
        self._guard(
            lambda: self._manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(state, save_args=_split(state)),
                    loader=ocp.args.JsonSave(host),
                ),
                metrics=metrics or {},
            )
        )

    def wait(self) -> None:
        """Blocks until the last save is whole, or raises as `save` does."""
        self._guard(self._manager.wait_until_finished)

    def restore(self, abstract: TrainState, step: int | None = None) -> tuple[TrainState, Any]:
        """(state, host) as saved of a step (the newest by default).

        Args:
          abstract: the state as ShapeDtypeStructs with the shardings to restore onto, which may be
            another mesh than the one that saved.
        """
        step = self._existing(step)
        try:
            found = self._manager.restore(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardRestore(abstract), loader=ocp.args.JsonRestore()
                ),
            )
        except (ValueError, KeyError, OSError) as error:
            raise UserError(
                f"checkpoint {self._directory / str(step)} cannot be read "
                f"({_first_line(error)}): remove that folder to go on from the one before"
            ) from error
        state = TrainState(*found["state"])
        self._check_finite(state, step)
        return state, found["loader"]

    def _check_finite(self, tree: Any, step: int) -> None:
        if wrong := not_finite(tree):
            raise UserError(
                f"checkpoint {self._directory / str(step)} is of no use: {wrong[0]} is not finite"
                f"{_others(wrong)}; remove that folder to go on from the one before"
            )

    def restore_params(self, abstract: Any, step: int | None = None) -> Any:
        """The parameters alone of a step (the newest by default), onto `abstract`'s shardings."""
        return self.restore_parts({"params": abstract}, step)["params"]

    def restore_parts(self, abstract: dict[str, Any], step: int | None = None) -> dict[str, Any]:
        """Parts of a step's state: `abstract` is a tree of some of its fields, by name."""
        step = self._existing(step)
        try:
            with ocp.PyTreeCheckpointer() as reader:
                folder = self._directory / str(step) / "state"
                arguments = ocp.checkpoint_utils.construct_restore_args(abstract)
                found = reader.restore(
                    folder,
                    ocp.args.PyTreeRestore(
                        item=abstract, restore_args=arguments, partial_restore=True
                    ),
                )
        except (ValueError, KeyError, OSError) as error:
            raise UserError(
                f"checkpoint {self._directory / str(step)} cannot be read: {_first_line(error)}"
            ) from error
        self._check_finite(found, step)
        return found

    def stored(self, abstract: Any, step: int | None = None) -> Any:
        """As `restore_parts`, but a tree of `stored.Stored`, whose arrays stay on the disk."""
        return stored.open_tree(self._directory / str(self._existing(step)) / "state", abstract)

    def close(self) -> None:
        """Waits as `wait` does, and ends."""
        if not self._closed:
            self._closed = True
            self._guard(self._manager.close)

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        """Waits for the save under way, also where an error ends the run, so that it is not lost.

        After an error one of several processes does not wait: the others, whose part of the save
        is needed, may never come to it.
        """
        if error is None:
            self.close()
        elif isinstance(error, Exception) and processes.count() == 1:
            try:
                self.close()
            except UserError as another:
                if str(another) != str(error):
                    processes.say(str(another))

    def _existing(self, step: int | None) -> int:
        if step is None and (newest := self._newest()) is not None:
            return newest
        steps = self._listed()
        if not steps:
            raise UserError(f"{self._directory} holds no checkpoint: train first")
        has = f"it has {', '.join(map(str, steps))}"
        if step not in steps:
            raise UserError(f"{self._directory} has no checkpoint of step {step}: {has}")
        if why := self._wrong(step):
            raise UserError(f"checkpoint {self._directory / str(step)} is damaged ({why}): {has}")
        return step

    def _newest(self) -> int | None:
        """The newest step that is whole; damaged newer ones are reported and, unless this only
        reads, renamed.
        """
        found = self._listed()
        damaged: list[tuple[int, str]] = []
        seen = found[-1:]
        while found and (why := self._wrong(found[-1])):
            now = self._listed()
            if not self._may_move and now[-1:] > seen:  # a live run saves, and deletes older ones
                found, damaged, seen = now, [], now[-1:]
            else:
                damaged.append((found.pop(), why))
        if damaged and not found:
            listed = "; ".join(f"{step}: {why}" for step, why in damaged)
            raise UserError(
                f"no checkpoint in {self._directory} is whole ({listed}): put a copy of one back, "
                "or remove that folder to start anew"
            )
        for step, why in damaged:
            folder, aside = self._directory / str(step), ""
            if self._may_move:
                name = processes.first(functools.partial(_set_aside, folder))
                aside = f", set aside as {name}"
            _say_once(f"checkpoint {folder} is damaged ({why}){aside}: using step {found[-1]}")
        return found[-1] if found else None

    def _listed(self) -> list[int]:
        return processes.first(lambda: _steps_in(self._directory))

    def _wrong(self, step: int) -> str:
        """What is wrong with the files of a step; empty: nothing. Looked at once."""
        if step not in self._damage:
            folder = self._directory / str(step)
            digest = folder / digests.NAME
            written = processes.first(lambda: _written(digest))
            if written is None:
                _say_once(f"{folder} has no {digest.name}: it is used without a check of its files")
            self._damage[step] = "" if written is None else _look(folder, written)
        return self._damage[step]

    def _guard(self, action) -> None:
        try:
            action()
        except Exception as error:
            cause: BaseException | None = error
            while cause is not None and not isinstance(cause, OSError):
                cause = cause.__cause__ or cause.__context__
            text = f"{error} {cause or ''}"
            full = "No space left" in text or "RESOURCE_EXHAUSTED" in text
            if cause is None and not full:
                raise
            why = "No space left on device" if cause is None or full else _first_line(cause)
            raise UserError(
                f"saving to {self._directory} failed ({why}): fix that and run the same command "
                "again; earlier checkpoints are intact"
            ) from error


def saved_steps(workdir: str | Path) -> list[int]:
    """The steps of which a workdir has checkpoints, whole or damaged, oldest first."""
    return _steps_in(_place(Path(workdir), "", read_only=True))


def _steps_in(folder: str | Path | epath.Path) -> list[int]:
    try:
        return sorted(ocp.utils.checkpoint_steps(folder)) if epath.Path(folder).exists() else []
    except ImportError as error:
        raise UserError(f"{folder} cannot be reached: {error} (pip install gcsfs)") from error


def _written(path: epath.Path) -> float | None:
    try:
        return path.stat().mtime
    except FileNotFoundError:
        return None


@functools.lru_cache
def _look(folder: epath.Path, written: float) -> str:
    """What is wrong with a step's files, whose digests were written then; empty: nothing."""
    try:
        why = digests.find_damage(folder, (processes.index(), processes.count()))
    except OSError as error:
        why = f"{digests.NAME} cannot be read ({error.strerror})"
    return next(filter(None, processes.share(why)), "")


@functools.lru_cache
def _say_once(text: str) -> None:
    processes.say(text)


def _place(workdir: Path, folder: str, read_only: bool) -> epath.Path:
    """The folder of a workdir's checkpoints."""
    usual = workdir.absolute() / "checkpoints"
    note = usual / _ELSEWHERE
    before = note.read_text().strip() if note.exists() else ""
    if not folder or read_only:
        return epath.Path(before or usual)
    place = folder if "://" in folder else str(Path(folder).absolute())
    if before not in ("", place) or (not before and _steps_in(usual)):
        raise UserError(
            f"the checkpoints of {workdir} lie in {before or usual}: set config.checkpoint.folder "
            "to that, or choose another --workdir"
        )
    if processes.is_first():
        usual.mkdir(parents=True, exist_ok=True)
        write_text(note, place + "\n")
    return epath.Path(place)


def _split(state: TrainState) -> Any:
    """Into which chunks each array is stored: of a stack every layer has its own."""

    def chunks(path, _) -> ocp.SaveArgs:
        in_layers = any(getattr(key, "key", None) == "layers" for key in path)
        return ocp.SaveArgs(chunk_byte_size=_CHUNK, shard_axes=(0,) * in_layers)

    return jax.tree.map_with_path(chunks, state)


def not_finite(state: Any) -> list[str]:
    """The paths of the arrays that hold NaN or infinity."""
    leaves = jax.tree.leaves_with_path(state)
    floats = [(path, x) for path, x in leaves if jnp.issubdtype(x.dtype, jnp.floating)]
    whole = fetch(_all_finite([x for _, x in floats]))
    return [_named(path) for (path, _), fine in zip(floats, whole, strict=True) if not fine]


@jax.jit
def _all_finite(arrays: list[jax.Array]) -> list[jax.Array]:
    return [jnp.all(jnp.isfinite(x)) for x in arrays]


def _named(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator=".")


def _others(names: list[str]) -> str:
    return f" (nor {len(names) - 1} other arrays)" if names[1:] else ""


def _set_aside(folder: epath.Path) -> str:
    """Renames a step's folder so that it no longer counts; the new name."""
    names = (f"{folder.name}.damaged{'-' * bool(i)}{i or ''}" for i in range(10**6))
    aside = next(path for name in names if not (path := folder.parent / name).exists())
    try:
        folder.rename(aside)
    except OSError as error:
        raise UserError(f"cannot set {folder} aside, which is damaged: {error}") from error
    return aside.name


def abstract_state(state: TrainState) -> TrainState:
    """The shapes, types and shardings of a state, to restore onto."""
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state
    )


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0][:200] if text else type(error).__name__
