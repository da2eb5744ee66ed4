"""The cost of telling the receiver is averaged over those deliveries whose cost is known."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from analysis.load import load
from analysis.notifications import notifications
from analysis.scaling import WAITING, scaling
from tests.analysis import synthetic


def test_callbacks_are_counted_by_name_and_context(tmp_path: Path) -> None:
    path = synthetic.make_trace(tmp_path / "t", "epoll", 30)
    data = load(path).deliveries.drop(columns=["notifier", "callback_ns", "notify_ns"])
    told = data.index < 20
    data["waker_context"] = pd.Series("process", index=data.index).where(told, "softirq")
    data["notify_ns"] = pd.Series(400, index=data.index, dtype="Int64").where(told)
    data["notifier"] = pd.Series("ep_poll_callback", index=data.index).where(told)
    data["callback_ns"] = pd.Series(300, index=data.index, dtype="Int64").where(told)
    data.to_csv(path / "deliveries.csv", index=False)
    table = notifications([load(path)]).set_index("waker_context")
    assert table["deliveries"].to_dict() == {"process": 20, "softirq": 10}
    assert table["measured"].to_dict() == {"process": 20, "softirq": 0}
    assert table["notifier"]["process"] == "ep_poll_callback"
    assert (table["notify_mean_ns"]["process"], table["callback_mean_ns"]["process"]) == (400, 300)
    assert pd.isna(table["notify_mean_ns"]["softirq"])


def test_a_trace_without_function_probes_knows_no_notifier(tmp_path: Path) -> None:
    table = notifications([load(synthetic.make_trace(tmp_path / "t", "epoll", 30))])
    assert len(table) == 1
    assert table["deliveries"][0] == 30 and table["measured"][0] == 0
    assert pd.isna(table["notifier"][0])


def test_moving_descriptor_sets_is_a_cost_of_its_own(tmp_path: Path) -> None:
    path = synthetic.make_trace(tmp_path / "t", "select", 30)
    calls = load(path).calls
    waiting = calls["call"] == "pselect6"
    calls["check_copy_ns"] = (calls["check_ns"] // 4).where(waiting)
    calls.to_csv(path / "calls.csv", index=False)
    points = scaling([load(path)], "descriptors", "check_copy", calls=WAITING)
    expected = int((calls["check_ns"] // 4)[waiting].sum()) / 30
    assert points["y"][0] == pytest.approx(expected)
    without = load(synthetic.make_trace(tmp_path / "u", "select", 30))
    assert scaling([without], "descriptors", "check_copy", calls=WAITING)["y"].isna().all()
