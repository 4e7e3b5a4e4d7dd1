"""Each estimand, derived twice; and cases worked by hand."""

from decimal import Decimal

import numpy as np
import pytest

from caugym_jax.causal.engine.answers import verdict
from caugym_jax.causal.engine.estimands import (
    by_definition,
    by_identification,
    exact_probability,
    ingredients,
    printed_probability,
)
from caugym_jax.causal.engine.graph import Graph, draw_graph
from caugym_jax.causal.engine.queries import BOUNDS, draw_query
from caugym_jax.causal.engine.scm import SCM, draw_scm, joint, probability
from caugym_jax.types import BOUND_TASKS, TASKS, Query, Term

# Confounder A, treatment B, outcome C.
# P(A=1) = .5; P(B=1|A) = .2, .8; P(C=1|A,B) = .1 (0,0), .4 (0,1), .5 (1,0), .9 (1,1).
WORLD = SCM(
    Graph(3, ((0, 1), (0, 2), (1, 2))),
    (
        np.array([0.5, 0.5]),
        np.array([[0.8, 0.2], [0.2, 0.8]]),
        np.array([[[0.9, 0.1], [0.6, 0.4]], [[0.5, 0.5], [0.1, 0.9]]]),
    ),
)


def both(query, scm=WORLD):
    by_text = by_identification(query, exact_probability(joint(scm)))
    assert by_definition(query, scm) == pytest.approx(by_text, abs=1e-12)
    return by_text


def test_ate_worked_by_hand():
    # (.4 - .1) * .5 + (.9 - .5) * .5 = .35; without adjustment .8 - .18 = .62
    assert both(Query("ATE", 1, 2, 1, 1, adjusters=(0,))) == pytest.approx(0.35)
    assert both(Query("ATE", 1, 2, 0, 1, adjusters=(0,))) == pytest.approx(-0.35)
    assert both(Query("ATE", 1, 2, 0, 0, adjusters=(0,))) == pytest.approx(0.35)
    unadjusted = by_identification(Query("ATE", 1, 2, 1, 1), exact_probability(joint(WORLD)))
    assert unadjusted == pytest.approx(0.62)


def test_ett_worked_by_hand_and_its_direction():
    # For those with B = 0 (P(A=0|B=0) = .8): actual .1*.8 + .5*.2 = .18; had B been 1:
    # .4*.8 + .9*.2 = .5. Actual minus counterfactual = -.32: C = 1 becomes MORE likely.
    query = Query("ETT", 1, 2, x_value=1, y_value=1, adjusters=(0,))
    assert both(query) == pytest.approx(-0.32)
    assert verdict(query.task, both(query)) == "Yes"
    # The same people, asked about C = 0.
    query = Query("ETT", 1, 2, x_value=1, y_value=0, adjusters=(0,))
    assert both(query) == pytest.approx(0.32)
    assert verdict(query.task, both(query)) == "No"
    # For those with B = 1 (P(A=1|B=1) = .8): .8 actual, had B been 0: .1*.2 + .5*.8 = .42
    query = Query("ETT", 1, 2, x_value=0, y_value=1, adjusters=(0,))
    assert both(query) == pytest.approx(0.38)
    assert verdict(query.task, both(query)) == "No"


def test_bounds_worked_by_hand():
    # do(B=0): P(C=0) = .9*.5 + .5*.5 = .7; P(B=0,C=0) = .9*.4 + .5*.1 = .41;
    # P(B=1,C=1) = .4*.1 + .9*.4 = .4; P(C=1) = .4 + .1*.4 + .5*.1 = .49
    upper = Query("PN", 1, 2, 0, 0, adjusters=(0,), bound="upper")
    assert both(upper) == pytest.approx((0.7 - 0.41) / 0.4)
    lower = Query("PN", 1, 2, 0, 0, adjusters=(0,), bound="lower")
    assert both(lower) == pytest.approx((0.49 - 0.3) / 0.4)


def test_mediation_worked_by_hand():
    # X=0 -> M=1 -> Y=2, X -> Y, with the numbers of WORLD: NDE (M as under X=0):
    # (.5-.1)*.8 + (.9-.4)*.2 = .42; NIE: .1*(.2-.8) + .4*(.8-.2) = .18; CDE at M=1: .9-.4
    assert both(Query("NDE", 0, 2, 1, 1, mediators=(1,))) == pytest.approx(0.42)
    assert both(Query("NIE", 0, 2, 1, 1, mediators=(1,))) == pytest.approx(0.18)
    held = Query("CDE", 0, 2, 1, 1, mediators=(1,), mediator_values=(1,))
    assert both(held) == pytest.approx(0.5)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("size, through", [(0, 0), (0, 1), (1, 1), (1, 2), (2, 1), (2, 2)])
def test_definition_equals_identification_on_random_models(task, size, through):
    rng = np.random.default_rng((TASKS.index(task), size, through))
    bounds = []
    for _ in range(4000):
        graph = draw_graph(rng, int(rng.integers(max(3, 2 + size + through), 8)))
        query = draw_query(rng, graph, task, zero=False, size=size, through=through)
        if query is None:
            continue
        assert len(query.adjusters) == size
        both(query, draw_scm(rng, graph))
        bounds.append(query.bound)
        if len(bounds) == 50:
            break
    if not (task == "NIE" and through == 0):
        assert len(bounds) == 50
        assert set(bounds) == (set(BOUNDS) if task in BOUND_TASKS else {None})


@pytest.mark.parametrize("task", [t for t in TASKS if t not in BOUND_TASKS])
def test_zero_questions_have_no_effect_in_any_model(task):
    rng = np.random.default_rng(TASKS.index(task))
    for _ in range(40):
        graph = draw_graph(rng, int(rng.integers(3, 7)))
        query = draw_query(rng, graph, task, zero=True, size=0, through=0)
        if query is not None:
            assert by_definition(query, draw_scm(rng, graph)) == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("task", TASKS)
def test_ingredients_suffice_and_are_needed(task):
    rng = np.random.default_rng(TASKS.index(task))
    found = 0
    while found < 20:
        graph = draw_graph(rng, 6)
        query = draw_query(rng, graph, task, zero=False, size=found % 2, through=1)
        if query is None:
            continue
        found += 1
        observed = joint(draw_scm(rng, graph))
        numbers = {t: Decimal(probability(observed, *t)) for t in ingredients(query)}
        value = by_identification(query, printed_probability(numbers))
        exact = by_identification(query, exact_probability(observed))
        assert float(value) == pytest.approx(exact, abs=1e-12)
        assert len(set(numbers)) == len(ingredients(query))


def test_a_missing_probability_is_not_invented():
    query = Query("ETT", 1, 2, 1, 1, adjusters=(0,))
    printed = {t: Decimal("0.5") for t in ingredients(query)}
    del printed[Term(((2, 1),), ((0, 1), (1, 1)))]
    with pytest.raises(KeyError):
        by_identification(query, printed_probability(printed))
    # P(A=1|B=0) is one minus P(A=0|B=0).
    printed = {t: Decimal("0.5") for t in ingredients(query)}
    del printed[Term(((0, 1),), ((1, 0),))]
    assert by_identification(query, printed_probability(printed)) == Decimal(0)
