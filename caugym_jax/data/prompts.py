"""What the model is asked, and what it is taught to answer, as text and as tokens.

Sampling and training share `prompt_tokens`, so a model is trained after exactly the tokens it will
be sampled from. A completion is rendered behind the open assistant turn, not through the chat
template: templates of reasoning models (R1, Qwen3) strip `<think>` from finished turns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from caugym_jax.causal.text.wording import LACK_HINT, STEP_BY_STEP
from caugym_jax.data.tokenizer import Tokenizer
from caugym_jax.errors import UserError
from caugym_jax.types import LACKING_VARIANTS, Example, Problem

LackHint = Literal["insufficient", "all", "none"]
Message = Mapping[str, str]  # {"role": ..., "content": ...}


def user_message(problem: Problem, lack_hint: LackHint = "insufficient") -> str:
    """The user's turn: the problem, a newline, "Let's think step by step." and, maybe, the hint.

    The hint that the answer may be LACK_CONDITION goes to problems of the insufficient set (the
    published protocol) and of the hard one, to all (which measures false alarms) or to none. A
    prompt that the file fixes is used as it stands; a hint that is asked for and not in it yet is
    added at its end.
    """
    if lack_hint not in ("insufficient", "all", "none"):
        raise UserError(f"lack_hint is '{lack_hint}': choose insufficient, all or none")
    message = problem.prompt or f"{problem.text}\n{STEP_BY_STEP}"
    hinted = lack_hint == "all" or (
        lack_hint == "insufficient" and problem.variant in LACKING_VARIANTS
    )
    return f"{message} {LACK_HINT}" if hinted and LACK_HINT not in message else message


def prompt_tokens(
    problem: Problem, tokenizer: Tokenizer, lack_hint: LackHint = "insufficient"
) -> list[int]:
    """The tokens a completion follows: one open chat turn, or plain text where there is no chat.

    Plain text is the message and a newline, after a beginning token where the tokenizer adds one.
    """
    return chat_tokens(_asked(problem, lack_hint), tokenizer)


def completion_tokens(
    problem: Problem,
    completion: str,
    tokenizer: Tokenizer,
    lack_hint: LackHint = "insufficient",
) -> list[int]:
    """The tokens of `completion` behind the problem's prompt, as `reply_tokens`."""
    return reply_tokens(_asked(problem, lack_hint), completion, tokenizer)


def chat_tokens(messages: Sequence[Message], tokenizer: Tokenizer) -> list[int]:
    """The tokens of a conversation, open for the assistant's next turn.

    Raises:
      UserError: more than one message, where there is no chat template to tell them apart.
    """
    return _encode(_prompt_text(messages, tokenizer), tokenizer)


def reply_tokens(messages: Sequence[Message], reply: str, tokenizer: Tokenizer) -> list[int]:
    """The tokens of `reply` behind a conversation, then one end token.

    They are what tokens(prompt + reply) has behind tokens(prompt); tokenizers in SentencePiece's
    manner write a reply by itself in another way. White space that the chat template puts before
    a reply is put there. Where the prompt already opened `<think>`, the reply's own opening is
    dropped, and a reply without reasoning closes the block first.

    Raises:
      UserError: tokens(prompt + reply) does not begin with tokens(prompt), so that training would
        teach a split that sampling never meets; or an end or beginning token inside the reply.
    """
    prompt = _prompt_text(messages, tokenizer)
    reply = _after_opened_think(prompt, reply)
    if (lead := tokenizer.reply_lead) and not reply.startswith(lead):
        reply = lead + reply
    before, whole = _encode(prompt, tokenizer), _encode(prompt + reply, tokenizer)
    ids = whole[len(before) :]
    if whole[: len(before)] != before:
        raise UserError(
            f"the completion starting {reply[:20]!r} merges with the prompt's last token "
            f"({prompt[-20:]!r}): change how the completion begins"
        )
    if ids and ids[-1] in tokenizer.end_ids:
        ids = ids[:-1]
    inner = (set(tokenizer.end_ids) | {tokenizer.raw.bos_token_id}) & set(ids)
    if inner:
        text = tokenizer.decode([min(inner)])
        raise UserError(f"the completion holds the special token {text!r} before its end")
    return [*ids, tokenizer.end_id]


