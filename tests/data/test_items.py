"""Rows of every layout as items: what is asked, what is learned, what rewards see."""

import json
import re

import pytest

from caugym_jax.causal.engine.generating import generate_problem
from caugym_jax.data.files import naming
from caugym_jax.data.items import training_items, truth
from caugym_jax.data.preferences import judged, preference, sift
from caugym_jax.data.prompts import item_example, prompt_tokens, sft_examples
from caugym_jax.data.sources import desirable_items, padded, prompt_items
from caugym_jax.data.tokenizer import load_tokenizer
from caugym_jax.errors import UserError
from tests.data.byte_tokenizer import BOS, CHAT, END, TURN, save_byte_tokenizer


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return load_tokenizer(save_byte_tokenizer(tmp_path_factory.mktemp("chat"), chat_template=CHAT))


def turn(role, content):
    return {"role": role, "content": content}


ASKED, TOLD = turn("user", "2+2?"), turn("assistant", "It is 4")
PROMPT = f"{BOS}{TURN}user\n2+2?{END}{TURN}assistant\n"
CHATS = {  # each the same question and answer
    "messages": {"messages": [ASKED, TOLD]},
    "parts": {"messages": [turn("user", [{"type": "text", "text": "2+2?"}]), TOLD]},
    "sharegpt": {
        "conversations": [
            {"from": "human", "value": "2+2?"},
            {"from": "gpt", "value": "It is 4"},
        ]
    },
    "prompt, completion": {"prompt": [ASKED], "completion": [TOLD]},
    "completion as text": {"prompt": [ASKED], "completion": "It is 4"},
    "gsm8k": {"question": "2+2?", "answer": "It is 4"},
    "math": {"problem": "2+2?", "solution": "It is 4", "answer": "4"},
    "alpaca": {"instruction": "2+2?", "input": "", "output": "It is 4"},
    "dpo": {"prompt": [ASKED], "chosen": [TOLD], "rejected": [turn("assistant", "5")]},
    "h4": {"prompt": "2+2?", "chosen": [ASKED, TOLD], "rejected": [ASKED, turn("assistant", "5")]},
    "kto": {"prompt": [ASKED], "completion": [TOLD], "label": 1},
    "verl": {
        "data_source": "openai/gsm8k",
        "prompt": [ASKED],
        "reward_model": {"ground_truth": "4", "style": "rule"},
        "answer": [TOLD],
    },
}


def read(tmp_path, *rows):
    path = tmp_path / "mine.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return training_items(str(path))


@pytest.mark.parametrize("row", CHATS.values(), ids=CHATS)
def test_every_layout_asks_and_replies_alike(row, tokenizer, tmp_path):
    (item,) = read(tmp_path, row)
    example = item_example(item, tokenizer)
    assert tokenizer.decode(example.prompt) == PROMPT
    assert tokenizer.decode(example.completion) == f"It is 4{END}" and example.mask is None
    assert dict(item.columns) == row and item.problem is None
    assert sft_examples([item], tokenizer, 200) == ([example], [])
    assert padded([example], 200, 0, None).loss_mask.sum() == len(example.completion)
    ((same, tokens),), _, _ = prompt_items([item], tokenizer, 200, 512, 40)
    assert same is item and tokens == example.prompt


def test_texts_stand_as_they_are(tokenizer, tmp_path):
    """An already rendered prompt is not wrapped again, and gets no second beginning."""
    rendered = {"prompt": PROMPT, "completion": "It is 4"}
    pair = {"prompt": PROMPT, "chosen": "It is 4", "rejected": "5"}
    hh = {"chosen": f"{PROMPT} It is 4", "rejected": f"{PROMPT} It is 5"}
    for item in read(tmp_path, rendered, pair):
        example = item_example(item, tokenizer)
        assert tokenizer.decode(example.prompt) == PROMPT
        assert tokenizer.decode(example.completion) == f"It is 4{END}"
    (item,) = read(tmp_path, hh)
    assert (item.prompt, item.reply) == (f"{PROMPT} It is", " 4")
    (item,) = read(tmp_path, {"text": f"{PROMPT}It is 4{END}"})
    example = item_example(item, tokenizer)
    assert example.prompt == [] and tokenizer.decode(example.completion) == f"{PROMPT}It is 4{END}"
    with pytest.raises(UserError, match="item 0 .*nothing is asked"):
        prompt_items([item], tokenizer, 200, 512, 40)


