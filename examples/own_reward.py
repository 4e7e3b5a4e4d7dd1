"""A reward of one's own beside the exact one: pay for answers that show their work.

    python examples/own_reward.py

A reward is a function of (completions, problems, truncated), three lists of one length, that
returns a number for each completion, or None where it does not apply. A configuration names it by
"module:function"; `__main__` is the script itself. Its mean is logged as
`rewards/__main__:shows_work/mean`.
"""

import caugym_jax


def shows_work(completions, problems, truncated):
    """1 where something stands before the final JSON, 0 where the answer is bare."""
    return [float(not text.lstrip().startswith("{")) for text in completions]


def main(workdir: str = "runs/example-reward", module: str = "__main__") -> None:
    name = f"{module}:shows_work"
    settings = {
        "steps": 6,
        "grpo.reward_weights": f"answer=1,{name}=0.5",
        "evaluation.n": 50,
        "optim.warmup": 1,
    }
    run = caugym_jax.train("grpo.py", workdir, settings)
    for line in run.metrics:
        if "reward" in line:
            answer, work = line["rewards/answer/mean"], line[f"rewards/{name}/mean"]
            print(f"step {line['step']}: {100 * answer:.0f}% right, {100 * work:.0f}% show work")


if __name__ == "__main__":
    main()
