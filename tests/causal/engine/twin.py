"""The probabilities of necessity and sufficiency of a model whose noise is known.

An `SCM` gives each node's conditional probabilities, which leave its noise open, and with it PN
and PS: the data bound them (`estimands`), they do not determine them. Here every node is
V_i = [U_i < P(V_i = 1 | parents)] with independent U_i, uniform on [0, 1].
"""

from __future__ import annotations

import numpy as np

from caugym_jax.causal.engine.scm import SCM, probability
from caugym_jax.types import Query


def probability_of_causation(query: Query, scm: SCM) -> float:
    """PN or PS itself: P(Y_x = y | X = x', Y = y') under uniform threshold noise.

    By definition, in the twin network (Balke & Pearl 1994): the actual world and the one where X
    is set to x share every U_i. Where a node has probability p of being 1 in one world and q in
    the other, U_i < min(p, q) makes it 1 in both, U_i >= max(p, q) in neither, what lies between
    in the likelier one alone. Nodes that X does not affect are the same in both worlds, so the
    array has 2^(n + number of descendants of X) cells; nan where P(x', y') = 0.

    By hand: X -> Y, P(Y=1|x') = 0.2, P(Y=1|x) = 0.7: of those with Y = 0 under x' (U >= 0.2) the
    share with U < 0.7 is 0.5 / 0.8 = 0.625 = PS.
    """
    graph, n = scm.graph, scm.graph.n
    if query.y not in graph.descendants[query.x]:
        return 0.0
    affected = sorted(graph.descendants[query.x])
    twin = {node: n + place for place, node in enumerate(affected)}
    size = n + len(affected)
    result = np.ones((1,) * size)
    for node, (parents, table) in enumerate(zip(graph.parents, scm.tables, strict=True)):
        one = table[..., 1]
        actual = _placed(one, parents, size)
        if node not in twin:
            result = result * _states(1.0 - actual, actual, node)
            continue
        fixed = tuple(query.x_value if p == query.x else slice(None) for p in parents)
        places = [twin.get(p, p) for p in parents if p != query.x]
        other = _placed(one[fixed], places, size)
        both = np.minimum(actual, other)
        neither = 1.0 - np.maximum(actual, other)
        result = result * _states(
            _states(neither, other - both, twin[node]),
            _states(actual - both, both, twin[node]),
            node,
        )
    counterfactual = ((twin[query.y], query.y_value),)
    return probability(result, counterfactual, (*query.away, *query.other_outcome))


def _placed(values: np.ndarray, axes, size: int) -> np.ndarray:
    """`values` with its axes moved to the given places of a `size`-dimensional array."""
    order = np.argsort(axes)
    shape = [2 if axis in axes else 1 for axis in range(size)]
    return values.transpose(order).reshape(shape)


def _states(zero: np.ndarray, one: np.ndarray, axis: int) -> np.ndarray:
    return np.concatenate([zero, one], axis=axis)
