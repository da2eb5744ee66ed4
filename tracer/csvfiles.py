"""Writes several CSV files at once; the text is made by two threads, and arrives in order."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from tracer.newfile import new_file

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ("CsvFiles", "quoted")

_TEXT_THREADS = 2
"""One thread makes 1.3 million rows of calls.csv per second, two make 2 to 3."""

_WAITING = 2 * _TEXT_THREADS
"""Tables in work before the writer waits for the oldest: enough to keep the threads busy."""

_BATCH_ROWS = 16_384
"""Rows that pyarrow formats at a time: 2 MB of text, which stays in the cache."""

_QUOTE, _COMMA = "\x01", "\x02"
"""Stand-ins for the characters that pyarrow either refuses or puts every string in quotes for."""
_STAND_INS = bytes.maketrans((_QUOTE + _COMMA).encode(), b'",')


def quoted(value: str) -> str:
    """Return a string of printable characters as a CSV field (RFC 4180), quoted if it must be."""
    if '"' not in value and "," not in value:
        return value
    inner = value.replace('"', _QUOTE * 2).replace(",", _COMMA)
    return f"{_QUOTE}{inner}{_QUOTE}"


class CsvFiles:
    """CSV files that exist, complete and on the disk, after the ``with`` block, or else not at all.

    ``columns`` maps each path to its header. Raises ``FileExistsError`` for a path that is taken,
    and other ``OSError`` (with a ``filename``) when it cannot be written.
    """

    def __init__(self, columns: Mapping[Path, Sequence[str]]) -> None:
        self._columns = columns
        self._descriptors: dict[Path, int] = {}
        self._waiting: deque[tuple[Path, Future[memoryview]]] = deque()
        self._pool = ThreadPoolExecutor(_TEXT_THREADS, "csv")

    def __enter__(self) -> CsvFiles:
        try:
            for path, columns in self._columns.items():
                self._descriptors[path] = new_file(path)
                self._write(path, memoryview((",".join(columns) + "\n").encode()))
        except BaseException:
            self._discard()
            raise
        return self

    def append(self, path: Path, table: Callable[[], pa.Table]) -> None:
        """Append the rows of the table, which is made in one of the threads."""
        self._waiting.append((path, self._pool.submit(lambda: _text(table()))))
        if len(self._waiting) > _WAITING:
            self._write_oldest()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None:
            self._discard()
            return
        try:
            while self._waiting:
                self._write_oldest()
            self._pool.shutdown()
            for path in list(self._descriptors):
                with _naming(path):
                    os.fsync(self._descriptors[path])
        except BaseException:
            self._discard()
            raise
        self._close()

    def _write_oldest(self) -> None:
        path, text = self._waiting.popleft()
        self._write(path, text.result())

    def _write(self, path: Path, text: memoryview) -> None:
        with _naming(path):
            while len(text):
                text = text[os.write(self._descriptors[path], text) :]

    def _close(self) -> None:
        while self._descriptors:
            os.close(self._descriptors.popitem()[1])

    def _discard(self) -> None:
        """Remove the files that were made here."""
        self._pool.shutdown(cancel_futures=True)
        for path in self._descriptors:
            path.unlink(missing_ok=True)
        self._close()


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Put the file's name into an error of its descriptor."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


def _text(table: pa.Table) -> memoryview:
    import pyarrow as pa
    from pyarrow import csv

    sink = pa.BufferOutputStream()
    options = csv.WriteOptions(include_header=False, batch_size=_BATCH_ROWS, quoting_style="none")
    csv.write_csv(table, sink, options)
    text = sink.getvalue().to_pybytes()
    if _QUOTE.encode() in text:
        text = text.translate(_STAND_INS)
    return memoryview(text)
