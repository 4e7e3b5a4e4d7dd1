"""The train command's answers to bad input: one clear line, status 1 or 2, nothing lost."""

import json
import os
import subprocess
import sys

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from caugym_jax import generate
from caugym_jax.cli import commands
from caugym_jax.devices import programs
from caugym_jax.errors import UserError
from caugym_jax.runs.folder import claim_workdir
from caugym_jax.runs.settings import flat, load
from caugym_jax.train import main as train
from tests.algorithms.test_grpo import SPREAD, Setup
from tests.end_to_end.runs import command
from tests.shared import ROOT
from tests.tiny_model import tiny_model  # noqa: F401


@pytest.fixture
def refused(tiny_model, tmp_path, monkeypatch, capsys):  # noqa: F811
    """A function from a method and options to the one line that the command ends with."""

    def run(method, *more, model=tiny_model, workdir=tmp_path / "run"):
        monkeypatch.setattr(sys, "argv", ["train", *command(method, model, workdir, *more)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            commands.run(train)
        assert stop.value.code == 1
        out, err = capsys.readouterr()
        assert "Traceback" not in err and out == ""
        last = err.splitlines()[-1]
        assert last.startswith("error: ") and err.count("error: ") == 1
        return last

    return run


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Six problems with solutions."""
    path = tmp_path_factory.mktemp("data") / "data.jsonl"
    generate.main(["--tasks=ATE,ETT", "--n=6", "--seed=1", "--for=sft", f"--out={path}"])
    return path


def test_wrong_usage_exits_with_2(capsys):
    for arguments in (
        [],
        ["--config"],
        ["--config=sft.py", "--stesp=3"],
        ["--config=sft.py", "--config.steps"],
        ["--config=sft.py", "extra"],
    ):
        with pytest.raises(SystemExit) as stop:
            train(arguments)
        assert stop.value.code == 2
        assert "usage: python -m caugym_jax.train" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--config.stesp=3"], "config has no key 'stesp': did you mean 'steps'?"),
        (["--config.optim.peek=1"], "config.optim has no key 'peek': did you mean 'peak'?"),
        (["--config.steps=many"], "config.steps=many: must be a whole number"),
        (["--config.steps=0"], "config.steps=0: must be at least 1"),
        (["--config.data.batch_size=none"], "config.data.batch_size=none: must be a whole number"),
        (["--config.optim.peak=none"], "config.optim.peak=none: must be a number"),
        (["--config.data.nodes=3..5"], "config.data.nodes=3..5: must be 2 whole numbers"),
        (["--config.data.tasks=ATE,XYZ"], "XYZ"),
        (["--config.mesh.data=3"], "this machine has 8: change config.mesh"),
        (["--config.data.batch_size=3"], "are not a multiple of microbatches x batch shards"),
        (["--config.sft.microbatches=3"], "= 3 x 8: change data.batch_size, microbatches"),
        (["--config.optim.name=sgd"], "must be one of adamw, lion, adafactor, muon, schedule_free"),
        (["--config.model.init=zeros"], "must be one of pretrained, random"),
        (["--config.model.dtype=float8"], "must be one of float32, bfloat16"),
        (["--config.data.path=absent.jsonl"], "cannot read absent.jsonl: No such file"),
        (["--config.data.max_length=40"], "40"),
        (["--config.data.packing=true"], "set data.path"),
        (["--config.model.name=/absent/model"], "there is no model at /absent/model"),
        (["--config.model.name=smolm2-135m"], "smollm2-135m"),
        (["--config.method=sfft"], "sft"),
    ],
)
def test_settings_that_cannot_work(refused, options, told):
    assert told in refused("sft", *options)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--config.data.max_prompt_length=10"], "the prompt of generated problem"),
        (
            ["--config.grpo.group_size=1", "--config.data.batch_size=8"],
            "a group needs at least 2 samples",
        ),
        (["--config.grpo.group_size=3"], "data.batch_size x grpo.group_size=6 rows"),
        (["--config.grpo.microbatches=2"], "= 2 x 8"),
        (
            ["--config.grpo.max_completion_length=600"],
            "config.grpo.max_completion_length=600 leaves no room for a prompt in the model's 512 "
            "positions: lower it",
        ),
        (
            ["--config.grpo.max_completion_length=500"],
            "tokens, 12 are allowed: lower config.grpo.max_completion_length=500, which leaves",
        ),
        (["--config.evaluation.max_new_tokens=512"], "config.evaluation.max_new_tokens=512 leaves"),
        (["--config.grpo.temprature=1"], "did you mean 'temperature'?"),
        (["--config.grpo.loss_type=gspo"], "must be one of grpo, bnpo, dapo, dr_grpo, cispo"),
        (
            ["--config.grpo.scale_rewards=goup"],
            "config.grpo.scale_rewards='goup': must be one of group, batch, none",
        ),
        (["--config.grpo.temperature=-1"], "temperature"),
        (["--config.grpo.top_p=0"], "top_p"),
    ],
)
def test_grpo_settings_that_cannot_work(refused, options, told):
    assert told in refused("grpo", *options)


def test_an_unknown_configuration_names_the_nearest():
    with pytest.raises(UserError, match=r"no configuration 'gprpo.py'.*did you mean 'grpo.py'"):
        train(["--config=gprpo.py"])


def test_a_wrong_key_of_a_users_own_configuration(tiny_model, tmp_path):  # noqa: F811
    own = tmp_path / "own.py"
    own.write_text(
        "from tests.end_to_end import tiny_config\n"
        "def get_config(arg=None):\n"
        "    config = tiny_config.get_config('sft')\n"
        "    config.sft.microbatch = 2\n"
        "    return config\n"
    )
    name = f"--config.model.name={tiny_model}"
    with pytest.raises(UserError, match="config.sft has no key 'microbatch': did you mean 'microb"):
        train([f"--config={own}", f"--workdir={tmp_path / 'run'}", name])


def test_bad_data_is_named_by_file_and_row(refused, data, tmp_path):
    lines = data.read_text().splitlines()
    broken = tmp_path / "broken.jsonl"
    broken.write_text("\n".join([*lines[:2], lines[2][:50], *lines[3:]]))
    assert f"{broken}, line 3: not valid JSON" in refused("sft", f"--config.data.path={broken}")
    row = json.loads(lines[4])
    row["completion"] = row["prompt"]
    broken.write_text("\n".join([*lines[:4], json.dumps(row), *lines[5:]]))
    assert f"{broken}, item 4 (counting from 0)" in refused("sft", f"--config.data.path={broken}")
    broken.write_text('{"question": "Why?"}\n')
    told = refused("sft", f"--config.data.path={broken}")
    assert f"{broken}, item 0 (counting from 0): there is no reply to train on" in told
    parquet = tmp_path / "broken.parquet"
    parquet.write_bytes(b"PAR1 and then nothing")
    told = refused("grpo", f"--config.data.path={parquet}")
    assert f"{parquet} is not a readable parquet file" in told
    told = refused("grpo", f"--config.data.path={data}", "--config.data.max_prompt_length=10")
    assert f"the prompt of {data}, item 0 (counting from 0) has" in told
    assert "10 are allowed" in told


def copied(model, folder, change):
    """A copy of a model folder whose tensors went through `change`."""
    folder.mkdir()
    for file in model.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")
    return folder


def test_a_bad_model_is_named_by_tensor(refused, tiny_model, tmp_path):  # noqa: F811
    name = "model.layers.0.self_attn.q_proj.weight"

    def shorten(tensors):
        tensors[name] = np.ascontiguousarray(tensors[name][:-1])

    model = copied(tiny_model, tmp_path / "shape", shorten)
    told = refused("sft", model=model)
    assert f"weight '{name}' has shape [31, 32]; config.json asks for [32, 32]" in told
    model = copied(tiny_model, tmp_path / "missing", lambda tensors: tensors.pop(name))
    assert f"weight '{name}' is missing" in refused("sft", model=model)
    model = copied(tiny_model, tmp_path / "cut", lambda tensors: None)
    whole = (model / "model.safetensors").read_bytes()
    (model / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    assert "model.safetensors is damaged" in refused("sft", model=model)


def test_a_tokenizer_larger_than_the_vocabulary(refused, tiny_model, tmp_path):  # noqa: F811
    def shorten(tensors):
        for name in ("model.embed_tokens.weight",):
            tensors[name] = np.ascontiguousarray(tensors[name][:100])

    model = copied(tiny_model, tmp_path / "small", shorten)
    settings = json.loads((model / "config.json").read_text()) | {"vocab_size": 100}
    (model / "config.json").write_text(json.dumps(settings))
    told = refused("sft", model=model)
    assert "the model's vocabulary holds 100" in told and "tokenizer" in told


def test_a_program_that_does_not_fit_says_what_to_lower(refused, monkeypatch):
    monkeypatch.setattr(programs, "memory_limit", lambda device: 10_000)
    told = refused("sft")
    assert "program needs" in told and "GiB are available: lower" in told


def test_another_run_s_workdir_is_left_alone(refused, tmp_path):
    workdir = tmp_path / "run"
    (workdir / "checkpoints" / "2").mkdir(parents=True)
    config = flat(load(str(ROOT / "tests/end_to_end/tiny_config.py"), ["seed=7"]))
    (workdir / "config.json").write_text(json.dumps(config | {"optim.b1": 0.5}))
    before = {p: p.read_bytes() for p in workdir.rglob("*") if p.is_file()}
    told = refused("grpo")
    assert f"{workdir} belongs to a run with other settings" in told
    assert "optim.b1: 0.5 -> 0.9" in told and "seed: 7 -> 0" in told and "model.name" in told
    assert before == {p: p.read_bytes() for p in workdir.rglob("*") if p.is_file()}


def test_workdirs(tmp_path):
    config = {"method": "sft", "seed": 1, "steps": 5}
    for folder in ("run", "deep/er/run"):
        claim_workdir(tmp_path / folder, config, ("steps",))
        assert json.loads((tmp_path / folder / "config.json").read_text()) == config
    run = tmp_path / "run"
    claim_workdir(run, config | {"steps": 9}, ("steps",))
    (run / "before.json").write_text("{}")
    claim_workdir(run, config | {"steps": 8}, ("steps",))
    assert (run / "before.json").exists()
    claim_workdir(run, config | {"seed": 2}, ("steps",))  # nothing was saved: begun anew
    assert not (run / "before.json").exists()
    assert json.loads((run / "config.json").read_text())["seed"] == 2
    (run / "checkpoints" / "3").mkdir(parents=True)
    with pytest.raises(UserError, match=r"other settings \(seed: 2 -> 1\)"):
        claim_workdir(run, config, ("steps",))
    for text in ('{"model_type": "llama"}', "[1]", "{"):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(UserError, match="or not a run's: choose another --workdir"):
            claim_workdir(tmp_path, config, ())
        assert (tmp_path / "config.json").read_text() == text
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot make the workdir"):
        claim_workdir(tmp_path / "file" / "run", config, ())


@pytest.mark.parametrize(
    ("environment", "options", "status", "told"),
    [
        (
            {"HF_HUB_OFFLINE": "1"},
            ["--config=sft.py", "--config.model.name=nobody/no-such-model"],
            1,
            "error: cannot fetch nobody/no-such-model",
        ),
        ({"JAX_PLATFORMS": "cuda"}, ["--config=sft.py"], 1, "error: no device to run on"),
        ({"JAX_ENABLE_X64": "1"}, ["--config=sft.py"], 1, "error: JAX_ENABLE_X64 is set: unset it"),
        ({}, ["--config=sft.py", "--workdir="], 2, "--workdir: must not be empty"),
    ],
)
def test_as_a_real_command(tmp_path, environment, options, status, told):
    done = subprocess.run(
        [sys.executable, "-m", "caugym_jax.train", f"--workdir={tmp_path / 'run'}", *options],
        cwd=ROOT,
        env=os.environ | {"HF_HOME": str(tmp_path)} | environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == status and done.stdout == ""
    assert "Traceback" not in done.stderr and told in done.stderr.splitlines()[-1], done.stderr


def test_t23_grpo_compiles_once_per_width(tiny_model, monkeypatch):  # noqa: F811
    """Prompts of many lengths make as many programs as there are widths (16, 24, 32), and a second
    pass over them makes none."""
    made = []
    real = programs.Program.__init__

    def record(self, *args, **kwargs):
        real(self, *args, **kwargs)
        made.append(self)

    monkeypatch.setattr(programs.Program, "__init__", record)
    setup = Setup(tiny_model, reward_weights=SPREAD, num_iterations=2)
    lengths = iter(2 * [7, 16, 17, 20, 24, 25, 9, 32])
    plain = setup.draw

    def draw():
        longest = next(lengths)
        return [p._replace(tokens=p.tokens[: longest - i]) for i, p in enumerate(plain())]

    setup.draw = draw
    counts = []
    for _ in range(16):
        experience, _, _ = setup.prepare()
        setup.update(experience)
        counts.append({p.name: p.compilations for p in made if p.compilations})
    assert counts[7] == {"init": 1, "sample": 3, "update": 3, "score": 3}
    assert counts[15] == counts[7]
    assert jax.tree.leaves(setup.state.params)
