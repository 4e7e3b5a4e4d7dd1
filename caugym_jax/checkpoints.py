"""Checkpoints of a run: Orbax, asynchronous and atomic, the newest N and the best one kept.

A checkpoint holds the training state and the loader's position. WORKDIR/checkpoints/STEP counts
only once Orbax has marked it whole: a run killed at any moment resumes from the last whole one.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from caugym_jax.errors import UserError
from caugym_jax.types import TrainState


class Checkpoints:
    """The checkpoints of one workdir.

    Args:
      keep: how many of the newest to keep.
      best: also keep the one with the highest of this evaluation metric ("strict"), if any.
      read_only: makes no folder and leaves alone what a live run has half written there; without
        it such remains are removed.
    """

    def __init__(
        self,
        workdir: str | Path,
        *,
        keep: int = 2,
        best: str | None = "strict",
        read_only: bool = False,
    ):
        self._directory = Path(workdir).absolute() / "checkpoints"
        policies = [checkpoint_managers.LatestN(max(1, keep))]
        if best is not None:
            policies.append(
                checkpoint_managers.BestN(
                    get_metric_fn=lambda metrics: metrics.get(best, -math.inf),
                    n=1,
                    keep_checkpoints_without_metrics=False,
                )
            )
        try:
            self._manager = ocp.CheckpointManager(
                self._directory,
                options=ocp.CheckpointManagerOptions(
                    preservation_policy=checkpoint_managers.AnyPreservationPolicy(policies),
                    # Orbax's own read_only warns on stderr each time and adds nothing to these two.
                    create=not read_only,
                    cleanup_tmp_directories=not read_only,
                    save_decision_policy=checkpoint_managers.FixedIntervalPolicy(1),
                ),
                item_names=("state", "loader"),
            )
        except OSError as error:
            raise UserError(f"cannot write checkpoints to {self._directory}: {error}") from error

    @property
    def latest(self) -> int | None:
        """The newest whole checkpoint's step."""
        return self._manager.latest_step()

    @property
    def steps(self) -> list[int]:
        return sorted(self._manager.all_steps())

    def save(self, state: TrainState, loader: Any, metrics: dict[str, float] | None = None) -> None:
        """Starts saving in the background; waits for the one before.

        Raises:
          UserError: it could not be written (disk full). Earlier checkpoints are intact.
        """
        step = int(state.step)
        self._guard(
            lambda: self._manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(state), loader=ocp.args.JsonSave(loader)
                ),
                metrics=metrics,
            )
        )

    def wait(self) -> None:
        """Blocks until the last save is whole, or raises as `save` does."""
        self._guard(self._manager.wait_until_finished)

    def restore(self, abstract: TrainState, step: int | None = None) -> tuple[TrainState, Any]:
        """(state, loader position) of a step (the newest by default).

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
        return TrainState(*found["state"]), found["loader"]

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
                return reader.restore(
                    folder,
                    ocp.args.PyTreeRestore(
                        item=abstract, restore_args=arguments, partial_restore=True
                    ),
                )
        except (ValueError, KeyError, OSError) as error:
            raise UserError(
                f"checkpoint {self._directory / str(step)} cannot be read: {_first_line(error)}"
            ) from error

    def close(self) -> None:
        self._guard(self._manager.close)

    def _existing(self, step: int | None) -> int:
        steps = self.steps
        if not steps:
            raise UserError(f"{self._directory} holds no checkpoint: train first")
        if step is None:
            return steps[-1]
        if step not in steps:
            raise UserError(
                f"{self._directory} has no checkpoint of step {step}: it has "
                f"{', '.join(map(str, steps))}"
            )
        return step

    def _guard(self, action) -> None:
        try:
            action()
        except Exception as error:
            cause = error
            while cause is not None and not isinstance(cause, OSError):
                cause = cause.__cause__ or cause.__context__
            text = f"{error} {cause or ''}"
            full = "No space left" in text or "RESOURCE_EXHAUSTED" in text
            if cause is None and not full:
                raise
            why = "No space left on device" if full else _first_line(cause)
            raise UserError(
                f"saving to {self._directory} failed ({why}): mend that and run the same command "
                "again; earlier checkpoints are intact"
            ) from error


def abstract_state(state: TrainState) -> TrainState:
    """The shapes, types and shardings of a state, to restore onto."""
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state
    )


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0][:200] if text else type(error).__name__
