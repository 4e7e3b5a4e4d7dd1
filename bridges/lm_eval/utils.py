"""What the task file calls: the published prompt, and both grades of an answer."""

from caugym_jax.data.items import user_message
from caugym_jax.data.layouts import problem_of
from caugym_jax.evals.scorers import grade


def question(doc):
    return user_message(problem_of(doc, None, None))


def grades(doc, results):
    found = grade(results[0], problem_of(doc, None, None))
    return {"strict": float(found.strict), "published": float(found.published)}
