"""Each model waits, and has its data copied, where servers/MODELS.md says."""

from __future__ import annotations

from pathlib import Path

import pytest

from probes.program import Program
from servers.models import MODELS, by_name
from tests.live.places import PLACES, assert_in_place

pytestmark = pytest.mark.live


def test_the_table_has_every_model() -> None:
    assert list(PLACES) == [model.name for model in MODELS]


@pytest.mark.parametrize("model", PLACES)
def test_a_pause_is_in_the_phase_and_the_copy_in_the_context_of_the_table(
    model: str, program: Program, tmp_path: Path
) -> None:
    if (reason := by_name(model).missing()) is not None:
        pytest.skip(reason)
    assert_in_place(model, program, tmp_path / "trace")
