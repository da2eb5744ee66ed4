"""Figures show what is in the trace, name their units, and draw from odd traces too."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from analysis.figures.copying import copy_by_size, copy_times
from analysis.figures.delivery import delivery_ecdf
from analysis.figures.phases import phases
from analysis.figures.scaling import cost_curve
from analysis.figures.sequence import request_sequences
from analysis.figures.style import PART_COLOURS, model_line, png, svg
from analysis.figures.threads import thread_timeline
from analysis.load import Trace, load
from analysis.memcpy import memcpy_times
from analysis.phase_slices import slices
from analysis.request_sequence import typical_request
from analysis.summary import SHARES, summarise
from tests.analysis import synthetic


@pytest.fixture(scope="module")
def traces(tmp_path_factory: pytest.TempPathFactory) -> list[Trace]:
    directories = synthetic.make_traces(tmp_path_factory.mktemp("traces"), requests=120)
    return [load(directory) for directory in directories]


def empty_trace(tmp_path: Path) -> Trace:
    nothing = synthetic.make_calls("epoll", 10).iloc[:0]
    return load(
        synthetic.write_trace(
            tmp_path / "empty",
            nothing,
            synthetic.make_deliveries(nothing),
            synthetic.make_threads(nothing, None),
            synthetic.make_meta(None, 0, 0, 0),
        )
    )


def texts(figure: Figure) -> str:
    return " ".join(re.findall(r"<text[^>]*>(.*?)</text>", svg(figure)))


def all_figures(traces: list[Trace]) -> dict[str, Figure]:
    points = pd.DataFrame({"model": "m", "trace": "t", "x": [1.0, 10, 100], "y": [5.0, 50, 500]})
    names = [trace.name for trace in traces]
    return {
        "phases": phases(summarise(traces)),
        "ecdf": delivery_ecdf(traces, names),
        "copy": copy_by_size(traces),
        "threads": thread_timeline(traces[0]),
        "curve": cost_curve(points, xlabel="sockets", ylabel="ns", title="t", unit="socket"),
    }


def test_every_axis_has_a_label_with_a_unit(traces: list[Trace]) -> None:
    for name, figure in all_figures(traces).items():
        for axes in figure.axes:
            label = axes.get_xlabel() or figure.get_supxlabel()
            assert re.search(r"\((%|ms|µs|ns)\)|bytes|sockets", label), (name, label)


def test_the_bars_of_a_model_fill_its_wall_time(traces: list[Trace]) -> None:
    left = phases(summarise(traces)).axes[0]
    widths = [patch.get_width() for patch in left.patches if isinstance(patch, Rectangle)]
    per_model = [sum(widths[index :: len(traces)]) for index in range(len(traces))]
    assert len(widths) == len(SHARES) * len(traces)
    assert per_model == pytest.approx([100.0] * len(traces))


def test_slices_of_a_call_fill_it_without_gaps(traces: list[Trace]) -> None:
    for trace in traces:
        pieces = slices(trace.calls)
        bounds = pieces.groupby("row").agg({"begin_ns": "min", "end_ns": "max"})
        assert (bounds["begin_ns"] == trace.calls["ts_ns"]).all()
        ends = trace.calls["ts_ns"] + trace.calls["duration_ns"]
        assert (bounds["end_ns"] == ends).all()
        assert (
            int((pieces["end_ns"] - pieces["begin_ns"]).sum()) == trace.calls["duration_ns"].sum()
        )


@pytest.mark.parametrize("model", synthetic.MODELS)
def test_the_sequence_of_a_request_is_the_calls_of_its_model(
    traces: list[Trace], model: str
) -> None:
    trace = next(trace for trace in traces if trace.name == model)
    sequence = typical_request(trace)
    assert sequence is not None
    assert [step.call for step in sequence.steps] == [span.call for span in synthetic.MODELS[model]]
    assert sequence.steps[-1].bytes == 64
    assert sequence.copied_ns - sequence.ready_ns == 10_000
    drawn = texts(request_sequences([sequence]))
    for span in synthetic.MODELS[model]:
        assert span.call in drawn
    assert "application" in drawn and "kernel" in drawn and "64 B" in drawn


def test_a_long_row_of_empty_polls_is_counted_and_not_drawn(tmp_path: Path) -> None:
    calls = synthetic.make_calls("nonblocking", 40)
    empty = calls["bytes"] == 0
    kept = calls[empty | (calls.index == calls.index[-1])].reset_index(drop=True)
    path = synthetic.write_trace(
        tmp_path / "t",
        kept,
        synthetic.make_deliveries(kept),
        synthetic.make_threads(kept, "nonblocking"),
        synthetic.make_meta("nonblocking", len(kept), 1, 1),
    )
    sequence = typical_request(load(path))
    assert sequence is not None
    assert [step.count for step in sequence.steps] == [1, 78, 1, 1]
    spent = sum(step.phases.get("spin", 0) for step in sequence.steps)
    assert spent == kept["spin_ns"].sum()
    assert "recvfrom, 78 times" in texts(request_sequences([sequence]))


def test_an_empty_trace_draws_without_an_error(tmp_path: Path) -> None:
    trace = empty_trace(tmp_path)
    assert typical_request(trace) is None
    for figure in all_figures([trace]).values():
        png(figure)


def sized_trace(tmp_path: Path) -> Trace:
    """Return a trace of receives of three sizes that copy 8 bytes in a nanosecond."""
    calls = synthetic.make_calls("blocking", 60)
    for start, size in ((0, 64), (20, 4096), (40, 1 << 20)):
        rows = calls.index[start : start + 20]
        calls.loc[rows, "bytes"] = size
        calls.loc[rows, "copy_ns"] = size // 8
    calls["duration_ns"] = calls[list(synthetic.PHASES)].sum(axis="columns")
    path = synthetic.write_trace(
        tmp_path / "t",
        calls,
        synthetic.make_deliveries(calls),
        synthetic.make_threads(calls, "blocking"),
        synthetic.make_meta("blocking", 60, 60, 1),
    )
    return load(path)


def test_copy_times_are_medians_by_size(tmp_path: Path) -> None:
    table = copy_times([sized_trace(tmp_path)])
    assert table["bytes"].tolist() == [64, 4096, 1 << 20]
    assert table["p50"].tolist() == [8, 512, 1 << 17]
    assert table["receives"].tolist() == [20, 20, 20]


def test_a_copy_is_drawn_beside_a_memcpy_of_the_same_size(tmp_path: Path) -> None:
    times = {64: 0.0, 4096: 100.0, 1 << 20: 20_000.0}
    [axes] = copy_by_size([sized_trace(tmp_path)], memcpy_ns=times).axes
    lines = {str(line.get_label()): line for line in axes.lines}
    assert list(np.asarray(lines["memcpy"].get_ydata())) == [100.0, 20_000.0]
    assert axes.get_ylim()[0] < 8


def test_many_curves_are_drawn_in_a_panel_for_each_family(traces: list[Trace]) -> None:
    many = [*traces, *traces]
    names = [f"trace {index}" for index in range(len(many))]
    families = ["one"] * 3 + ["other"] * (len(many) - 3)
    figure = delivery_ecdf(many, names, families)
    panels = {axes.get_title(loc="left"): len(axes.lines) for axes in figure.axes if axes.lines}
    assert panels == {"one": 3, "other": len(many) - 3}
    assert all(f"{name} (120)" in texts(figure) for name in names)


def test_a_memcpy_of_more_takes_longer() -> None:
    times = memcpy_times([1 << 16, 1 << 20, 1 << 22])
    assert 0 < times[1 << 16] < times[1 << 20] < times[1 << 22]


def test_an_svg_takes_its_ink_from_the_page(traces: list[Trace]) -> None:
    drawn = svg(phases(summarise(traces)))
    assert drawn.startswith("<svg")
    assert "currentColor" in drawn
    assert "#1a1a1b" not in drawn


def test_a_png_is_a_png(traces: list[Trace]) -> None:
    assert png(delivery_ecdf(traces[:1], ["one"])).startswith(b"\x89PNG")


def luminance(colour: str) -> float:
    """Return the relative luminance of WCAG 2.1."""
    parts = [int(colour[index : index + 2], 16) / 255 for index in (1, 3, 5)]
    linear = [
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_parts_that_stand_together_differ_in_lightness_too() -> None:
    for first, second in itertools.pairwise(SHARES):
        bright, dark = sorted(
            (luminance(PART_COLOURS[first]), luminance(PART_COLOURS[second])), reverse=True
        )
        assert (bright + 0.05) / (dark + 0.05) > 1.2, (first, second)


def test_no_two_of_28_models_are_drawn_alike() -> None:
    looks = {(line["color"], line["linestyle"]) for line in map(model_line, range(28))}
    assert len(looks) == 28
