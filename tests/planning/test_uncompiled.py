"""GPUs that are not there: their report by formula."""

import json

import pytest

from caugym_jax import compile as command
from caugym_jax.errors import UserError
from caugym_jax.models.config import ModelConfig
from caugym_jax.models.work import Work
from caugym_jax.planning.search import estimated_traffic
from caugym_jax.planning.topology import open_slice, slices_of
from caugym_jax.planning.uncompiled import traffic
from tests.tiny_model import tiny_model  # noqa: F401

TINY = "tests/end_to_end/tiny_config.py"
# 2 layers: D 8, N 2, K 1, H 4, F 16, V 100; 2752 parameters, tables and all
TOY = ModelConfig("llama", 100, 8, 2, 2, 1, 4, 16)
MESH = {"data": 1, "fsdp": 4, "context": 1, "tensor": 2}


def test_whole_rows_by_hand():
    """8 rows of 4 tokens in 2 parts: a layer's weights for each part; the stream of 1 row."""
    before, drawing = traffic(Work(TOY, 8, 4, 2, parts=2), MESH)
    gathered, reduced = before
    assert not drawing
    assert (gathered.kind, gathered.times, gathered.group) == ("all-gather", 4, (0, 2, 4, 6))
    assert gathered.bytes == 2 * 2752 / 2 / 2
    assert (reduced.kind, reduced.times, reduced.group) == ("all-reduce", 8, (0, 1))
    assert reduced.bytes == 2 * 1 * 4 * 8


def test_drawn_tokens_by_hand():
    """4 prompts of 3 samples, 5 tokens drawn: 2 all-reduces a layer and token of 3 places."""
    mesh = MESH | {"data": 4, "fsdp": 1}
    before, drawing = traffic(Work(TOY, 4, 4, 0, drawn=5, samples=3), mesh)
    assert [one.kind for one in before] == ["all-reduce"]
    (one,) = drawing
    assert (one.times, one.bytes, one.drawing) == (2 * 2 * 5, 2 * 3 * 8, True)


def test_an_update_sends_what_the_search_says():
    work = Work(TOY, 8, 4, 2, train=True)
    assert traffic(work, MESH) == (estimated_traffic(work, MESH), [])


def test_the_devices_of_machines():
    assert slices_of("h100:8") == ["h100:1", "h100:2", "h100:4", "h100:8"]
    where = open_slice("h200:4", 2)
    assert [d.process_index for d in where.devices] == [0] * 4 + [1] * 4
    assert where.devices[0].device_kind == "NVIDIA H200" and not where.compiles
    with pytest.raises(UserError, match="a machine has 1, 2, 4, 8 GPUs .h100:8.; of several set"):
        command.main(["--config=sft.py", "--topology=h100:16"])


@pytest.mark.parametrize("slices", [1, 2])
def test_the_command(tiny_model, tmp_path, capsys, slices):  # noqa: F811
    file = tmp_path / "report.json"
    command.main(
        [f"--config={TINY}:grpo", f"--config.model.name={tiny_model}", "--topology=h100:4",
         "--config.data.batch_size=8", "--config.mesh.fsdp=4", f"--config.mesh.data={slices}",
         f"--config.mesh.slices={slices}", f"--json={file}"]
    )  # fmt: skip
    report = json.loads(file.read_text())
    assert report["kind"] == "NVIDIA H100" and report["devices"] == 4 * slices
    assert report["dtype"] == "bfloat16" and report["attention"] == "cudnn"
    assert [p["name"] for p in report["programs"]] == ["sample", "update"]
    for program in report["programs"]:
        memory = program["memory"]
        parts = memory["arguments"] + memory["temporaries"] + memory["beside"]
        assert memory["peak"] == pytest.approx(parts) and program["fits"]
        assert program["compile_seconds"] is None and program["predicted"]["seconds"] > 0
        assert program["limit"] == 0.94 * 80e9
    assert ("between slices" in report["programs"][1]["collectives"]) == (slices == 2)
    assert "update x 1 a step: fits, by estimate, not compiled" in capsys.readouterr().out
