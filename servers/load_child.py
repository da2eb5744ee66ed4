"""The process that makes a load, or its share: told what to do by lines of JSON on its input.

`python -m servers.load_child ADDRESS OPTIONS SHARE` writes a line when it is ready; the input is
`{"do": "connect"}`, then `{"do": "run", "at_ns": T}`, each answered by one line on the output. A
further line, or the end of the input (the parent is gone), ends the load early.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from dataclasses import asdict

from servers.load_options import (
    LoadError,
    LoadOptions,
    parse_address,
    raise_descriptor_limit,
)

__all__ = ("main",)


def answer(**fields: object) -> None:
    """Write one line to the parent; exit when it is gone."""
    try:
        os.write(sys.stdout.fileno(), json.dumps(fields).encode() + b"\n")
    except BrokenPipeError:
        sys.exit(0)


def next_order() -> dict[str, object]:
    """Return the parent's next line; exit when the parent is gone."""
    with open(sys.stdin.fileno(), "rb", buffering=0, closefd=False) as unbuffered:
        line = unbuffered.readline()  # no byte more, for the engine watches the descriptor
    if not line:
        sys.exit(0)
    order: dict[str, object] = json.loads(line)
    return order


def main(argv: list[str]) -> int:
    """Make one share of a load as the parent says; return the exit code."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    address = parse_address(argv[0])
    options = LoadOptions(**json.loads(argv[1])).share(int(argv[2]))
    try:
        note = raise_descriptor_limit(options.connections + options.idle)
        from servers.load_engine import Engine  # numpy: after the cheap ways to fail

        engine = Engine(address, options)
        answer(ready=True)
        next_order()
        connected = engine.connect()
        answer(**asdict(connected), note=note)
        at_ns = next_order().get("at_ns")
        tally = engine.run(at_ns if isinstance(at_ns, int) else None, sys.stdin.fileno())
    except LoadError as error:
        answer(failed=str(error))
        return 1
    answer(**{**vars(tally), "latencies": tally.latencies.to_json()})
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
