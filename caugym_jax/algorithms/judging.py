"""What a rollout's completions are worth: reward functions applied to all of them, by several
processes, or part by part while others are still sampled."""

from __future__ import annotations

import dataclasses
import queue
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np

from caugym_jax.data.items import shown, truth
from caugym_jax.data.tokenizer import Tokenizer
from caugym_jax.devices import processes
from caugym_jax.errors import UserError
from caugym_jax.rewards.combination import Rewards, combine, joined
from caugym_jax.sampling.stops import cut
from caugym_jax.types import Item, Rollout

PRINTED = 3  # failures of reward functions printed of a rollout


class Prompt(NamedTuple):
    """An item and the tokens it is asked with."""

    item: Item
    tokens: list[int]


class RolloutRewards(NamedTuple):
    """A rollout's rewards and what is logged about it."""

    total: np.ndarray  # [B] float32; NaN = not judged
    names: tuple[str, ...]  # R, of the parts
    values: np.ndarray  # [B, R]
    lengths: np.ndarray  # [B] of completions
    prompt_tokens: int  # of all rows
    ended: np.ndarray  # [B] bool
    rows: list[dict[str, Any]]  # prompt, completion, reward parts: the sample table
    failures: int = 0  # values that reward functions failed to give, each taken as None


# A part of the reward that follows from how completions end: its name, and its values [B].
Part = tuple[str, Callable[[RolloutRewards], np.ndarray]]
# What samples, given what to call with rows that have ended; see `Sampler`.
Sampling = Callable[[Callable[[np.ndarray, Rollout], None]], Rollout]


@dataclasses.dataclass(frozen=True)
class Judge:
    """Judges completions by a run's reward functions.

    Attributes:
      group_size: completions of each prompt.
      weights, on_error, timeout: see `rewards.combination.combine`.
      part: what is added to their rewards.
      stop: texts at which completions end.
      pad_id: fills what is cut off there.
    """

    tokenizer: Tokenizer
    group_size: int
    weights: Mapping[str, float]
    on_error: str
    timeout: float | None
    part: Part | None = None
    stop: tuple[str, ...] = ()
    pad_id: int = 0

    def cut(self, rollout: Rollout) -> Rollout:
        """The rollout with its completions ended where they should."""
        return cut(rollout, self.stop, self.tokenizer.decode, self.pad_id)

    def __call__(
        self, prompts: Sequence[Prompt], rollout: Rollout, scores: Rewards | None = None
    ) -> RolloutRewards:
        """The rewards of a rollout (cut); failures that were skipped are printed on stderr.

        Args:
          scores: what the reward functions said already; None: they are asked.
        """
        lengths, ended = map(np.asarray, (rollout.completion_length, rollout.ended))
        items, (_, texts) = self._items(prompts), self._decoded(rollout)
        scores = self._scores(items, rollout) if scores is None else scores
        for failure in scores.failures[:PRINTED]:
            processes.line(str(failure))
        table = [
            {
                "prompt": shown(item),
                "completion": text,
                "answer": truth(item),
                "cut_off": not bool(ended[i]),
                "reward": float(total),
                **{f"rewards/{n}": float(v) for n, v in zip(scores.names, values, strict=True)},
                **{f"rewards/{part}": float(column[i]) for part, column in scores.parts.items()},
            }
            for i, (item, text, total, values) in enumerate(
                zip(items, texts, scores.total, scores.values, strict=True)
            )
        ]
        judged = RolloutRewards(
            scores.total,
            scores.names,
            scores.values,
            lengths,
            int(np.sum(rollout.prompt_length)),
            ended,
            table,
            len(scores.failures),
        )
        if self.part is None:
            return judged
        name, part = self.part
        return with_part(judged, name, part(judged))

    def while_sampling(
        self, prompts: Sequence[Prompt], sample: Sampling
    ) -> tuple[Rollout, Callable[[], Rewards]]:
        """Samples in a thread of its own, and asks the reward functions in this one about what has
        ended: of several processes each about its own prompts (`processes.share_of`), whose
        samples all of them see.

        Returns:
          (the rollout, cut; what asks about the rest and gives the scores of this process's rows,
          in their order, or raises what went wrong).
        """
        items, G = self._items(prompts), self.group_size
        # Named by their place in the whole rollout, where nothing else says which they are.
        items = [dataclasses.replace(x, where=x.where or f"item {i}") for i, x in enumerate(items)]
        mine = [row for g in processes.share_of(range(len(prompts))) for row in _members(g, G)]
        place = {row: i for i, row in enumerate(mine)}
        parts: list[tuple[list[int], Rewards]] = []
        wrong: list[UserError] = []

        def score(rows: np.ndarray, rollout: Rollout) -> None:
            own = np.array([row in place for row in rows.tolist()], bool)
            if wrong or not own.any():
                return
            rows, rollout = rows[own], self.cut(Rollout(*(x[own] for x in rollout)))
            try:
                found = self._scores([items[row] for row in rows], rollout)
            except UserError as error:  # raised when all processes are ready to hear of it
                wrong.append(error)
            else:
                parts.append(([place[row] for row in rows.tolist()], found))

        ended: queue.SimpleQueue[tuple[np.ndarray, Rollout] | None] = queue.SimpleQueue()
        late = []
        with ThreadPoolExecutor(1) as pool:
            sampled = pool.submit(sample, lambda *part: ended.put(part))
            sampled.add_done_callback(lambda _: ended.put(None))
            while (part := ended.get()) is not None:
                if sampled.done():
                    late.append(part)
                else:
                    score(*part)

        def scores() -> Rewards:
            while late:
                score(*late.pop(0))
            if wrong:
                raise wrong[0]
            return joined(parts) if mine else combine([], [], [], self.weights)

        return self.cut(sampled.result()), scores

    def _items(self, prompts: Sequence[Prompt]) -> list[Item]:
        return [p.item for p in prompts for _ in range(self.group_size)]

    def _decoded(self, rollout: Rollout) -> tuple[list[list[int]], list[str]]:
        """The completions' tokens, and their texts."""
        P, lengths = rollout.prompt_width, np.asarray(rollout.completion_length)
        rows = zip(np.asarray(rollout.tokens), lengths, strict=True)
        ids = [row[P : P + n].tolist() for row, n in rows]
        return ids, list(map(self.tokenizer.decode_completion, ids))

    def _scores(self, items: Sequence[Item], rollout: Rollout) -> Rewards:
        ids, texts = self._decoded(rollout)
        cut_off, how = (~np.asarray(rollout.ended)).tolist(), (self.on_error, self.timeout)
        return combine(texts, items, cut_off, self.weights, *how, ids)


