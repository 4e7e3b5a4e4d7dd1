"""A run that trains adapters: interrupted, opened again, exported, and gone on from."""

import json
import shutil

import jax
import numpy as np
import pytest

from caugym_jax import export
from caugym_jax.devices.mesh import make_mesh
from caugym_jax.errors import UserError
from caugym_jax.models.hub import load_pretrained
from caugym_jax.models.lora import Lora, freeze, merge, thaw
from caugym_jax.models.peft import load_adapter
from caugym_jax.runs.opening import ModelSettings, open_adapters, open_model
from caugym_jax.train import main as train
from tests.end_to_end.runs import command, digests, left_behind, metrics
from tests.end_to_end.test_resume import check, compiled  # noqa: F401
from tests.models.test_hub import assert_same
from tests.tiny_model import tiny_model  # noqa: F401

LORA = Lora(rank=4, alpha=8.0, rslora=True, targets="q,v,mlp", base_dtype="int8")
OPTIONS = [
    "--config.lora.rank=4", "--config.lora.alpha=8", "--config.lora.rslora=true",
    "--config.lora.targets=q,v,mlp",
]  # fmt: skip
SFT = [*OPTIONS, "--config.lora.base_dtype=int8", "--config.steps=4", "--config.evaluation.every=4"]
MESH = make_mesh()


@pytest.fixture(scope="module")
def run(tiny_model, tmp_path_factory):  # noqa: F811
    """Four steps of SFT on a base in 8 bits, over a mesh that splits it."""
    workdir = tmp_path_factory.mktemp("lora") / "run"
    train(command("sft", tiny_model, workdir, *SFT, "--config.mesh.fsdp=2"))
    return workdir


def assert_near(found, expected):
    """Equal but for the order in which other meshes add."""
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_a_checkpoint_holds_adapters_alone(run):
    kinds = {name.rpartition("['")[2][:-2] for name in digests(run, 4)}
    assert {"q_lora_a", "down_lora_b", "count"} <= kinds
    assert not kinds & {"q", "embed", "final_norm", "o_lora_a", "q_scale"}


def test_interrupted_it_ends_like_others(run, tiny_model, tmp_path):  # noqa: F811
    parts = tmp_path / "parts"
    more = [*SFT, "--config.mesh.fsdp=2"]
    train(command("sft", tiny_model, parts, *more, "--config.steps=2"))
    train(command("sft", tiny_model, parts, *more))
    # one evaluates at its end, step 2, the other does not
    found, expected = left_behind(parts, 4), left_behind(run, 4)
    check({k: found[k] for k in ("state", "position", "after")}, {
        k: expected[k] for k in ("state", "position", "after")})  # fmt: skip


def test_it_opens_merged_into_its_base_as_trained(run, tiny_model):  # noqa: F811
    adapters = jax.device_get(open_adapters(run, MESH))
    assert all(np.abs(x).max() > 1e-3 for x in jax.tree.leaves(adapters))
    frozen = jax.device_get(freeze(load_pretrained(tiny_model)[1], "int8"))
    opened = open_model(ModelSettings(str(run)), MESH).params
    assert_near(opened, merge(adapters, frozen, 4.0))
    plain = thaw(frozen)["layers"]["q"]
    assert np.abs(opened["layers"]["q"] - plain).max() > 1e-2
    halved = open_model(ModelSettings(str(run)), MESH, kept="bfloat16").params
    assert halved["layers"]["q"].dtype == "bfloat16" and halved["final_norm"].dtype == "float32"


def test_it_exports_merged_and_alone(run, tmp_path, capsys):
    export.main([f"--workdir={run}", f"--out={tmp_path / 'whole'}"])
    merged = open_model(ModelSettings(str(run)), MESH).params
    assert_near(load_pretrained(tmp_path / "whole")[1], merged)
    export.main([f"--workdir={run}", f"--out={tmp_path / 'alone'}", "--adapter"])
    assert "an adapter of rank 4 for" in capsys.readouterr().out
    config = open_model(ModelSettings(str(run)), MESH, weights=False).model.config
    assert_same(
        load_adapter(tmp_path / "alone", config, LORA), jax.device_get(open_adapters(run, MESH))
    )


def test_grpo_goes_on_from_an_adapter(run, tiny_model, tmp_path):  # noqa: F811
    """Its reference is the frozen base, from which the adapter it starts with has moved away."""
    adapter, workdir = tmp_path / "adapter", tmp_path / "grpo"
    export.main([f"--workdir={run}", f"--out={adapter}", "--adapter"])
    options = [f"--config.lora.init={adapter}", "--config.grpo.beta=0.1", "--config.steps=2"]
    train(command("grpo", tiny_model, workdir, *OPTIONS, *options))
    now, before = (jax.tree.leaves(jax.device_get(open_adapters(d, MESH))) for d in (workdir, run))
    gap = max(np.abs(a - b).max() for a, b in zip(now, before, strict=True))
    assert 0 < gap < 0.05  # two steps at 1e-2 at most
    learned = [line for line in metrics(workdir) if "kl" in line]
    assert learned and all(line["kl"] > 1e-5 for line in learned)


def test_a_base_that_is_gone_is_named(run, tmp_path):
    moved = shutil.copytree(run, tmp_path / "moved")
    stored = json.loads((run / "config.json").read_text())
    (moved / "config.json").write_text(json.dumps(stored | {"model.name": "runs/gone"}))
    told = f"{moved} holds adapters of the model runs/gone, which cannot be opened: there is no"
    with pytest.raises(UserError, match=told):
        open_model(ModelSettings(str(moved)), MESH)


SMALL = [
    "--config.data.batch_size=8", "--config.evaluation.n=4", "--config.evaluation.max_new_tokens=4",
    "--config.optim.decay=constant", "--config.optim.peak=1e-2",
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("method", ["dpo", "kto", "ppo"])
def test_the_other_methods_train_adapters(method, tiny_model, tmp_path):  # noqa: F811
    workdir, more = tmp_path / "run", [*OPTIONS, "--config.lora.base_dtype=int8", *SMALL]
    more += ["--config.ppo.max_completion_length=4"] if method == "ppo" else []
    start = [f"--config={method}.py", f"--workdir={workdir}", f"--config.model.name={tiny_model}"]
    train([*start, *more, "--config.steps=2"])
    assert all(np.abs(x).max() > 1e-4 for x in jax.tree.leaves(open_adapters(workdir, MESH)))
    train([*start, *more, "--config.steps=3"])  # and goes on
    assert metrics(workdir)[-1]["step"] == 3


def test_adapters_that_do_not_fit_are_refused(run, tiny_model, tmp_path):  # noqa: F811
    export.main([f"--workdir={run}", f"--out={tmp_path / 'adapter'}", "--adapter"])
    for options, told in (
        (["--config.lora.rank=8"], r"made with other settings: set --config.lora.rank=4 --config"),
        ([*OPTIONS, "--config.lora.targets=all"], "set --config.lora.targets=q,v,gate,up,down"),
        ([], "set lora.rank to that adapter's"),
    ):
        with pytest.raises(UserError, match=told):
            train(
                command(
                    "sft", tiny_model, tmp_path / "refused", *options,
                    f"--config.lora.init={tmp_path / 'adapter'}",
                )
            )  # fmt: skip
