"""Rows of every layout as tokens and masks, against TRL's trainers, for tokenizers of four kinds.

TRL's trainers read their own layouts; of the others they are given what docs/data.md says that a
row asks and replies. What is different, and why, is at the end.
"""

import json

import datasets
import pytest

from caugym_jax.data.items import training_items
from caugym_jax.data.preferences import judged, preference, sift
from caugym_jax.data.prompts import item_example, prompt_tokens, reply_tokens
from caugym_jax.data.sources import prompt_items
from caugym_jax.data.tokenizer import load_tokenizer
from tests.data.byte_tokenizer import BOS, CHAT, END, THINKING, TURN, save_byte_tokenizer
from tests.data.metaspace_tokenizer import INST, TURNS, save_metaspace_tokenizer

transformers = pytest.importorskip("transformers")
trl = pytest.importorskip("trl", reason="requirements-parity.txt is not installed")

pytestmark = pytest.mark.torch


def marked(template, turn):
    """A chat template that says which part of it the assistant generates, as TRL asks for."""
    assert template.count(turn) == 1
    return template.replace(turn, "{% generation %}" + turn + "{% endgeneration %}")


# The templates' turns of the assistant by themselves.
OWN = "{% if m['role'] == 'assistant' %}{% generation %}{{ m['content'] }}"
CHAT_MARKED = CHAT.replace(
    "{{ '<turn>' + m['role'] + '\n' + m['content'] }}{{ eos_token }}",
    "{{ '<turn>' + m['role'] + '\n' }}" + OWN + "{{ eos_token }}{% endgeneration %}"
    "{% else %}{{ m['content'] }}{{ eos_token }}{% endif %}",
)
TURNS_MARKED = TURNS.replace(
    "{{ '<start>' + m['role'] + '\n' + m['content'] | trim + '<end>\n' }}",
    "{{ '<start>' + m['role'] + '\n' }}" + OWN.replace(" }}", " | trim }}")
    + "{{ '<end>' }}{% endgeneration %}{% else %}{{ m['content'] | trim + '<end>' }}{% endif %}"
    "{{ '\n' }}",
)  # fmt: skip
INST_MARKED = marked(INST, "{{ ' ' + m['content'] | trim + eos_token }}")

MADE = {
    "mistral-normaliser": lambda f: save_metaspace_tokenizer(f, INST_MARKED, normalizer=True),
    "mistral-metaspace": lambda f: save_metaspace_tokenizer(f, INST_MARKED, normalizer=False),
    "gemma": lambda f: save_metaspace_tokenizer(f, TURNS_MARKED, normalizer=False),
    "bytes": lambda f: save_byte_tokenizer(f, chat_template=CHAT_MARKED),
    "bytes-bos": lambda f: save_byte_tokenizer(f, chat_template=CHAT_MARKED, adds_bos=True),
}


@pytest.fixture(params=MADE)
def folder(request, tmp_path):
    return MADE[request.param](tmp_path / "tokens")


def turn(role, content):
    return {"role": role, "content": content}


QUESTION = "Why is it so?"
ASKED = [turn("user", QUESTION)]
TALK = [turn("user", "Why?"), turn("assistant", "Because."), turn("user", "is it so?")]
REPLIES = ["Because it is so.", "[so]", "é 1.5", "is\nit  so"]


def told(text):
    return [turn("assistant", text)]


def tiny(tokenizer):
    return transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=8,
            intermediate_size=8,
            num_hidden_layers=1,
            num_attention_heads=1,
        )  # fmt: skip
    )


