"""The log of a run: what survives a kill, what alarms, what goes to TensorBoard."""

import json
import math

import pytest

from caugym_jax import metrics
from caugym_jax.errors import UserError
from caugym_jax.metrics import Log, Progress, alarms, clock, write_text


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_resumed_log_forgets_what_will_be_made_again(tmp_path):
    log = Log(tmp_path, 0, tensorboard=False)
    for step in (0, 1, 2, 3):
        log.metrics(step, {"loss": step / 2})
        log.samples(step, [{"reward": 1.0, "completion": f"at {step} a\u2028b\x85c"}])
    log.close()
    with log.metrics_path.open("a") as file:
        file.write('{"step": 4, "lo')  # killed while writing
    with log.samples_path.open("ab") as file:
        file.write('{"step": 4, "completion": "\u00e9'.encode()[:-1])  # in the middle of a letter
    log = Log(tmp_path, 2, tensorboard=False)
    log.metrics(3, {"loss": 7.0})
    log.close()
    assert lines(log.metrics_path) == [
        {"step": 0, "loss": 0.0},
        {"step": 1, "loss": 0.5},
        {"step": 2, "loss": 1.0},
        {"step": 3, "loss": 7.0},
    ]
    kept = [json.loads(x) for x in log.samples_path.read_text().split("\n") if x]
    assert [x["step"] for x in kept] == [0, 1, 2]
    assert kept[0]["completion"] == "at 0 a\u2028b\x85c"


def test_a_run_begun_anew_starts_an_empty_log(tmp_path):
    """Killed before its first checkpoint: even the line of step 0 is made again."""
    for _ in range(2):
        log = Log(tmp_path, 0, tensorboard=False)
        log.metrics(0, {"eval/strict": 0.0})
        log.close()
    assert lines(log.metrics_path) == [{"step": 0, "eval/strict": 0.0}]


def test_what_is_not_finite_is_null(tmp_path):
    log = Log(tmp_path, 0, tensorboard=True)
    log.metrics(1, {"loss": math.nan, "kl": math.inf, "entropy": 0.5})
    log.close()
    assert lines(log.metrics_path) == [{"step": 1, "loss": None, "kl": None, "entropy": 0.5}]


def test_tensorboard_reads_what_is_written(tmp_path):
    from tensorboardX.proto.event_pb2 import Event

    for first in (0, 2):
        log = Log(tmp_path, first, tensorboard=True)
        log.metrics(first + 1, {"loss": 0.25})
        log.samples(first + 1, [{"reward": 0.5, "completion": "x = 1"}])
        log.close()
    (path,) = (tmp_path / "tensorboard").glob("events.out.tfevents.*.3")
    data, events = path.read_bytes(), []
    while data:  # TFRecord: length (8), its checksum (4), the event, its checksum (4)
        size = int.from_bytes(data[:8], "little")
        events.append(Event.FromString(data[12 : 12 + size]))
        data = data[16 + size :]
    assert [e.step for e in events if e.session_log.status] == [3]
    assert events[0].file_version == "brain.Event:2"
    (scalar,) = [v for e in events for v in e.summary.value if v.tag == "loss"]
    assert scalar.simple_value == 0.25
    (text,) = [v for e in events for v in e.summary.value if v.tag == "samples/text_summary"]
    assert text.tensor.string_val == [b"`0.50` x = 1"]


def test_a_full_disk_is_told_in_one_line(tmp_path):
    log = Log(tmp_path, 0, tensorboard=False)
    log.metrics_path = metrics.Path("/dev/full")
    with pytest.raises(UserError, match="cannot write /dev/full: No space left on device"):
        log.metrics(1, {"loss": 1.0})
    with pytest.raises(UserError, match="cannot write"):
        write_text(tmp_path / "absent" / "file", "text")


def test_files_are_replaced_whole(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_text(path, "old")

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(metrics.os, "replace", fail)
    with pytest.raises(UserError):
        write_text(path, "new")
    assert path.read_text() == "old"


HEALTHY = {
    "loss": 0.1, "grad_norm": 1.0, "reward": 0.5, "entropy": 1.0, "kl": 0.1,
    "frac_reward_zero_std": 0.5, "completions/clipped_ratio": 0.1,
    "sampling/sampling_logp_difference/mean": 1e-5,
}  # fmt: skip


def test_a_healthy_step_is_silent():
    assert alarms(HEALTHY) == {}
    assert alarms({}) == {}
    assert alarms({"entropy": 7.3, "loss": 8.0}) == {}  # a fresh model in SFT


@pytest.mark.parametrize(
    ("key", "value", "cause"),
    [
        ("frac_reward_zero_std", 1.0, "nothing to learn from"),
        ("completions/clipped_ratio", 0.9, "cut off"),
        ("sampling/sampling_logp_difference/mean", 0.2, "disagree"),
        ("entropy", 6.5, "noise"),
        ("entropy", 1e-5, "hardly differ"),
        ("kl", 50.0, "far from the reference"),
        ("loss", math.nan, "lower the learning rate"),
        ("grad_norm", math.inf, "lower the learning rate"),
    ],
)
def test_alarms_name_value_and_cause(key, value, cause):
    said = alarms(HEALTHY | {key: value})
    assert list(said) == [key] and key in said[key] and cause in said[key]


def test_clock_by_hand():
    assert [clock(s) for s in (0, 61, 3723, -5)] == ["0:00", "1:01", "1:02:03", "0:00"]


def test_progress_in_a_log_is_plain_lines(capsys):
    progress = Progress(4, 10, every=3)
    for step in range(5, 11):
        progress.show(step, {"loss": step / 4, "other": 1.0}, ["loss", "absent"])
    progress.note("a note")
    out = capsys.readouterr().err.splitlines()
    assert [line.split()[1] for line in out[:-1]] == ["6/10", "9/10", "10/10"]
    assert "loss 1.5" in out[0] and "left" in out[0] and "\x1b" not in out[0]
    assert out[-1] == "a note"
