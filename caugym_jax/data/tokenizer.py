"""Text to token ids and back: a thin wrapper over a fast Hugging Face tokenizer.

What it adds is what training needs to be right about: the *set* of ids that end a completion, one
rule for the beginning-of-sequence token, and a tokenizer made from a GGUF file without torch.
Code that comes with a model is never run.
"""

from __future__ import annotations

import dataclasses
import datetime
import functools
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

# That PyTorch is not there is as it should be.
os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")

import jinja2  # noqa: E402
import transformers  # noqa: E402
from transformers import PreTrainedTokenizerFast  # noqa: E402

from caugym_jax.data.gguf_tokenizer import read_gguf  # noqa: E402
from caugym_jax.errors import UserError  # noqa: E402

_TODAY = re.compile(r"""strftime_now\(\s*(['"])(.*?)\1\s*\)""")  # in a chat template
# Of generation_config.json, what is written anew.
_OWN = ("eos_token_id", "pad_token_id", "transformers_version", "_from_model_config")


@dataclasses.dataclass(frozen=True)
class Tokenizer:
    """A tokenizer with its end-token set.

    Attributes:
      raw: the tokenizer of `transformers`.
      end_ids: every id that ends a completion, sorted.
      end_id: the one that a turn of the assistant ends with: what the chat template writes there,
        else the tokenizer's own end token.
      pad_id: fills unused places; may equal an end id, because masks come from lengths.
      bos_id: what plain text starts with where the tokenizer starts texts by itself, else None.
        (Chat templates write their own.)
      generation: the other settings that came with the model (temperature, top_p, its beginning
        token), which are kept for whoever generates with it elsewhere.
      system: a system message that conversations without one begin with.
      template: what the chat template takes besides the messages.
    """

    raw: PreTrainedTokenizerFast
    end_ids: tuple[int, ...]
    end_id: int
    pad_id: int
    bos_id: int | None
    generation: Mapping[str, Any] = dataclasses.field(default_factory=dict, compare=False)
    system: str | None = None
    template: Mapping[str, Any] = dataclasses.field(default_factory=dict, compare=False)

    @functools.cached_property
    def vocab_size(self) -> int:
        """One more than the largest id."""
        return max(self.raw.get_vocab().values()) + 1

    @property
    def text_end_id(self) -> int:
        """The end token of texts that no chat template writes."""
        own = self.raw.eos_token_id
        return self.end_id if own is None else own

    @property
    def has_chat_template(self) -> bool:
        return self.raw.chat_template is not None

    @functools.cached_property
    def reply_lead(self) -> str:
        """The white space that the chat template writes between an open turn and a reply."""
        return _around_reply(self.raw, self.template)[0]

    def asking(
        self, system: str | None, template: Mapping[str, Any] | None, date: str | None = None
    ) -> Tokenizer:
        """The tokenizer with another system message and other arguments of the chat template.

        Args:
          date: of templates that write today's date the day, as YYYY-MM-DD...; None: today.

        Raises:
          UserError: there is no chat template that would take them.
        """
        if (system or template) and not self.has_chat_template:
            raise UserError(
                "the tokenizer has no chat template: leave out data.system and "
                "data.chat_template_kwargs, or use an instruct model"
            )
        given, text = dict(template or {}), self.raw.chat_template
        if date is not None and isinstance(text, str) and "strftime_now" in text:
            day = datetime.date.fromisoformat(date[:10])
            given["chat_template"] = _TODAY.sub(lambda call: repr(day.strftime(call[2])), text)
        return dataclasses.replace(self, system=system, template=given)

    def encode(self, text: str) -> list[int]:
        """Ids of the text alone: no token is added; special tokens written in it are read."""
        return self.raw.encode(text, add_special_tokens=False)

    def decode(self, ids: Sequence[int]) -> str:
        """The exact text of the ids, special tokens included."""
        return self.raw.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)

    def decode_completion(self, ids: Sequence[int]) -> str:
        """The text before the first end token."""
        ids = [int(i) for i in ids]
        end = next((i for i, token in enumerate(ids) if token in self.end_ids), len(ids))
        return self.decode(ids[:end])

    def render_chat(self, messages: Sequence[Mapping[str, Any]], *, open_turn: bool = True) -> str:
        """The conversation in the model's own format, open for the assistant's turn.

        Raises:
          UserError: the template refuses the conversation (its own words are given).
        """
        if self.system is not None and messages and messages[0].get("role") != "system":
            messages = [{"role": "system", "content": self.system}, *messages]
        try:
            return self.raw.apply_chat_template(
                list(messages), tokenize=False, add_generation_prompt=open_turn, **self.template
            )
        except (jinja2.TemplateError, TypeError, ValueError, KeyError, AttributeError) as error:
            raise UserError(
                f"the chat template refuses the conversation: {_line(error)}"
            ) from error

    def save(self, folder: str | Path) -> None:
        """Writes tokenizer.json, its configuration, the chat template and the end tokens.

        Raises:
          OSError: the folder cannot be written.
        """
        folder = Path(folder)
        try:
            self.raw.save_pretrained(folder)
        except Exception as error:  # the library's Rust part has no narrower kind
            found = re.search(r"\(os error (\d+)\)", str(error))
            if found is None:
                raise
            number = int(found[1])
            raise OSError(number, os.strerror(number), str(folder)) from error
        config = _read_json(folder / "tokenizer_config.json")
        config["tokenizer_class"] = "PreTrainedTokenizerFast"  # the name every version knows
        _write_json(folder / "tokenizer_config.json", config)
        _write_json(folder / "generation_config.json", self.generation_config())

    def generation_config(self) -> dict[str, Any]:
        """What generation_config.json says: the model's settings and its special tokens."""
        ends = list(self.end_ids) if len(self.end_ids) > 1 else self.end_id
        special = {"eos_token_id": ends, "pad_token_id": self.pad_id}
        if self.bos_id is not None:
            special["bos_token_id"] = self.bos_id
        return {**self.generation, **special}


