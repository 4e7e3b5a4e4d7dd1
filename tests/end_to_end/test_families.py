"""Every method trains a step on a Mistral and on a Gemma 3 with tokenizers of their kinds."""

import json
import math

import jax
import pytest

from caugym_jax.data.tokenizer import load_tokenizer
from caugym_jax.models.hub import load_pretrained
from caugym_jax.models.save import save_pretrained
from caugym_jax.train import main as train
from tests.data.metaspace_tokenizer import INST, TURNS, save_metaspace_tokenizer
from tests.end_to_end.runs import arrays, command, metrics
from tests.end_to_end.test_own_data import ROWS
from tests.models.tiny import FAMILIES, random_params

MADE = {
    "mistral": (INST, True),  # a space before each stretch of text, as in 0.1
    "mistral-window": (INST, False),  # at the text's start, as in 0.3
    "gemma3": (TURNS, False),
}


SLOW = pytest.param("mistral-window", marks=pytest.mark.slow)


@pytest.fixture(scope="module", params=["mistral", SLOW, "gemma3"])
def model(request, tmp_path_factory):
    """The folder of a random model."""
    folder = tmp_path_factory.mktemp(request.param)
    template, normalizer = MADE[request.param]
    tokens = save_metaspace_tokenizer(folder / "tokens", template, normalizer=normalizer)
    tokenizer = load_tokenizer(tokens)
    shape = vars(FAMILIES[request.param]) | {"vocab_size": tokenizer.vocab_size}
    config = type(FAMILIES[request.param])(**shape)
    return save_pretrained(folder / "model", config, random_params(config), tokenizer=tokenizer)


@pytest.mark.parametrize("method", ["sft", "dpo", "kto", "grpo"])
def test_a_step(model, method, tmp_path, monkeypatch):
    devices = jax.devices()[:1]
    monkeypatch.setattr(jax, "devices", lambda *_: devices)
    path = tmp_path / "mine.jsonl"
    path.write_text("".join(json.dumps(ROWS[method](i)) + "\n" for i in range(16)))
    more = [f"--config.data.path={path}", "--config.evaluation.every=0", "--config.steps=1"]
    more.append("--config.optim.warmup=0")
    if method == "grpo":
        more.append("--config.grpo.reward_weights=tests.end_to_end.test_families:digits=1")
    train(command(method, model, tmp_path / "run", *more))
    (line,) = metrics(tmp_path / "run")
    assert math.isfinite(line["loss"]) and line["grad_norm"] > 0
    before, after = load_pretrained(model)[1], arrays(tmp_path / "run", 1)
    moved = [
        (after[f"['params']{jax.tree_util.keystr(path)}"] != leaf).any()
        for path, leaf in jax.tree_util.tree_leaves_with_path(before)
    ]
    assert all(moved)


def digits(completions, **columns):
    """Of random texts nearly all differ."""
    return [sum(map(ord, str(messages))) % 97 / 97 for messages in completions]
