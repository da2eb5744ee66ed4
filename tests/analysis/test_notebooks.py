"""The notebooks run from the shipped samples, and are kept clean; the samples are sound."""

from __future__ import annotations

import os
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from analysis.delivery_waits import REASONS, delivery_waits
from analysis.ledger import open_calls, open_threads
from analysis.load import load
from analysis.schema import PHASE_COLUMNS

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "analysis" / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
SAMPLES = sorted(path.parent for path in (FOLDER / "samples").rglob("trace.json"))
MAX_BYTES = 3 << 20


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
@pytest.mark.timeout(300)
def test_a_notebook_runs_from_its_samples(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    for name in ("IOPHASE_BEFORE", "IOPHASE_AFTER"):
        monkeypatch.delenv(name, raising=False)
    notebook = nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call]
    client = NotebookClient(
        notebook, timeout=240, kernel_name="python3", resources={"metadata": {"path": FOLDER}}
    )
    client.execute()
    shown = [
        output
        for cell in notebook.cells
        if cell.cell_type == "code"
        for output in cell.outputs
        if output.output_type != "stream" or output.name != "stderr"
    ]
    assert any("image/png" in output.get("data", {}) for output in shown)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_kept_without_outputs(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call]
    nbformat.validate(notebook)
    assert set(notebook.metadata) == {"kernelspec", "language_info"}
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert cell.outputs == []
            assert cell.execution_count is None


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_a_sample_is_exact(path: Path) -> None:
    trace = load(path)
    assert open_calls(trace.calls).empty
    assert open_threads(trace.threads).empty
    assert trace.lost == 0
    phases = list(PHASE_COLUMNS)
    assert (trace.calls[phases].sum() == trace.threads[phases].sum()).all()
    workload = trace.meta["workload"]
    if workload:
        assert len(trace.deliveries) == workload["messages"]
        assert int(trace.threads["bytes"].sum()) == workload["bytes_sent"]
    waits = delivery_waits(trace)
    parts = waits[[f"{reason}_ns" for reason in REASONS]]
    assert (parts.sum(axis="columns") == waits["total_ns"]).all()
    assert (parts >= 0).all(axis=None)


def test_the_samples_are_small() -> None:
    sizes = [path.stat().st_size for path in (FOLDER / "samples").rglob("*") if path.is_file()]
    assert len(SAMPLES) >= 15
    assert sum(sizes) < MAX_BYTES
