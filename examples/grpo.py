"""GRPO from Python: train the model in the package, and see what it answers before and after.

    python examples/grpo.py

takes about a minute on two cores, writes runs/example-grpo, and downloads nothing.
"""

import caugym_jax


def main(workdir: str = "runs/example-grpo") -> None:
    problem = caugym_jax.problems("ETT", n=1, seed=7)[0]
    before = caugym_jax.load("embedded-start").ask(problem, samples=8, temperature=1.0)

    settings = {
        "steps": 6,
        "data.tasks": ("ETT",),
        "evaluation.tasks": ("ETT",),
        "evaluation.n": 100,
        "optim.warmup": 1,
    }
    run = caugym_jax.train("grpo.py", workdir, settings)
    for line in run.metrics:
        if "reward" in line:
            print(f"step {line['step']}: mean reward {line['reward']:.2f}")

    after = run.model.ask(problem, samples=8, temperature=1.0)
    for when, answers in (("before", before), ("after", after)):
        right = sum(caugym_jax.grade(answer, problem).strict for answer in answers)
        print(f"{when}: {right} of {len(answers)} samples are right, for example\n{answers[0]}\n")
    print(f"the label: {problem.answer}")


if __name__ == "__main__":
    main()
