import hashlib

import numpy as np
import pytest

from caugym_jax.causal.text.wording import LACK_HINT as HINT
from caugym_jax.data import prompts
from caugym_jax.data.files import read_problems
from caugym_jax.data.items import asked, problem_item, user_message
from caugym_jax.data.packing import pad
from caugym_jax.data.prompts import item_example, prompt_tokens, reply_tokens
from caugym_jax.data.tokenizer import load_tokenizer
from caugym_jax.errors import UserError
from caugym_jax.types import Item, Problem
from tests.data.byte_tokenizer import BOS, CHAT, END, THINKING, TURN, save_byte_tokenizer
from tests.shared import shared_path

PROBLEM = Problem("Why:", '{"PROB": "0"}', "PN", solution="Because.")
STEPS = "Let's think step by step."


@pytest.fixture(params=["plain", "plain with bos", "chat", "thinking"])
def tokenizer(request, tmp_path):
    template = {"chat": CHAT, "thinking": THINKING}.get(request.param)
    folder = save_byte_tokenizer(
        tmp_path, chat_template=template, adds_bos=request.param == "plain with bos"
    )
    return load_tokenizer(folder)


def make(folder, template=None, **settings):
    return load_tokenizer(save_byte_tokenizer(folder, chat_template=template, **settings))


def completion_tokens(problem, text, tokenizer):
    return reply_tokens(asked(problem), {"role": "assistant", "content": text}, tokenizer)


def sft_examples(problems, tokenizer, max_length):
    return prompts.sft_examples(list(map(problem_item, problems)), tokenizer, max_length)


def conversation_example(messages, tokenizer):
    item = Item(tuple(messages[:-1]), tuple(messages[-1:]), every_turn=True)
    return item_example(item, tokenizer)


def test_the_wording():
    insufficient = Problem("Why:", "LACK_CONDITION", "PN", variant="insufficient")
    assert user_message(PROBLEM) == f"Why:\n{STEPS}"
    assert user_message(PROBLEM, "all") == f"Why:\n{STEPS} {HINT}"
    assert user_message(insufficient) == f"Why:\n{STEPS} {HINT}"
    assert user_message(insufficient, "none") == f"Why:\n{STEPS}"
    with pytest.raises(UserError, match="lack_hint is 'some'"):
        user_message(PROBLEM, "some")


def test_hint_line_is_the_released_one():
    """SHA-256 of eval/instructions/insuff_ins.txt in OpenCausaLab/CauGym at 63452d4."""
    line = user_message(PROBLEM, "all").split("\n")[1]
    assert hashlib.sha256(line.encode()).hexdigest() == (
        "2db6f9095dc103e88fc0150fd291bda84e67f5bf6541e9a83b1f11f05b5da240"
    )


def test_a_fixed_prompt_is_verbatim():
    fixed = Problem("Why:", '{"PROB": "0"}', "PN", prompt=f"Why: {STEPS}")
    assert user_message(fixed) == user_message(fixed, "none") == f"Why: {STEPS}"
    assert user_message(fixed, "all") == f"Why: {STEPS} {HINT}"
    hinted = Problem("Why:", '{"PROB": "0"}', "PN", prompt=f"Why: {HINT}")
    assert user_message(hinted, "all") == f"Why: {HINT}"


def test_rendered_prompts(tmp_path):
    said = f"Why:\n{STEPS}"
    for name, tokenizer, expected in [
        ("plain", make(tmp_path / "a"), f"{said}\n"),
        ("bos", make(tmp_path / "b", adds_bos=True), f"{BOS}{said}\n"),
        ("chat", make(tmp_path / "c", CHAT), f"{BOS}{TURN}user\n{said}{END}{TURN}assistant\n"),
        # A template that writes the beginning token, on a tokenizer that adds one as well.
        (
            "chat and bos",
            make(tmp_path / "d", CHAT, adds_bos=True),
            f"{BOS}{TURN}user\n{said}{END}{TURN}assistant\n",
        ),
    ]:
        assert tokenizer.decode(prompt_tokens(asked(PROBLEM), tokenizer)) == expected, name


