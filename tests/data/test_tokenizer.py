import json

import pytest

from caugym_jax.data.files import read_problems
from caugym_jax.data.tokenizer import check_vocabulary, load_tokenizer
from caugym_jax.errors import UserError
from tests.data.byte_tokenizer import BOS, CHAT, END, TURN, save_byte_tokenizer
from tests.shared import shared_path
from tests.smollm2 import smollm2_path


@pytest.fixture(scope="module")
def smol():
    return load_tokenizer(smollm2_path())


def official_problems():
    names = ("base", "rephrased", "omitted", "deconfounding", "redundant", "insufficient")
    paths = [shared_path(f"data/caugym/test_dev/{name}_dataset.json") for name in names]
    return read_problems(",".join(map(str, paths)))


def test_every_end_id_is_in_the_set(tmp_path):  # Qwen and Llama 3 end a turn with either of two
    one = load_tokenizer(save_byte_tokenizer(tmp_path / "one"))
    assert (one.end_ids, one.end_id) == ((1,), 1)
    two = load_tokenizer(save_byte_tokenizer(tmp_path / "two", end_ids=[2, 1]))
    assert (two.end_ids, two.end_id) == ((1, 2), 1)
    single = load_tokenizer(save_byte_tokenizer(tmp_path / "int", end_ids=2))
    assert single.end_ids == (1, 2)
    (tmp_path / "one" / "config.json").write_text('{"eos_token_id": [0]}')
    assert load_tokenizer(tmp_path / "one").end_ids == (0, 1)
    assert two.decode_completion([*two.encode("ab"), 2, *two.encode("c")]) == "ab"
    assert two.decode_completion([*two.encode("ab"), 1, 1]) == "ab"
    assert one.decode_completion([*one.encode("ab"), 2]) == "ab" + TURN
    assert two.decode_completion(two.encode("never ended")) == "never ended"


def test_saved_folder_loads_the_same(tmp_path):
    folder = save_byte_tokenizer(tmp_path / "a", chat_template=CHAT, adds_bos=True, end_ids=[2, 1])
    before = load_tokenizer(folder)
    before.save(tmp_path / "b")
    after = load_tokenizer(tmp_path / "b")
    messages = [{"role": "user", "content": "hé\n"}]
    assert after.render_chat(messages) == before.render_chat(messages)
    assert after.render_chat(messages) == f"{BOS}{TURN}user\nhé\n{END}{TURN}assistant\n"
    for name in ("end_ids", "end_id", "pad_id", "bos_id", "vocab_size"):
        assert getattr(after, name) == getattr(before, name)
    assert after.bos_id == 0 and after.vocab_size == 3 + 256 + 1


def test_encode_adds_nothing_and_decode_hides_nothing(tmp_path):
    tokenizer = load_tokenizer(save_byte_tokenizer(tmp_path, adds_bos=True))
    text = f" a {BOS}b .  , don 't{END}"
    ids = tokenizer.encode(text)
    assert ids.count(0) == 1 and ids[-1] == 1 and ids[0] > 2
    assert tokenizer.decode(ids) == text


def test_vocabulary_mismatch(tmp_path):
    tokenizer = load_tokenizer(save_byte_tokenizer(tmp_path))
    check_vocabulary(tokenizer, 260)
    check_vocabulary(tokenizer, 512)  # padded embeddings are fine
    with pytest.raises(UserError, match="ids up to 259, the model's vocabulary holds 259"):
        check_vocabulary(tokenizer, 259)


