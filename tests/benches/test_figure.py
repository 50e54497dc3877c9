"""Ratios as they are shown: with bar and aim, in their unit."""

import pytest
from scripts.benches.figure import MILLISECONDS, SESSIONS, Figure, Goal, figures_table
from scripts.benches.samples import Comparison

COMPARED = Comparison.of([0.030, 0.040], [0.020, 0.020])


def test_a_line_has_both_amounts_their_ratio_and_what_it_is_to_reach() -> None:
    figure = Figure(name="a step", unit=MILLISECONDS, compared=COMPARED, goal=Goal(bar=2.0, aim=1.3, at_most=True))
    assert figure.row() == ("a step", "35.0 ms", "20.0 ms", "1.75", "1.50 to 2.00", "<= 2", "<= 1.3")


def test_what_is_for_information_has_neither_bar_nor_aim() -> None:
    figure = Figure(name="sessions", unit=SESSIONS, compared=Comparison.of([127], [128]))
    assert figure.row()[1:4] == ("127 sessions", "128 sessions", "0.99")
    assert figure.row()[-2:] == ("", "")
    assert figure.as_json()["goal"] is None


def test_at_least_is_said_where_more_is_better() -> None:
    assert Goal(bar=0.8, aim=0.95).cells() == (">= 0.8", ">= 0.95")


def test_a_table_has_a_line_for_each_figure() -> None:
    figures = [Figure(name=name, unit=MILLISECONDS, compared=COMPARED) for name in ("a", "b")]
    assert [row[0] for row in figures_table(figures).rows] == ["a", "b"]


def test_json_has_the_goal_and_amounts_in_their_base_unit() -> None:
    found = Figure(name="a", unit=MILLISECONDS, compared=COMPARED, goal=Goal(bar=2, aim=1)).as_json()
    assert found["goal"] == {"bar": 2, "aim": 1, "at_most": False}
    assert found["ratio"] == pytest.approx(1.75)
