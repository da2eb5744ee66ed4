"""A known slope and intercept come back, with errors that cover them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from analysis.fit import cross, fit_line
from analysis.load import Trace, load
from analysis.scaling import WAITING, crossings, fits, scaling
from tests.analysis import synthetic

SLOPES = {"select": 80, "poll": 40, "epoll": 0}
INTERCEPTS = {"select": 400, "poll": 1600, "epoll": 900}


@pytest.fixture(scope="module")
def traces(tmp_path_factory: pytest.TempPathFactory) -> list[Trace]:
    """Traces whose waiting calls cost exactly intercept + slope x descriptors in check."""
    parent = tmp_path_factory.mktemp("scaling")
    found = []
    for model, slope in SLOPES.items():
        for idle in (2, 20, 200, 900):
            calls = synthetic.make_calls(model, 50, connections=8, seed=idle)
            waiting = calls["call"].isin(WAITING)
            check = INTERCEPTS[model] + slope * (8 + idle)
            calls["duration_ns"] += waiting * (check - calls["check_ns"])
            calls.loc[waiting, "check_ns"] = check
            meta = synthetic.make_meta(model, len(calls), 50, 1)
            meta["workload"] = synthetic.make_workload(50) | {"idle": idle}
            path = synthetic.write_trace(
                parent / f"{model}-{idle}",
                calls,
                synthetic.make_deliveries(calls),
                synthetic.make_threads(calls, model),
                meta,
            )
            found.append(load(path))
    return found


def test_the_cost_of_a_descriptor_comes_back(traces: list[Trace]) -> None:
    points = scaling(traces, "descriptors", "check", calls=WAITING)
    assert sorted(set(points["x"])) == [10, 28, 208, 908]
    for model, line in fits(points).items():
        assert line.slope == pytest.approx(SLOPES[model], abs=1e-6)
        assert line.intercept == pytest.approx(INTERCEPTS[model])


def test_lines_cross_where_they_cost_the_same(traces: list[Trace]) -> None:
    lines = fits(scaling(traces, "descriptors", "check", calls=WAITING))
    found = crossings(lines)
    assert set(found) == {("poll", "select"), ("epoll", "select")}
    assert found["poll", "select"].x == pytest.approx((1600 - 400) / (80 - 40))
    assert found["epoll", "select"].x == pytest.approx((900 - 400) / 80)


def test_cost_per_request_counts_all_calls(traces: list[Trace]) -> None:
    points = scaling(traces[:1], "connections", "copy", per="request")
    assert points["y"][0] == int(traces[0].calls["copy_ns"].sum()) / 50


def test_a_trace_without_a_load_has_no_place_on_the_curve(tmp_path: Path) -> None:
    path = synthetic.make_trace(tmp_path / "t", requests=5, meta={"workload": None})
    assert scaling([load(path)], "size").empty


@pytest.mark.parametrize(
    "wrong",
    [{"against": "moons"}, {"cost": "love"}, {"per": "mile"}],
    ids=lambda wrong: next(iter(wrong)),
)
def test_a_wrong_word_is_refused_with_the_right_ones(
    traces: list[Trace], wrong: dict[str, str]
) -> None:
    arguments = {"against": "size", "cost": "copy", "per": "call"} | wrong
    with pytest.raises(ValueError, match="expected"):
        scaling(traces, **arguments)


def test_the_interval_of_a_slope_covers_it_as_often_as_it_says() -> None:
    generator = np.random.default_rng(3)
    x = np.array([8.0, 16, 64, 256, 1024, 4096])
    hits = 0
    trials = 400
    for _ in range(trials):
        true = 500 + 3 * x
        low, high = fit_line(x, true * generator.normal(1, 0.05, len(x))).slope_interval
        hits += low <= 3 <= high
    assert 0.91 * trials <= hits <= 0.99 * trials


def test_noise_without_a_slope_is_not_said_to_rise() -> None:
    generator = np.random.default_rng(4)
    x = np.array([8.0, 16, 64, 256, 1024, 4096])
    wrong = sum(
        fit_line(x, generator.normal(900, 30, len(x))).rises is not None for _ in range(200)
    )
    assert wrong <= 20  # 5 % of 200, doubled


def test_two_points_make_a_line_without_errors() -> None:
    line = fit_line([1, 2], [10, 12])
    assert [line.slope, line.intercept] == pytest.approx([2, 8])
    assert np.isnan(line.slope_error)
    assert line.rises is None


def test_one_x_makes_no_line() -> None:
    with pytest.raises(ValueError, match="two different x"):
        fit_line([5, 5, 5], [1, 2, 3])


def test_the_bounds_of_a_crossing_hold_it() -> None:
    generator = np.random.default_rng(6)
    x = np.repeat([10.0, 50, 200, 1000], 3)
    first = fit_line(x, (100 + 5 * x) * generator.normal(1, 0.02, len(x)))
    second = fit_line(x, (600 + 1 * x) * generator.normal(1, 0.02, len(x)))
    crossing = cross(first, second)
    assert crossing.low < 125 < crossing.high
    assert crossing.high - crossing.low < 60
