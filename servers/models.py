"""The I/O models, each with its reference server: names, families, and what a host needs for it."""

import importlib
from typing import NamedTuple

__all__ = ("FAMILIES", "MODELS", "Model", "by_name")


class Model(NamedTuple):
    """An I/O model and the module of its server.

    `waits_in` and `copies_in` name the calls in which the server waits for data and gets it copied.
    `needs` says what not every host has; `connections` is how many clients it serves at once
    (None: as many as it has descriptors).
    """

    name: str
    family: str
    module: str
    summary: str
    waits_in: str
    copies_in: str
    needs: str = ""
    connections: int | None = None

    def missing(self) -> str | None:
        """Say what this host lacks for the model, such as "needs Linux 6.0"; None if nothing."""
        check = getattr(importlib.import_module(self.module), "missing", None)
        return None if check is None else check()


def _model(
    name: str,
    family: str,
    summary: str,
    waits_in: str,
    copies_in: str,
    needs: str = "",
    connections: int | None = None,
) -> Model:
    module = f"servers.{name.replace('-', '_')}_server"
    return Model(name, family, module, summary, waits_in, copies_in, needs, connections)


MODELS = (
    _model(
        "blocking",
        "blocking",
        "one connection after the other",
        "recv",
        "recv",
        connections=1,
    ),
    _model("threads", "blocking", "a thread for every connection", "recv", "recv"),
    _model(
        "nonblocking",
        "non-blocking",
        "asks every socket in turn, burning a CPU",
        "recv (EAGAIN)",
        "recv",
    ),
    _model(
        "select",
        "multiplexing",
        "one call waits for up to 1024 descriptors",
        "select",
        "recv",
        connections=1000,
    ),
    _model("poll", "multiplexing", "select without its limit", "poll", "recv"),
    _model(
        "epoll",
        "multiplexing",
        "the kernel keeps the set; level-triggered",
        "epoll_wait",
        "recv",
    ),
)

FAMILIES = tuple(dict.fromkeys(model.family for model in MODELS))


def by_name(name: str) -> Model:
    """Return the model of this name; KeyError names those there are."""
    for model in MODELS:
        if model.name == name:
            return model
    raise KeyError(f"no I/O model {name!r}; there are {', '.join(m.name for m in MODELS)}")
