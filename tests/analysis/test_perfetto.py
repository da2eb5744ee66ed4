"""The Perfetto file has the calls, phases and deliveries of the trace, at their times."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analysis.errors import TraceError
from analysis.load import load
from analysis.perfetto import COPIED, export_perfetto
from analysis.phase_slices import slices
from analysis.schema import PHASES
from analysis.wire import varint
from tests.analysis import synthetic
from tests.analysis.trace_processor import needs_trace_processor, trace_processor

REQUESTS = 150
NOTEBOOKS = Path(__file__).resolve().parents[2] / "analysis" / "notebooks"
SAMPLES = ("tour/epoll", "io_uring/io_uring", "io_uring/io_uring-sqpoll", "redis/pipelined")


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    parent = tmp_path_factory.mktemp("traces")
    return synthetic.make_trace(parent / "select", "select", REQUESTS, threads=3)


def read_back(path: Path) -> tuple[list[dict[str, Any]], dict[int, str], dict[int, str]]:
    """Return the track events, the interned names, and the names of the tracks."""
    from perfetto.protos.perfetto.trace import perfetto_trace_pb2 as protos

    document = protos.Trace()
    document.ParseFromString(path.read_bytes())
    names: dict[int, str] = {}
    notes: dict[int, str] = {}
    tracks: dict[int, str] = {}
    events = []
    for packet in document.packet:
        for entry in packet.interned_data.event_names:
            names[entry.iid] = entry.name
        for label in packet.interned_data.debug_annotation_names:
            notes[label.iid] = label.name
        if packet.HasField("track_descriptor"):
            described = packet.track_descriptor
            tracks[described.uuid] = described.name or described.thread.thread_name
        if packet.HasField("track_event"):
            event = packet.track_event
            events.append(
                {
                    "ts": packet.timestamp,
                    "type": event.type,
                    "track": event.track_uuid,
                    "name": names.get(event.name_iid, ""),
                    "flows": list(event.flow_ids),
                    "ends": list(event.terminating_flow_ids),
                    "notes": {
                        notes[note.name_iid]: note.int_value for note in event.debug_annotations
                    },
                }
            )
    return events, names, tracks


def closed_slices(events: list[dict[str, Any]]) -> pd.DataFrame:
    """Match begins and ends per track the way Perfetto does: the innermost open slice is closed."""
    stacks: dict[int, list[dict[str, Any]]] = {}
    done = []
    for event in sorted(events, key=lambda event: event["ts"]):
        stack = stacks.setdefault(event["track"], [])
        if event["type"] == 1:
            stack.append(event)
        elif event["type"] == 2:
            begun = stack.pop()
            done.append(
                (
                    event["track"],
                    begun["name"],
                    begun["ts"],
                    event["ts"],
                    len(stack),
                    begun["notes"],
                )
            )
    assert not any(stacks.values())
    return pd.DataFrame(done, columns=["track", "name", "begin", "end", "depth", "notes"])


def test_calls_and_phases_come_back_as_nested_slices(directory: Path, tmp_path: Path) -> None:
    counts = export_perfetto(directory, tmp_path / "t.pftrace")
    events, _, tracks = read_back(tmp_path / "t.pftrace")
    found = closed_slices(events)
    calls = load(directory).calls.sort_values(["tid", "ts_ns"])
    outer = found[found["depth"] == 0].sort_values(["track", "begin"])
    assert outer["name"].tolist() == calls["call"].astype(str).tolist()
    assert outer["begin"].tolist() == calls["ts_ns"].tolist()
    assert (outer["end"] - outer["begin"]).tolist() == calls["duration_ns"].tolist()
    for name in ("socket", "result", "bytes"):
        assert [notes.get(name) for notes in outer["notes"]] == [
            None if value is pd.NA else value for value in calls[name]
        ]
    inner = found[found["depth"] == 1].sort_values(["track", "begin"])
    pieces = slices(calls)
    assert inner["name"].tolist() == pieces["phase"].astype(str).tolist()
    assert inner["begin"].tolist() == pieces["begin_ns"].tolist()
    assert inner["end"].tolist() == pieces["end_ns"].tolist()
    assert counts == {"calls": len(calls), "phases": len(pieces), "deliveries": REQUESTS}
    assert sorted(tracks.values()) == ["arrivals in the receive queues", *["python3"] * 3]


def test_deliveries_come_back_as_flows_from_arrival_to_copy(
    directory: Path, tmp_path: Path
) -> None:
    export_perfetto(directory, tmp_path / "t.pftrace")
    events, *_ = read_back(tmp_path / "t.pftrace")
    begins = {flow: event["ts"] for event in events for flow in event["flows"]}
    ends = {flow: event["ts"] for event in events for flow in event["ends"]}
    data = load(directory).deliveries
    assert set(begins) == set(ends) == set(range(1, REQUESTS + 1))
    assert [begins[flow] for flow in sorted(begins)] == data["ready_ns"].tolist()
    assert [ends[flow] for flow in sorted(ends)] == data["copied_ns"].tolist()


def test_an_export_in_pieces_is_the_same(
    directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export_perfetto(directory, tmp_path / "whole.pftrace")
    monkeypatch.setattr("analysis.table_reader.BLOCK_BYTES", 4096)
    monkeypatch.setattr("analysis.sources.ROWS_PER_PIECE", 40)
    monkeypatch.setattr("analysis.perfetto.ROWS_AT_ONCE", 17)
    export_perfetto(directory, tmp_path / "pieces.pftrace")
    whole, pieces = (
        closed_slices(read_back(tmp_path / f"{name}.pftrace")[0]) for name in ("whole", "pieces")
    )
    keys = ["track", "begin", "depth"]
    pd.testing.assert_frame_equal(
        whole.sort_values(keys, ignore_index=True), pieces.sort_values(keys, ignore_index=True)
    )


def test_an_existing_file_is_kept_unless_forced(directory: Path, tmp_path: Path) -> None:
    target = tmp_path / "t.pftrace"
    target.write_text("mine")
    with pytest.raises(TraceError, match="exists already"):
        export_perfetto(directory, target)
    export_perfetto(directory, target, force=True)
    assert [entry.name for entry in tmp_path.iterdir()] == ["t.pftrace"]


def test_a_number_too_wide_for_its_field_is_refused() -> None:
    with pytest.raises(ValueError, match="field 3: a value needs more than 2 bytes"):
        varint(3, np.array([1, 1 << 14]), 2)


@needs_trace_processor
@pytest.mark.parametrize("name", ["synthetic", *SAMPLES])
def test_the_trace_processor_reads_the_same(name: str, directory: Path, tmp_path: Path) -> None:
    source = directory if name == "synthetic" else NOTEBOOKS / "samples" / name
    counts = export_perfetto(source, tmp_path / "t.pftrace")
    trace = load(source)
    pieces = slices(trace.calls)
    spent = trace.calls["duration_ns"].groupby(trace.calls["call"].astype("str")).sum().to_dict()
    lengths = pieces["end_ns"] - pieces["begin_ns"]
    spent |= lengths.groupby(pieces["phase"].astype("str")).sum().to_dict()
    data = trace.deliveries.dropna(subset=["ready_ns", "copied_ns"])

    with trace_processor(tmp_path / "t.pftrace") as processor:
        found = processor.rows(
            "select slice.name as name, count(*) as number, sum(dur) as spent, "
            "min(dur) as least from slice join thread_track on track_id = thread_track.id "
            f"where slice.name != '{COPIED}' group by 1"
        )
        numbers = {row["name"]: row["number"] for row in found}
        phases = sum(numbers.get(phase, 0) for phase in PHASES)
        assert (sum(numbers.values()) - phases, phases) == (counts["calls"], counts["phases"])
        assert {row["name"]: row["spent"] for row in found} == spent
        assert min(row["least"] for row in found) >= 0
        [flows] = processor.rows(
            "select count(*) as number, sum(copied.ts - arrived.ts) as waited from flow "
            "join slice as arrived on slice_out = arrived.id "
            "join slice as copied on slice_in = copied.id"
        )
        assert flows["number"] == counts["deliveries"] == len(data)
        assert flows["waited"] == int((data["copied_ns"] - data["ready_ns"]).sum())
        threads = processor.rows("select tid, name from thread where tid != 0")
        assert {row["tid"] for row in threads} == set(trace.threads["tid"])
        assert not processor.rows(
            "select name, value from stats where value > 0 and severity in ('error', 'data_loss')"
        )