def _members(group: int, group_size: int) -> range:
    """The rows of a prompt."""
    return range(group * group_size, (group + 1) * group_size)


def with_part(judged: RolloutRewards, name: str, part: np.ndarray) -> RolloutRewards:
    """The rewards plus `part` [B], which is a part of the reward under that name."""
    part = part.astype(np.float32)
    total = judged.total + part
    table = [
        row | {"reward": float(reward), f"rewards/{name}": float(one)}
        for row, reward, one in zip(judged.rows, total, part, strict=True)
    ]
    return judged._replace(
        total=total,
        names=(*judged.names, name),
        values=np.concatenate([judged.values, part[:, None]], axis=1),
        rows=table,
    )


def judge_by_share(
    judge: Callable[[list[Prompt], Rollout], RolloutRewards],
    prompts: list[Prompt],
    rollout: Rollout,
    group_size: int,
) -> RolloutRewards:
    """`judge` where every process takes its share of the prompts (`processes.share_of`), as
    rewards may take long, and all get all verdicts."""
    if processes.count() == 1:
        return judge(prompts, rollout)
    groups = [_members(i, group_size) for i in range(len(prompts))]
    own_rows = np.array([row for group in processes.share_of(groups) for row in group], int)
    own = Rollout(*(np.asarray(x)[own_rows] for x in rollout))
    parts = processes.together(lambda: judge(list(processes.share_of(prompts)), own))

    def merged(name: str) -> list[Any]:
        """A field of all rows: what was one process's is a group at a time."""
        fields = [getattr(part, name) for part in parts]
        pieces = [[x[i : i + group_size] for i in range(0, len(x), group_size)] for x in fields]
        return [row for group in processes.interleaved(pieces) for row in group]

    return RolloutRewards(
        names=parts[0].names,
        prompt_tokens=sum(part.prompt_tokens for part in parts),
        failures=sum(part.failures for part in parts),
        rows=merged("rows"),
        **{name: np.stack(merged(name)) for name in ("total", "values", "lengths", "ended")},
    )


def overlong_reward(
    lengths: np.ndarray, limit: int, buffer: int, penalty: float = 1.0
) -> np.ndarray:
    """DAPO's soft punishment of long completions: 0 up to limit - buffer tokens, then linearly down
    to -penalty at the limit (Yu et al. 2025, eq. 13).

    By hand: limit 100, buffer 20: lengths 80, 85, 100 give 0, -0.25, -1.
    """
    excess = np.asarray(lengths, np.float64) - (limit - buffer)
    return -penalty * np.clip(excess / buffer, 0.0, 1.0)