def test_a_text_begins_once(tmp_path):
    tokenizer = load_tokenizer(save_byte_tokenizer(tmp_path, adds_bos=True))
    for prompt in ("Why", f"{BOS}Why"):
        assert tokenizer.decode(prompt_tokens(prompt, tokenizer)) == f"{BOS}Why"


def test_system_messages_and_all_turns_are_asked(tokenizer, tmp_path):
    """Of a causal problem too: RL and evaluation ask with the prompt that SFT learns behind."""
    problem = generate_problem(0, 0, ("ATE",))
    talk = [
        turn("system", "Be exact."),
        turn("user", "Hi"),
        turn("assistant", "Yes?"),
        turn("user", problem.text),
        turn("assistant", f"So:\n{problem.answer}"),
    ]
    (item,) = read(tmp_path, {"messages": talk})
    assert item.prompt == tuple(talk[:-1]) and item.problem.text == problem.text
    assert item.problem.prompt == item.prompt and truth(item) == problem.answer
    example = item_example(item, tokenizer)
    learned = [t for t, m in zip(example.completion, example.mask, strict=True) if m]
    assert tokenizer.decode(learned) == f"Yes?{END}So:\n{problem.answer}{END}"
    ((_, tokens),), _, _ = prompt_items([item], tokenizer, 4000, 5000, 40)
    whole = example.prompt + example.completion
    assert whole[: len(tokens)] == tokens
    assert tokenizer.decode(tokens).startswith(f"{BOS}{TURN}system\nBe exact.{END}")


def test_sft_of_a_kto_file_takes_what_is_desirable(tmp_path):
    row = CHATS["kto"]
    items = read(tmp_path, row, row | {"label": 0.0}, row | {"label": True}, CHATS["gsm8k"])
    kept, left_out = desirable_items(items)
    assert kept == [items[0], items[2], items[3]] and left_out == 1
    for label in ("false", None, 2):
        with pytest.raises(UserError, match="item 1 .*'label' must be true or false"):
            desirable_items(read(tmp_path, row, row | {"label": label}))
    with pytest.raises(UserError, match="all rows are labelled undesirable"):
        desirable_items(read(tmp_path, row | {"label": 0}))


def test_messages_name_file_and_row(tokenizer, tmp_path):
    """The row of the file, also where rows before it were left out."""
    items = read(tmp_path, CHATS["kto"] | {"label": 0}, {"question": "2+2?"}, {"text": "4"})
    (kept, _) = desirable_items(items)
    with pytest.raises(UserError, match=r"mine.jsonl, item 1 \(counting from 0\): there is no rep"):
        sft_examples(kept, tokenizer, 200)
    with pytest.raises(UserError, match=r"mine.jsonl, item 2 \(counting from 0\): nothing is ask"):
        prompt_items(items, tokenizer, 200, 512, 40)
    with pytest.raises(UserError, match=r"prompt of .*mine.jsonl, item 0 \(counting from 0\) has"):
        prompt_items(items[:2], tokenizer, 5, 512, 40)
    with pytest.raises(UserError, match="^a.jsonl,b.jsonl: none is"), naming("a.jsonl,b.jsonl"):
        raise UserError("none is left")
    with pytest.raises(UserError, match="^b.jsonl, item 1: "), naming("a.jsonl=1,b.jsonl=2"):
        raise UserError("b.jsonl, item 1: it is empty")


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"sentence": "x"}, "no other layout is known by the row's keys: messages,"),
        ({"messages": []}, "'messages' is empty"),
        ({"messages": "Hi"}, "'messages' must be a text or a list of messages"),
        ({"messages": [{"role": "user", "content": None}, TOLD]}, "no 'content' in message 0"),
        ({"messages": [{"content": "x"}, TOLD]}, "no 'role' in message 0"),
        ({"messages": [TOLD]}, "begins with the assistant"),
        ({"messages": [turn("user", [{"type": "image"}]), TOLD]}, "a part of type 'image'"),
        ({"conversations": [{"from": "me", "value": "x"}]}, "from 'me': expected human, user"),
        ({"question": ""}, "'question' must be text"),
        ({"instruction": 3}, "'instruction' and 'input' must be texts"),
        ({"chosen": "yes", "rejected": "no"}, "chosen and rejected must begin alike"),
        ({"prompt": [ASKED], "completion": [ASKED]}, "one assistant message as 'completion'"),
        ({"problem": "2+2?", "answer": "4", "Type": "ABC"}, "'Type' must be one of"),
        ("text", "expected a JSON object"),
    ],
)
def test_malformed_rows_are_named(row, words, tmp_path):
    with pytest.raises(UserError, match="item 1 ") as error:
        read(tmp_path, CHATS["gsm8k"], row)
    assert words in str(error.value) and "\n" not in str(error.value)


