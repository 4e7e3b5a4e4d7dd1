"""An Inspect task: inspect eval bridges/inspect/caugym.py -T data=/PATH/FILE --model MODEL

Inspect works in this file's folder: a relative FILE is one beside it.
"""

from inspect_ai import Task, task
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.scorer import Score, accuracy, scorer, stderr
from inspect_ai.solver import generate

from caugym_jax.data.files import problem_record, read_problems
from caugym_jax.data.items import user_message
from caugym_jax.data.layouts import problem_of
from caugym_jax.evals.scorers import grade


@task
def caugym(data="base_dataset.json"):
    samples = [
        Sample(user_message(problem), target=problem.answer, metadata=problem_record(problem))
        for problem in read_problems(data)
    ]
    return Task(dataset=MemoryDataset(samples), solver=generate(), scorer=strict())


@scorer(metrics=[accuracy(), stderr()])
def strict():
    async def score(state, target):
        text = state.output.completion
        right = grade(text, problem_of(dict(state.metadata), None, None)).strict
        return Score(value="C" if right else "I", answer=text[-200:])

    return score
