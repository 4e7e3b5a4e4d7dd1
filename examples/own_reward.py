"""A reward of one's own beside the exact one: pay for numbers that come close.

    python examples/own_reward.py

A reward is a function of (completions, problems, truncated), three lists of one length, that
returns a number for each completion, or None where it does not apply. A configuration names it by
"module:function"; `__main__` is the script itself. Its mean is logged as
`rewards/__main__:close/mean`.
"""

import re

import caugym_jax


def close(completions, problems, truncated):
    """1 for the right number, less the farther the stated one is from it, 0 for none."""
    stated = [re.findall(r'"PROB": "(-?\d\.\d+|0)"', text) for text in completions]
    return [
        max(0.0, 1.0 - abs(float(numbers[-1]) - problem.prob)) if numbers else 0.0
        for numbers, problem in zip(stated, problems, strict=True)
    ]


def main(workdir: str = "runs/example-reward", module: str = "__main__") -> None:
    name = f"{module}:close"
    settings = {
        "steps": 6,
        "grpo.reward_weights": f"answer=1,{name}=0.5",
        "evaluation.n": 50,
        "optim.warmup": 1,
    }
    run = caugym_jax.train("grpo.py", workdir, settings)
    for line in run.metrics:
        if "reward" in line:
            right, near = line["rewards/answer/mean"], line[f"rewards/{name}/mean"]
            print(f"step {line['step']}: {100 * right:.0f}% right, closeness {100 * near:.0f}%")


if __name__ == "__main__":
    main()
