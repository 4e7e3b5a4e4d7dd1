"""The command that makes a tokenizer."""

import numpy as np
import pytest

from caugym_jax.data.solutions import vocabulary
from caugym_jax.data.token_features import load_features
from caugym_jax.data.tokenizer import load_tokenizer
from caugym_jax.errors import UserError
from caugym_jax.tokenizer import main


def test_what_it_writes_loads(tmp_path, capsys):
    main([f"--out={tmp_path / 'made'}"])
    assert "of which a model writes" in capsys.readouterr().out
    tokenizer = load_tokenizer(tmp_path / "made")
    features = load_features(tmp_path / "made")
    assert tokenizer.vocab_size == len(features.matrix) == len(vocabulary.vocabulary())
    assert np.array_equal(features.matrix, vocabulary.features().matrix)
    assert features.written == vocabulary.solution_size()
    with pytest.raises(UserError, match="exists already"):
        main([f"--out={tmp_path / 'made'}"])


def test_every_token_has_a_feature_and_numbers_are_strong():
    features = vocabulary.features()
    assert features.matrix.any(axis=1).all()
    tokens = list(vocabulary.vocabulary())
    shared = features.matrix[tokens.index(" #3=")] * features.matrix[tokens.index(" is<n3> ")]
    assert features.strength[shared == 1].tolist() == [3.0]