def load_tokenizer(source: str | Path) -> Tokenizer:
    """Loads from a Hugging Face folder, a GGUF file, or a hub id (from the cache or the network).

    Raises:
      UserError: nothing there, no fast tokenizer in it, or no end token known.
    """
    path = Path(source)
    if path.suffix == ".gguf":
        raw, ends = read_gguf(path)
        return wrap(raw, ends, str(path))
    if path.is_dir():
        return _from_folder(path)
    if path.exists() or str(source).startswith(("/", ".", "~")) or str(source).count("/") > 1:
        raise UserError(f"no tokenizer at {source}: expected a folder, a .gguf file or a hub id")
    return _from_folder(_hub_folder(str(source)))


def check_vocabulary(tokenizer: Tokenizer, vocab_size: int) -> None:
    """Refuses a tokenizer with ids that the model's embedding does not have."""
    if tokenizer.vocab_size > vocab_size:
        raise UserError(
            f"the tokenizer has ids up to {tokenizer.vocab_size - 1}, the model's vocabulary holds "
            f"{vocab_size}: use the tokenizer that came with the model"
        )


def _from_folder(folder: Path) -> Tokenizer:
    if not (folder / "tokenizer.json").exists():
        raise UserError(f"{folder} holds no tokenizer.json (the fast tokenizer's file)")
    verbosity = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()  # it warns that we skip the model's own class
    try:
        raw = PreTrainedTokenizerFast.from_pretrained(folder)
    except Exception as error:  # the Rust reader raises bare Exception
        raise UserError(f"{folder}: unreadable tokenizer ({_line(error)})") from error
    finally:
        transformers.logging.set_verbosity(verbosity)
    generation, config = (
        _read_json(folder / name) for name in ("generation_config.json", "config.json")
    )
    ends: list[int | None] = []
    for settings in (generation, config):
        value = settings.get("eos_token_id")
        ends += value if isinstance(value, list) else [value]
    kept = {k: v for k, v in generation.items() if k not in _OWN}
    if config.get("bos_token_id") is not None:
        kept.setdefault("bos_token_id", config["bos_token_id"])
    return wrap(raw, ends, str(folder), kept)


def wrap(
    raw: PreTrainedTokenizerFast,
    ends: Sequence[int | None],
    where: str,
    generation: Mapping[str, Any] | None = None,
) -> Tokenizer:
    """A tokenizer with the end tokens that its files name and the one its template writes.

    Raises:
      UserError: no end token is known; `where` is what the message calls the tokenizer.
    """
    ids = {i for i in (*ends, raw.eos_token_id) if i is not None}
    end = raw.eos_token_id if raw.eos_token_id is not None else min(ids, default=None)
    if (turn := _around_reply(raw)[1]) is not None:
        ids, end = ids | {turn}, turn
    if end is None:
        raise UserError(f"{where}: no end-of-sequence token in the tokenizer or its configuration")
    pad = raw.pad_token_id if raw.pad_token_id is not None else end
    bos = _bos_of_plain_text(raw)
    return Tokenizer(raw, tuple(sorted(ids)), end, pad, bos, generation or {})


def _around_reply(
    raw: PreTrainedTokenizerFast, template: Mapping[str, Any] = MappingProxyType({})
) -> tuple[str, int | None]:
    """What a chat template writes around a reply: (white space before it, the special token that
    ends the turn). Nothing where it rewrites replies, or has none."""
    if raw.chat_template is None:
        return "", None
    reply = "reply"
    asked = [{"role": "user", "content": "question"}]
    turns = [*asked, {"role": "assistant", "content": reply}]
    try:
        opened = raw.apply_chat_template(
            asked, tokenize=False, add_generation_prompt=True, **template
        )
        whole = raw.apply_chat_template(turns, tokenize=False, **template)
    except Exception:  # a template that cannot be rendered fails where it is used, by its row
        return "", None
    before, found, after = whole.rpartition(reply)
    if not found:
        return "", None
    lead = before[len(opened) :] if before.startswith(opened) else ""
    special = set(raw.all_special_ids) | {
        i for i, token in raw.added_tokens_decoder.items() if token.special
    }
    first = next(iter(raw.encode(after.strip(), add_special_tokens=False)), None)
    return (lead if lead.isspace() else ""), (first if first in special else None)


def _bos_of_plain_text(raw: PreTrainedTokenizerFast) -> int | None:
    bos = raw.bos_token_id
    starts = raw.encode("a", add_special_tokens=True)[:1] == [bos]
    return bos if starts or raw.init_kwargs.get("add_bos_token") else None


def _hub_folder(name: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        found = snapshot_download(name, allow_patterns=["*.json", "*.jinja"])
    except Exception as error:  # network, permission, unknown name: one type for each
        raise UserError(
            f"cannot find tokenizer '{name}' on this machine or the hub ({_line(error)})"
        ) from error
    return Path(found)


def _read_json(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON ({_line(error)})") from error


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n")


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
