"""The log of a run: what survives a kill, what goes to TensorBoard and elsewhere."""

import json
import math
import re
import sys
import time
import types
from pathlib import Path

import pytest

from caugym_jax.devices import processes, terminal
from caugym_jax.errors import UserError
from caugym_jax.runs import log
from caugym_jax.runs import log as log_module
from caugym_jax.runs.events import EventFile
from caugym_jax.runs.log import (
    Log,
    LogSettings,
    Progress,
    clock,
    past_metrics,
    readable,
    write_text,
)

ROOT = Path(__file__).parents[2]
SAMPLE = {
    "prompt": "Why?\n# now", "completion": "x = é\n```\n**bold**", "answer": "4",
    "cut_off": False, "reward": 0.5, "rewards/answer": 1.0, "advantage": 0.25,
}  # fmt: skip


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_resumed_log_forgets_what_will_be_made_again(tmp_path):
    log = Log(tmp_path, 0, LogSettings(tensorboard=False))
    for step in (0, 1, 2, 3):
        log.metrics(step, {"loss": step / 2})
        log.samples(step, [{"reward": 1.0, "completion": f"at {step} a\u2028b\x85c"}])
    log.close()
    with log.metrics_path.open("a") as file:
        file.write('{"step": 4, "lo')  # killed while writing
    with log.samples_path.open("ab") as file:
        file.write('{"step": 4, "completion": "\u00e9'.encode()[:-1])  # in the middle of a letter
    log = Log(tmp_path, 2, LogSettings(tensorboard=False))
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
        log = Log(tmp_path, 0, LogSettings(tensorboard=False))
        log.metrics(0, {"eval/strict": 0.0})
        log.close()
    assert lines(log.metrics_path) == [{"step": 0, "eval/strict": 0.0}]


def test_what_is_not_finite_is_null(tmp_path):
    log = Log(tmp_path, 0, LogSettings(tensorboard=True))
    log.metrics(1, {"loss": math.nan, "kl": math.inf, "entropy": 0.5})
    log.close()
    assert lines(log.metrics_path) == [{"step": 1, "loss": None, "kl": None, "entropy": 0.5}]


def test_tensorboard_reads_what_is_written(tmp_path):
    """Its own messages (tensorboardX holds a copy of them) and checksums are the judge."""
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.record_writer import masked_crc32c

    for first in (0, 2):
        log = Log(tmp_path, first, LogSettings(tensorboard=True))
        log.metrics(first + 1, {"loss": 0.25, "huge": 1e300, "big/step": -3.0})
        log.samples(first + 300, [SAMPLE])
        log.close()
    (path,) = (tmp_path / "tensorboard").glob("events.out.tfevents.*.3")
    data, events = path.read_bytes(), []
    while data:  # TFRecord: length (8), its checksum (4), the event, its checksum (4)
        size = int.from_bytes(data[:8], "little")
        message = data[12 : 12 + size]
        assert masked_crc32c(data[:8]) == int.from_bytes(data[8:12], "little")
        assert masked_crc32c(message) == int.from_bytes(data[12 + size : 16 + size], "little")
        events.append(Event.FromString(message))
        data = data[16 + size :]
    assert [e.step for e in events if e.session_log.status] == [3]
    assert events[0].file_version == "brain.Event:2"
    assert all(abs(e.wall_time - time.time()) < 600 for e in events)
    scalars = {v.tag: (e.step, v.simple_value) for e in events for v in e.summary.value}
    assert scalars["loss"] == (3, 0.25) and scalars["big/step"] == (3, -3.0)
    assert scalars["huge"] == (3, pytest.approx(3.4028235e38))
    (text,) = [v for e in events for v in e.summary.value if v.tag == "samples/text_summary"]
    assert events[-1].step == 302 and text.metadata.plugin_data.plugin_name == "text"
    assert text.tensor.string_val == [readable([SAMPLE]).encode()]
    assert [d.size for d in text.tensor.tensor_shape.dim] == [1]


def test_samples_are_shown_verbatim():
    """Indented blocks: a completion's own Markdown is not rendered. A prompt stands once."""
    worse = SAMPLE | {"completion": "", "reward": -1.0, "advantage": None, "cut_off": True}
    assert readable([SAMPLE, worse]).split("\n\n") == [
        "### Prompt", "    Why?\n    # now", "Answer: `4`",
        "**reward 0.5, answer 1, advantage 0.25**", "    x = é\n    ```\n    **bold**",
        "**reward -1, answer 1, cut off**", "",
    ]  # fmt: skip


