"""What is run to judge a claim, as plain data: who runs it need know nothing of the claim."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

__all__ = ("Experiment", "Run", "Trial")

_LETTERS = {
    "connections": "c",
    "idle": "idle",
    "size": "s",
    "messages": "m",
    "duration_s": "d",
    "rate": "r",
    "burst": "burst",
    "work_us": "work",
}
"""How the options of a run are written in its name."""


@dataclass(frozen=True)
class Run:
    """The reference server of ``model`` under load; without ``rate`` the loop is closed.

    ``rate`` is in messages/s over all connections, ``burst`` of them at the same instant, at
    regular times or at ``random`` ones (Poisson); ``per_request`` makes a new connection for each
    message; ``work_us`` is the CPU time that the server burns on each; ``size`` is in bytes.
    """

    model: str
    connections: int = 1
    idle: int = 0
    size: int = 64
    messages: int | None = None
    duration_s: float | None = None
    rate: float | None = None
    burst: int = 1
    random: bool = False
    per_request: bool = False
    work_us: int = 0
    server_options: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Return a name for its trace: the model, and every option that is not the default."""
        words = [self.model]
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name in _LETTERS and value != field.default:
                words.append(f"{_LETTERS[field.name]}{value:g}")
        words += [word for word in ("random", "per_request") if getattr(self, word)]
        words += [word.removeprefix("--") for word in self.server_options]
        return "-".join(words)

    @property
    def program(self) -> str:
        """Return what is to be run."""
        return self.model

    @property
    def arguments(self) -> tuple[str, ...]:
        """Return the arguments of the server."""
        work = ("--work", str(self.work_us)) if self.work_us else ()
        return (*work, *self.server_options)

    @property
    def load(self) -> dict[str, Any]:
        """Return the load in the words of the load generator's options."""
        return {
            "connections": self.connections,
            "idle": self.idle,
            "sizes": (self.size,),
            "messages": self.messages,
            "duration": self.duration_s,
            "rate": self.rate,
            "burst": self.burst,
            "arrivals": "poisson" if self.random else "constant",
            "per_request": self.per_request,
        }


@dataclass(frozen=True)
class Trial:
    """A small program of its own that does one thing to the kernel, many times over."""

    program: str
    arguments: tuple[str, ...] = ()
    load: None = None

    @property
    def name(self) -> str:
        """Return a name for its trace."""
        return "-".join(("trial", self.program.replace("_", "-"), *self.arguments))


Experiment = Run | Trial