def test_t13_prompt_and_completion_together_tokenize_as_apart(tokenizer):
    prompt = prompt_tokens(asked(PROBLEM), tokenizer)
    completion = completion_tokens(PROBLEM, "<think>\nHm.\n</think>\n\nBecause.", tokenizer)
    text = tokenizer.decode(prompt + completion)
    bos = [tokenizer.bos_id] if not tokenizer.has_chat_template and tokenizer.bos_id == 0 else []
    assert bos + tokenizer.encode(text.removeprefix(BOS) if bos else text) == prompt + completion
    assert (prompt + completion).count(0) <= 1  # never two beginnings
    assert completion.count(tokenizer.end_id) == 1 and completion[-1] == tokenizer.end_id
    assert text.endswith(f"<think>\nHm.\n</think>\n\nBecause.{END}")
    assert text.count("<think>") == 1


def test_t13_a_reply_that_merges_with_the_prompt_keeps_its_own_tokens(tmp_path):
    """The prompt ends in a newline, and two newlines are one token: sampling, which goes on from
    the prompt's tokens, meets the reply's own."""
    tokenizer = make(tmp_path, CHAT)
    reply = completion_tokens(PROBLEM, "\nBecause.", tokenizer)
    assert reply == [*tokenizer.encode("\n"), *tokenizer.encode("Because."), tokenizer.end_id]
    prompt = prompt_tokens(asked(PROBLEM), tokenizer)
    assert tokenizer.decode(prompt + reply).endswith(f"assistant\n\nBecause.{END}")


def test_t13_end_token_once_and_only_at_the_end(tokenizer):
    plain = completion_tokens(PROBLEM, "Because.", tokenizer)
    assert completion_tokens(PROBLEM, "Because." + END, tokenizer) == plain
    for text in (f"Be{END}cause.", f"Because.{END}{END}", f"{BOS}Because."):
        with pytest.raises(UserError, match="special token"):
            completion_tokens(PROBLEM, text, tokenizer)


def test_every_end_id_is_refused_inside(tmp_path):
    tokenizer = make(tmp_path, end_ids=[2, 1])
    with pytest.raises(UserError, match="'<turn>'"):
        completion_tokens(PROBLEM, f"Be{TURN}cause.", tokenizer)
    # A text that ends with another end token gets the one that the tokenizer names.
    assert completion_tokens(PROBLEM, f"Because.{TURN}", tokenizer)[-2:] == [
        *tokenizer.encode("."),
        1,
    ]


def test_a_template_that_opens_think(tmp_path):
    tokenizer = make(tmp_path, THINKING)
    for text, expected in [
        ("<think>\nHm.\n</think>\n\nYes.", "Hm.\n</think>\n\nYes."),
        ("Hm.\n</think>\n\nYes.", "Hm.\n</think>\n\nYes."),
        ("Yes.", "</think>\n\nYes."),
        ("\n<think>\nHm.\n</think>\n\nYes.", "Hm.\n</think>\n\nYes."),
    ]:
        assert tokenizer.decode_completion(completion_tokens(PROBLEM, text, tokenizer)) == expected


def test_t06_pad_equal_to_end_keeps_the_end_in_the_loss(tmp_path):
    tokenizer = make(tmp_path, CHAT, pad=END)
    assert tokenizer.pad_id == tokenizer.end_id
    examples, _ = sft_examples([PROBLEM], tokenizer, 200)
    batch = pad(examples, 200, tokenizer.pad_id)
    length = len(examples[0].prompt) + len(examples[0].completion)
    assert batch.tokens[0, length - 1] == tokenizer.end_id
    assert batch.loss_mask[0, length - 1] == 1
    assert batch.loss_mask[0, length:].sum() == 0  # the padding, the same id, is not
    assert batch.loss_mask.sum() == len(examples[0].completion)


