"""Tokenizers of GGUF files against the Hugging Face tokenizers that they were made from."""

import numpy as np
import pytest
from gguf import GGUFWriter, TokenType
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from caugym_jax.data.gguf_tokenizer import KINDS
from caugym_jax.data.tokenizer import load_tokenizer
from caugym_jax.errors import UserError
from tests.data.metaspace_tokenizer import INST, save_metaspace_tokenizer

TEXTS = [
    "Because it is so.", " two  spaces", "0.1234 and 12345", "it's I'LL\r\n\n x", "é 日本\t!", "",
    "a<think>b</think>", "(x)...\n", "\u0041\u030a",
]  # fmt: skip
SPECIAL = ["<|end|>", "<|bos|>"]


def write(path, model, pre, tokens, types, **fields):
    """A GGUF file that holds a tokenizer and no weights."""
    writer = GGUFWriter(path, "llama")
    writer.add_tokenizer_model(model)
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    if "merges" in fields:
        writer.add_token_merges([" ".join(merge) for merge in fields["merges"]])
    if "scores" in fields:
        writer.add_token_scores(fields["scores"])
    writer.add_eos_token_id(fields["eos"])
    writer.add_bos_token_id(fields["bos"])
    writer.add_add_bos_token(fields.get("add_bos", False))
    writer.add_chat_template(INST)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def byte_level(digits, ignore_merges):
    """(a Hugging Face tokenizer with words and merges of its own, its tokens, merges)."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("t", "h"), ("Ġ", "i"), ("Ġi", "s"), ("1", "2"), ("12", "3"), ("s", "o"), ("Ċ", "Ċ")]
    tokens = [*SPECIAL, "<think>", *alphabet, *dict.fromkeys("".join(m) for m in merges)]
    tokens += ["ĠBecause"]  # no merges lead to it: found only where words are looked up whole
    vocab = {token: i for i, token in enumerate(tokens)}
    backend = Tokenizer(models.BPE(vocab, merges, ignore_merges=ignore_merges))
    words = Regex(
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|" + digits +
        r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )  # fmt: skip
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(words, "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in SPECIAL])
    backend.add_tokens([AddedToken("<think>", special=False, normalized=False)])
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=SPECIAL[0]), tokens, merges


@pytest.mark.parametrize(
    ("pre", "digits", "ignore"),
    [
        ("qwen2", r"\p{N}", False),
        ("deepseek-r1-qwen", r"\p{N}", False),
        ("llama-bpe", r"\p{N}{1,3}", True),
    ],
)
def test_byte_level(tmp_path, pre, digits, ignore):
    theirs, tokens, merges = byte_level(digits, ignore)
    types = [TokenType.CONTROL] * 2 + [TokenType.USER_DEFINED]
    types += [TokenType.NORMAL] * (len(tokens) - 3)
    path = write(
        tmp_path / "t.gguf", "gpt2", pre, tokens, types, merges=merges, eos=0, bos=1,
        add_bos=pre == "llama-bpe",
    )  # fmt: skip
    ours = load_tokenizer(path)
    for text in TEXTS[:-1]:
        assert ours.encode(text) == theirs.encode(text, add_special_tokens=False), text
        assert ours.decode(ours.encode(text)) == text
    composed = ours.encode("\u00c5" if pre == "qwen2" else TEXTS[-1])
    assert ours.encode(TEXTS[-1]) == composed  # Qwen composes letters and marks first
    assert ours.bos_id == (1 if pre == "llama-bpe" else None)
    assert len(ours.encode(" Because")) == (1 if ignore else 8)
    assert (ours.end_id, ours.has_chat_template) == (0, True)


def test_sentence_piece(tmp_path):
    source = load_tokenizer(save_metaspace_tokenizer(tmp_path / "hf", INST, normalizer=True))
    vocab = sorted(source.raw.get_vocab().items(), key=lambda item: item[1])
    tokens = [token for token, _ in vocab]
    types = [TokenType.UNKNOWN] + [TokenType.CONTROL] * 4 + [TokenType.BYTE] * 256
    types += [TokenType.NORMAL] * (len(tokens) - len(types))
    scores = [-float(i) for i in range(len(tokens))]  # as files of Llama 2 have them
    path = write(
        tmp_path / "t.gguf", "llama", "default", tokens, types, scores=scores, eos=2, bos=1
    )
    ours = load_tokenizer(path)
    for text in [*TEXTS, "<s>[INST] Why is it so? [/INST]", "Why<s> it"]:
        assert ours.encode(text) == source.encode(text), text
        assert ours.decode(ours.encode(text)) == source.decode(source.encode(text))
    assert (ours.end_ids, ours.reply_lead) == (source.end_ids, " ")


def test_files_without_arrays_are_refused(tmp_path):
    _, tokens, merges = byte_level(r"\p{N}", False)
    types = [TokenType.NORMAL] * len(tokens)
    ends = {"eos": 0, "bos": 1}
    with pytest.raises(UserError, match="kind gpt2/gpt-4o; of GGUF files gpt2/smollm"):
        load_tokenizer(write(tmp_path / "a.gguf", "gpt2", "gpt-4o", tokens, types, **ends))
    with pytest.raises(UserError, match="array merges is missing"):
        load_tokenizer(write(tmp_path / "b.gguf", "gpt2", "qwen2", tokens, types, **ends))
    with pytest.raises(UserError, match="array scores is missing"):
        load_tokenizer(write(tmp_path / "c.gguf", "llama", "default", tokens, types, **ends))
    with pytest.raises(UserError, match="array token_type is missing or too short"):
        path = tmp_path / "d.gguf"
        load_tokenizer(write(path, "gpt2", "qwen2", tokens, types[:-1], merges=merges, **ends))
    writer = GGUFWriter(tmp_path / "e.gguf", "llama")
    writer.add_tensor("x", np.zeros(4, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(UserError, match="holds no tokenizer"):
        load_tokenizer(tmp_path / "e.gguf")
    assert len(KINDS) == 5
