"""Completions end at stop strings, wherever tokens begin and end."""

import numpy as np

from caugym_jax.sampling.stops import cut, stop_ids
from caugym_jax.types import Rollout

WORDS = ["<pad>", "So", " 4", "\n\n", "Q", ": more", "#", "##", "###"]


def decode(ids):
    return "".join(WORDS[i] for i in ids)


def rollout(*completions, ended):
    width = max(map(len, completions))
    tokens = np.array([[7, 7, *c, *[0] * (width - len(c))] for c in completions], np.int32)
    lengths = np.array(list(map(len, completions)), np.int32)
    logprobs = -np.ones((len(completions), width), np.float32)
    return Rollout(tokens, np.full(len(completions), 2), lengths, np.array(ended), logprobs)


def test_completions_are_cut_behind_the_token_that_completes_a_stop_string():
    whole = rollout([1, 2, 3, 4, 5], [1, 6, 7, 6, 2], [1, 2, 2], ended=[False, False, True])
    found = cut(whole, ("\n", "####", "Q: m"), decode, pad_id=0)
    assert found.completion_length.tolist() == [3, 4, 3]
    assert found.tokens[:, 2:].tolist() == [[1, 2, 3, 0, 0], [1, 6, 7, 6, 0], [1, 2, 2, 0, 0]]
    assert found.ended.tolist() == [True, True, True]
    assert found.logprobs[0].tolist() == [-1, -1, -1, 0, 0]
    assert whole.completion_length.tolist() == [5, 5, 3]  # the first stays as it was
    assert cut(whole, (), decode, 0) is whole
    same = cut(whole, ("absent",), decode, 0)
    assert same.completion_length.tolist() == [5, 5, 3] and not same.ended[0]


def test_single_tokens_stop_the_sampler_itself():
    table = {"###": [8], "\n\nQ": [3, 4]}
    assert stop_ids(("###", "\n\nQ"), table.__getitem__) == [8]
