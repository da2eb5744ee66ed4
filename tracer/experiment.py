"""One reference server under load, traced: the unit that ``run`` repeats for each model."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from probes.program import Program
from servers.load import Load, LoadError, LoadOptions, Result
from servers.models import Model
from tracer import progress
from tracer.errors import IophaseError
from tracer.network import Network
from tracer.reference import ReferenceServer
from tracer.session import Session
from tracer.stopping import Wish
from tracer.traceinfo import TraceInfo

__all__ = ("Outcome", "run_model")

_LOOK_S = 0.2
"""How often the user's wish to stop is looked at while the load runs."""


@dataclass(frozen=True)
class Outcome:
    """What came of a model: its trace, what the load generator and the server counted."""

    info: TraceInfo
    result: Result
    counters: dict[str, Any]


def run_model(
    program: Program,
    model: Model,
    options: LoadOptions,
    output: Path,
    *,
    wish: Wish,
    label: str,
    network: Network,
    transport: str = "tcp",
    server_arguments: Sequence[str] = (),
    force: bool = False,
) -> Outcome:
    """Run the server of ``model`` under load, traced, and leave its trace in ``output``.

    Connections are made while the server is traced already, so accepting them is in the trace.
    ``program`` is attached, ``network`` is open, ``transport`` is tcp, tcp6, udp or unix; ``label``
    begins what is shown on the way. A wish to stop ends the load early and keeps what was measured.
    Raises ``IophaseError``.
    """
    arguments = [*_where(model, transport, network), *server_arguments]
    options = replace(options, suffix="_SB" if model.name == "selectors" else options.suffix)
    with contextlib.ExitStack() as stack:
        session = stack.enter_context(Session(program, output, model=model.name, force=force))
        server = stack.enter_context(network.at_server(ReferenceServer, model, arguments))
        try:
            load = Load(server.address, options)
            stack.push(load)
            network.at_clients(load.__enter__)
            load.prepare()  # a server that waits for its first client is not what is measured
            with wish.heeded():
                session.follow([server.pid])
                load.connect()
                result = _run(load, wish, session, label)
        except LoadError as error:
            raise IophaseError(str(error), error.exit_code) from error
        session.stop()
        counters = server.stop()
        workload = {
            **result.to_json(),
            "transport": transport,
            "network": network.to_json(),
            "server": counters,
        }
        with progress.conversion(f"{label}: writing the trace") as show:
            info = session.save(workload=workload, progress=show)
        return Outcome(info, result, counters)


def _where(model: Model, transport: str, network: Network) -> list[str]:
    """Return the arguments that say where a server listens."""
    if transport == "unix":
        return ["--unix", f"@iophase-{os.getpid()}-{model.name}"]
    udp = ["--udp"] if transport == "udp" else []
    return [*udp, "--host", network.host(transport)]


def _run(load: Load, wish: Wish, session: Session, label: str) -> Result:
    began = time.monotonic()
    with progress.status() as show:
        load.start()
        while not load.done(_LOOK_S):
            if wish.stop or session.failed:
                load.stop()
                break
            show(f"{label}: {time.monotonic() - began:.0f} s, {session.records:,} records")
        return load.result()
