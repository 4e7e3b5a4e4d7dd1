"""A model is what its files say, however it is named."""

import json

import pytest

from caugym_jax.cli.config import read
from caugym_jax.errors import UserError
from caugym_jax.models import traits as module
from caugym_jax.models.hf_config import to_hf_config
from caugym_jax.models.presets import preset
from caugym_jax.models.traits import traits

THINK = "{% for m in messages %}{{ m['content'].split('</think>')[-1] }}{% endfor %}"
PLAIN = "{% for m in messages %}{{ m['content'] }}{% endfor %}"


def folder_of(path, name, template):
    path.mkdir()
    (path / "config.json").write_text(json.dumps(to_hf_config(preset(name).config)))
    (path / "tokenizer_config.json").write_text(json.dumps({"chat_template": template}))
    return path


@pytest.mark.parametrize(
    ("name", "template"),
    [
        ("r1-distill-qwen-1.5b", THINK),
        ("qwen3-0.6b", THINK),
        ("qwen2.5-7b-instruct", PLAIN),
        ("smollm2-135m", PLAIN),
    ],
)
def test_a_folder_and_a_hub_id_say_what_the_preset_says(tmp_path, monkeypatch, name, template):
    monkeypatch.chdir(tmp_path)
    folder_of(tmp_path / "here", name, template)
    expected = traits(name)
    assert expected == traits("here") == traits("./here") == traits(preset(name).hub_id)
    assert expected.thinks == (template == THINK)
    assert expected.large == (name not in ("smollm2-135m", "qwen3-0.6b"))


def test_a_template_in_a_file_of_its_own(tmp_path):
    folder = folder_of(tmp_path / "a", "qwen3-0.6b", None)
    assert not traits(str(folder)).thinks
    (folder / "chat_template.jinja").write_text(THINK)
    assert traits(str(folder)).thinks


def test_another_hub_id_is_read_from_its_small_files(tmp_path, monkeypatch):
    folder = folder_of(tmp_path / "a", "qwen3-4b", THINK)
    asked = []

    def snapshot_download(name, allow_patterns):
        asked.append(allow_patterns)
        return folder

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    assert traits("someone/a-tuned-qwen3") == traits("qwen3-4b")
    assert not any("safetensors" in pattern for pattern in asked[0])

    def no_network(name, allow_patterns):
        raise OSError("no network")

    monkeypatch.setattr("huggingface_hub.snapshot_download", no_network)
    assert traits("someone/a-tuned-qwen3") == (None, False)
    monkeypatch.setattr("huggingface_hub.snapshot_download", None)
    assert traits("runs/not-there-yet") == (None, False)  # never asked for
    with pytest.raises(UserError, match="no folder here and no preset; did you mean"):
        traits("qwen3-4bb")


def test_a_file_of_another_kind_is_refused(tmp_path):
    path = tmp_path / "pytorch_model.bin"
    path.write_bytes(b"pickle")
    with pytest.raises(UserError, match="neither a folder nor a .gguf file"):
        traits(str(path))


@pytest.mark.parametrize("method", ["grpo", "sft"])
def test_a_configuration_is_the_same_however_the_model_is_named(tmp_path, monkeypatch, method):
    monkeypatch.chdir(tmp_path)
    name, folder = (
        "r1-distill-qwen-1.5b",
        folder_of(tmp_path / "mine", "r1-distill-qwen-1.5b", THINK),
    )
    names = (name, str(folder), "mine", preset(name).hub_id)
    named, *others = (read(f"{method}.py:{name}") for name in names)
    for config, name in zip((named, *others), names, strict=True):
        assert config["model"].pop("name") == name
    assert all(config == named for config in others)
    assert module.SPREAD == 1e9 and named["mesh"]["fsdp"] == -1
