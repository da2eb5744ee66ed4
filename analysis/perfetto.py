"""The Perfetto export: threads as tracks, calls and their phases as slices, deliveries as flows.

Open the file in ui.perfetto.dev, or ask it with Perfetto's trace processor. Field numbers are those
of perfetto/trace/trace_packet.proto and track_event/track_event.proto.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from analysis.errors import TraceError
from analysis.load import Trace, load
from analysis.newfile import replacing
from analysis.phase_slices import PHASE_ORDER
from analysis.schema import CALLS, DELIVERIES, PHASE_COLUMNS
from analysis.thread_calls import to_int
from analysis.wire import Bytes, fixed64, join, message, varint

__all__ = ("export_perfetto",)

Ints = npt.NDArray[np.int64]

SEQUENCE = 1
CLEARED, NEEDS_STATE = 1, 2
"""``sequence_flags``: the names of slices are interned, once, in the first packet."""

_PACKET, _TIMESTAMP, _TRACK_EVENT, _SEQUENCE_ID, _SEQUENCE_FLAGS = 1, 8, 11, 10, 13
_TYPE, _NAME, _TRACK, _ANNOTATION, _FLOW, _FLOW_END = 9, 10, 11, 4, 47, 48
_ANNOTATION_NAME, _ANNOTATION_INT = 1, 4
BEGIN, END, INSTANT = 1, 2, 3

TIME_WIDTH = 9
"""Bytes of a padded varint of 63 bits."""
NAME_WIDTH = 2
NUMBER_WIDTH = 10
"""A negative number is a varint of ten bytes."""
ANNOTATIONS = ("socket", "result", "bytes")
ARRIVED, COPIED = "data arrives", "data copied"
ARRIVALS_TRACK = 1
"""The uuid of the track of arrivals; threads have their tid plus THREAD_TRACKS."""
THREAD_TRACKS = 1 << 32
ROWS_AT_ONCE = 100_000
"""Calls that are encoded together: about a kilobyte each, before the empty phases are dropped."""
DELIVERY_COLUMNS = ("tid", "ready_ns", "copied_ns")


def _packets(kind: int, times: Ints, tracks: Ints, *fields: Bytes) -> Bytes:
    """Return track events of one kind, each a packet of its own."""
    rows = len(times)
    event = message(
        _TRACK_EVENT,
        varint(_TYPE, np.full(rows, kind), 1),
        varint(_TRACK, tracks, TIME_WIDTH),
        *fields,
    )
    return message(
        _PACKET,
        varint(_TIMESTAMP, times, TIME_WIDTH),
        varint(_SEQUENCE_ID, np.full(rows, SEQUENCE), 1),
        varint(_SEQUENCE_FLAGS, np.full(rows, NEEDS_STATE), 1),
        event,
    )


def _annotation(index: int, values: Ints) -> Bytes:
    return message(
        _ANNOTATION,
        varint(_ANNOTATION_NAME, np.full(len(values), index + 1), 1),
        varint(_ANNOTATION_INT, values, NUMBER_WIDTH),
    )


def _call_bytes(calls: pd.DataFrame, names: Mapping[str, int]) -> tuple[bytes, int]:
    """Return the slices of some calls and of their phases, and how many phases have one.

    Events of a call follow each other in the file: for equal times Perfetto keeps that order.
    """
    order = [to_int(calls[name]) for name in ("duration_ns", "ts_ns", "tid")]
    calls = calls.iloc[np.lexsort(order)]
    begin = to_int(calls["ts_ns"])
    tracks = THREAD_TRACKS + to_int(calls["tid"])
    called = calls["call"].map(names).to_numpy(dtype=np.int64)
    lengths = np.stack([to_int(calls[f"{phase}_ns"]) for phase in PHASE_ORDER], axis=1)
    ends = begin[:, np.newaxis] + np.cumsum(lengths, axis=1)

    columns: list[Bytes] = []
    present: list[npt.NDArray[np.bool_]] = []
    # an unknown value has no annotation: one shape of message for each set of known ones
    known = calls[list(ANNOTATIONS)].notna().to_numpy()
    for shape in np.unique(known, axis=0):
        notes = [
            _annotation(index, to_int(calls[name]))
            for index, name in enumerate(ANNOTATIONS)
            if shape[index]
        ]
        columns.append(_packets(BEGIN, begin, tracks, varint(_NAME, called, NAME_WIDTH), *notes))
        present.append((known == shape).all(axis=1))
    for index, phase in enumerate(PHASE_ORDER):
        there = lengths[:, index] > 0
        name = varint(_NAME, np.full(len(calls), names[phase]), NAME_WIDTH)
        columns.append(_packets(BEGIN, ends[:, index] - lengths[:, index], tracks, name))
        columns.append(_packets(END, ends[:, index], tracks))
        present += [there, there]
    columns.append(_packets(END, begin + to_int(calls["duration_ns"]), tracks))
    present.append(np.ones(len(calls), dtype=bool))
    widths = [column.shape[1] for column in columns]
    keep = np.repeat(np.stack(present, axis=1), widths, axis=1)
    return join(*columns)[keep].tobytes(), int((lengths > 0).sum())


def _delivery_bytes(data: pd.DataFrame, first: int, names: Mapping[str, int]) -> bytes:
    """Return two instants per delivery, its arrival and its copy, joined by a flow."""
    flows = np.arange(first, first + len(data)) + 1
    arrived = varint(_NAME, np.full(len(data), names[ARRIVED]), NAME_WIDTH)
    copied = varint(_NAME, np.full(len(data), names[COPIED]), NAME_WIDTH)
    arrivals = np.full(len(data), ARRIVALS_TRACK)
    tracks = THREAD_TRACKS + to_int(data["tid"])
    return join(
        _packets(INSTANT, to_int(data["ready_ns"]), arrivals, arrived, fixed64(_FLOW, flows)),
        _packets(INSTANT, to_int(data["copied_ns"]), tracks, copied, fixed64(_FLOW_END, flows)),
    ).tobytes()


def _descriptors(trace: Trace, names: Mapping[str, int]) -> bytes:
    """Return the packets that name the tracks and the slices."""
    from perfetto.protos.perfetto.trace import perfetto_trace_pb2 as protos

    document = protos.Trace()
    first = document.packet.add()
    first.trusted_packet_sequence_id = SEQUENCE
    first.sequence_flags = CLEARED
    for name, number in names.items():
        first.interned_data.event_names.add(iid=number, name=name)
    for index, name in enumerate(ANNOTATIONS):
        first.interned_data.debug_annotation_names.add(iid=index + 1, name=name)
    arrivals = document.packet.add().track_descriptor
    arrivals.uuid, arrivals.name = ARRIVALS_TRACK, "arrivals in the receive queues"
    for thread in _threads(trace):
        descriptor = document.packet.add().track_descriptor
        descriptor.uuid = THREAD_TRACKS + thread["tid"]
        descriptor.thread.pid, descriptor.thread.tid = thread["pid"], thread["tid"]
        descriptor.thread.thread_name = thread["comm"]
    content: bytes = document.SerializeToString()
    return content


def _threads(trace: Trace) -> list[dict[str, Any]]:
    """Return the threads of the ledger and, for a trace cut short, those of its calls."""
    known = trace.threads[["pid", "tid", "comm"]].astype({"comm": "str"})
    seen = [
        piece.drop_duplicates("tid", keep="last").astype({"comm": "str"})
        for piece in trace.pieces(CALLS, ["pid", "tid", "comm"])
    ]
    both = pd.concat([known, *reversed(seen)]).drop_duplicates("tid")
    return [
        {"pid": int(row["pid"]), "tid": int(row["tid"]), "comm": str(row["comm"])}
        for row in both.to_dict("records")
    ]


def _write(trace: Trace, file: IO[bytes]) -> dict[str, int]:
    kinds = {kind for piece in trace.pieces(CALLS, ["call"]) for kind in piece["call"].unique()}
    words = dict.fromkeys([*PHASE_ORDER, ARRIVED, COPIED, *sorted(map(str, kinds))])
    names = {word: number for number, word in enumerate(words, 1)}
    file.write(_descriptors(trace, names))
    counts = {"calls": 0, "phases": 0, "deliveries": 0}
    columns = ["ts_ns", "duration_ns", "tid", "call", *ANNOTATIONS, *PHASE_COLUMNS]
    for piece in trace.pieces(CALLS, columns):
        for begin in range(0, len(piece), ROWS_AT_ONCE):
            calls = piece.iloc[begin : begin + ROWS_AT_ONCE]
            content, phases = _call_bytes(calls, names)
            file.write(content)
            counts["calls"] += len(calls)
            counts["phases"] += phases
    for piece in trace.pieces(DELIVERIES, list(DELIVERY_COLUMNS)):
        known = piece.dropna(subset=["ready_ns", "copied_ns"])
        file.write(_delivery_bytes(known, counts["deliveries"], names))
        counts["deliveries"] += len(known)
    return counts


def export_perfetto(
    directory: str | Path, target: str | Path, *, force: bool = False
) -> dict[str, int]:
    """Write a trace as a Perfetto trace file (``.pftrace``), in pieces.

    Returns how many ``calls`` and ``phases`` became slices and how many ``deliveries`` flows.
    Raises TraceError when the trace is damaged, or ``target`` exists without ``force``.
    """
    out = Path(target)
    if out.exists() and not force:
        raise TraceError(f"{out}: exists already; remove it or say --force")
    trace = load(directory)
    try:
        with replacing(out) as file:
            return _write(trace, file)
    except OSError as error:
        raise TraceError(f"{out}: {error.strerror or error}") from error