def conversation_example(messages: Sequence[Message], tokenizer: Tokenizer) -> Example:
    """A conversation of one or several turns; every turn of the assistant is learned.

    Each of them, with its end token, follows exactly the tokens that sampling would put before it:
    the conversation up to there, open for the assistant.

    Raises:
      UserError: the assistant does not have the last word; or the template renders the turns before
        one in another way than they were said (those of reasoning models drop earlier thoughts),
        so that no single row of tokens serves all turns.

    Example: user, assistant, user, assistant gives the prompt user 1 and the completion answer 1,
    end, user 2, answer 2, end with the mask 1..1 0..0 1..1.
    """
    turns = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
    if not turns or turns[0] == 0 or turns[-1] != len(messages) - 1:
        raise UserError("a conversation must end with a turn of the assistant, and not begin so")
    prompt = tokens = chat_tokens(messages[: turns[0]], tokenizer)
    mask: list[int] = []
    for i in turns:
        opened = chat_tokens(messages[:i], tokenizer)
        if opened[: len(tokens)] != tokens:
            raise UserError(
                f"message {i} (counting from 0): the chat template renders the turns before it in "
                "another way than they were said (it may drop earlier thoughts): train on single "
                "turns"
            )
        reply = reply_tokens(messages[:i], messages[i]["content"], tokenizer)
        mask += [0] * (len(opened) - len(tokens)) + [1] * len(reply)
        tokens = [*opened, *reply]
    return Example(prompt, tokens[len(prompt) :], mask)


def sft_examples(
    problems: Sequence[Problem],
    tokenizer: Tokenizer,
    max_length: int,
    lack_hint: LackHint = "insufficient",
) -> tuple[list[Example], int]:
    """(examples, dropped): whole examples only; longer than max_length tokens is dropped, not cut.

    A problem that came as a conversation (`extra["messages"]`) is learned as it stands.

    Raises:
      UserError: a problem without a solution, one that cannot be tokenized, or none left.
    """
    examples, dropped, longest = [], 0, 0
    for i, problem in enumerate(problems):
        if problem.solution is None:
            raise UserError(f"item {i} (counting from 0) has no solution to train on")
        try:
            if problem.extra.get("messages"):
                example = conversation_example(problem.extra["messages"], tokenizer)
            else:
                completion = completion_tokens(problem, problem.solution, tokenizer, lack_hint)
                example = Example(prompt_tokens(problem, tokenizer, lack_hint), completion)
        except UserError as error:
            raise UserError(f"item {i} (counting from 0): {error}") from error
        length = len(example.prompt) + len(example.completion)
        longest = max(longest, length)
        if length > max_length:
            dropped += 1
        else:
            examples.append(example)
    if not examples:
        raise UserError(
            f"none of the {dropped} examples fits {max_length} tokens (the longest has {longest}): "
            "raise the length"
        )
    return examples, dropped


def _asked(problem: Problem, lack_hint: LackHint) -> list[Message]:
    return [{"role": "user", "content": user_message(problem, lack_hint)}]


def _prompt_text(messages: Sequence[Message], tokenizer: Tokenizer) -> str:
    if tokenizer.has_chat_template:
        return tokenizer.render_chat(messages)
    if len(messages) > 1:
        raise UserError("a conversation of several messages needs a tokenizer with a chat template")
    return messages[0]["content"] + "\n"


def _encode(text: str, tokenizer: Tokenizer) -> list[int]:
    ids = tokenizer.encode(text)
    if tokenizer.has_chat_template or tokenizer.bos_id is None:
        return ids
    return [tokenizer.bos_id, *ids]


def _after_opened_think(prompt: str, completion: str) -> str:
    if not prompt.rstrip().endswith("<think>"):
        return completion
    if "</think>" not in completion:
        return f"</think>\n\n{completion}"
    completion = completion.removeprefix("<think>")
    return completion.removeprefix("\n") if prompt.endswith("\n") else completion
