"""A lossless tokenizer for the official wording: about fifty tokens for a small problem.

Three layers, none of which loses a character:

1. phrases: the fixed pieces of the official templates, the state words with the verb form that
   gives them their role (` being low`, ` be low`, ` been low`), the names of the built-in
   variables and the pieces of the worked solutions, each one token, longest match first;
2. pairs: any other run of letters is cut in twos from its start (a four-letter made-up name is two
   tokens), every other character stands alone, so that numbers are single digits;
3. bytes: what is in no table (capitals inside words, accents, other scripts) is spelt in UTF-8.
"""

from __future__ import annotations

import itertools
import json
import string
from collections.abc import Iterable
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers

from caugym_jax.causal.text import wording
from caugym_jax.causal.text.names import STATE_PAIRS, VARIABLE_NAMES
from caugym_jax.data.texts import worked

PAD, END, USER, ASSISTANT = "<|pad|>", "<|end|>", "<|user|>", "<|assistant|>"
SPECIAL = (PAD, END, USER, ASSISTANT)

CHAT_TEMPLATE = (
    "{% for m in messages %}{% if m['role'] == 'assistant' %}{{ '<|assistant|>' + m['content'] +"
    " '<|end|>' }}{% else %}{{ '<|user|>' + m['content'] }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)

AS_JSON, AS_JSON_BOUND = wording.ANSWER_FORMAT, wording.BOUND_ANSWER_FORMAT
LEADING = "\n" + wording.STEP_BY_STEP
TASK_NAMES = tuple(
    f"{wording.EFFECTS[task]} ({task})" for task in ("ATE", "ETT", "CDE", "NDE", "NIE", "PN", "PS")
)
PHRASES = (
    wording.HEADER,
    wording.HEADER + " ",
    wording.AFFECTS,
    ". ",
    *(stop + start for start in (wording.GIVEN, wording.ALONE) for stop in (".\n", ". ")),
    wording.THEN,
    " and ",
    wording.IS,
    " on ",
    *(f"{gap}Question: {start}" for gap in (".\n", "\n\n") for start in ("If ", wording.GIVEN)),
    *(
        f"{gap}\nQuestion: {opening}"
        for gap in (".", "\n")
        for opening in ("Conditioned on ", "Suppose the mediator keeps constant when ")
    ),
    ", if the ",
    " is changed to",
    ", will ",
    ", will the ",
    " be more likely to",
    " have been more likely to",
    ", if their ",
    " had",
    ", would ",
    ", would the ",
    "?\n" + AS_JSON,
    "?\n" + AS_JSON_BOUND,
    AS_JSON,
    AS_JSON_BOUND,
    LEADING,
    " " + LEADING[1:],
)
SOLUTION = (
    worked.OPENING,
    worked.AGAIN,
    worked.IS,
    worked.FIRST_MINUS_SECOND,
    worked.SECOND_MINUS_FIRST,
    worked.NO_PATH,
    worked.NO_EDGE,
    worked.ANSWER,
    worked.ANSWER[1:],
    worked.ANSWER[2:],
    "Yes",
    "No",
    worked.ANSWER_PROB,
    worked.ANSWER_PROB + "0.",
    worked.ANSWER_PROB + "-0.",
    worked.ANSWER_END,
)
# State words in the style of the released sets beyond those of the generator.
MORE_STATES = """absent abundance acceptance accurate active beneficial boring calm cautious certain
clear close competent dangerous deep decisive declining difficult early easy effective employed
exciting expansion failure far favorable flexible frequent frustrating generic happy harmful heavy
impressive inaccurate inactive incompetent indecisive ineffective insufficient intense lacking large
late limited moderate narrow no overcast pleasant present productive promising proficient rainy rare
rejection reliable resilient rigid risky rural safe satisfied scarce sedentary shallow significant
stagnation strategic stunted sufficient sunny supportive thriving uncertain unemployed unfavorable
unhappy unhealthy healthy unique unpleasant unproductive unreliable unsafe urban valuable wide windy
yes""".split()  # noqa: SIM905
VERB_FORMS = (" being ", " be ", " been ")


def phrases(names: Iterable[str], states: Iterable[str]) -> list[str]:
    """Every piece of text that is one token, without repeats, in a fixed order."""
    tasks = [
        f"{gap}\nInstruction: Consider the {t} of " for t in TASK_NAMES for gap in (". ", ".\n")
    ]
    columns = [f"({d}{b}|" for d in range(10) for b in ("", "*")]
    columns += [f"{d}{b})" for d in range(10) for b in ("", "*")]
    roles = [form + state for state in states for form in VERB_FORMS]
    cased = [form for name in names for form in (name, name[:1].upper() + name[1:])]
    return list(dict.fromkeys([*PHRASES, *tasks, *SOLUTION, *columns, *roles, *cased]))


def build_tokenizer(
    names: Iterable[str] = VARIABLE_NAMES,
    states: Iterable[str] = (*itertools.chain.from_iterable(STATE_PAIRS), *MORE_STATES),
) -> Tokenizer:
    """The tokenizer for these variable names (lower case) and state words.

    Ids: special tokens, bytes, letter pairs (lower, then capitalised), phrases.
    """
    lower, upper = string.ascii_lowercase, string.ascii_uppercase
    pairs = [(a, b) for first in (lower, upper) for a in first for b in lower]
    bytes_ = sorted(pre_tokenizers.ByteLevel.alphabet())
    pieces = [*SPECIAL, *bytes_, *(a + b for a, b in pairs)]
    tokenizer = Tokenizer(models.BPE({piece: i for i, piece in enumerate(pieces)}, pairs))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"[A-Za-z][a-z]|[\s\S]"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(t, normalized=False) for t in SPECIAL])
    known = set(pieces)
    fixed = [p for p in phrases(names, states) if p not in known]
    tokenizer.add_tokens([AddedToken(p, normalized=False) for p in fixed])
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, folder: Path, max_length: int) -> None:
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