def test_the_first_row_of_the_layout_says_whether_it_learns(tmp_path):
    """TensorBoard's message, read field by field; its curves are names of docs/metrics.md."""

    def fields(message):
        while message:
            key, message = message[0], message[1:]
            size, shift = 0, 0
            while True:
                byte, message = message[0], message[1:]
                size |= (byte & 127) << shift
                shift += 7
                if byte < 128:
                    break
            if key & 7 == 0:
                yield key >> 3, size
            else:
                yield key >> 3, message[:size]
                message = message[size:]

    written = []
    board = EventFile(tmp_path, 1)
    board._tensor = lambda *args: written.append(args)
    board.layout(log_module.LAYOUT)
    ((step, tag, plugin, shape, message),) = written
    assert (step, tag, plugin, shape) == (0, "custom_scalars__config__", b"custom_scalars", b"")
    categories = [list(fields(x)) for field, x in fields(message) if field == 2]
    assert [category[0][1].decode() for category in categories] == list(log_module.LAYOUT)
    first = [dict(fields(chart)) for field, chart in categories[0] if field == 2]
    assert [chart[1].decode() for chart in first][:2] == ["right on held-out problems", "reward"]
    known = re.findall(r"^\| `([^`]+)`", (ROOT / "docs/metrics.md").read_text(), re.MULTILINE)
    for charts in log_module.LAYOUT.values():
        for curve in (curve for curves in charts.values() for curve in curves):
            assert any(re.fullmatch(curve, name) for name in known), curve


def test_a_full_disk_is_told_in_one_line(tmp_path):
    log = Log(tmp_path, 0, LogSettings(tensorboard=False))
    log.metrics_path = Path("/dev/full")
    with pytest.raises(UserError, match="cannot write /dev/full: No space left on device"):
        log.metrics(1, {"loss": 1.0})
    with pytest.raises(UserError, match="cannot write"):
        write_text(tmp_path / "absent" / "file", "text")


def test_files_are_replaced_whole(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_text(path, "old")

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(log.os, "replace", fail)
    with pytest.raises(UserError):
        write_text(path, "new")
    assert path.read_text() == "old"


def test_weights_and_biases_gets_the_same_numbers(tmp_path, monkeypatch):
    logged, opened = [], []

    class FakeRun:
        def log(self, values):
            logged.append(values)

        def define_metric(self, *args, **kwargs):
            pass

        def finish(self):
            logged.append("finished")

    def start(**settings):
        opened.append(settings)
        return FakeRun()

    fake = types.SimpleNamespace(
        init=start, Error=RuntimeError, Table=lambda columns, data: (columns, data)
    )
    monkeypatch.setitem(sys.modules, "wandb", fake)
    (tmp_path / "config.json").write_text('{"method": "sft"}')
    for _ in range(2):
        log = Log(tmp_path, 0, LogSettings(tensorboard=False, wandb=True))
        log.metrics(1, {"loss": 0.5, "kl": math.nan})
        log.samples(1, [{"reward": 1.0, "completion": "x"}])
        log.close()
    assert logged[:3] == [
        {"step": 1, "loss": 0.5, "kl": None},
        {"step": 1, "samples": (["reward", "completion"], [[1.0, "x"]])},
        "finished",
    ]
    assert opened[0]["config"] == {"method": "sft"}
    assert opened[0] == opened[1]  # the same id: a resumed run goes on with its own


def test_wandb_without_key_or_network_goes_on_offline(tmp_path, monkeypatch, capsys):
    opened = []

    class Error(Exception):
        pass

    def start(**settings):
        opened.append(settings)
        if settings.get("mode") != "offline":
            raise Error("api_key not configured (no-tty)\ncall wandb.login")
        return types.SimpleNamespace(define_metric=lambda *_, **__: None)

    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=start, Error=Error))
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    (tmp_path / "config.json").write_text("{}")
    Log(tmp_path, 0, LogSettings(tensorboard=False, wandb=True))
    assert [x["project"] for x in opened] == ["mine", "mine"] and opened[1]["mode"] == "offline"
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith("W&B cannot be reached (api_key not configured (no-tty)): it records in")


def test_without_the_package_wandb_the_way_out_is_told(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match="log.wandb=True needs the package wandb: pip install"):
        Log(tmp_path, 0, LogSettings(tensorboard=False, wandb=True))


