"""Every model's server, by the best backend: exact counts; pauses and copies in their place."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from probes.program import Program
from servers.load import LoadOptions
from servers.models import MODELS, by_name
from tests.live.places import assert_in_place
from tests.live.recording import assert_closed, total
from tests.matrix.workloads import served

pytestmark = [pytest.mark.live, pytest.mark.timeout(600)]

MESSAGES = 53
SIZES = (1, 509, 4093)
CONNECTIONS = 2
CHOSEN = os.environ.get("IOPHASE_TEST_MODELS", "").split() or [model.name for model in MODELS]


@pytest.mark.parametrize("model", CHOSEN)
def test_every_message_is_received_and_delivered_once(
    model: str, best: Program, tmp_path: Path
) -> None:
    if (reason := by_name(model).missing()) is not None:
        pytest.skip(reason)
    options = LoadOptions(
        connections=CONNECTIONS,
        messages=MESSAGES,
        sizes=SIZES,
        suffix="_SB" if model == "selectors" else "",
        timeout=60.0,
    )
    trace, result, counters, _ = served(best, tmp_path / "trace", model, options)
    assert counters["messages"] == result.messages == result.verified == MESSAGES
    received = total(trace.calls["bytes"])
    assert received == counters["bytes_received"] == result.bytes_sent
    assert total(trace.deliveries["bytes"]) == received == total(trace.threads["bytes"])
    assert len(trace.deliveries) == MESSAGES
    assert_closed(trace)


@pytest.mark.parametrize("model", CHOSEN)
def test_a_pause_is_in_the_phase_and_the_copy_in_the_context_of_the_table(
    model: str, best: Program, tmp_path: Path
) -> None:
    if (reason := by_name(model).missing()) is not None:
        pytest.skip(reason)
    assert_in_place(model, best, tmp_path / "trace")
