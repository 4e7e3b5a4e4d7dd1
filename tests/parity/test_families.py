"""Our decoder against transformers' own, for every family: tiny random models, float32, CPU."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from caugym_jax.models.hf_config import FAMILIES as FILES
from caugym_jax.models.hf_rope import write_scaling
from caugym_jax.models.hub import load_pretrained
from caugym_jax.models.save import save_pretrained
from caugym_jax.models.transformer import Model
from tests.models.gguf_files import write_gguf
from tests.models.test_hub import assert_same
from tests.models.tiny import FAMILIES, random_params

torch = pytest.importorskip("torch", reason="requirements-parity.txt is not installed")
transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.torch

ROWS, LENGTH, NEW = 3, 256, 64


@pytest.fixture(scope="module", params=FAMILIES)
def pair(request, tmp_path_factory):
    """(config, a random transformers model, the folder it was saved to by transformers)."""
    config = FAMILIES[request.param]
    model = build(config)
    folder = tmp_path_factory.mktemp(request.param)
    model.save_pretrained(folder, max_shard_size="60KB")
    return config, model, folder


KINDS = {"full": "full_attention", "sliding": "sliding_attention"}


def build(config):
    """A transformers model made by its own configuration class, not through our config.json."""
    architecture = FILES[config.family].architecture
    name = architecture.removesuffix("ForCausalLM")
    name = {"Gemma3": "Gemma3Text"}.get(name, name)
    rope = {"rope_type": "default", "rope_theta": config.rope_theta}
    if (s := config.rope_scaling) is not None:
        rope |= {"rope_type": s.kind} | write_scaling(s)
    options = {"rope_parameters": rope}
    if config.local_theta is not None:
        local = {"rope_type": "default", "rope_theta": config.local_theta}
        options["rope_parameters"] = {"full_attention": rope, "sliding_attention": local}
    if config.family == "phi3":
        rope["partial_rotary_factor"] = config.rotary_dim / config.head_dim
        options["original_max_position_embeddings"] = config.longest
    if config.sliding_window or config.family == "mistral":
        options["sliding_window"] = config.sliding_window
    if config.pattern and config.family != "smollm3":
        options["layer_types"] = [KINDS[kind] for kind in config.pattern]
        options["use_sliding_window"] = True
    if config.family == "smollm3":
        options["no_rope_layers"] = [int(kind == "full") for kind in config.pattern]
    if config.query_scale is not None:
        options["query_pre_attn_scalar"] = round(config.query_scale**-2)
    if config.num_experts:
        options |= {
            "moe_intermediate_size": config.d_ff,
            "num_experts": config.num_experts,
            "num_experts_per_tok": config.experts_per_token,
            "norm_topk_prob": config.normalized_routing,
        }
    if config.family != "qwen2":
        options["attention_bias"] = config.qkv_bias
    hf = getattr(transformers, f"{name}Config")(
        vocab_size=config.vocab_size,
        hidden_size=config.d_model,
        intermediate_size=config.d_ff,
        num_hidden_layers=config.num_layers,
        num_attention_heads=config.num_heads,
        num_key_value_heads=config.num_kv_heads,
        head_dim=config.head_dim,
        max_position_embeddings=config.max_position,
        rms_norm_eps=config.norm_eps,
        tie_word_embeddings=config.tied,
        attn_implementation="eager",
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
        **options,
    )
    model = getattr(transformers, architecture)(hf).eval().float()
    draw_weights(model, config)
    return model


def draw_weights(model, config):
    """Random weights of a size at which every setting shows in the logits."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            draw = torch.randn(weight.shape, generator=generator)
            if name.endswith("norm.weight"):
                weight.copy_((0 if config.norm_offset else 1) + 0.3 * draw)
            elif "embed" in name and config.scaled_embedding:  # else each token follows itself
                weight.copy_(0.17 * draw)
            elif name.endswith("bias") or "embed" in name:
                weight.copy_(0.4 * draw)
            else:  # logits far apart, but attention not so sharp that rounding grows
                gain = 2 if "lm_head" in name else 1.25
                weight.copy_(gain * draw * weight.shape[-1] ** -0.5)


def tokens_of(config, seed=0):
    return np.random.default_rng(seed).integers(0, config.vocab_size, (ROWS, LENGTH))


@functools.partial(jax.jit, static_argnums=0)
def our_logits(config, params, tokens):
    model = Model(config)
    tokens = jnp.asarray(tokens, jnp.int32)
    positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
    hidden, _ = model.hidden(params, tokens, positions, jnp.ones_like(tokens))
    return model.logits(params, hidden)


def their_logits(model, tokens):
    with torch.no_grad():
        return model(torch.as_tensor(tokens)).logits.numpy()


def test_logits(pair):
    config, model, folder = pair
    read, params = load_pretrained(folder)
    assert read == config
    theirs = their_logits(model, tokens_of(config))
    assert theirs.std() > 1  # far from uniform: a wrong rotation or mask would show
    np.testing.assert_allclose(
        our_logits(config, params, tokens_of(config)), theirs, rtol=0, atol=1e-4
    )


