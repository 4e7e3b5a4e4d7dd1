"""The export command, on a workdir laid out by hand."""

import json
import os
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from caugym_jax import export
from caugym_jax.data.tokenizer import load_tokenizer
from caugym_jax.devices.mesh import make_mesh
from caugym_jax.errors import UserError
from caugym_jax.models.hub import load_pretrained
from caugym_jax.runs import exporting
from caugym_jax.runs.checkpoints import Checkpoints, CheckpointSettings
from caugym_jax.runs.folder import chosen_step, save_shape
from caugym_jax.runs.opening import ModelSettings, open_model, stored_params
from caugym_jax.types import TrainState
from tests.data.byte_tokenizer import CHAT, save_byte_tokenizer
from tests.models.test_hub import assert_same
from tests.models.tiny import FAMILIES, random_params
from tests.shared import ROOT

CONFIG = FAMILIES["qwen2-tied"].__class__(**{**vars(FAMILIES["qwen2-tied"]), "vocab_size": 300})


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """Two checkpoints: step 3 and step 5."""
    root = tmp_path_factory.mktemp("run")
    tokenizer = load_tokenizer(save_byte_tokenizer(root / "source", chat_template=CHAT))
    save_shape(root / "model", CONFIG, tokenizer)
    checkpoints = Checkpoints(root, CheckpointSettings(keep=2))
    for step in (3, 5):
        params = jax.tree.map(jnp.asarray, random_params(CONFIG, seed=step))
        moments = jax.tree.map(jnp.zeros_like, params)
        checkpoints.save(TrainState(jnp.int32(step), params, moments, jnp.int32(0)), {"at": step})
    checkpoints.wait()
    checkpoints.close()
    return root


@pytest.mark.parametrize(("options", "step"), [([], 5), (["--step=3"], 3)])
def test_exports_the_chosen_step(workdir, tmp_path, capsys, options, step):
    out = tmp_path / "hf"
    export.main([f"--workdir={workdir}", f"--out={out}", *options])
    assert f"wrote {out}" in capsys.readouterr().out
    config, params = load_pretrained(out)
    assert config == CONFIG
    assert_same(params, random_params(CONFIG, seed=step))
    tokenizer = load_tokenizer(out)
    assert tokenizer.has_chat_template
    assert json.loads((out / "generation_config.json").read_text())["eos_token_id"] == 1


def test_a_checkpoint_that_a_live_run_is_writing_survives_readers(workdir, tmp_path):
    unfinished = workdir / "checkpoints" / "9.orbax-checkpoint-tmp"
    unfinished.mkdir()
    export.main([f"--workdir={workdir}", f"--out={tmp_path / 'hf'}"])
    assert unfinished.is_dir()
    assert chosen_step(str(workdir), None) == 5
    assert unfinished.is_dir()
    unfinished.rmdir()


def test_a_live_run_may_delete_what_is_exported(workdir, tmp_path, capsys, monkeypatch):
    """The run saves step 7 and deletes step 5 while that one is read."""
    live = shutil.copytree(workdir, tmp_path / "live")
    real, asked = exporting.stored_params, []

    def read(folder, config, step):
        asked.append(step)
        if len(asked) == 1:
            shutil.copytree(live / "checkpoints" / "3", live / "checkpoints" / "7")
            shutil.rmtree(live / "checkpoints" / "5")
        return real(folder, config, step)

    monkeypatch.setattr(exporting, "stored_params", read)
    export.main([f"--workdir={live}", f"--out={tmp_path / 'hf'}"])
    assert asked == [5, 7] and capsys.readouterr().err == ""
    assert_same(load_pretrained(tmp_path / "hf")[1], random_params(CONFIG, seed=3))
    with pytest.raises(UserError, match="has no checkpoint of step 5: it has 3, 7"):
        export.main([f"--workdir={live}", f"--out={tmp_path / 'hf5'}", "--step=5"])


def test_bfloat16_halves_it(workdir, tmp_path):
    for dtype in ("float32", "bfloat16"):
        export.main([f"--workdir={workdir}", f"--out={tmp_path / dtype}", f"--dtype={dtype}"])
    sizes = [(tmp_path / d / "model.safetensors").stat().st_size for d in ("float32", "bfloat16")]
    assert 1.9 < sizes[0] / sizes[1] < 2
    exact = load_pretrained(tmp_path / "float32")[1]["embed"]
    rounded = load_pretrained(tmp_path / "bfloat16")[1]["embed"]
    np.testing.assert_allclose(rounded, exact, rtol=2**-8)


