"""New tokens per second of the sampler, beside what a user would pick instead.

  python benchmarks/sampler.py            this package
  python benchmarks/sampler.py --torch    and transformers' generate, by turns in the same process

A random Qwen2 decoder (by default 4 layers, width 256, vocabulary 8192, tied: 5.9M parameters)
samples NEW tokens after each of BATCH random prompts, at temperature 1, end tokens disabled.
Compilation and a warm-up are not counted. `wall` is what a user waits for; `cpu` is per second of
processor time of the whole process, which is steadier on a busy machine. Only --torch needs torch
and transformers.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import jax
import numpy as np

from caugym_jax.models.config import ModelConfig
from caugym_jax.models.transformer import Model
from caugym_jax.sampling.sampler import Sampler


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    sizes = {"layers": 4, "width": 256, "ffn": 1024, "heads": 8, "kv_heads": 2, "vocab": 8192}
    work = {"batch": 16, "prompt": 128, "new": 256, "samples": 1, "repeats": 5, "threads": 2}
    for name, default in (sizes | work).items():
        parser.add_argument(f"--{name}", type=int, default=default, help=f"(default {default})")
    parser.add_argument("--top_p", type=float, default=1.0, help="(default 1: off)")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--torch", action="store_true", help="run transformers' generate as well")
    return parser.parse_args()


def ours(a: argparse.Namespace, prompts: np.ndarray) -> Callable[[int], None]:
    """A function of the seed that samples once."""
    config = ModelConfig(
        "qwen2",
        a.vocab,
        a.width,
        a.layers,
        a.heads,
        a.kv_heads,
        a.width // a.heads,
        a.ffn,
        tied=True,
        qkv_bias=True,
        max_position=a.prompt + a.new + 1,
    )
    model = Model(config, a.dtype)
    params = jax.jit(model.init)(jax.random.key(0))
    sampler = Sampler(model, end_ids=(a.vocab,), pad_id=0, max_new_tokens=a.new)
    prompts = prompts[:: a.samples].tolist()

    def once(seed: int) -> None:
        rollout = sampler(
            params,
            prompts,
            ids=range(len(prompts)),
            seed=seed,
            samples_per_prompt=a.samples,
            top_p=a.top_p,
        )
        assert (rollout.completion_length == a.new).all()

    return once


def transformers_generate(a: argparse.Namespace, prompts: np.ndarray) -> Callable[[int], None]:
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.set_num_threads(a.threads)
    config = Qwen2Config(
        vocab_size=a.vocab,
        hidden_size=a.width,
        intermediate_size=a.ffn,
        num_hidden_layers=a.layers,
        num_attention_heads=a.heads,
        num_key_value_heads=a.kv_heads,
        max_position_embeddings=a.prompt + a.new + 1,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=0,
    )
    model = Qwen2ForCausalLM(config).to(getattr(torch, a.dtype)).eval()
    ids = torch.tensor(prompts)

    def once(seed: int) -> None:
        torch.manual_seed(seed)
        with torch.no_grad():
            out = model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                do_sample=True,
                temperature=1.0,
                top_k=0,
                top_p=a.top_p,
                max_new_tokens=a.new,
                min_new_tokens=a.new,
            )
        assert out.shape == (a.batch, a.prompt + a.new)

    return once


def main() -> None:
    a = arguments()
    prompts = np.random.default_rng(0).integers(1, a.vocab, (a.batch // a.samples, a.prompt))
    prompts = np.repeat(prompts, a.samples, axis=0)
    runners = {"caugym_jax": ours(a, prompts)}
    if a.torch:
        runners["transformers"] = transformers_generate(a, prompts)
    for name, once in runners.items():
        start = time.perf_counter()
        once(0)
        print(f"{name}: first call {time.perf_counter() - start:.1f} s", flush=True)
    wall = {name: [] for name in runners}
    cpu = {name: [] for name in runners}
    for seed in range(1, a.repeats + 1):
        for name, once in runners.items():
            start = time.perf_counter(), time.process_time()
            once(seed)
            wall[name].append(time.perf_counter() - start[0])
            cpu[name].append(time.process_time() - start[1])
    tokens = a.batch * a.new
    print(f"\n{'new tokens/s':<14}{'wall best':>10}{'median':>8}{'cpu best':>10}{'median':>8}")
    for name in runners:
        figures = [
            tokens / choose(times[name])
            for times in (wall, cpu)
            for choose in (min, statistics.median)
        ]
        print(
            f"{name:<14}{figures[0]:>10.0f}{figures[1]:>8.0f}{figures[2]:>10.0f}{figures[3]:>8.0f}"
        )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(
        f"{a.batch} x ({a.prompt} + {a.new}), {a.dtype}, peak memory {peak:.2f} GiB (all runners)"
    )


if __name__ == "__main__":
    main()
