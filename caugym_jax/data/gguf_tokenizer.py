"""A tokenizer rebuilt from the fields of a GGUF file, without the model's own tokenizer.json.

GGUF names a kind by `tokenizer.ggml.model` and `.pre`: byte-level BPE ("gpt2") with merges and one
of several ways to cut a text into words, or SentencePiece's ("llama") with a score for each piece.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers import Tokenizer as Backend
from transformers import PreTrainedTokenizerFast

from caugym_jax.errors import UserError

Field = Callable[[str], Any]  # a field's content, by its name behind "tokenizer."; None: absent

# A word with the letter or sign before it, digits by DIGITS, signs, line ends, other white space.
_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|DIGITS| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# How a text is cut into words, by `tokenizer.ggml.pre`.
_DIGITS = {"qwen2": r"\p{N}", "deepseek-r1-qwen": r"\p{N}", "llama-bpe": r"\p{N}{1,3}"}
KINDS = ("gpt2/smollm", *(f"gpt2/{pre}" for pre in _DIGITS), "llama/default")
_NAMED = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}


def read_gguf(path: Path) -> tuple[PreTrainedTokenizerFast, list[int | None]]:
    """(the tokenizer, further end tokens) of a GGUF file.

    Raises:
      UserError: no readable GGUF file, none of `KINDS`, or a tokenizer without its arrays.
    """
    import gguf

    try:
        fields = gguf.GGUFReader(path).fields
    except (OSError, ValueError, IndexError) as error:
        line = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(f"{path} is not a readable GGUF file ({line})") from error

    def field(key: str) -> Any:
        return fields[f"tokenizer.{key}"].contents() if f"tokenizer.{key}" in fields else None

    model = field("ggml.model")
    if model is None:
        raise UserError(f"{path} holds no tokenizer: use the model's Hugging Face folder")
    kind = f"{model}/{field('ggml.pre') or 'default'}"
    if kind not in KINDS:
        raise UserError(
            f"{path}: its tokenizer is of kind {kind}; of GGUF files {', '.join(KINDS)} are read: "
            "use the model's Hugging Face folder"
        )
    tokens, types = field("ggml.tokens"), field("ggml.token_type")
    needed = {"tokens": tokens, "token_type": types}
    needed |= {"merges": field("ggml.merges")} if model == "gpt2" else {}
    needed |= {"scores": field("ggml.scores")} if model == "llama" else {}
    for name, array in needed.items():
        if array is None or (name != "merges" and len(array) != len(tokens)):
            raise UserError(
                f"{path}: the tokenizer's array {name} is missing or too short: fetch it again"
            )
    if model == "gpt2":
        backend = _byte_level(tokens, needed["merges"], kind.partition("/")[2])
    else:
        backend = _sentence_piece(tokens, needed["scores"], types, field)
    kinds = gguf.TokenType
    added = {kinds.CONTROL: True, kinds.USER_DEFINED: False}
    backend.add_tokens(
        [
            AddedToken(token, special=added[kind], normalized=False)
            for token, kind in zip(tokens, types, strict=True)
            if kind in added
        ]
    )
    named = {
        name: tokens[field(f"ggml.{key}_token_id")]
        for name, key in _NAMED.items()
        if field(f"ggml.{key}_token_id") is not None
    }
    if field("ggml.add_bos_token") and "bos_token" in named:
        bos = named["bos_token"]
        backend.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, tokens.index(bos))]
        )
    raw = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        chat_template=field("chat_template"),
        clean_up_tokenization_spaces=False,
        **named,
    )
    return raw, [field("ggml.eot_token_id")]


SAMPLES = (
    "It's 12345.67 - or\tnot?\n\n  Two  spaces, THEY'LL  end.\r\n",
    "P(Y=1 | do(X=0)) = 0.3847\n\n\nna\u00efve \u00e9t\u00e9 \u4f60\u597d \U0001f600 x_1",
)


def gguf_fields(raw: PreTrainedTokenizerFast, ends: Sequence[int], end: int) -> dict[str, Any]:
    """The metadata of a GGUF file that `read_gguf` makes the same tokenizer of.

    Args:
      ends: every id that ends a completion.
      end: the one that ends a turn.

    Raises:
      UserError: it is no byte-level BPE of one of `KINDS`.
    """
    import gguf

    stored = json.loads(raw.backend_tokenizer.to_str())
    model, added = stored["model"], {t["id"]: t for t in stored["added_tokens"]}
    refusal = UserError(f"this tokenizer cannot be written as GGUF: only {', '.join(KINDS[:-1])}")
    if model.get("type") != "BPE" or not model.get("merges"):
        raise refusal
    tokens = {i: token for token, i in model["vocab"].items()}
    tokens |= {i: token["content"] for i, token in added.items()}
    names = [tokens.get(i, f"[PAD{i}]") for i in range(max(tokens) + 1)]
    merges = [m if isinstance(m, str) else " ".join(m) for m in model["merges"]]
    for pre in ("smollm", *_DIGITS):
        found = _byte_level(names, merges, pre)
        alike = (found.encode(x).ids == raw.encode(x, add_special_tokens=False) for x in SAMPLES)
        if all(alike):
            break
    else:
        raise refusal
    kinds, special = gguf.TokenType, {i for i, token in added.items() if token["special"]}
    types = [
        kinds.CONTROL if i in special else kinds.USER_DEFINED if i in added else kinds.NORMAL
        for i in range(len(names))
    ]
    named: dict[str, int | None] = {
        "bos": raw.bos_token_id, "eos": end, "padding": raw.pad_token_id,
        "eot": next((i for i in ends if i != end), None),
    }  # fmt: skip
    return {
        "ggml.model": "gpt2",
        "ggml.pre": pre,
        "ggml.tokens": names,
        "ggml.token_type": [int(kind) for kind in types],
        "ggml.merges": merges,
        **{f"ggml.{key}_token_id": i for key, i in named.items() if i is not None},
        **({"chat_template": raw.chat_template} if raw.chat_template else {}),
    }


def _byte_level(tokens: Sequence[str], merges: Sequence[str], pre: str) -> Backend:
    """BPE over bytes, each written as a letter."""
    backend = Backend(
        models.BPE(
            vocab={token: i for i, token in enumerate(tokens)},
            merges=[(left, right) for left, right in (merge.split(" ") for merge in merges)],
            ignore_merges=pre == "llama-bpe",  # words that are tokens are not taken apart
        )
    )
    if pre == "smollm":  # single digits, then GPT-2's own words
        parts = [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    else:
        words = Regex(_WORDS.replace("DIGITS", _DIGITS[pre]))
        parts = [
            pre_tokenizers.Split(words, "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    backend.pre_tokenizer = pre_tokenizers.Sequence(parts)
    if pre == "qwen2":
        backend.normalizer = normalizers.NFC()
    backend.decoder = decoders.ByteLevel()
    return backend


def _sentence_piece(
    tokens: Sequence[str], scores: Sequence[float], types: Sequence[int], field: Field
) -> Backend:
    """SentencePiece's BPE: of neighbours the pair is merged whose piece has the best score.

    A space is written as U+2581; one is put before each stretch of text unless the file says not
    to. What no piece spells is written in bytes.
    """
    import gguf

    vocab = {token: i for i, token in enumerate(tokens)}
    normal = {
        token
        for token, kind in zip(tokens, types, strict=True)
        if kind in (gguf.TokenType.NORMAL, gguf.TokenType.USER_DEFINED)
    }
    merges = [
        (scores[vocab[piece]], piece[:cut], piece[cut:])
        for piece in normal
        for cut in range(1, len(piece))
        if piece[:cut] in normal and piece[cut:] in normal
    ]
    merges.sort(key=lambda merge: (-merge[0], vocab[merge[1]], vocab[merge[2]]))
    unknown = tokens[field("ggml.unknown_token_id") or 0]
    backend = Backend(
        models.BPE(
            vocab,
            [(left, right) for _, left, right in merges],
            unk_token=unknown,
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    spaces: list[normalizers.Normalizer] = [normalizers.Replace(" ", "▁")]
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    if field("ggml.add_space_prefix") is not False:
        spaces.insert(0, normalizers.Prepend("▁"))
        steps.append(decoders.Strip(" ", 1, 0))
    backend.normalizer = normalizers.Sequence(spaces)
    backend.decoder = decoders.Sequence(steps)
    return backend
