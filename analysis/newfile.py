"""Writes a file that has its name only when it is complete."""

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

__all__ = ("replacing",)


@contextmanager
def replacing(target: Path) -> Iterator[IO[bytes]]:
    """Yield a new file, which takes the place of ``target`` at the end of the block.

    After an error nothing is left of it. Others may write to the directory, so it has a name that
    nobody knows before, and nothing is followed that stands there. Raises OSError, also when
    ``target`` is no file: a device would become one.
    """
    if os.path.lexists(target) and not stat.S_ISREG(target.lstat().st_mode):
        raise FileExistsError(errno.EEXIST, "is there and is not a file", str(target))
    partial = target.with_name(f".{secrets.token_hex(8)}.partial")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(partial, flags, 0o666)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
        partial.replace(target)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
