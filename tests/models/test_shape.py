"""A new model's shape from a configuration."""

import pytest

from caugym_jax.errors import UserError
from caugym_jax.models.config import Shape
from caugym_jax.models.presets import parameter_count
from caugym_jax.runs.opening import ModelSettings


def test_the_reasoner_has_less_than_three_million_weights():
    config = Shape(layers=5, width=160, d_ff=448, rope_theta=100_000.0).config(4_198)
    assert parameter_count(config) == 2_932_720
    assert (config.num_heads, config.num_kv_heads, config.head_dim) == (4, 4, 40)
    assert config.qk_norm and not config.tied


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (dict(width=30), "multiple of heads"),
        (dict(heads=4, kv_heads=3), "multiple of kv_heads"),
        (dict(width=12), "even"),
        (dict(family="gpt"), "family"),
        (dict(layers=-1), "layers"),
    ],
)
def test_impossible_shapes_are_refused(values, words):
    with pytest.raises(UserError, match=words):
        Shape(**values)


def test_a_shape_is_for_a_new_model():
    with pytest.raises(UserError, match="model.init=random"):
        ModelSettings(shape=Shape(layers=2))
