"""The three backends tell the same truth of the same workload, in the same boot."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import pytest

from probes.program import Program
from tests.matrix.accuracy import COPIED, Measured, copy_again, measure_all, table

pytestmark = [pytest.mark.live, pytest.mark.timeout(900)]

SLEEP = 0.02
COPY = 0.10
LARGE = 65_536
PATIENCE = 4
"""Times that copies are looked at once more: each is the fastest of its kind."""


def test_backends_agree_on_sleep_calls_bytes_and_copies(
    compiled: Program, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    measured = measure_all(compiled, tmp_path, rounds=1)
    for number in range(PATIENCE):
        if _copies_agree(list(measured.values())):
            break
        copy_again(compiled, tmp_path / f"again-{number}", measured)
    with capsys.disabled():
        print(f"\n### {platform.release()}\n\n{table(measured)}")
    every = list(measured.values())
    assert every
    if "IOPHASE_LAB" in os.environ:
        assert len(every) == 3
    for one in every:
        assert one.calls == sum(COPIED.values())
        assert one.bytes == sum(size * times for size, times in COPIED.items())
        assert abs(one.sleep - 1) < 2 * SLEEP, one  # the sender is a little late itself
    sleeps = [one.sleep for one in every]
    assert max(sleeps) <= (1 + SLEEP) * min(sleeps), sleeps
    assert _copies_agree(every), [one.copy for one in every]


def _copies_agree(every: list[Measured]) -> bool:
    columns = ([one.copy[size] for one in every] for size in COPIED if size >= LARGE)
    return all(max(copies) <= (1 + COPY) * min(copies) for copies in columns)
