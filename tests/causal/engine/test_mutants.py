"""The comparison of the two derivations catches every small error put into either of them.

Each operator of the formulas is changed in turn (and x with x', y with y', least with largest),
in a copy of the module; on a fixed set of questions the changed derivation must then differ from
the other one. Run with -s to see the list.
"""

import ast
import copy
import inspect
from collections.abc import Iterator

import numpy as np
import pytest

from caugym_jax.causal.engine import estimands
from caugym_jax.causal.engine.graph import draw_graph
from caugym_jax.causal.engine.queries import draw_query
from caugym_jax.causal.engine.scm import draw_scm, joint
from caugym_jax.types import BOUND_TASKS, TASKS

DERIVATIONS = {
    "by_definition": ("by_definition", "_frechet"),
    "by_identification": ("_contrast", "_ett", "_nde", "_nie", "_bound", "_least", "_most"),
}
OTHER_OPERATOR = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult}
OTHER_NAME = {"min": "max", "max": "min", "to": "away", "away": "to"}
OTHER_NAME |= {"_least": "_most", "_most": "_least"}
OTHER_NAME |= {"direct": "direct_away", "direct_away": "direct"}
OTHER_NAME |= {"actual": "would", "would": "actual"}  # where a function has both
OTHER_NAME |= {"outcome": "other_outcome", "other_outcome": "outcome"}


def mutants(function: str) -> Iterator[tuple[str, ast.Module]]:
    """Every copy of a function's source with one operator or name replaced, and what was done."""
    source = inspect.getsource(getattr(estimands, function))
    tree = ast.parse(source)
    for place, node in enumerate(ast.walk(tree)):
        changed = copy.deepcopy(tree)
        twin = list(ast.walk(changed))[place]
        if isinstance(node, ast.BinOp) and type(node.op) in OTHER_OPERATOR:
            twin.op = OTHER_OPERATOR[type(node.op)]()
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
            other = OTHER_NAME.get(node.id, node.id)
            limits = ("min", "max", "_least", "_most")
            twin.id = other if f"{other} = " in source or other in limits else node.id
        elif isinstance(node, ast.Attribute):
            twin.attr = OTHER_NAME.get(node.attr, node.attr)
        elif isinstance(node, ast.Constant) and node.value in (0, 1) and node.value is not True:
            twin.value = 1 - node.value
        elif isinstance(node, ast.Compare):
            opposite = {ast.Eq: ast.NotEq, ast.NotEq: ast.Eq}
            twin.ops = [opposite[type(op)]() for op in node.ops]
        if ast.dump(twin) != ast.dump(node):
            parts = [p for p in (node, twin) if hasattr(p, "lineno")]
            before, after = (ast.unparse(part) for part in parts)
            yield f"{function}, line {node.lineno}: {before}  ->  {after}", changed


@pytest.fixture(scope="module")
def questions():
    """(query, model, joint, value by either derivation): all tasks, bounds clipped and not."""
    rng = np.random.default_rng(1)
    found = []
    for task in TASKS:
        for size, through in ((0, 0), (0, 1), (1, 1), (2, 2)):
            for _ in range(60):
                graph = draw_graph(rng, int(rng.integers(4, 7)))
                query = draw_query(rng, graph, task, zero=False, size=size, through=through)
                if query is None:
                    continue
                scm = draw_scm(rng, graph)
                found.append((query, scm, joint(scm), estimands.by_definition(query, scm)))
                if sum(q.task == task and len(q.adjusters) == size for q, *_ in found) > 7:
                    break
    values = [(q.bound, value in (0, 1)) for q, _, _, value in found if q.task in BOUND_TASKS]
    assert set(values) == {(b, c) for b in ("lower", "upper") for c in (False, True)}
    return found


def disagrees(derivation: str, questions) -> bool:
    for query, scm, observed, value in questions:
        try:
            if derivation == "by_definition":
                result = estimands.by_definition(query, scm)
            else:
                exact = estimands.exact_probability(observed)
                result = estimands.by_identification(query, exact)
        except (ArithmeticError, IndexError, KeyError):
            return True
        if not abs(result - value) < 1e-12:
            return True
    return False


@pytest.mark.parametrize("derivation", DERIVATIONS)
def test_every_mutant_is_caught(derivation, questions, monkeypatch):
    assert not disagrees(derivation, questions)
    lived, killed = [], 0
    for function in DERIVATIONS[derivation]:
        original = getattr(estimands, function)
        tasks = [t for t, f in estimands._IDENTIFIED.items() if f is original]
        for what, tree in mutants(function):
            space = dict(vars(estimands))
            exec(compile(ast.fix_missing_locations(tree), "<mutant>", "exec"), space)
            with monkeypatch.context() as patch:
                patch.setattr(estimands, function, space[function])
                for task in tasks:
                    patch.setitem(estimands._IDENTIFIED, task, space[function])
                caught = disagrees(derivation, questions)
            print("caught" if caught else "LIVED ", what)
            lived += [] if caught else [what]
            killed += caught
    assert not lived
    assert killed >= 30
