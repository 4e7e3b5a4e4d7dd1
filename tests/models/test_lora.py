"""Adapters against merged weights, gradients by the chain rule, 8-bit weights by their bound."""

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from caugym_jax.devices.mesh import make_mesh, matrix_axes, shardings
from caugym_jax.errors import UserError
from caugym_jax.models import lora, quantised
from caugym_jax.models.lora import (
    MATRICES,
    Lora,
    adapter_layout,
    attach,
    frozen_layout,
    init_adapters,
)
from caugym_jax.models.transformer import Model, abstract_params, layout
from tests.models.tiny import FAMILIES, random_params

LORA = Lora(rank=4, alpha=8.0)
merge = jax.jit(lora.merge, static_argnums=(2, 3))
freeze = jax.jit(lora.freeze, static_argnums=1)
thaw = jax.jit(lora.thaw)
TOKENS = np.random.default_rng(0).integers(1, 200, (2, 23)).astype(np.int32)
AT = np.broadcast_to(np.arange(23, dtype=np.int32), TOKENS.shape), np.ones_like(TOKENS)


def random_adapters(config, settings=LORA, seed=1):
    """Adapters that matter: neither side is zero."""
    rng = np.random.default_rng(seed)
    draw = lambda leaf: 0.1 * rng.standard_normal(leaf.shape, np.float32)  # noqa: E731
    return jax.tree.map(draw, adapter_layout(config, settings).shapes)


def logits(config, params, dtype="float32"):
    model = Model(config, dtype)

    @jax.jit
    def run(params):
        hidden, _ = model.hidden(params, TOKENS, *AT)
        return model.logits(params, hidden)

    return np.asarray(run(params))


@pytest.mark.parametrize("name", ["qwen2-tied", "qwen3"])
def test_an_adapter_beside_is_an_adapter_merged(name):
    config = FAMILIES[name]
    base, adapters = random_params(config), random_adapters(config)
    beside = logits(config, attach(adapters, base, LORA.scale))
    merged = merge(adapters, base, LORA.scale)
    assert jax.tree.structure(merged) == jax.tree.structure(abstract_params(config))
    np.testing.assert_allclose(beside, logits(config, merged), atol=1e-4)
    assert np.abs(beside - logits(config, base)).max() > 0.5


