"""The command: on this machine, and for a TPU slice where libtpu is installed."""

import importlib.util
import json
import os
import subprocess
import sys

import pytest

from caugym_jax import compile as command
from caugym_jax.errors import UserError
from caugym_jax.planning import topology
from caugym_jax.planning.collectives import OUTSIDE
from tests.shared import ROOT
from tests.tiny_model import tiny_model  # noqa: F401

TINY = "tests/end_to_end/tiny_config.py"


def test_here(tiny_model, tmp_path, capsys):  # noqa: F811
    """All programs of a step fit this machine, on its eight virtual devices."""
    file = tmp_path / "report.json"
    command.main(
        [f"--config={TINY}:grpo", f"--config.model.name={tiny_model}", "--topology=here",
         "--config.data.batch_size=8", "--config.mesh.fsdp=8", "--config.mesh.data=1",
         f"--json={file}"]
    )  # fmt: skip
    report = json.loads(file.read_text())
    assert [p["name"] for p in report["programs"]] == ["sample", "update"]
    assert report["config"] == f"{TINY}:grpo" and report["devices"] == 8
    assert report["mesh"] == {"data": 1, "fsdp": 8, "context": 1, "tensor": 1}
    update = report["programs"][1]
    for program in report["programs"]:
        memory = program["memory"]
        whole = sum(memory[k] for k in ("arguments", "outputs", "temporaries", "code", "beside"))
        assert memory["peak"] == whole - memory["aliased"] and program["fits"]
        assert program["predicted"]["seconds"] > 0 and 0 < program["predicted"]["mfu"] < 1
    assert update["memory"]["aliased"] > 0 and "all-gather" in update["collectives"]
    seconds = sum(p["predicted"]["seconds"] for p in report["programs"])
    assert report["step"]["seconds"] == pytest.approx(seconds)
    assert report["step"]["hours"] == pytest.approx(seconds * 6 / 3600)
    told = capsys.readouterr().out
    assert "update x 1 a step: fits" in told and "hours" in told


def test_search_here(tiny_model, tmp_path, capsys):  # noqa: F811
    """The best mesh by estimate is compiled, and the flags that set it are printed."""
    file = tmp_path / "report.json"
    command.main(
        [f"--config={TINY}:sft", f"--config.model.name={tiny_model}", "--topology=here",
         "--search", f"--json={file}"]
    )  # fmt: skip
    report = json.loads(file.read_text())
    (update,) = report["programs"]
    best = report["estimates"][0]
    assert update["name"] == "update" and update["fits"]
    assert report["mesh"] == best["mesh"] and report["remat"] == best["remat"]
    assert f"--config.mesh.fsdp={best['mesh']['fsdp']}" in capsys.readouterr().out


def test_what_does_not_fit_is_said_in_a_line(tiny_model, monkeypatch, tmp_path):  # noqa: F811
    from caugym_jax.planning import machine

    monkeypatch.setattr(machine, "memory_limit", lambda device: 8 * 2**16)
    file = tmp_path / "report.json"
    with pytest.raises(UserError) as error:
        command.main(
            [f"--config={TINY}:sft", f"--config.model.name={tiny_model}", "--topology=here",
             f"--json={file}"]
        )  # fmt: skip
    assert "the update program needs 0.0" in str(error.value)
    assert "data.batch_size or data.max_length" in str(error.value)
    assert not json.loads(file.read_text())["programs"][0]["fits"]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("v9:2x2", "use here, or one of v4, v5e, v5p, v6e, tpu7x"),
        ("v5p:4x4", "v5p slices are called like v5p:2x2x4"),
        ("v5e:4x4x4", "v5e slices are called like v5e:4x4"),
        ("v5e", "v5e slices are called like v5e:4x4"),
    ],
)
def test_a_wrong_topology_is_refused(name, said):
    with pytest.raises(UserError, match=said):
        command.main(["--config=sft.py", f"--topology={name}"])


def test_without_libtpu_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install -r requirements-tpu-compile.txt"):
        topology.prepare("v5p:2x2x1")
    topology.prepare("here")
    assert (ROOT / "requirements-tpu-compile.txt").exists()


def test_what_the_compiler_says_of_a_program_that_is_too_large(tiny_model):  # noqa: F811
    """libtpu refuses by itself; its words as of libtpu 0.0.42."""
    import jax

    from caugym_jax.devices.shapes import local_bytes
    from caugym_jax.planning.abstract import plan
    from caugym_jax.planning.compiling import _refused
    from caugym_jax.runs.settings import load

    config = load(f"{TINY}:sft", [f"model.name={tiny_model}"])
    (update,) = plan(config, jax.devices()[:1]).calls
    said = (
        "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO "
        "temporaries (17.50G) exceeds available HBM (15.75G)."
    )
    memory = _refused(update, said)
    assert memory["temporaries"] == 17.5 * 2**30
    given = update.arguments, update.program.last
    assert memory["arguments"] == local_bytes(given) > 0
    assert "temporaries" not in _refused(update, "RESOURCE_EXHAUSTED: in other words")


def test_an_unknown_program_is_named(tiny_model):  # noqa: F811
    with pytest.raises(UserError, match="no 'updates' among update"):
        command.main(
            [f"--config={TINY}:sft", f"--config.model.name={tiny_model}", "--topology=here",
             "--programs=updates"]
        )  # fmt: skip


def compiled(tmp_path, *arguments):
    """The report of a process of its own, whose libtpu takes it for a TPU's host."""
    if importlib.util.find_spec("libtpu") is None:
        pytest.skip("libtpu is not installed: pip install -r requirements-tpu-compile.txt")
    file = tmp_path / "report.json"
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    done = subprocess.run(
        [sys.executable, "-m", "caugym_jax.compile", *arguments, f"--json={file}"],
        cwd=ROOT, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(file.read_text())


def test_for_a_slice_of_a_tpu(tiny_model, tmp_path):  # noqa: F811
    report = compiled(
        tmp_path, f"--config={TINY}:sft", f"--config.model.name={tiny_model}",
        "--config.mesh.fsdp=4", "--config.mesh.data=1", "--topology=v5e:2x2",
    )  # fmt: skip
    assert report["kind"] == "TPU v5 lite" and report["devices"] == 4
    assert report["dtype"] == "bfloat16" and report["attention"] == "splash"
    (update,) = report["programs"]
    assert update["fits"] and update["memory"]["arguments"] > 0 and update["collectives"]


def test_for_slices_joined_by_a_slower_network(tiny_model, tmp_path):  # noqa: F811
    """Each device sends its part of the gradients to the other slice, in 2 or 4 bytes a parameter,
    and little else: the weights are gathered within a slice. Wide enough for whole tiles."""
    shape = json.loads((tiny_model / "config.json").read_text())
    shape |= {"hidden_size": 1024, "head_dim": 128, "intermediate_size": 2048}
    shape |= {"num_attention_heads": 8, "num_key_value_heads": 4, "vocab_size": 4096}
    (tmp_path / "config.json").write_text(json.dumps(shape))
    report = compiled(
        tmp_path, f"--config={TINY}:sft", f"--config.model.name={tmp_path}",
        "--config.mesh.fsdp=4", "--config.mesh.data=2", "--config.mesh.slices=2",
        "--config.data.batch_size=8", "--topology=v5e:2x2",
    )  # fmt: skip
    assert report["devices"] == 8 and report["slices"] == 2
    (update,) = report["programs"]
    part = report["parameters"] / 4
    assert 1.9 * part < update["collectives"][OUTSIDE]["bytes"] < 4.2 * part
    assert update["collectives"]["all-gather"]["bytes"] > 2 * part
