"""What the model is asked, and what it is taught to answer, as tokens.

Sampling and training share `prompt_tokens`, so a model is trained after exactly the tokens it will
be sampled from. A completion is rendered behind the open assistant turn, not through the chat
template: templates of reasoning models (R1, Qwen3) strip `<think>` from finished turns.
"""

from __future__ import annotations

from collections.abc import Sequence

from caugym_jax.data.tokenizer import Tokenizer
from caugym_jax.errors import UserError
from caugym_jax.types import Conversation, Example, Item, Message


def prompt_tokens(prompt: Conversation | str, tokenizer: Tokenizer) -> list[int]:
    """The tokens a reply follows: a conversation open for the assistant, or a text as it stands.

    Where there is no chat template, the user's message and a newline stand for a conversation. A
    text begins with a beginning token where the tokenizer adds one and the text has none.

    Raises:
      UserError: more than one message, where there is no chat template to tell them apart; or the
        template refuses the conversation.
    """
    return _encode(prompt, _prompt_text(prompt, tokenizer), tokenizer)


def reply_tokens(
    prompt: Conversation | str, reply: Message | str, tokenizer: Tokenizer
) -> list[int]:
    """The tokens of `reply` behind a prompt, then one end token.

    They are what tokens(prompt + reply) has behind tokens(prompt); tokenizers in SentencePiece's
    manner write a reply by itself in another way. Where the two texts merge (a prompt that ends
    with a newline, a reply that begins with one), they are those of the reply alone: sampling goes
    on from the prompt's own tokens in any case. White space that the chat template puts before a
    reply is put there. Where the prompt already opened `<think>`, the reply's own opening is
    dropped, and a reply without reasoning closes the block first. A message with more than a text
    (thoughts of its own, calls of tools) is what the template writes for it.

    The end token is the one that the template ends a turn with; behind a text, which no template
    writes, it is the one that the text ends with itself or else, as in TRL, the tokenizer's own.

    Raises:
      UserError: prompt and reply merge, and the reply's own tokens are not its text (SentencePiece
        begins it with a space); or an end or beginning token inside the reply.
    """
    text = _prompt_text(prompt, tokenizer)
    if isinstance(reply, str):
        said = reply
    elif reply.keys() <= {"role", "content"}:
        said = reply["content"]
    else:
        said = _rendered(prompt, reply, text, tokenizer)
    if not isinstance(prompt, str):
        said = _after_opened_think(text, said)
        if (lead := tokenizer.reply_lead) and not said.startswith(lead):
            said = lead + said
    before, whole = _encode(prompt, text, tokenizer), _encode(prompt, text + said, tokenizer)
    ids = whole[len(before) :]
    if whole[: len(before)] != before:
        ids = tokenizer.encode(said)
        if tokenizer.decode([*before, *ids]) != tokenizer.decode(whole):
            raise UserError(
                f"the completion starting {said[:20]!r} merges with the prompt's last token "
                f"({text[-20:]!r}): change how the completion begins"
            )
    end = tokenizer.text_end_id if isinstance(prompt, str) else tokenizer.end_id
    if ids and ids[-1] in tokenizer.end_ids:
        end = ids[-1] if isinstance(prompt, str) else end
        ids = ids[:-1]
    if prompt == "":  # a whole text, which may hold turns with their ends
        return [*ids, end]
    inner = (set(tokenizer.end_ids) | {tokenizer.raw.bos_token_id}) & set(ids)
    if inner:
        text = tokenizer.decode([min(inner)])
        raise UserError(f"the completion holds the special token {text!r} before its end")
    return [*ids, end]


