"""The directory of a trace: made, finished and recovered so that no file is ever seen half-written.

While a trace is made its directory holds ``trace.json.partial`` and ``records.spool.partial``. At
the end the CSV files are written beside them under partial names; only when all are complete and on
the disk do they get their final names. ``trace.json`` comes last, so a directory that has it is
whole. What is interrupted before that can be recovered from the two partial files.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from tracer.convert import CSV_COLUMNS, Converted, Progress, convert
from tracer.errors import USAGE, IophaseError
from tracer.narrowing import Narrowing
from tracer.newfile import new_directory, new_file, sync_directory
from tracer.spool import NamedCall, SpoolWriter
from tracer.traceinfo import TraceInfo

__all__ = ("TRACE_FILES", "TraceDirectory", "create", "is_cut_short", "read_info", "recover")

_INFO = "trace.json"
_PARTIAL = ".partial"
_SPOOL = "records.spool" + _PARTIAL

TRACE_FILES = (*CSV_COLUMNS, _INFO)
"""The files of a complete trace, in the order in which they get their names."""


class TraceDirectory:
    """A trace that is being made: ``spool`` takes the records, ``finish`` makes the files."""

    def __init__(self, path: Path, info: TraceInfo, spool: SpoolWriter, made: bool) -> None:
        self.path = path
        self.info = info
        self.spool = spool
        self._made = made

    def update(self, info: TraceInfo) -> None:
        """Replace what is known of the trace, for the case that it is cut short.

        Without the time when it ``stopped`` it will then say so.
        """
        self.info = info
        try:
            _write_info(self.path, _unfinished(info))
        except OSError as error:
            raise _cannot_finish(self.path, error) from error

    def finish(self, info: TraceInfo, progress: Progress | None = None) -> Converted:
        """Convert the spool, and give all files their final names.

        What the conversion counts is filled in: afterwards ``info`` is what ``trace.json`` says.
        When it fails, a Ctrl-C included, the spool stays, and ``recover`` can do the rest later.
        Raises IophaseError.
        """
        try:
            self.update(info)
            self.info, done = _complete(self.path, info, progress)
        finally:
            self.spool.close()
        return done

    def abandon(self) -> None:
        """Remove the trace that has only begun, and the directory if it was made for it."""
        self.spool.close()
        for name in (_SPOOL, _INFO + _PARTIAL):
            (self.path / name).unlink(missing_ok=True)
        if self._made:
            _remove_if_empty(self.path)


def create(
    path: Path, info: TraceInfo, calls: Sequence[NamedCall], force: bool = False
) -> TraceDirectory:
    """Begin a trace in a new directory at ``path``, or with ``force`` in one that holds a trace.

    ``calls`` is the table that ``call`` in the records points into. An earlier trace stays readable
    until the new one is complete; other files in the directory are never touched.
    Raises IophaseError when the directory exists, is not a trace, or cannot be written.
    """
    made = not os.path.lexists(path)
    try:
        if made:
            new_directory(path)
        else:
            _check_replaceable(path, force)
        for name in (_SPOOL, *(name + _PARTIAL for name in TRACE_FILES)):
            (path / name).unlink(missing_ok=True)
        with ExitStack() as undo:
            if made:
                undo.callback(_remove_if_empty, path)
            directory = TraceDirectory(path, info, SpoolWriter(path / _SPOOL, calls), made)
            undo.callback(directory.abandon)
            _write_info(path, _unfinished(info))
            undo.pop_all()
    except OSError as error:
        raise _cannot_write(path, error) from error
    return directory


def _remove_if_empty(path: Path) -> None:
    with suppress(OSError):  # not empty: somebody put a file there
        path.rmdir()


def _unfinished(info: TraceInfo) -> TraceInfo:
    """Return what holds if nothing more is heard of the recording."""
    return replace(info, cut_short=info.stopped is None)


def _check_replaceable(path: Path, force: bool) -> None:
    if path.is_symlink() or not path.is_dir():
        raise IophaseError(f"{path}: exists and is not a directory: choose another name", USAGE)
    names = {entry.name for entry in path.iterdir()}
    if not force and names:
        raise IophaseError(
            f"{path}: exists: choose another directory, or replace its trace with --force", USAGE
        )
    if names and not names & {_INFO, _INFO + _PARTIAL, _SPOOL}:
        raise IophaseError(
            f"{path}: exists and is not a trace: not replaced, choose another directory", USAGE
        )
    if _SPOOL in names:
        with _locked_spool(path):
            pass


@contextmanager
def _locked_spool(path: Path) -> Iterator[None]:
    """Keep other processes from the spool; raise IophaseError when one is still at it."""
    try:
        spool = (path / _SPOOL).open("rb")
    except OSError as error:
        raise IophaseError(f"{error.filename}: cannot be read: {error.strerror}") from error
    with spool:
        try:
            fcntl.flock(spool, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise IophaseError(
                f"{path}: is being recorded by another process: wait until it has finished"
            ) from error
        yield


def read_info(path: Path) -> TraceInfo:
    """Read ``trace.json`` of a complete trace.

    Raises IophaseError when there is none, when it was cut short, or when its schema is unknown.
    """
    if is_cut_short(path) and not (path / _INFO).exists():
        with _locked_spool(path):
            raise IophaseError(f"{path}: was cut short: 'iophase report {path}' recovers it")
    return _read_info(path, _INFO)


def _read_info(path: Path, name: str) -> TraceInfo:
    try:
        return TraceInfo.from_json((path / name).read_text())
    except FileNotFoundError as error:
        if not path.exists():
            raise IophaseError(f"{path}: no such directory: name that of a trace") from error
        raise IophaseError(f"{path}: not a trace: it has no {name}") from error
    except OSError as error:
        raise IophaseError(f"{path / name}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise IophaseError(f"{path / name}: damaged: not text: {error.reason}") from error
    except ValueError as error:
        raise IophaseError(f"{path / name}: {error}") from error


def is_cut_short(path: Path) -> bool:
    """Return whether there is a trace that was begun and not finished, and ``recover`` may help."""
    try:
        return (path / (_INFO + _PARTIAL)).exists()
    except OSError:  # nobody may look into it
        return False


def recover(path: Path, progress: Progress | None = None) -> TraceInfo:
    """Make a readable trace of one that was cut short, and return what is known of it.

    It says that it was cut short, unless only the conversion had been interrupted.
    Raises IophaseError when it is still being recorded, when nothing is there to recover, or when
    the directory cannot be written.
    """
    if not is_cut_short(path):
        raise IophaseError(f"{path}: nothing to recover: not a trace that was cut short")
    info = _read_info(path, _INFO + _PARTIAL)
    with _locked_spool(path):
        info, _ = _complete(path, info, progress)
    return info


def _complete(
    path: Path, info: TraceInfo, progress: Progress | None
) -> tuple[TraceInfo, Converted]:
    partial = {name: path / (name + _PARTIAL) for name in CSV_COLUMNS}
    try:
        for leftover in partial.values():
            leftover.unlink(missing_ok=True)
    except OSError as error:
        raise _cannot_finish(path, error) from error
    narrowing = Narrowing.from_dict(info.narrowed)
    done = convert(path / _SPOOL, partial, model=info.model, narrowing=narrowing, progress=progress)
    info = info.with_converted(done)
    try:
        _write_info(path, info)
        (path / _INFO).unlink(missing_ok=True)
        for name in TRACE_FILES:
            (path / (name + _PARTIAL)).rename(path / name)
        sync_directory(path)
        (path / _SPOOL).unlink()
    except OSError as error:
        raise _cannot_finish(path, error) from error
    return info, done


def _write_info(path: Path, info: TraceInfo) -> None:
    """Replace ``trace.json.partial`` by a new one, at once."""
    new = path / (_INFO + _PARTIAL + ".new")
    try:
        new.unlink(missing_ok=True)
        with os.fdopen(new_file(new), "w") as file:
            file.write(info.to_json())
            file.flush()
            os.fsync(file.fileno())
        new.replace(path / (_INFO + _PARTIAL))
    except OSError:
        new.unlink(missing_ok=True)
        raise


def _cannot_write(path: Path, error: OSError) -> IophaseError:
    where = "" if error.filename in (None, str(path)) else f" ({error.filename})"
    return IophaseError(
        f"{path}: cannot be written: {error.strerror}{where}: choose another directory"
    )


def _cannot_finish(path: Path, error: OSError) -> IophaseError:
    return IophaseError(
        f"{path}: cannot be written: {error.strerror}; the records are kept in {_SPOOL}:"
        f" make it writable, then 'iophase report {path}'"
    )
