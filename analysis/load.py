"""Load trace directories.

A ``Trace`` reads each of its tables when it is first asked for, so a summary of a long recording
does not pay for its calls.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.errors import TraceError
from analysis.schema import CALLS, DELIVERIES, SCHEMA_VERSION, SOCKETS, TABLES, THREADS, Table
from analysis.sources import check_source, read_frame, read_pieces, source_bytes

__all__ = ("META_FILE", "Trace", "load", "load_many", "load_meta")

META_FILE = "trace.json"

KEEP_BYTES = 100 << 20
"""A million calls as CSV; as a frame about as much."""

_REQUIRED_META = ("schema", "backend", "kernel", "targets", "lost", "emitted", "recorded")


_TYPES: tuple[tuple[tuple[str, ...], type, str], ...] = (
    (
        ("started", "stopped", "unclosed", "merged", "left_out", "sample", "returns_missed",
         "threads_untraced", "sockets_untraced"),
        int, "a number",
    ),
    (("clock", "workload", "narrowed", "selection", "resolution_ns"), dict, "an object"),
    (("targets", "refused", "standing", "probes"), list, "an array of objects"),
)  # fmt: skip
"""What the values of keys are, as SCHEMA.md documents them, where they are not ``null``."""


@dataclass(frozen=True)
class Trace:
    """One trace: ``meta`` is ``trace.json``; the frames have the columns of SCHEMA.md.

    Integers are nullable; an unknown value is ``pd.NA``. The frames are shared: copy them
    before changing them.
    """

    path: Path
    meta: Mapping[str, Any]

    @property
    def name(self) -> str:
        """Return the directory's name, to be printed."""
        return _printed(self.path.name)

    @property
    def directory(self) -> str:
        """Return the directory's whole path, to be printed."""
        return _printed(str(self.path.absolute()))

    @property
    def model(self) -> str | None:
        """Return the I/O model that was run, or None for a recording of a real program."""
        model = self.meta.get("model")
        return str(model) if model else None

    @property
    def lost(self) -> int | None:
        """Return how many events were lost, of all kinds; None if the recording died."""
        return _total(self.meta["lost"])

    @property
    def emitted(self) -> int | None:
        """Return how many events the probes made, recorded or not; None if the recording died."""
        return _total(self.meta["emitted"])

    @property
    def cut_short(self) -> bool:
        """Tell whether the recording was interrupted and put together afterwards."""
        return bool(self.meta.get("cut_short", False))

    @cached_property
    def calls(self) -> pd.DataFrame:
        """One row per call, in order of ``ts_ns``. Raises TraceError on a damaged file."""
        return read_frame(self.path, CALLS)

    @cached_property
    def deliveries(self) -> pd.DataFrame:
        """One row per arrival of data. Raises TraceError on a damaged file."""
        return read_frame(self.path, DELIVERIES)

    @cached_property
    def threads(self) -> pd.DataFrame:
        """One row per thread: its ledger. Raises TraceError on a damaged file."""
        return read_frame(self.path, THREADS)

    @cached_property
    def sockets(self) -> pd.DataFrame:
        """One row per socket that was seen: its addresses. Raises TraceError on a damaged file."""
        return read_frame(self.path, SOCKETS)

    def read(self, table: Table, columns: Sequence[str]) -> pd.DataFrame:
        """Return some columns of a table without loading the others. Raises TraceError."""
        if table.name in self.__dict__:
            frame: pd.DataFrame = self.__dict__[table.name]
            return frame[list(columns)]
        return read_frame(self.path, table, columns)

    def keep_if_small(self) -> None:
        """Load the calls once for all that follows, if they are few enough to be kept."""
        if source_bytes(self.path, CALLS) <= KEEP_BYTES:
            _ = self.calls

    def pieces(self, table: Table, columns: Sequence[str]) -> Iterator[pd.DataFrame]:
        """Yield some columns of a table in pieces that fit into memory. Raises TraceError."""
        if table.name in self.__dict__:
            return iter([self.read(table, columns)])
        return read_pieces(self.path, table, columns)