def test_past_metrics_are_the_newest_lines(tmp_path):
    assert past_metrics(tmp_path) == []
    log = Log(tmp_path, 0, LogSettings(tensorboard=False))
    for step in range(5):
        log.metrics(step, {"loss": step})
    assert [line["step"] for line in past_metrics(tmp_path, 2)] == [3, 4]


def test_clock_by_hand():
    assert [clock(s) for s in (0, 61, 3723, -5)] == ["0:00", "1:01", "1:02:03", "0:00"]


def test_progress_in_a_log_is_plain_lines(capsys):
    progress = Progress(4, 10, every=3)
    for step in range(5, 11):
        progress.show(step, {"loss": step / 4, "other": 1.0}, ["loss", "absent"])
    processes.say("a note")
    out = capsys.readouterr().err.splitlines()
    assert [line.split()[1] for line in out[:-1]] == ["5/10", "6/10", "9/10", "10/10"]
    assert "loss 1.25" in out[0] and "left" in out[0] and "\x1b" not in out[0]
    assert out[-1] == "a note"


def test_the_rate_is_that_of_recent_steps_and_a_minute_is_not_silent(monkeypatch, capsys):
    clock = [0.0]
    monkeypatch.setattr(log_module.time, "perf_counter", lambda: clock[0])
    progress = Progress(0, 1000, every=100)
    for step in range(1, 42):
        clock[0] += 900 if step == 1 else 10 if step <= 20 else 20
        progress.show(step, {}, [])
    told = [line.split(None, 2)[1:] for line in capsys.readouterr().err.splitlines()]
    assert told[0] == ["1/1000", "900.00 s/step  249:45:00 left"]
    assert told[1] == ["7/1000", "10.00 s/step  2:45:30 left"]  # 60 s after the first
    assert told[-1] == ["41/1000", "20.00 s/step  5:19:40 left"]
    assert [line[0] for line in told][1:5] == ["7/1000", "13/1000", "19/1000", "23/1000"]


def test_a_line_is_cut_to_the_terminal(monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setattr(terminal, "_line", "")
    terminal.doing("opening a model")
    progress = Progress(0, 9)
    progress.show(1, {"a_long_name_of_a_metric": 1.0}, ["a_long_name_of_a_metric"])
    terminal.doing("sampling 96/512")
    processes.say("a note")
    terminal.doing("a word " * 9)
    progress.show(9, {}, [])
    terminal.doing("ended")
    written = capsys.readouterr().err.split("\r\x1b[K")[1:]
    assert written[0].rstrip() == "opening a model"
    assert written[1] == "step 1/9  a_long_name_of_a_metric 1  0."[:39]
    assert written[2] == "step 1/9  a_long_name_  sampling 96/512"
    assert written[3] == "a note\n" and written[4] == ("a word " * 9)[:39]
    assert written[5].startswith("step 9/9") and written[5].endswith("left\n")
    assert written[6] == "ended"  # the line of before is not written again


def test_a_log_says_once_a_minute_what_goes_on(monkeypatch, capsys):
    clock = [1e6]
    monkeypatch.setattr(terminal, "_line", "")
    monkeypatch.setattr(terminal, "_printed", clock[0])
    monkeypatch.setattr(log_module.time, "perf_counter", lambda: clock[0])
    progress = Progress(0, 9)
    terminal.doing("opening")
    clock[0] += 61
    terminal.doing("sampling, token 128/1024")  # before the first step
    progress.show(1, {}, [])
    for seconds in (30, 31, 5):
        clock[0] += seconds
        terminal.doing(f"sampling {clock[0] - 1e6:.0f}/512")
    early, first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("step 1/9") and second.startswith("step 1/9")
    assert early == "sampling, token 128/1024" and second.endswith("sampling 122/512")


def test_damaged_lines_are_dropped_and_told(tmp_path, capsys):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "loss": 1}\n{"step": 1, "lo\x00\n{"stop": 2}\n{"step": 2}\n{"st')
    Log(tmp_path, 2, LogSettings(tensorboard=False)).close()
    assert path.read_text() == '{"step": 1, "loss": 1}\n{"step": 2}\n'
    assert capsys.readouterr().err == f"{path}: 2 damaged lines were dropped\n"
    Log(tmp_path, 2, LogSettings(tensorboard=False)).close()
    assert not capsys.readouterr().err