def test_mistakes_get_one_clear_line(workdir, tmp_path, capsys):
    with pytest.raises(UserError, match="holds no checkpoints"):
        export.main([f"--workdir={tmp_path}", f"--out={tmp_path / 'hf'}"])
    with pytest.raises(UserError, match=r"no checkpoint of step 4: it has 3, 5"):
        export.main([f"--workdir={workdir}", f"--out={tmp_path / 'hf'}", "--step=4"])
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "keep.txt").write_text("mine")
    with pytest.raises(UserError, match="not an empty folder"):
        export.main([f"--workdir={workdir}", f"--out={tmp_path / 'full'}"])
    assert [f.name for f in (tmp_path / "full").iterdir()] == ["keep.txt"]
    with pytest.raises(SystemExit) as usage:
        export.main([f"--workdir={workdir}"])
    assert usage.value.code == 2
    assert "--out" in capsys.readouterr().err


@pytest.mark.parametrize(
    "optim", [{}, {"optim.ema": 0.9}, {"optim.name": "schedule_free", "optim.b1": 0.9}]
)
def test_what_is_read_layer_by_layer_is_what_is_opened_whole(tmp_path, optim):
    tokenizer = load_tokenizer(save_byte_tokenizer(tmp_path / "source", chat_template=CHAT))
    save_shape(tmp_path / "model", CONFIG, tokenizer)
    (tmp_path / "config.json").write_text(json.dumps({"method": "sft", **optim}))
    params, other = (jax.tree.map(jnp.asarray, random_params(CONFIG, seed=i)) for i in (1, 2))
    moments = {"ema": other} if "optim.ema" in optim else {"z": other}
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(TrainState(jnp.int32(1), params, moments, jnp.int32(0)), {})
    checkpoints.close()
    whole = open_model(ModelSettings(str(tmp_path)), make_mesh(data=1, fsdp=8)).params
    stored = stored_params(tmp_path, CONFIG)
    assert_same(jax.tree.map(np.asarray, stored), jax.device_get(whole))
    for name, stack in stored["layers"].items():
        np.testing.assert_array_equal(stack[1], whole["layers"][name][1])
    changed = not np.array_equal(whole["embed"], params["embed"])
    assert changed == bool(optim)


@pytest.mark.parametrize(
    ("layers", "d_model", "d_ff"),
    [(3, 1024, 8192), pytest.param(6, 2048, 12288, marks=pytest.mark.slow)],
)
def test_export_needs_little_more_memory_than_the_largest_tensor(tmp_path, layers, d_model, d_ff):
    """0.3 GB of 34 MB tensors; slow: 1.8 GB of 101 MB tensors, in less than twice one of them."""
    command = [sys.executable, "-m", "tests.export_memory", str(tmp_path)]
    command += map(str, (layers, d_model, d_ff))
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    environment |= {"JAX_PLATFORMS": "cpu"}
    for _ in range(2):  # makes the checkpoint; exports it
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    print(told)
    buffers = 90e6  # of what reads and decodes; the same for any size
    assert told["peak above before"] < min(told["largest"] + buffers, told["all"] / 2)
    if told["largest"] > 1e8:
        assert told["peak above before"] < 2 * told["largest"] < told["all"] / 8


def test_the_card_says_what_was_trained_how_and_with_which_figures(workdir, tmp_path, monkeypatch):
    run = tmp_path / "run"
    shutil.copytree(workdir, run)
    settings = {"method": "sft", "steps": 5, "seed": 2, "model.name": "owner/base", "lora.rank": 0,
                "data.path": "/home/me/rows.jsonl"}  # fmt: skip
    (run / "config.json").write_text(json.dumps(settings))
    start = {"time": "2024-01-02", "command": ["/x/train.py", "--workdir=/home/me/run"],
             "jax": "0.9"}  # fmt: skip
    (run / "run.json").write_text(json.dumps({"starts": [start]}))
    lines = [{"step": 0, "eval/loss": 2.5}, {"step": 3, "loss": 1.5}, {"step": 5, "loss": 1.25}]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    calls = []

    class Hub:
        def create_repo(self, name, exist_ok):
            calls.append((name, exist_ok))

        def upload_folder(self, folder_path, repo_id):
            calls.append((folder_path, repo_id))

    monkeypatch.setattr("huggingface_hub.HfApi", Hub)
    out = tmp_path / "hf"
    export.main([f"--workdir={run}", f"--out={out}", "--step=3", "--push=me/model"])
    assert calls == [("me/model", True), (str(out), "me/model")]
    card = (out / "README.md").read_text()
    for part in ('base_model: "owner/base"', "tags: [caugym_jax, sft]", "step 3 of 5",
                 "data: rows.jsonl", "python -m caugym_jax.train --workdir=run", "jax 0.9",
                 "| eval/loss | 2.5000 |", "| loss | 1.5000 |"):  # fmt: skip
        assert part in card, part
    assert "/home/me" not in card
    with pytest.raises(UserError, match="--push=model: expected owner/name"):
        exporting.push(out, "model")
