"""The probes of the live tests, and one real server at a time."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.live.conftest import program

__all__ = ("folder", "program")


@pytest.fixture
def folder() -> Iterator[Path]:
    """Yield a directory that servers of other users can reach, too."""
    path = Path(tempfile.mkdtemp(prefix="iophase-real-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path, ignore_errors=True)