def test_t13_too_long_is_dropped_whole_and_counted(tokenizer):
    long = Problem("Why:", '{"PROB": "0"}', "PN", solution="x" * 500)
    needed = len(prompt_tokens(asked(PROBLEM), tokenizer)) + len(
        completion_tokens(PROBLEM, PROBLEM.solution, tokenizer)
    )
    examples, dropped = sft_examples([PROBLEM, long, PROBLEM], tokenizer, needed)
    assert (len(examples), dropped) == (2, [1])
    assert all(e.completion[-1] == tokenizer.end_id for e in examples)
    with pytest.raises(UserError, match=f"none of the 2 examples fits {needed - 1} tokens"):
        sft_examples([PROBLEM, PROBLEM], tokenizer, needed - 1)


def test_what_cannot_be_trained_on_is_named(tokenizer):
    unsolved = Problem("Why:", '{"PROB": "0"}', "PN")
    with pytest.raises(UserError, match="item 1 .*no reply to train on"):
        sft_examples([PROBLEM, unsolved], tokenizer, 500)
    bad = Problem("Why:", '{"PROB": "0"}', "PN", solution=f"{BOS}Because.")
    with pytest.raises(UserError, match="item 1 .*special token"):
        sft_examples([PROBLEM, bad], tokenizer, 500)


def test_released_traces_are_trained_whole(tokenizer):
    problems = read_problems(shared_path("data/caugym/train/cold_start_sft.parquet"))[:10]
    examples, dropped = sft_examples(problems, tokenizer, 100_000)
    assert not dropped
    for problem, example in zip(problems, examples, strict=True):
        text = tokenizer.decode(example.prompt) + tokenizer.decode_completion(example.completion)
        assert problem.prompt in text and text.endswith(problem.solution)


def said(*contents):
    """A conversation of user and assistant by turns."""
    roles = ["user", "assistant"] * len(contents)
    return [{"role": r, "content": c} for r, c in zip(roles, contents, strict=False)]


def test_every_turn_of_the_assistant_is_learned(tmp_path):
    tokenizer = make(tmp_path, CHAT)
    example = conversation_example(said("Why?", "So.", "And?", "Thus."), tokenizer)
    assert tokenizer.decode(example.prompt) == f"{BOS}{TURN}user\nWhy?{END}{TURN}assistant\n"
    whole = f"So.{END}{TURN}user\nAnd?{END}{TURN}assistant\nThus.{END}"
    assert tokenizer.decode(example.completion) == whole
    learned = [t for t, m in zip(example.completion, example.mask, strict=True) if m]
    assert tokenizer.decode(learned) == f"So.{END}Thus.{END}"
    batch = pad([example], 128)
    assert batch.loss_mask.sum() == len(learned)
    np.testing.assert_array_equal(batch.tokens[batch.loss_mask > 0], learned)


def test_a_conversation_of_one_turn_is_a_plain_example(tmp_path):
    tokenizer = make(tmp_path, CHAT)
    a = conversation_example(said("Why?", "So."), tokenizer)
    plain = Problem("Why?", "{}", "PN", prompt="Why?", solution="So.")
    (b,), dropped = sft_examples([plain], tokenizer, 100)
    assert a == b and a.mask is None and not dropped


def test_conversations_that_cannot_be_learned_are_refused(tmp_path):
    tokenizer = make(tmp_path / "a", CHAT)
    for turns in (said("Why?"), said("Why?", "So.", "And?"), said("Why?", "So.")[1:]):
        with pytest.raises(UserError, match="must end with a turn of the assistant"):
            conversation_example(turns, tokenizer)
    thinking = make(tmp_path / "b", THINKING)
    turns = said("Why?", "<think>\nHm.</think>So.", "And?", "<think>\nOh.</think>Thus.")
    assert conversation_example(turns[:2], thinking).completion
    with pytest.raises(UserError, match=r"message 3 .*another way than they were said"):
        conversation_example(turns, thinking)
    with pytest.raises(UserError, match="needs a tokenizer with a chat template"):
        conversation_example(said("Why?", "So.", "And?", "Thus."), make(tmp_path / "c"))
