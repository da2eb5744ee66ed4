"""Creates the files and directories of a trace: new ones only, readable by all, owned by the user.

A trace made with ``sudo`` belongs to who typed it. The directory may be one that others can write
to, so nothing is followed that already stands there.
"""

from __future__ import annotations

import os
from pathlib import Path

from tracer.privileges import owner

__all__ = ("new_directory", "new_file", "sync_directory")


def new_file(path: Path) -> int:
    """Create the file, and return its descriptor, open for writing.

    Raises ``FileExistsError`` when anything has that name, and other ``OSError``.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(path, flags, 0o644)
    os.fchmod(descriptor, 0o644)  # whatever the umask: a trace is readable without root
    _hand_over(descriptor)
    return descriptor


def new_directory(path: Path) -> None:
    """Create the directory and the parents that it lacks; raise ``OSError``."""
    for parent in reversed([path, *path.parents]):
        if parent == path or not parent.exists():
            parent.mkdir(0o755)
            descriptor = os.open(parent, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                os.fchmod(descriptor, 0o755)
                _hand_over(descriptor)
            finally:
                os.close(descriptor)


def sync_directory(path: Path) -> None:
    """Make the names in the directory last (fsync(2): a file's own does not cover its name)."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _hand_over(descriptor: int) -> None:
    """Give it to the user who called sudo(8), if one did."""
    if (user := owner()) is not None:
        os.fchown(descriptor, *user)
