"""Charts: their scales by hand, and any values."""

import math
import xml.etree.ElementTree as ET

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from caugym_jax.pages import svg

ANY = st.one_of(st.none(), st.floats(allow_nan=True, allow_infinity=True))


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1.0]), (0, 25, [0, 5, 10, 15, 20, 25]), (3, 3, [3])],
)
def test_ticks(low, high, expected):
    assert svg.ticks(low, high) == expected


@settings(deadline=None)
@given(st.floats(-1e6, 1e6), st.floats(1e-2, 1e6))
def test_ticks_lie_inside_and_are_few(low, span):
    found = svg.ticks(low, low + span)
    assert len(found) <= 6
    assert all(low - 1e-6 * span <= t <= low + span * (1 + 1e-6) for t in found)


@settings(deadline=None)
@given(st.lists(ANY, min_size=1, max_size=30))
@example([-1.2e308])
def test_a_line_chart_of_any_values_is_svg(values):
    line = svg.Line("a<b", list(map(float, range(len(values)))), values)
    drawn = svg.lines("t", [line, line], "x", "y")
    ET.fromstring(drawn)
    assert "nan" not in drawn and "inf" not in drawn.replace("infin", "").lower().replace(
        "no fin", ""
    )


def test_long_lines_are_thinned_by_means():
    line = svg.thinned(svg.Line("x", list(range(800)), [0.0, 1.0] * 400))
    assert len(line.x) == 400 and set(line.y) == {0.5}


def test_a_gap_breaks_the_line():
    drawn = svg.lines("t", [svg.Line("a", [0, 1, 2, 3, 4], [0, 1, None, 1, 0])], "x", "y")
    assert drawn.count("<polyline") == 2


def test_a_graph_puts_causes_left():
    edges = [("a", "b"), ("b", "c"), ("a", "c")]
    assert svg.depths(edges, ["c", "a", "b"]) == {"a": 0, "b": 1, "c": 2}
    role = {"a": "treatment", "b": "mediator", "c": "outcome"}
    root = ET.fromstring(svg.graph("g", edges, role))
    at = {t.text: float(t.get("x")) for t in root.iter("{http://www.w3.org/2000/svg}text")}
    assert at["a"] < at["b"] < at["c"]


def test_numbers_for_people():
    assert [svg.number(v) for v in (0, 0.035, 1200, 12_345, 2.5e6)] == [
        "0",
        "0.035",
        "1,200",
        "12.3k",
        "2.5M",
    ]
    assert math.isfinite(svg.spread([2.0, 2.0])[0])