def test_where_the_truth_stands(tmp_path):
    rows = [
        {"question": "2+2?", "answer": 4},
        {"prompt": [ASKED], "solution": "4"},
        {"prompt": [ASKED], "ground_truth": "4", "answer": "It is 4"},
        {"prompt": [ASKED], "target": 4.0},
        CHATS["verl"],
        {"prompt": [ASKED]},
    ]
    assert list(map(truth, read(tmp_path, *rows))) == ["4", "4", "4", "4.0", "4", None]


TOOLS = (
    "{% for m in messages %}{{ '<turn>' + m['role'] + '\n' }}"
    "{% if m['reasoning_content'] is defined %}"
    "{{ '<think>' + m['reasoning_content'] + '</think>' }}{% endif %}"
    "{{ m['content'] }}{% for c in m['tool_calls'] or [] %}{{ c['function']['name'] }}"
    "{% endfor %}{{ '</s>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<turn>assistant\n' }}{% endif %}"
)


def test_thoughts_and_calls_of_tools_are_what_the_template_writes(tmp_path):
    folder = save_byte_tokenizer(tmp_path / "tools", chat_template=TOOLS)
    tokenizer = load_tokenizer(folder)
    thought = TOLD | {"reasoning_content": "Hm.", "name": None}
    call = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "add"}}]}
    first, second = read(tmp_path, {"messages": [ASKED, thought]}, {"messages": [ASKED, call]})
    learned = [tokenizer.decode(item_example(x, tokenizer).completion) for x in (first, second)]
    assert learned == [f"<think>Hm.</think>It is 4{END}", f"add{END}"]


ALTERNATE = (
    "{% for m in messages %}{% if loop.previtem and loop.previtem['role'] == m['role'] %}"
    "{{ raise_exception('Roles must alternate!') }}{% endif %}{{ m['content'] }}{% endfor %}"
)
REFUSING = {  # a template, what its refusal says
    "{{ raise_exception('Only user and assistant roles are supported!') }}": "Only user and assist",
    ALTERNATE: "Roles must alternate!",
    "{% for m in messages %}{{ m['content'] }": "unexpected '}'",
    "a list without a default": "multiple chat templates with no default",
}


@pytest.mark.parametrize("template", REFUSING)
def test_what_a_template_refuses_is_named_in_its_own_words(template, tmp_path):
    folder, listed = tmp_path / "t", template == "a list without a default"
    save_byte_tokenizer(folder, chat_template={"rag": CHAT} if listed else template)
    tokenizer = load_tokenizer(folder)
    talk = [ASKED, ASKED]
    items = read(tmp_path, {"messages": [*talk, TOLD]})
    words = rf"mine.jsonl, item 0 .*template refuses .*: .*{re.escape(REFUSING[template])}"
    with pytest.raises(UserError, match=words):
        sft_examples(items, tokenizer, 200)
    with pytest.raises(UserError, match=words):
        prompt_items(items, tokenizer, 200, 512, 40)
    row = {"prompt": talk, "chosen": [TOLD], "rejected": [turn("assistant", "5")]}
    read(tmp_path, row | {"completion": [TOLD], "label": True})
    for make in (preference, judged):
        with pytest.raises(UserError, match=words):
            sift(str(tmp_path / "mine.jsonl"), make, tokenizer, 200)