def test_merged_weights_by_hand():
    """W + alpha / r * A B for one layer, and alpha / sqrt(r) with rslora."""
    config, adapters = FAMILIES["llama"], random_adapters(FAMILIES["llama"])
    base = random_params(config)
    for settings, scale in ((LORA, 2.0), (Lora(rank=4, alpha=8.0, rslora=True), 4.0)):
        merged = merge(adapters, base, settings.scale)["layers"]
        a, b = (adapters["layers"][f"o_lora_{kind}"].astype(np.float64) for kind in "ab")
        for layer in range(config.num_layers):
            product = np.einsum("nhr,rd->nhd", a[layer], b[layer])
            wanted = base["layers"]["o"][layer] + scale * product
            np.testing.assert_allclose(merged["o"][layer], wanted, rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(merged["mlp_norm"], base["layers"]["mlp_norm"])


def test_a_new_adapter_changes_nothing():
    config = FAMILIES["qwen3"]
    base = random_params(config)
    adapters = init_adapters(adapter_layout(config, LORA), jax.random.key(0), make_mesh(8))
    np.testing.assert_array_equal(
        logits(config, attach(adapters, base, LORA.scale)), logits(config, base)
    )
    # peft draws A uniformly within 1 / sqrt(fan-in); o reads 6 heads of 16
    for name, fan_in in (("q", 48), ("o", 96), ("down", 80)):
        a = np.abs(adapters["layers"][f"{name}_lora_a"])
        assert 0.9 * fan_in**-0.5 < a.max() <= fan_in**-0.5
        assert not np.any(adapters["layers"][f"{name}_lora_b"])


def test_gradients_follow_the_chain_rule():
    """dA = scale dW B', dB = scale A' dW, where dW is the gradient of the merged weight."""
    config = FAMILIES["qwen2"]
    model, base, adapters = Model(config), random_params(config), random_adapters(config)

    def loss(params):
        hidden, _ = model.hidden(params, TOKENS, *AT)
        return jax.nn.log_softmax(model.logits(params, hidden))[..., 7].sum() / 100

    ours = jax.jit(jax.grad(lambda a: loss(attach(a, base, LORA.scale))))(adapters)["layers"]
    full = jax.jit(jax.grad(loss))(merge(adapters, base, LORA.scale))["layers"]
    for name in MATRICES:
        a, b = (adapters["layers"][f"{name}_lora_{kind}"] for kind in "ab")
        L, r = b.shape[:2]
        a, b = a.reshape(L, -1, r).astype(np.float64), b.reshape(L, r, -1).astype(np.float64)
        dw = np.asarray(full[name], np.float64).reshape(L, a.shape[1], b.shape[2])
        for kind, wanted in (
            ("a", LORA.scale * dw @ b.swapaxes(1, 2)),
            ("b", LORA.scale * a.swapaxes(1, 2) @ dw),
        ):
            found = np.asarray(ours[f"{name}_lora_{kind}"]).reshape(wanted.shape)
            error = np.linalg.norm(found - wanted) / np.linalg.norm(wanted)
            assert error < 1e-4, (name, kind, error)


def dots(jaxpr):
    """The shapes that matrix products have, in whatever is called or scanned over."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            yield equation.outvars[0].aval.shape
        for inner in jax.extend.core.jaxprs_in_params(equation.params):
            yield from dots(inner)


def test_no_gradient_of_a_full_matrix_is_formed():
    config = FAMILIES["llama"]
    model, base, adapters = Model(config), random_params(config), random_adapters(config)

    def loss(adapters, base):
        hidden, _ = model.hidden(attach(adapters, base, LORA.scale), TOKENS, *AT)
        return jnp.square(hidden).sum()

    def formed(argument):
        gradient = jax.make_jaxpr(jax.grad(loss, argument))(adapters, base)
        return {tuple(sorted(shape[-2:])) for shape in dots(gradient.jaxpr)}

    full = (config.d_model, config.d_ff)
    assert full in formed(1)  # the test sees it where it is
    assert full not in formed(0)


def test_targets_are_chosen_by_name():
    config = FAMILIES["llama"]

    def chosen(targets):
        names = adapter_layout(config, Lora(rank=2, targets=targets)).shapes["layers"]
        return {name.split("_")[0] for name in names}

    assert chosen("all") == set(MATRICES)
    assert chosen("attention") == {"q", "k", "v", "o"}
    assert chosen("mlp, q") == {"gate", "up", "down", "q"}
    layers = adapter_layout(config, Lora(rank=2, targets="o")).axes["layers"]
    assert layers == {
        "o_lora_a": ("layers", "heads", "head_dim", "rank"),
        "o_lora_b": ("layers", "rank", "embed"),
    }


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (dict(rank=-1), "rank=-1: must be at least 0"),
        (dict(targets="q,w"), "targets='q,w': must be names among q, k, v, o, gate, up, down, att"),
        (dict(rank=2, alpha=0.0), "alpha=0.0: must be above 0"),
        (dict(init="folder"), "set lora.rank to that adapter's"),
        (dict(targets=""), "targets=''"),
        (dict(base_dtype="int4"), "base_dtype='int4': must be one of float32, bfloat16, int8, nf4"),
    ],
)
def test_settings_that_cannot_work(options, told):
    with pytest.raises(UserError, match=told):
        Lora(**options)


def test_eight_bits_by_hand():
    config = FAMILIES["qwen3-tied"]
    base = random_params(config)
    base["layers"]["gate"][0, :, 5] = 0.0
    base["layers"]["gate"][0, :3, 5] = (0.5, -1.984375, 0.004)
    base["layers"]["up"][1, :, 0] = 0.0  # a channel of zeros
    frozen = freeze(base, "int8")
    assert frozen["layers"]["gate"].dtype == jnp.int8
    np.testing.assert_array_equal(frozen["layers"]["gate"][0, :3, 5], (32, -127, 0))
    np.testing.assert_allclose(frozen["layers"]["gate_scale"][0, 5], 1 / 64, rtol=1e-6)
    assert frozen["layers"]["o_scale"].shape == (3, 48)
    assert frozen["layers"]["q_scale"].shape == (3, 6, 16)
    assert frozen["embed"].dtype == jnp.bfloat16 and frozen["final_norm"].dtype == np.float32
    plain = thaw(frozen)
    assert not np.any(plain["layers"]["up"][1, :, 0])
    for name in MATRICES:
        weight = np.asarray(jnp.asarray(base["layers"][name], jnp.bfloat16), np.float32)
        inputs, _ = matrix_axes(layout(config).axes["layers"][name])
        half = np.abs(weight).max(inputs, keepdims=True) / 127 / 2
        error = np.abs(plain["layers"][name] - weight)
        assert np.all(error <= half * (1 + 1e-5))
        assert error.max() > 0.9 * half.min()  # and it does round


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_eight_bits_are_scaled_after_the_product(dtype):
    """The layer's product with whole numbers is the product with the weights they stand for."""
    config = FAMILIES["qwen2"]
    frozen = freeze(random_params(config), "int8")
    ours, plain = logits(config, frozen, dtype), logits(config, thaw(frozen), dtype)
    size = lambda x: np.sqrt(np.mean(x**2))  # noqa: E731
    assert size(ours - plain) < (1e-5 if dtype == "float32" else 3e-2) * size(plain)
    if dtype == "float32":
        exact = logits(config, random_params(config))
        assert 1e-3 * size(exact) < size(ours - exact) < 0.05 * size(exact)


def test_four_bits_by_hand():
    """A block of 16 (of 48 inputs): each weight goes to the nearest of 16 numbers times 2."""
    config = FAMILIES["qwen3-tied"]
    base = random_params(config)
    base["layers"]["gate"][0, :16, 5] = [2.0, -2.0, 0.0, 0.3, *[0.17] * 12]
    base["layers"]["up"][1] = 0.0
    frozen = freeze(base, "nf4")["layers"]
    assert frozen["gate"].dtype == jnp.uint8 and frozen["gate"].shape == (3, 24, 80)
    assert frozen["o"].shape == (3, 6, 8, 48) and frozen["o_blocks"].shape == (3, 6, 1, 48)
    assert frozen["gate_blocks"].dtype == jnp.bfloat16
    assert frozen["gate_blocks"].shape == (3, 3, 80) and frozen["gate_blocks"][0, 0, 5] == 2
    np.testing.assert_array_equal(frozen["gate"][0, :8, 5], [0x0F, 0x97, *[0x88] * 6])
    plain = thaw({"layers": frozen})["layers"]
    np.testing.assert_allclose(
        plain["gate"][0, :5, 5], [2.0, -2.0, 0.0, 2 * 0.1609302, 2 * 0.0795803], rtol=1e-6
    )
    assert not np.any(plain["up"][1])


def test_four_bits_are_quantiles_of_a_normal_distribution():
    """8 places from the middle to 1 and 7 to -1, evenly spaced in probability up to 0.9677."""
    top = 0.9677083
    up = scipy.stats.norm.ppf(np.linspace(top, 0.5, 9)[:-1])
    down = -scipy.stats.norm.ppf(np.linspace(top, 0.5, 8)[:-1])
    wanted = np.sort(np.concatenate([up, [0], down])) / up[0]
    np.testing.assert_allclose(quantised.NF4, wanted, atol=2e-7)


def test_four_bits_error_of_a_weight():
    """What docs/adapters.md states: at most 15.6% of its block's largest, 9.2% of the deviation."""
    weight = np.random.default_rng(0).standard_normal((2048, 96), np.float32)
    for axis in (0, 1):  # blocks of 64, of 32
        codes, scales = quantised.to_nf4(jnp.asarray(weight), axis)
        error = np.abs(quantised.from_nf4(codes, scales, axis, jnp.float32) - weight)
        shape = (32, 64, 96) if axis == 0 else (2048, 3, 32)
        largest = np.abs(weight).reshape(shape).max(axis + 1, keepdims=True)
        share = error.reshape(shape) / largest
        assert 0.14 < share.max() <= 0.156
        assert np.sqrt(np.mean(error**2)) == pytest.approx((0.092, 0.087)[axis], abs=0.001)
    with pytest.raises(UserError, match="a matrix reads 95: odd"):
        quantised.to_nf4(jnp.asarray(weight[:, :95]), 1)


@pytest.mark.parametrize("kept", lora.QUANTISED)
@pytest.mark.parametrize("name", ["qwen2", "qwen3-moe"])
def test_few_bits_compute_what_their_weights_compute(name, kept):
    config = FAMILIES[name]
    frozen = freeze(random_params(config), kept)
    ours, plain = logits(config, frozen), logits(config, thaw(frozen))
    assert np.linalg.norm(ours - plain) < 1e-5 * np.linalg.norm(plain)


@pytest.mark.parametrize("kept", lora.QUANTISED)
def test_the_backward_pass_keeps_few_bits(kept):
    """What is saved for it holds no matrix in a float type, only the integers."""
    config = FAMILIES["qwen2"]
    model, settings = Model(config), Lora(rank=4, targets="q,gate")
    shapes, axes = layout(config)
    matrices = set()
    for name in MATRICES:
        shape, sides = shapes["layers"][name].shape, matrix_axes(axes["layers"][name])
        matrices |= {shape[1:], tuple(int(np.prod([shape[i] for i in side])) for side in sides)}

    def saved(frozen):
        def loss(adapters):
            hidden, _ = model.hidden(attach(adapters, frozen, 2.0), TOKENS, *AT)
            return jnp.square(hidden).sum()

        _, back = jax.vjp(loss, random_adapters(config, settings))
        arrays = [x for x in jax.tree.leaves(back) if jnp.issubdtype(x.dtype, jnp.floating)]
        return [x.shape for x in arrays if {x.shape[-2:], x.shape[-3:]} & matrices]

    base = random_params(config)
    assert saved(freeze(base, "bfloat16"))  # the test sees it where it is
    assert not saved(freeze(base, kept))


@pytest.mark.parametrize(
    ("name", "kept"), [("qwen2", "int8"), ("qwen2", "nf4"), ("qwen3-moe", "nf4")]
)
def test_few_bits_and_adapters_on_a_mesh(name, kept):
    config, mesh = FAMILIES[name], make_mesh(2, 2, 2)
    LORA = Lora(rank=4, alpha=8.0, targets="attention" if config.num_experts else "all")
    base, adapters = random_params(config), random_adapters(config, LORA)
    frozen = freeze(base, kept)
    described = frozen_layout(config, kept)
    for x, s in zip(jax.tree.leaves(frozen), jax.tree.leaves(described.shapes), strict=True):
        assert (x.shape, x.dtype) == (s.shape, s.dtype)
    alone = logits(config, attach(adapters, frozen, LORA.scale))
    merged = merge(adapters, frozen, LORA.scale, "bfloat16")
    with jax.set_mesh(mesh):
        places = shardings(adapter_layout(config, LORA), mesh)
        assert places["layers"]["q_lora_b"].spec[2] == "tensor"
        spread = jax.device_put(adapters, places)
        held = jax.jit(lambda p: freeze(p, kept), out_shardings=shardings(described, mesh))(base)
        np.testing.assert_allclose(
            logits(config, attach(spread, held, LORA.scale)), alone, atol=5e-5
        )
        whole = jax.jit(
            lambda a, f: merge(a, f, LORA.scale, "bfloat16"),
            out_shardings=shardings(layout(config), mesh),
        )(spread, held)
    for one, other in zip(jax.tree.leaves(whole), jax.tree.leaves(merged), strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_allclose(
            np.asarray(one, np.float32), np.asarray(other, np.float32), rtol=2**-7, atol=1e-6
        )
