"""Probes attached once for all tests: a session begins with nothing that an earlier one left.

IOPHASE_TEST_BACKEND names the backend; without it, it is the best of this host.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import cast

import pytest

from probes.plan import Backend
from probes.program import Program
from tracer.session import attached_program

BACKEND = cast("Backend | None", os.environ.get("IOPHASE_TEST_BACKEND"))


@pytest.fixture(scope="session")
def program(live: None) -> Iterator[Program]:
    with attached_program(BACKEND) as attached:
        yield attached
