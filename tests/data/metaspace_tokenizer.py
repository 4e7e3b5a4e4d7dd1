"""A small tokenizer in SentencePiece's manner: a space is a letter of words, bytes spell the rest.

`normalizer=True` is the older form (Llama 2, Mistral 0.1): a space is put before each stretch of
text between special tokens; else the newer one (Mistral 0.3), which does so at the text's start.
"""

from __future__ import annotations

import json
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

BOS, END = "<s>", "</s>"
# In the manner of Mistral's: white space before a reply, none behind the prompt.
INST = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}"
    "{{ '[INST] ' + m['content'] + ' [/INST]' }}{% else %}"
    "{{ ' ' + m['content'] | trim + eos_token }}{% endif %}{% endfor %}"
)
# In the manner of Gemma's: turns end with a token that is not the end of texts.
TURNS = (
    "{{ bos_token }}{% for m in messages %}{{ '<start>' + m['role'] + '\n' + m['content'] | trim "
    "+ '<end>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<start>assistant\n' }}{% endif %}"
)
WORDS = ("Because", "it", "is", "so", "INST", "Why", "the", "user", "assistant")


def save_metaspace_tokenizer(folder: Path, chat_template: str, *, normalizer: bool) -> Path:
    """Writes a Hugging Face folder."""
    letters = "".join(chr(i) for i in range(33, 127))
    pieces = ["<unk>", BOS, END, "<start>", "<end>", *(f"<0x{i:02X}>" for i in range(256))]
    pieces += ["▁", *letters, *(f"▁{letter}" for letter in letters)]
    merges = [("▁", letter) for letter in letters]
    for word in WORDS:
        for start in ("", "▁"):
            for end in range(2, len(word) + 1):
                left, right = start + word[: end - 1], word[end - 1]
                if left + right not in pieces:
                    pieces.append(left + right)
                    merges.append((left, right))
    vocab = {piece: i for i, piece in enumerate(pieces)}
    backend = Tokenizer(
        models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    decoding = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    if normalizer:
        backend.normalizer = normalizers.Sequence(
            [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
        )
    else:
        backend.pre_tokenizer = pre_tokenizers.Metaspace("▁", "first", split=False)
    backend.decoder = decoders.Sequence([*decoding, decoders.Strip(" ", 1, 0)])
    special = ["<unk>", BOS, END, "<start>", "<end>"]
    backend.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in special])
    PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=BOS, eos_token=END, unk_token="<unk>", chat_template=chat_template,
    ).save_pretrained(folder)  # fmt: skip
    settings = {"eos_token_id": 2, "bos_token_id": 1, "temperature": 0.7, "do_sample": True}
    (folder / "generation_config.json").write_text(json.dumps(settings))
    return folder