def test_bad_sources_are_named(tmp_path):
    with pytest.raises(UserError, match="no tokenizer.json"):
        load_tokenizer(tmp_path)
    with pytest.raises(UserError, match="no tokenizer at"):
        load_tokenizer(tmp_path / "gone")
    with pytest.raises(UserError, match="not a readable GGUF"):
        load_tokenizer(tmp_path / "gone.gguf")
    (tmp_path / "bad.gguf").write_bytes(b"GGUF" + bytes(10))
    with pytest.raises(UserError, match="not a readable GGUF"):
        load_tokenizer(tmp_path / "bad.gguf")
    folder = save_byte_tokenizer(tmp_path / "broken")
    (folder / "tokenizer.json").write_text('{"version": ')
    with pytest.raises(UserError, match="unreadable tokenizer") as e:
        load_tokenizer(folder)
    assert "\n" not in str(e.value)
    folder = save_byte_tokenizer(tmp_path / "endless")
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(config | {"eos_token": None}))
    with pytest.raises(UserError, match="no end-of-sequence token"):
        load_tokenizer(folder)


def test_code_in_a_folder_is_never_run(tmp_path):
    folder = save_byte_tokenizer(tmp_path / "a")
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config["auto_map"] = {"AutoTokenizer": ["evil.Evil", "evil.Evil"]}
    config["tokenizer_class"] = "Evil"
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    assert load_tokenizer(folder).encode("a")
    assert not (tmp_path / "ran").exists()


def test_smollm2_tokenizer_round_trips_every_official_text(smol):
    for problem in official_problems():
        assert smol.decode(smol.encode(problem.text)) == problem.text
    assert smol.vocab_size == 49_152
    assert (smol.end_ids, smol.pad_id) == ((2,), 2)  # pad is the end token here
    assert smol.decode([2]) == "<|im_end|>"
    assert len(smol.encode("0.1234")) == 6  # single digits
    assert len(smol.encode("\n\n0")) == 2  # split off before spaces are


def test_smollm2_saved_folder_equals_the_gguf(smol, tmp_path):
    smol.save(tmp_path)
    again = load_tokenizer(tmp_path)
    messages = [{"role": "user", "content": "2 + 2?"}]
    assert again.render_chat(messages) == smol.render_chat(messages)
    assert again.encode(text := "\n\n0.25  é 日本 <|im_start|>") == smol.encode(text)
    assert again.end_ids == smol.end_ids


@pytest.mark.torch
def test_smollm2_equals_what_transformers_reads_from_the_same_file(smol):
    pytest.importorskip("torch")
    from transformers import AutoTokenizer

    path = smollm2_path()
    theirs = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    # Compared on the official texts: on "\n\n0" theirs differs, because its conversion leaves out
    # the splitting of digits that this model was trained with.
    for problem in official_problems()[::3]:
        messages = [{"role": "user", "content": problem.text}]
        expected = theirs.apply_chat_template(messages, add_generation_prompt=True)["input_ids"]
        assert smol.encode(smol.render_chat(messages)) == expected


DATED = (
    "{{ '[' ~ strftime_now('%d %b %Y') ~ ']' }}{% if style is defined %}{{ style }}{% endif %}"
    "{% for m in messages %}{{ m.role ~ ':' ~ m.content ~ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant:' }}{% endif %}"
)


def test_a_system_message_arguments_of_the_template_and_a_frozen_date(tmp_path):
    plain = load_tokenizer(save_byte_tokenizer(tmp_path / "chat", chat_template=DATED))
    talk = [{"role": "user", "content": "hi"}]
    asking = plain.asking("Be brief.", {"style": "(terse)"}, "2024-02-03T23:59:59+0000")
    assert asking.render_chat(talk) == "[03 Feb 2024](terse)system:Be brief.\nuser:hi\nassistant:"
    own = [{"role": "system", "content": "Be long."}, *talk]
    assert "Be brief" not in asking.render_chat(own) and "Be long." in asking.render_chat(own)
    assert plain.render_chat(talk).endswith("]user:hi\nassistant:")
    assert asking.asking(None, None).render_chat(talk) == plain.render_chat(talk)
    bare = load_tokenizer(save_byte_tokenizer(tmp_path / "bare"))
    assert bare.asking(None, None, "2024-02-03") == bare
    with pytest.raises(UserError, match="no chat template: leave out data.system"):
        bare.asking("Be brief.", None)
