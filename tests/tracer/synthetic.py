"""Records with known content."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from probes.calls import CALL_NAMES, CALLS
from probes.layout import CALL, CONTEXT_NAMES, FLAGS, KINDS, NAME, SOCKET, THREAD, WAKER_NAMES
from tracer.ring import Records
from tracer.spool import SpoolWriter


def flags(*names: str) -> int:
    return sum(FLAGS[name] for name in names)


def _record(dtype: np.dtype[np.void], kind: str, values: dict[str, Any]) -> Records:
    record = np.zeros(1, dtype)
    record["kind"] = KINDS[kind]
    for name, value in values.items():
        record[name] = value
    return record.view(CALL)


def call(
    name: str = "recvfrom", context: str = "process", waker: str = "process", **values: Any
) -> Records:
    """Return a CALL record; ``duration`` is the sum of the phases and of ``overhead``."""
    phases = ("sleep", "runq", "spin", "check", "copy", "overhead")
    values.setdefault("duration", sum(values.get(phase, 0) for phase in phases))
    values.pop("overhead", None)
    values.setdefault("fd", -1)
    codes = {
        "call": CALL_NAMES.index(name),
        "context": CONTEXT_NAMES.index(context),
        "waker": WAKER_NAMES.index(waker),
    }
    return _record(CALL, "CALL", codes | values)


def delivery(waker: str = "softirq", **values: Any) -> Records:
    return _record(CALL, "DELIVERY", {"waker": WAKER_NAMES.index(waker)} | values)


def thread(**values: Any) -> Records:
    """Return a THREAD record; ``wall`` is the sum of its parts unless it is given."""
    parts = (
        "user", "sleep", "runq", "spin", "check", "copy", "overhead", "other_calls",
        "off_cpu_elsewhere",
    )  # fmt: skip
    values.setdefault("wall", sum(values.get(part, 0) for part in parts))
    return _record(THREAD, "THREAD", values)


def name(tid: int, ts: int, comm: bytes) -> Records:
    return _record(NAME, "NAME", {"tid": tid, "pid": tid, "ts": ts, "comm": comm})


def socket(
    inode: int,
    family: int,
    protocol: int,
    local: tuple[bytes, int] = (b"", 0),
    remote: tuple[bytes, int] = (b"", 0),
) -> Records:
    values: dict[str, Any] = {"socket": inode, "family": family, "protocol": protocol}
    for end, (address, port) in (("local", local), ("remote", remote)):
        values[f"{end}_port"] = port
        values[f"{end}_address"] = np.void(address.ljust(16, b"\0"))
    return _record(SOCKET, "SOCKET", values)


def joined(*records: Records) -> Records:
    return np.concatenate([np.empty(0, CALL), *records])


def write_spool(path: Path, records: Sequence[Records]) -> Path:
    """Write a spool with these records, in this order."""
    writer = SpoolWriter(path, CALLS)
    writer.append(joined(*records))
    writer.close()
    return path
