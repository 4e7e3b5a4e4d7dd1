"""Tokenizers in SentencePiece's manner: what is learned is what sampling and the template write."""

import json

import pytest

from caugym_jax.data.preferences import judged, preference
from caugym_jax.data.prompts import item_example, prompt_tokens, reply_tokens
from caugym_jax.data.tokenizer import load_tokenizer
from caugym_jax.errors import UserError
from caugym_jax.types import Item
from tests.data.byte_tokenizer import CHAT, save_byte_tokenizer
from tests.data.metaspace_tokenizer import INST, TURNS, save_metaspace_tokenizer

ASKED = [{"role": "user", "content": "Why is it so?"}]
REPLIES = ["Because it is so.", "so", "[so]", "é 1.5", "is\nit  so"]


@pytest.fixture(params=[True, False], ids=["normaliser", "metaspace"])
def make(request, tmp_path):
    def made(template):
        folder = save_metaspace_tokenizer(tmp_path / "t", template, normalizer=request.param)
        return load_tokenizer(folder)

    return made


@pytest.mark.parametrize("template", [INST, TURNS])
@pytest.mark.parametrize("reply", REPLIES)
def test_prompt_and_reply_are_the_tokens_of_the_rendered_conversation(make, template, reply):
    tokenizer = make(template)
    prompt, ids = prompt_tokens(ASKED, tokenizer), reply_tokens(ASKED, reply, tokenizer)
    said = [*ASKED, {"role": "assistant", "content": reply}]
    whole = tokenizer.encode(tokenizer.raw.apply_chat_template(said, tokenize=False))
    assert whole[: len(prompt) + len(ids)] == prompt + ids
    assert ids[-1] == tokenizer.end_id
    assert tokenizer.decode_completion(ids) == reply


def test_what_ends_a_turn_is_learned_and_both_ends_stop(make):
    instruct = make(INST)
    assert (instruct.end_ids, instruct.end_id, instruct.reply_lead) == ((2,), 2, " ")
    gemma = make(TURNS)
    assert (gemma.end_ids, gemma.end_id, gemma.reply_lead) == ((2, 4), 4, "")
    assert gemma.decode([gemma.end_id]) == "<end>"


def test_a_text_ends_with_its_own_end_or_the_tokenizers(make):
    """No template writes it: what ends a turn does not end it, as in TRL."""
    gemma = make(TURNS)
    assert reply_tokens("Why", " so", gemma)[-1] == gemma.raw.eos_token_id == 2
    assert reply_tokens("Why", " so<end>", gemma) == [*reply_tokens("Why", " so", gemma)[:-1], 4]
    assert reply_tokens("", "Why<end>\nso", gemma)[-1] == 2


def test_several_turns(make):
    tokenizer = make(INST)
    first = [*ASKED, {"role": "assistant", "content": "Because."}, *ASKED]
    last = {"role": "assistant", "content": "It is so."}
    example = item_example(Item(tuple(first), (last,), every_turn=True), tokenizer)
    learned = [t for t, m in zip(example.completion, example.mask, strict=True) if m]
    assert example.prompt + example.completion == (
        prompt_tokens(first, tokenizer) + reply_tokens(first, "It is so.", tokenizer)
    )
    assert learned == reply_tokens(ASKED, "Because.", tokenizer) + reply_tokens(
        first, "It is so.", tokenizer
    )


def test_preferences(make):
    tokenizer = make(INST)
    row = {"prompt": ASKED, "chosen": "Because.", "rejected": "so", "completion": "so"}
    pair, single = preference(row, tokenizer), judged({**row, "label": True}, tokenizer)
    assert pair.chosen == reply_tokens(ASKED, "Because.", tokenizer)
    assert pair.rejected == single.completion == reply_tokens(ASKED, "so", tokenizer)


def test_a_reply_that_merges_with_the_prompt_is_refused(make):
    template = INST.replace("' ' + m['content'] | trim", "m['content']").replace("[/INST]'", "'")
    tokenizer = make(template)
    with pytest.raises(UserError, match="merges with the prompt's last token"):
        reply_tokens(ASKED, "Why", tokenizer)


def test_settings_that_came_with_the_model_are_kept(make, tmp_path):
    tokenizer = make(TURNS)
    tokenizer.save(tmp_path / "out")
    written = json.loads((tmp_path / "out" / "generation_config.json").read_text())
    assert written == {
        "bos_token_id": 1, "temperature": 0.7, "do_sample": True, "eos_token_id": [2, 4],
        "pad_token_id": 4,
    }  # fmt: skip
    assert load_tokenizer(tmp_path / "out").generation_config() == written


def test_the_beginning_token_of_config_json_is_kept(tmp_path):
    folder = save_byte_tokenizer(tmp_path / "t", chat_template=CHAT)
    (folder / "config.json").write_text(json.dumps({"bos_token_id": 7, "eos_token_id": 1}))
    assert load_tokenizer(folder).generation_config()["bos_token_id"] == 7


def test_a_template_that_raises_fails_where_it_is_used(tmp_path):
    template = "{{ raise_exception('no') }}"
    tokenizer = load_tokenizer(save_byte_tokenizer(tmp_path / "t", chat_template=template))
    assert (tokenizer.end_id, tokenizer.reply_lead) == (1, "")