def _printed(path: str) -> str:
    """Escape what is no UTF-8 in a path: neither JSON nor Arrow takes it."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _total(counts: Any) -> int | None:
    if counts is None:
        return None
    if isinstance(counts, Mapping):
        return int(counts["total"]) if "total" in counts else sum(map(int, counts.values()))
    return int(counts)


def load_meta(directory: Path) -> dict[str, Any]:
    """Read and check ``trace.json``. Raises TraceError that says what the directory is instead."""
    if not directory.exists():
        raise TraceError(f"{directory}: no such directory")
    if not directory.is_dir():
        raise TraceError(f"{directory}: not a trace directory but a file")
    path = directory / META_FILE
    if not path.exists():
        raise _not_a_trace(directory)
    try:
        meta = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise TraceError(f"{path}: {error.strerror or error}") from error
    except json.JSONDecodeError as error:
        raise TraceError(
            f"{path}: line {error.lineno}, column {error.colno}: not JSON: {error.msg}"
        ) from error
    except UnicodeDecodeError as error:
        raise TraceError(f"{path}: not text: {error.reason}") from error
    if not isinstance(meta, dict):
        raise TraceError(f"{path}: expected an object, found {type(meta).__name__}")
    _check_version(path, meta)
    for key in _REQUIRED_META:
        if key not in meta:
            raise TraceError(f"{path}: key {key!r} is missing")
    _check_types(path, meta)
    for key in ("lost", "emitted", "recorded"):
        try:
            _total(meta[key])
        except (TypeError, ValueError) as error:
            raise TraceError(
                f"{path}: key {key!r}: expected counts, found {meta[key]!r}"
            ) from error
    return meta


def _check_types(path: Path, meta: Mapping[str, Any]) -> None:
    for keys, kind, expected in _TYPES:
        for key in keys:
            value = meta.get(key)
            fits = isinstance(value, kind) or (value is None and key != "targets")
            if isinstance(value, list):
                fits = fits and all(isinstance(one, dict) for one in value)
            if not fits:
                raise TraceError(f"{path}: key {key!r}: expected {expected}, found {value!r}")


def _check_version(path: Path, meta: Mapping[str, Any]) -> None:
    version = meta.get("schema")
    if version == SCHEMA_VERSION and not isinstance(version, bool):
        return
    if version is None:
        raise TraceError(f"{path}: key 'schema' is missing: not made by iophase")
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise TraceError(
            f"{path}: schema {version} is newer than this iophase reads ({SCHEMA_VERSION}); "
            "use the version that made it: "
            f"{meta.get('iophase', 'unknown')}"
        )
    raise TraceError(f"{path}: unknown schema {version!r}, this iophase reads {SCHEMA_VERSION}")


def _not_a_trace(directory: Path) -> TraceError:
    if any(directory.glob("*.partial")):
        return TraceError(
            f"{directory}: the recording was cut short and holds only raw records; "
            f"`iophase report {directory}` recovers them"
        )
    inner = sorted(entry.parent.name for entry in directory.glob(f"*/{META_FILE}"))
    if inner:
        return TraceError(
            f"{directory}: not a trace but a directory of {len(inner)} traces; "
            f"name them: {directory}/{inner[0]}{' ...' if len(inner) > 1 else ''}"
        )
    return TraceError(f"{directory}: not a trace directory: it has no {META_FILE}")


def load(path: str | Path) -> Trace:
    """Open one trace directory, or its Parquet export.

    ``trace.json`` and the header lines are checked here, the rows when a table is first used.
    Raises TraceError that names the file, the column and the line.
    """
    directory = Path(path)
    meta = load_meta(directory)
    for table in TABLES:
        check_source(directory, table)
    return Trace(directory, meta)


def load_many(paths: Iterable[str | Path]) -> list[Trace]:
    """Open several traces; a directory that holds traces stands for all of them, in order of time.

    Raises TraceError when one cannot be opened, or when there is none.
    """
    traces: list[Trace] = []
    for path in map(Path, paths):
        inner = sorted(entry.parent for entry in path.glob(f"*/{META_FILE}"))
        if inner and not (path / META_FILE).exists():
            traces += sorted(map(load, inner), key=lambda trace: trace.meta.get("started") or 0)
        else:
            traces.append(load(path))
    if not traces:
        raise TraceError("no trace given; name one or more trace directories")
    return traces
