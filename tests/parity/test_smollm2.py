"""The real SmolLM2-135M-Instruct: our reading of its GGUF file against transformers'."""

import jax.numpy as jnp
import numpy as np
import pytest

from caugym_jax.causal.engine.generating import generate_problems
from caugym_jax.data.tokenizer import load_tokenizer
from caugym_jax.models.hub import load_pretrained
from caugym_jax.models.presets import preset
from caugym_jax.models.save import save_pretrained
from caugym_jax.models.transformer import Model
from caugym_jax.sampling.sampler import Sampler
from tests.smollm2 import smollm2_path

torch = pytest.importorskip("torch", reason="requirements-parity.txt is not installed")
transformers = pytest.importorskip("transformers")

pytestmark = [pytest.mark.torch, pytest.mark.slow]

NEW = 64
QUESTIONS = [
    "What is the capital of France, and what is it known for?",
    "Write a short poem about the sea.",
    "Explain in two sentences why the sky is blue.",
    *(problem.text for problem in generate_problems(["ATE", "ETT"], 2, 0)),
]


@pytest.fixture(scope="module")
def path():
    found = smollm2_path()
    if found.suffix != ".gguf":
        pytest.skip(f"{found} is not the GGUF file that this test is about")
    return found


@pytest.fixture(scope="module")
def ours(path):
    return (*load_pretrained(path), load_tokenizer(path))


@pytest.fixture(scope="module")
def theirs(path):
    return transformers.AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype=torch.float32, attn_implementation="eager"
    ).eval()


@pytest.fixture(scope="module")
def prompts(ours):
    tokenizer = ours[2]
    texts = [tokenizer.render_chat([{"role": "user", "content": text}]) for text in QUESTIONS]
    return [tokenizer.encode(text) for text in texts]


def test_shape_is_the_preset(ours):
    assert ours[0] == preset("smollm2-135m").config


def test_logits_on_long_text(ours, theirs, prompts):
    """Rows of q and k in the wrong order look almost right on short texts, not here."""
    config, params, _ = ours
    tokens = jnp.asarray([max(prompts, key=len)])
    assert tokens.shape[1] > 200
    model = Model(config)
    positions = jnp.arange(tokens.shape[1])[None]
    hidden, _ = model.hidden(params, tokens, positions, jnp.ones_like(tokens))
    with torch.no_grad():
        expected = theirs(torch.as_tensor(np.array(tokens))).logits.numpy()
    np.testing.assert_allclose(model.logits(params, hidden), expected, rtol=0, atol=1e-3)


def test_greedy_tokens(ours, theirs, prompts):
    config, params, tokenizer = ours
    sampler = Sampler(
        Model(config), end_ids=tokenizer.end_ids, pad_id=tokenizer.pad_id, max_new_tokens=NEW
    )
    rollout = sampler(params, prompts, ids=range(len(prompts)), temperature=0.0)
    lengths = []
    for row, prompt in enumerate(prompts):
        answer = rollout.tokens[row, rollout.prompt_width :][: rollout.completion_length[row]]
        expected = theirs.generate(
            torch.as_tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            max_new_tokens=NEW,
            do_sample=False,
            eos_token_id=list(tokenizer.end_ids),
            pad_token_id=tokenizer.pad_id,
        )[0, len(prompt) :].numpy()
        np.testing.assert_array_equal(answer, expected, err_msg=tokenizer.decode(answer))
        lengths.append(len(answer))
    assert sorted(lengths)[-3:] == [NEW] * 3  # most do not end early


def test_export_generates_the_same(ours, theirs, prompts, tmp_path):
    """The exported folder through transformers alone: tokenizer, template, weights."""
    config, params, tokenizer = ours
    out = save_pretrained(tmp_path / "export", config, params, tokenizer=tokenizer)
    loaded = transformers.AutoModelForCausalLM.from_pretrained(out, attn_implementation="eager")
    their_tokenizer = transformers.AutoTokenizer.from_pretrained(out)
    for name, weight in theirs.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], weight), name
    assert loaded.generation_config.eos_token_id == tokenizer.end_id
    message = [{"role": "user", "content": QUESTIONS[-1]}]
    ids = their_tokenizer.apply_chat_template(message, add_generation_prompt=True)
    assert list(ids["input_ids"]) == prompts[-1]