def item_example(item: Item, tokenizer: Tokenizer) -> Example:
    """An item's prompt and reply; of a reply of several turns, or where an item's every turn is to
    be learned, the assistant's are.

    Each of them, with its end token, follows exactly the tokens that sampling would put before it:
    the conversation up to there, open for the assistant.

    Raises:
      UserError: there is no reply; it does not end with the assistant; or the template renders the
        turns before one in another way than they were said (those of reasoning models drop earlier
        thoughts), so that no single row of tokens serves all turns.

    Example: user, assistant, user, assistant gives the prompt user 1 and the completion answer 1,
    end, user 2, answer 2, end with the mask 1..1 0..0 1..1.
    """
    if item.reply is None:
        raise UserError("there is no reply to train on")
    if isinstance(item.prompt, str):
        reply = item.reply if isinstance(item.reply, str) else str(item.reply[-1]["content"])
        prompt = prompt_tokens(item.prompt, tokenizer)
        return Example(prompt, reply_tokens(item.prompt, reply, tokenizer))
    assert not isinstance(item.reply, str)
    messages = (*item.prompt, *item.reply)
    first = 0 if item.every_turn else len(item.prompt)
    turns = [i for i in range(first, len(messages)) if messages[i]["role"] == "assistant"]
    if not turns or turns[0] == 0 or turns[-1] != len(messages) - 1:
        raise UserError("a conversation must end with a turn of the assistant, and not begin so")
    prompt = prompt_tokens(messages[: turns[0]], tokenizer)
    tokens = prompt
    mask: list[int] = []
    for i in turns:
        opened = tokens if i == turns[0] else prompt_tokens(messages[:i], tokenizer)
        if opened[: len(tokens)] != tokens:
            raise UserError(
                f"message {i} (counting from 0): the chat template renders the turns before it in "
                "another way than they were said (it may drop earlier thoughts): train on single "
                "turns"
            )
        learned = reply_tokens(messages[:i], messages[i], tokenizer)
        mask += [0] * (len(opened) - len(tokens)) + [1] * len(learned)
        tokens = [*opened, *learned]
    return Example(prompt, tokens[len(prompt) :], mask if 0 in mask else None)


def sft_examples(
    items: Sequence[Item], tokenizer: Tokenizer, max_length: int
) -> tuple[list[Example], list[int]]:
    """(examples, places of those dropped): whole ones only; longer than max_length tokens is
    dropped, not cut.

    Raises:
      UserError: an item without a reply, one that cannot be tokenized, or none left.
    """
    examples, dropped, longest = [], [], 0
    for i, item in enumerate(items):
        try:
            example = item_example(item, tokenizer)
        except UserError as error:
            raise UserError(f"{item.named(i)}: {error}") from error
        length = len(example.prompt) + len(example.completion)
        longest = max(longest, length)
        if length > max_length:
            dropped.append(i)
        else:
            examples.append(example)
    if not examples:
        raise UserError(
            f"none of the {len(dropped)} examples fits {max_length} tokens (the longest has "
            f"{longest}): raise the length"
        )
    return examples, dropped


def _prompt_text(prompt: Conversation | str, tokenizer: Tokenizer) -> str:
    if isinstance(prompt, str):
        return prompt
    if tokenizer.has_chat_template:
        return tokenizer.render_chat(prompt)
    if len(prompt) > 1:
        raise UserError("a conversation of several messages needs a tokenizer with a chat template")
    return prompt[0]["content"] + "\n"


def _rendered(prompt: Conversation | str, reply: Message, text: str, tokenizer: Tokenizer) -> str:
    """What the template writes for a reply behind the open prompt, up to its end token."""
    if isinstance(prompt, str) or not tokenizer.has_chat_template:
        raise UserError(
            f"a reply with {', '.join(sorted(reply.keys() - {'role', 'content'}))} needs a "
            "tokenizer with a chat template"
        )
    whole = tokenizer.render_chat((*prompt, reply), open_turn=False)
    if not whole.startswith(text):
        raise UserError("the chat template does not write the reply behind its prompt")
    ids = tokenizer.encode(whole[len(text) :])
    end = next((i for i, token in enumerate(ids) if token in tokenizer.end_ids), len(ids))
    return tokenizer.decode(ids[:end])


def _encode(prompt: Conversation | str, text: str, tokenizer: Tokenizer) -> list[int]:
    """Ids of a text that begins with the prompt's."""
    ids = tokenizer.encode(text)
    plain = isinstance(prompt, str) or not tokenizer.has_chat_template
    if not plain or tokenizer.bos_id is None or ids[:1] == [tokenizer.bos_id]:
        return ids
    return [tokenizer.bos_id, *ids]


def _after_opened_think(prompt: str, completion: str) -> str:
    if not prompt.rstrip().endswith("<think>"):
        return completion
    if "</think>" not in completion:
        return f"</think>\n\n{completion}"
    if completion.lstrip().startswith("<think>"):
        completion = completion.lstrip().removeprefix("<think>")
    return completion.removeprefix("\n") if prompt.endswith("\n") else completion
