"""The tokenizer of the solutions: about as many tokens for a problem as it has words.

Four layers, none of which loses a character:

1. numbering: each sentence with a probability and each number says which one of the text it is
   ("For those with<n3> ", " is<n3> "), so that "the third number" can be found by one look-up. The
   marks are put in by normalizers and taken out by the decoder: decoded text has none;
2. phrases: the fixed pieces of the official templates, and state words with the verb form that
   gives them their role (" being low", " was low"), one token each, longest match first;
3. words: what stands between white space, cut from its start into the longest known pieces: names'
   words, the tokens of a solution, pairs of letters;
4. bytes: anything else, in UTF-8.

The ids of what a solution may hold come first: a model needs output rows for these alone.
"""

from __future__ import annotations

import functools
import itertools
import json
import re
import string
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from caugym_jax.causal.text import wording
from caugym_jax.data.solutions import notation
from caugym_jax.data.token_features import Features

FOLDER = Path(__file__).parent
PAD, END, USER, ASSISTANT = "<|pad|>", "<|end|>", "<|user|>", "<|assistant|>"
SPECIAL = (PAD, END, USER, ASSISTANT)
CHAT_TEMPLATE = (
    "{% for m in messages %}{% if m['role'] == 'assistant' %}{{ '<|assistant|>' + m['content'] +"
    " '<|end|>' }}{% else %}{{ '<|user|>' + m['content'] }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
LETTERS = 11  # variables whose codes "(A=0)" are tokens
STARTS = (wording.GIVEN.rstrip(), wording.ALONE.rstrip())
JOINS = ("-life", "-being", " and", " on", " being", " had", "'s")
VERB_FORMS = (" being", " be", " been", " was")
LONGEST = 64  # characters between white space that are looked up as one piece


@functools.cache
def words() -> tuple[str, ...]:
    """The words of names: those of the generator and of the released training prompts."""
    return tuple((FOLDER / "words.txt").read_text().split("\n")[:-1])


@functools.cache
def state_pairs() -> tuple[tuple[str, str], ...]:
    """The words for 0 and 1: the generator's, the released training prompts', and some more."""
    return _pairs("states.txt")


@functools.cache
def poles() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(Words that mean 0, words that mean 1) whatever they are paired with, tokens or not."""
    zeros, ones = zip(*state_pairs(), *_pairs("poles.txt"), strict=True)
    return tuple(sorted({*zeros} - {*ones})), tuple(sorted({*ones} - {*zeros}))


def _pairs(file: str) -> tuple[tuple[str, str], ...]:
    lines = (FOLDER / file).read_text().split("\n")[:-1]
    return tuple((zero, one) for zero, one in (line.split("\t") for line in lines))


@functools.cache
def phrases() -> tuple[str, ...]:
    """The fixed pieces of the official texts, cut before a name's space."""
    instructions = [
        f"\nInstruction: Consider the {name} ({task}) of" for task, name in wording.EFFECTS.items()
    ]
    questions = [
        piece.rstrip()
        for text in wording.QUESTIONS.values()
        for piece in _pieces(text)
        if len(piece.split()) > 1  # a word alone is no phrase: it may begin another
    ]
    opening = [f"\nQuestion: {q}" for q in questions if q[0].isupper()]
    bounds = [q.replace("bound_is", b) for q in questions for b in ("upper", "lower")]
    joins = [". ", ", the probability of"]
    return tuple(
        dict.fromkeys(
            [
                *(wording.HEADER, wording.HEADER + " ", wording.AFFECTS.rstrip(), *joins),
                *instructions,
                *("\nQuestion:", *opening, *(q for q in bounds if not q[0].isupper())),
                *(f"\n{a}" for a in (wording.ANSWER_FORMAT, wording.BOUND_ANSWER_FORMAT)),
                *(gap + wording.STEP_BY_STEP for gap in ("\n", " ")),
                " " + wording.LACK_HINT,
            ]
        )
    )


def _pieces(question: str) -> list[str]:
    """A question's fixed pieces: between its slots, but " bound of ..." whole with its bound."""
    question = question.replace("{bound}", "bound_is")
    pieces, place = [], 0
    while (start := question.find("{", place)) >= 0:
        pieces.append(question[place:start])
        place = question.index("}", start) + 1
    pieces = [*pieces, question[place:]]
    verbs = (" be ", " been ", " was ")  # these belong to the state that follows
    for verb in verbs:
        pieces = [p.removesuffix(verb) for p in pieces]
    return [p.removesuffix(" being ") for p in pieces]


def numbered(text: str, k: int) -> str:
    return f"{text}<n{k}> "


@functools.cache
def prompt_tokens() -> dict[str, tuple[notation.Feature, ...]]:
    """Every further token that a prompt may hold, in a fixed order, with its features."""
    tokens = notation.Tokens({})
    for text in phrases():
        tokens.add(text, ("type", "phrase"))
    for letter in string.ascii_uppercase[:LETTERS]:
        for value in (0, 1):
            tokens.add(f" ({letter}={value})", ("type", "code"), ("code", value))
    for k in range(1, notation.MAX_ITEMS + 1):
        tokens.add(numbered(" is", k), ("type", "is"), ("number", k))
        for start in STARTS:
            tokens.add(numbered(start, k).rstrip(), ("type", "start"), ("number", k))
    for state in dict.fromkeys(state for pair in state_pairs() for state in pair):
        for verb in VERB_FORMS:
            tokens.add(f"{verb} {state}", ("type", "state"), ("state", state))
    return tokens.features


@functools.cache
def pieces() -> tuple[str, ...]:
    """What a word may be cut into, beside the tokens of solutions."""
    forms = [form for word in words() for form in (" " + word, word[:1].upper() + word[1:])]
    pairs = [a + b for a in string.ascii_lowercase for b in string.ascii_lowercase]
    return tuple(dict.fromkeys([*forms, *pairs, *JOINS]))


@functools.cache
def vocabulary() -> dict[str, tuple[notation.Feature, ...]]:
    """Every token in the order of the ids, with its features.

    Tokens are as their text reads, but bytes, which are as `ByteLevel` writes them.
    """
    special: tuple[notation.Feature, ...] = (("type", "special"),)
    known = dict.fromkeys(SPECIAL, special)
    known |= notation.solution_tokens()
    for text, features in prompt_tokens().items():
        known.setdefault(text, features)
    for text in pieces():
        known.setdefault(text, (("type", "name"),))
    for byte in sorted(pre_tokenizers.ByteLevel.alphabet()):
        known.setdefault(byte, (("type", "byte"),))
    return known


def solution_size() -> int:
    """How many ids, from 0, a model of solutions ever writes."""
    return len(SPECIAL) + len(notation.solution_tokens())


def features() -> Features:
    """What the tokens have in common; places in the text, which matter most, are strong."""
    names: dict[notation.Feature, int] = {}
    for found in vocabulary().values():
        for feature in found:
            names.setdefault(feature, len(names))
    matrix = np.zeros((len(vocabulary()), len(names)), np.float32)
    for token, found in enumerate(vocabulary().values()):
        matrix[token, [names[feature] for feature in found]] = 1
    strength = [3.0 if kind == "number" else 1.0 for kind, _ in names]
    return Features(matrix, np.asarray(strength, np.float32), solution_size())


def build(*, numbering: bool = True) -> Tokenizer:
    """The tokenizer, which `transformers` loads from its file without any code of ours.

    numbering: False leaves layer 1 to `marked`, which is a hundred times as fast.
    """
    ids = {text: i for i, text in enumerate(vocabulary())}
    whole = set(SPECIAL) | set(prompt_tokens())  # matched in the text, not in a word
    whole |= {t for t in notation.solution_tokens() if " " in t[2:] or '"' in t}
    table = {_as_bytes(t) if t not in whole else t: i for t, i in ids.items()}
    tokenizer = Tokenizer(
        models.WordPiece(
            table, unk_token=PAD, max_input_chars_per_word=500, continuing_subword_prefix=""
        )
    )
    if numbering:
        tokenizer.normalizer = normalizers.Sequence(_numbering())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(rf"\s?[^\s]{{1,{LONGEST}}}|\s"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    mark = decoders.Replace(Regex(r"<n\d+>"), "")
    tokenizer.decoder = decoders.Sequence([decoders.ByteLevel(), mark])
    tokenizer.add_special_tokens([AddedToken(t, normalized=False) for t in SPECIAL])
    tokenizer.add_tokens([AddedToken(t, normalized=True) for t in ids if t in whole - set(SPECIAL)])
    if tokenizer.get_vocab_size() != len(ids):
        raise AssertionError("a token has two ids")
    return tokenizer


def save(tokenizer: Tokenizer, folder: Path, max_length: int) -> None:
    """Writes `tokenizer.json` and `tokenizer_config.json`, which transformers loads."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "pad_token": PAD,
        "eos_token": END,
        "clean_up_tokenization_spaces": False,
        "model_max_length": max_length,
        "chat_template": CHAT_TEMPLATE,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")


def _as_bytes(text: str) -> str:
    """A text as `ByteLevel` writes it; its own alphabet stays as it is."""
    if text in pre_tokenizers.ByteLevel.alphabet():
        return text
    return "".join(
        piece
        for piece, _ in pre_tokenizers.ByteLevel(
            add_prefix_space=False, use_regex=False
        ).pre_tokenize_str(text)
    )


_NUMBER = r" is (?=[01]\.\d{4})"
_START = rf"(?<!Question: )(?:{'|'.join(STARTS)}) "


def marked(text: str) -> str:
    """The text with its sentences and numbers numbered, as the normalizers do it."""
    for pattern in (_NUMBER, _START):
        count = itertools.count(1)

        def mark(found: re.Match, count: Iterator[int] = count) -> str:
            k = next(count)
            return found[0] if k > notation.MAX_ITEMS else numbered(found[0][:-1], k)

        text = re.sub(pattern, mark, text)
    return text


def _numbering() -> list[normalizers.Normalizer]:
    """Marks the k-th number and the k-th sentence of a text, k = 1, 2, ..., one after the other.

    A marked one no longer looks like the next to be marked. The question's "For those with", which
    no number follows, is not one of them.
    """
    marks: list[normalizers.Normalizer] = []
    for k in range(1, notation.MAX_ITEMS + 1):
        first = rf"\A(?m:(?!{_NUMBER}).)*\K{_NUMBER}"
        marks.append(normalizers.Replace(Regex(first), numbered(" is", k)))
    for k in range(1, notation.MAX_ITEMS + 1):
        first = rf"\A(?m:(?!{_START}).)*(?<!Question: )(?:{'|'.join(STARTS)})\K "
        marks.append(normalizers.Replace(Regex(first), numbered("", k)))
    return marks