def test_greedy_tokens(pair):
    """64 tokens by running the whole row again for each: no cache on either side."""
    config, model, folder = pair
    _, params = load_pretrained(folder)

    @jax.jit
    def next_token(row, end):
        return our_logits(config, params, row)[jnp.arange(ROWS), end - 1].argmax(-1)

    prompts = tokens_of(config, seed=1)[:, : LENGTH - NEW]
    ours = np.pad(prompts, ((0, 0), (0, NEW)))
    for end in range(LENGTH - NEW, LENGTH):
        ours[:, end] = next_token(ours, end)
    theirs = model.generate(
        torch.as_tensor(prompts),
        attention_mask=torch.ones(prompts.shape, dtype=torch.long),
        max_new_tokens=NEW,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
    ).numpy()
    np.testing.assert_array_equal(ours, theirs)
    few = 3 if config.scaled_embedding else 11  # there a token mostly follows itself
    assert len(np.unique(ours[:, LENGTH - NEW :])) >= few  # not one token over and over


def test_export_is_bit_equal_and_transformers_loads_it(pair, tmp_path):
    config, model, folder = pair
    _, params = load_pretrained(folder)
    out = save_pretrained(
        tmp_path / "export",
        config,
        params,
        generation={"eos_token_id": [3, 5], "pad_token_id": 0},
        max_shard_bytes=60_000,
    )
    assert_same(load_pretrained(out)[1], params)
    loaded, info = transformers.AutoModelForCausalLM.from_pretrained(
        out, output_loading_info=True, attn_implementation="eager"
    )
    assert not info["missing_keys"] and not info["unexpected_keys"], info
    assert not info["mismatched_keys"], info
    weights = loaded.state_dict()
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, weights[name]), name
    assert loaded.generation_config.eos_token_id == [3, 5]
    assert loaded.dtype == torch.float32
    tokens = tokens_of(config)
    np.testing.assert_array_equal(their_logits(loaded, tokens), their_logits(model, tokens))


def test_config_json_in_the_form_of_transformers_4(pair, tmp_path):
    """Theta and scaling stand at the top level there, without `rope_parameters`."""
    config, model, folder = pair
    out = save_pretrained(tmp_path / "export", config, load_pretrained(folder)[1])
    written = json.loads((out / "config.json").read_text())
    assert written["rope_theta"] == config.rope_theta
    assert (written["rope_scaling"] is None) == (config.rope_scaling is None)
    read = transformers.AutoConfig.from_pretrained(out)
    theirs = model.config
    for key in ("rope_parameters", "sliding_window", "tie_word_embeddings", "rms_norm_eps"):
        assert getattr(read, key, None) == getattr(theirs, key, None), key


def test_gradient_reaches_every_weight(pair):
    """And equals torch's, weight by weight."""
    config, model, folder = pair
    _, params = load_pretrained(folder)
    tokens = np.maximum(tokens_of(config), 1)  # 0 pads: torch gives it no gradient

    def loss(params):
        logprobs = jax.nn.log_softmax(our_logits(config, params, tokens)[:, :-1])
        return -jnp.take_along_axis(logprobs, tokens[:, 1:, None], axis=-1).mean()

    grads = jax.device_get(jax.grad(loss)(params))
    model.zero_grad()
    model(torch.as_tensor(tokens), labels=torch.as_tensor(tokens)).loss.backward()
    theirs = load_pretrained(_save_gradients(model, folder.parent / f"{folder.name}-gradients"))[1]
    for (path, ours), expected in zip(
        jax.tree_util.tree_leaves_with_path(grads), jax.tree.leaves(theirs), strict=True
    ):
        per_layer = ours if path[0].key == "layers" else ours[None]
        assert all(np.abs(part).max() > 1e-6 for part in per_layer), path
        scale = np.abs(expected).max()
        np.testing.assert_allclose(ours, expected, rtol=0, atol=2e-4 * scale, err_msg=str(path))


def _save_gradients(model, folder):
    """The model's gradients in the place of its weights."""
    gradients = build_like(model)
    with torch.no_grad():
        for (name, target), (_, source) in zip(
            gradients.named_parameters(), model.named_parameters(), strict=True
        ):
            assert source.grad is not None, name
            target.copy_(source.grad)
    gradients.save_pretrained(folder)
    return folder


def build_like(model):
    return type(model)(model.config)


@pytest.mark.parametrize("name", ["llama", "llama-tied", "qwen2", "qwen3-tied"])
def test_gguf_is_read_as_transformers_reads_it(name, tmp_path, monkeypatch):
    monkeypatch.setenv("CAUGYM_CACHE", str(tmp_path / "cache"))
    # transformers takes H from GGUF metadata for no family: D / N, and 128 for qwen3
    shape = {"d_model": 96} if "qwen3" not in name else {"head_dim": 128}
    config = dataclasses.replace(FAMILIES[name], **shape)
    write_gguf(tmp_path / "tiny.gguf", config, random_params(config))
    model = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path, gguf_file="tiny.gguf", dtype=torch.float32, attn_implementation="eager"
    )
    read, params = load_pretrained(tmp_path / "tiny.gguf")
    assert read == config
    tokens = tokens_of(config)
    np.testing.assert_allclose(
        our_logits(read, params, tokens), their_logits(model, tokens), rtol=0, atol=1e-4
    )
