"""What looks wrong in a run's metrics, in one line each that names the likely cause."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping

WINDOW = 20  # steps whose mean is compared with that of the WINDOW steps before them
IN_A_ROW = 3  # steps in a row that skipped an update


class Alarms:
    """Watches a run step by step.

    Some alarms need a single step; those about a trend compare the mean of the last WINDOW steps
    with that of the WINDOW before them, or or with the mean of the run's first steps.
    """

    def __init__(self):
        self._first: dict[str, list[float]] = {}  # the first WINDOW finite values
        self._last: dict[str, deque[float]] = {}  # the last 2 * WINDOW
        self._skipped = 0.0, 0  # updates skipped so far, and steps in a row that skipped some

    def look(self, metrics: Mapping[str, float | None]) -> dict[str, str]:
        """{metric: what is wrong and the likely cause} of one more step; null counts as absent.

        A metric that is absent (another method's) raises no alarm.
        """
        values = {k: v for k, v in metrics.items() if v is not None}
        for key, value in values.items():
            if math.isfinite(value):
                first = self._first.setdefault(key, [])
                if len(first) < WINDOW:
                    first.append(value)
                self._last.setdefault(key, deque(maxlen=2 * WINDOW)).append(value)
        found = {**self._trends(values), **_at_once(values)}
        self._count_skipped(values, found)
        return {key: f"{key} = {values[key]:.4g}: {text}" for key, text in found.items()}

    def _trends(self, values: Mapping[str, float]) -> dict[str, str]:
        found = {}
        cut = self._means("completions/clipped_ratio")
        if cut and cut.now > 0.2 and cut.now > cut.before + 0.1:
            found["completions/clipped_ratio"] = (
                f"more and more samples are cut off ({cut.before:.2f} before): the model no longer "
                "ends, or it needs a larger max_completion_length"
            )
        reward, entropy = self._means("reward"), self._means("entropy")
        if reward and entropy:  # of a policy; a fresh model's in SFT falls as it should
            if entropy.now < 0.2 * entropy.first and reward.now < reward.first + 0.02:
                found["entropy"] = (
                    f"it collapsed (from {entropy.first:.3g}) without a gain in reward: lower the "
                    "learning rate, raise epsilon_high, temperature or entropy_coef"
                )
            elif entropy.now > 2 * entropy.first and entropy.now > entropy.first + 0.5:
                found["entropy"] = (
                    f"it exploded (from {entropy.first:.3g}): the policy drifts to noise; lower "
                    "the learning rate or entropy_coef"
                )
        length = self._means("completions/mean_length")
        if (
            reward
            and length
            and length.now > 1.3 * length.before
            and reward.now < reward.before + 0.02
        ):
            found["completions/mean_length"] = (
                f"completions grow (from {length.before:.4g}) and the reward does not: length "
                "pays by itself; use loss_type dr_grpo or dapo, or overlong_buffer"
            )
        for key in ("kl", "objective/kl"):
            past = list(self._last.get(key, ()))[:-1][-WINDOW:]
            if key in values and len(past) >= WINDOW // 2:
                usual = sorted(past)[len(past) // 2]
                if values[key] > max(5 * usual, usual + 0.1):
                    found[key] = (
                        f"it jumped (usually {usual:.3g}): one step went too far; lower the "
                        "learning rate or optim.clip_norm, or raise beta"
                    )
        return found

    def _count_skipped(self, values: Mapping[str, float], found: dict[str, str]) -> None:
        skipped = values.get("skipped_updates", self._skipped[0])
        self._skipped = skipped, self._skipped[1] + 1 if skipped > self._skipped[0] else 0
        if self._skipped[1] >= IN_A_ROW:
            found["skipped_updates"] = (
                f"{self._skipped[1]} steps in a row had an update without a finite gradient, which "
                "was skipped: the run is not learning; lower the learning rate, or check the "
                "first model's weights and model.dtype"
            )

    def _means(self, key: str) -> _Means | None:
        last = list(self._last.get(key, ()))
        if len(last) < 2 * WINDOW:
            return None
        return _Means(self._first[key], last[:WINDOW], last[WINDOW:])


class _Means:
    def __init__(self, first: list[float], before: list[float], now: list[float]):
        self.first, self.before, self.now = (sum(x) / len(x) for x in (first, before, now))


def _at_once(values: Mapping[str, float]) -> dict[str, str]:
    """The alarms that a single step gives reason for."""
    found = {}

    def look(key: str, bad, text: str) -> None:
        if key in values and bad(values[key]):
            found[key] = text

    look(
        "frac_reward_zero_std",
        lambda v: v > 0.95,
        "almost all groups have equal rewards, so there is nothing to learn from: the problems are "
        "too hard (reward near 0: cold start longer, easier data) or solved (reward near its top), "
        "or a step holds too few groups (data.batch_size)",
    )
    if not math.isfinite(values.get("reward", 0.0)):
        found.pop("frac_reward_zero_std", None)
        found["reward"] = (
            "no sample was judged: all reward functions returned None or failed, so there is "
            "nothing to learn from; check that they apply to these rows"
        )
    for key, other in (("chosen", "rejected"), ("rejected", "chosen")):
        if math.isfinite(values.get(f"rewards/{other}", math.nan)):
            look(
                f"rewards/{key}",
                lambda v: not math.isfinite(v),
                "the batch holds no such completion, and KTO compares two classes: give rows of "
                "both labels, or raise data.batch_size",
            )
    look(
        "completions/clipped_ratio",
        lambda v: v > 0.5,
        "most samples are cut off: raise max_completion_length, or the model no longer ends",
    )
    look(
        "sampling/sampling_logp_difference/mean",
        lambda v: v > 0.05,
        "sampler and trainer disagree about the same tokens: check dtype and temperature, or set "
        "importance_sampling_correction",
    )
    if "reward" in values:  # of a policy
        look("entropy", lambda v: v > 6, "the policy is close to noise: lower the learning rate")
        look("entropy", lambda v: v < 1e-3, "samples hardly differ: raise temperature")
        look("kl", lambda v: v > 10, "it is far from the reference: raise beta or lower the rate")
    for key in ("loss", "grad_norm"):
        look(
            key,
            lambda v: not math.isfinite(v),
            "the update was skipped; lower the learning rate",
        )
    return found