def trainer(folder, method, rows, **settings):
    """TRL's trainer of a tiny model, which has tokenized its rows."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    if method != "GRPO":
        settings |= {"max_length": None}
    config = getattr(trl, f"{method}Config")(
        output_dir=folder / "out", report_to="none", use_cpu=True, bf16=False, **settings
    )
    own = {}
    if method == "GRPO":
        own["reward_funcs"] = lambda completions, **_: [0.0] * len(completions)
    if method in ("DPO", "KTO"):
        own["ref_model"] = tiny(tokenizer)
    return getattr(trl, f"{method}Trainer")(
        model=tiny(tokenizer), args=config, train_dataset=datasets.Dataset.from_list(rows),
        processing_class=tokenizer, **own,
    )  # fmt: skip


def written(folder, rows):
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def same(ours, theirs, tokenizer):
    """TRL also learns white space that the template writes behind the end of a turn (Gemma's)."""
    assert theirs[: len(ours)] == ours
    assert tokenizer.decode(theirs[len(ours) :]).strip() == ""


SFT = {  # a reply -> (our row, TRL's where that is another)
    "prompt, completion": lambda r: ({"prompt": ASKED, "completion": told(r)},),
    "several turns": lambda r: ({"prompt": TALK, "completion": told(r)},),
    "texts": lambda r: ({"prompt": QUESTION, "completion": f" {r}"},),
    "texts with an end": lambda r: ({"prompt": QUESTION, "completion": f" {r}{END}"},),
    "text": lambda r: ({"text": f"{QUESTION} {r}"},),
    "messages": lambda r: ({"messages": [*TALK, *told(r)]},),
    "sharegpt": lambda r: (
        {"conversations": [{"from": "human", "value": QUESTION}, {"from": "gpt", "value": r}]},
        {"messages": [*ASKED, *told(r)]},
    ),
    "gsm8k": lambda r: (
        {"question": QUESTION, "answer": r},
        {"prompt": ASKED, "completion": told(r)},
    ),
    "math": lambda r: (
        {"problem": QUESTION, "solution": r, "answer": "4"},
        {"prompt": ASKED, "completion": told(r)},
    ),
    "alpaca": lambda r: (
        {"instruction": "Why", "input": "is it so?", "output": r},
        {"prompt": [turn("user", "Why\n\nis it so?")], "completion": told(r)},
    ),
    "verl": lambda r: (
        {"prompt": ASKED, "reward_model": {"ground_truth": "4"}, "answer": told(r)},
        {"prompt": ASKED, "completion": told(r)},
    ),
}


@pytest.mark.parametrize("layout", SFT)
def test_sft(folder, layout):
    tokenizer = load_tokenizer(folder)
    ours, theirs = zip(*((rows[0], rows[-1]) for rows in map(SFT[layout], REPLIES)), strict=True)
    whole = {"assistant_only_loss": True} if "messages" in theirs[0] else {}
    made = trainer(folder, "SFT", list(theirs), **whole).train_dataset
    for item, row in zip(training_items(written(folder, ours)), made, strict=True):
        example = item_example(item, tokenizer)
        tokens = example.prompt + example.completion
        same(tokens, row["input_ids"], tokenizer)
        mask = [1] * len(example.completion) if example.mask is None else example.mask
        learned = [bool(m) for m in [0] * len(example.prompt) + list(mask)]
        # Nothing predicts the first token.
        assert [x != -100 for x in row["labels"]][1 : len(tokens)] == learned[1:]


PAIRS = {  # two replies -> (our row, TRL's where that is another)
    "messages": lambda a, b: ({"prompt": TALK, "chosen": told(a), "rejected": told(b)},),
    "texts": lambda a, b: ({"prompt": QUESTION, "chosen": f" {a}", "rejected": f" {b}"},),
    "hh-rlhf": lambda a, b: ({"chosen": f"{QUESTION} {a}", "rejected": f"{QUESTION} {b}"},),
    "whole conversations": lambda a, b: (
        {"chosen": [*TALK, *told(a)], "rejected": [*TALK, *told(b)]},
    ),
    "h4": lambda a, b: (
        {"prompt": QUESTION, "chosen": [*ASKED, *told(a)], "rejected": [*ASKED, *told(b)]},
        {"chosen": [*ASKED, *told(a)], "rejected": [*ASKED, *told(b)]},
    ),
}


@pytest.mark.parametrize("layout", PAIRS)
def test_dpo(folder, layout):
    tokenizer = load_tokenizer(folder)
    rows = [PAIRS[layout](*pair) for pair in zip(REPLIES, REPLIES[1:], strict=False)]
    path = written(folder, [row[0] for row in rows])
    kept = sift(path, preference, tokenizer, 10_000).kept
    made = trainer(folder, "DPO", [row[-1] for row in rows]).train_dataset
    for pair, row in zip(kept, made, strict=True):
        assert row["prompt_ids"] == pair.prompt
        same(pair.chosen, row["chosen_ids"], tokenizer)
        same(pair.rejected, row["rejected_ids"], tokenizer)


JUDGED = {
    "messages": lambda r: {"prompt": TALK, "completion": told(r)},
    "texts": lambda r: {"prompt": QUESTION, "completion": f" {r}"},
}


@pytest.mark.parametrize("layout", JUDGED)
def test_kto(folder, layout):
    tokenizer = load_tokenizer(folder)
    rows = [JUDGED[layout](r) | {"label": i % 2 == 0} for i, r in enumerate(REPLIES)]
    kept = sift(written(folder, rows), judged, tokenizer, 10_000).kept
    made = trainer(folder, "KTO", rows, per_device_train_batch_size=2).train_dataset
    for item, row in zip(kept, made, strict=True):
        assert (row["prompt_ids"], row["label"]) == (item.prompt, item.label)
        same(item.completion, row["completion_ids"], tokenizer)


PROMPTS = {
    "messages": ({"prompt": TALK, "answer": "4"},),
    "a text": ({"prompt": QUESTION, "answer": "4"},),
    "gsm8k": ({"question": QUESTION, "answer": "4"}, {"prompt": ASKED}),
    "verl": ({"prompt": ASKED, "reward_model": {"ground_truth": "4"}},),
    "a conversation that is asked on": ({"messages": TALK}, {"prompt": TALK}),
}


def test_prompts_of_grpo(folder):
    tokenizer = load_tokenizer(folder)
    theirs = trainer(folder, "GRPO", [{"prompt": ASKED}], per_device_train_batch_size=8)
    items = training_items(written(folder, [rows[0] for rows in PROMPTS.values()]))
    kept, _, _ = prompt_items(items, tokenizer, 1000, 2000, 8)
    for (_, tokens), rows in zip(kept, PROMPTS.values(), strict=True):
        assert theirs._tokenize_prompts([rows[-1]["prompt"]])[0] == [tokens]


# What is different.


def sft_row(folder, row):
    """(our example, its tokens, TRL's tokens, whether TRL learns each) of one row."""
    tokenizer = load_tokenizer(folder)
    (item,) = training_items(written(folder, [row]))
    example = item_example(item, tokenizer)
    (made,) = trainer(folder, "SFT", [row]).train_dataset
    learned = [x != -100 for x in made["labels"]]
    return example, example.prompt + example.completion, made["input_ids"], learned


def test_conversations_are_learned_whole_by_default(tmp_path):
    """We learn the assistant's turns, as TRL does with assistant_only_loss."""
    folder = save_byte_tokenizer(tmp_path / "t", chat_template=CHAT)
    example, ours, theirs, learned = sft_row(folder, {"messages": [*ASKED, *told("so")]})
    assert ours == theirs and all(learned) and len(example.prompt) > 1


def test_a_rendered_text_gets_a_second_beginning(tmp_path):
    """Ours keeps the one that the text has."""
    folder = save_byte_tokenizer(tmp_path / "t", adds_bos=True)
    row = {"prompt": f"{BOS}Why", "completion": " so"}
    _, ours, theirs, _ = sft_row(folder, row)
    assert theirs == [ours[0], *ours] and ours.count(ours[0]) == 1


def test_a_text_that_ends_a_turn_gets_a_second_end(tmp_path):
    """Ours ends with the token that the text ends with, as it would be sampled."""
    folder = save_metaspace_tokenizer(tmp_path / "t", TURNS, normalizer=False)
    _, ours, theirs, _ = sft_row(folder, {"prompt": "Why?", "completion": " so<end>"})
    assert theirs == [*ours, load_tokenizer(folder).text_end_id]


def test_a_reply_that_merges_with_the_prompt(tmp_path):
    """TRL learns the merged token behind a shortened prompt, which sampling never meets; ours
    learns the reply's own tokens behind the whole prompt."""
    folder = save_byte_tokenizer(tmp_path / "t", chat_template=CHAT)
    tokenizer = load_tokenizer(folder)
    example, ours, theirs, learned = sft_row(folder, {"prompt": ASKED, "completion": told("\nso")})
    assert example.prompt == prompt_tokens(ASKED, tokenizer)
    assert len(theirs) == len(ours) - 1 and learned.index(True) == len(example.prompt) - 1
    assert tokenizer.decode(theirs) == tokenizer.decode(ours)


def test_a_template_that_opens_a_thought_and_drops_it(tmp_path):
    """TRL learns the finished turn, without the thought; ours what is to be sampled."""
    folder = save_byte_tokenizer(tmp_path / "t", chat_template=THINKING)
    tokenizer = load_tokenizer(folder)
    reply = "<think>\nHm.\n</think>\n\nso"
    _, ours, theirs, _ = sft_row(folder, {"prompt": ASKED, "completion": told(reply)})
    opened = f"{BOS}{TURN}user\n{QUESTION}{TURN}assistant\n"
    assert tokenizer.decode(theirs) == f"{opened}\n\nso{END}"
    assert tokenizer.decode(ours) == f"{opened}<think>\nHm.\n</think>\n\nso{END}"
    assert ours[-len(reply_tokens(ASKED, reply, tokenizer)) :] == reply_tokens(
        ASKED, reply, tokenizer
    )
