"""The work of benchmarks/speed.py by PyTorch and transformers."""

from __future__ import annotations

import os
from collections.abc import Callable

import torch
from transformers import (
    Qwen2Config,
    Qwen2ForCausalLM,
    StoppingCriteria,
    StoppingCriteriaList,
)

from benchmarks.cases import SAMPLINGS, SHAPE, STEPS, TRAINED, Sampling
from benchmarks.sides import lengths_of, prompts_of


def build(name: str) -> Callable[[int], None]:
    """The side of a row of benchmarks/speed.py."""
    return _sft_step(**TRAINED) if name == "sft_step" else _sampling(name, SAMPLINGS[name])


def _model(positions: int) -> Qwen2ForCausalLM:
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    torch.manual_seed(0)
    s = SHAPE
    config = Qwen2Config(
        vocab_size=s["vocab"],
        hidden_size=s["width"],
        intermediate_size=s["ffn"],
        num_hidden_layers=s["layers"],
        num_attention_heads=s["heads"],
        num_key_value_heads=s["kv_heads"],
        max_position_embeddings=positions,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=0,
    )
    return Qwen2ForCausalLM(config).float()


def _sft_step(rows: int, length: int) -> Callable[[int], None]:
    model = _model(length).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.0)
    tokens = torch.randint(1, SHAPE["vocab"], (rows, length))

    def run(seed: int) -> None:
        for _ in range(STEPS):
            optimizer.zero_grad(set_to_none=True)
            loss = model(input_ids=tokens, labels=tokens, use_cache=False).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
        loss.item()

    return run


class Limits(StoppingCriteria):
    """Ends each row after a number of new tokens of its own."""

    def __init__(self, prompt: int, limits: torch.Tensor):
        self.prompt, self.limits = prompt, limits

    def __call__(self, input_ids: torch.Tensor, scores: object, **_: object) -> torch.Tensor:
        return input_ids.shape[1] - self.prompt >= self.limits


def _sampling(name: str, s: Sampling) -> Callable[[int], None]:
    model = _model(s.prompt + s.new + 1).eval()
    ids = torch.tensor(prompts_of(s)).long().repeat_interleave(s.samples, 0)
    limits = torch.full((len(ids),), s.new)
    if name == "sample_mixed":
        limits = torch.tensor(lengths_of(s)).long()
    stop = StoppingCriteriaList([Limits(s.prompt, limits)])

    def run(seed: int) -> None:
        torch.manual_seed(seed)
        with torch.no_grad():
            out = model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                do_sample=True,
                temperature=1.0,
                top_k=0,
                top_p=s.top_p,
                max_new_tokens=s.new,
                stopping_criteria=stop,
            )
        assert out.shape == (len(ids), s.prompt + int(limits.max()))

    return run
