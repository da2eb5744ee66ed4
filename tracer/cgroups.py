"""Control groups by path, by container id, or by systemd unit; and the processes in them.

Both kinds of hierarchy are looked at, because a host can have mounted both (cgroups(7)).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from tracer.errors import USAGE, IophaseError

__all__ = ("find_cgroups", "processes_in")

_MOUNTS = Path("/proc/self/mounts")
_CONTAINER = re.compile(r"(?:.*-)?([0-9a-f]{32,64})(?:\.scope)?")
"""The folder of a container: its id, alone or between a runtime's name and ``.scope``."""
_PREFIX = re.compile(r"[0-9a-f]{6,64}")
_UNIT_ENDINGS = ("", ".service", ".scope", ".slice")


def _hierarchies() -> list[Path]:
    """Return where cgroups are mounted, the unified hierarchy first."""
    mounts = [line.split() for line in _MOUNTS.read_text().splitlines()]
    found = [(kind != "cgroup2", Path(point)) for _, point, kind, *_ in mounts if "cgroup" in kind]
    return [point for _, point in sorted(found) if _is_cgroup(point)]


def _is_cgroup(folder: Path) -> bool:
    try:
        return (folder / "cgroup.procs").exists()
    except OSError:  # nothing can have such a name
        return False


def _folders(hierarchy: Path) -> Iterator[Path]:
    for folder, inner, _ in os.walk(hierarchy):
        for name in inner:
            yield Path(folder, name)


def find_cgroups(text: str) -> list[Path]:
    """Return the folders of the cgroup that ``text`` means, in every hierarchy that has it.

    A path in the file system, or as in /proc/PID/cgroup; the name of a systemd unit; the id of a
    container, or the beginning of one. Raises ``IophaseError`` when there is none, or several.
    """
    if _is_cgroup(Path(text)):
        return [Path(text)]
    hierarchies = _hierarchies()
    if not hierarchies:
        raise IophaseError(f"cgroup {text}: no cgroups are mounted here; use -p PID", USAGE)
    if "/" in text:
        inside = [hierarchy / text.strip("/") for hierarchy in hierarchies]
        found = [folder for folder in inside if _is_cgroup(folder)]
    else:
        found = _named(text, [folder for point in hierarchies for folder in _folders(point)])
    if not found:
        raise IophaseError(
            f"cgroup {text}: there is none: give a path below {hierarchies[0]}, a systemd unit,"
            " or a container's id",
            USAGE,
        )
    return found


def _named(text: str, folders: list[Path]) -> list[Path]:
    names = {text + ending for ending in _UNIT_ENDINGS}
    if units := [folder for folder in folders if folder.name in names]:
        return units
    if not _PREFIX.fullmatch(text):
        return []
    containers = {
        folder: match[1]
        for folder in folders
        if (match := _CONTAINER.fullmatch(folder.name)) and match[1].startswith(text)
    }
    ids = sorted(set(containers.values()))
    if len(ids) > 1:
        listed = ", ".join(identity[:12] for identity in ids)
        raise IophaseError(f"cgroup {text}: begins {len(ids)} ids ({listed}): give more", USAGE)
    return list(containers)


def processes_in(cgroups: list[Path]) -> set[int]:
    """Return the processes in these cgroups and in those below them."""
    pids: set[int] = set()
    for top in cgroups:
        for folder, _, _ in os.walk(top):
            try:
                pids.update(map(int, Path(folder, "cgroup.procs").read_text().split()))
            except OSError:  # removed meanwhile, or a threaded one: its threads' domain has them
                continue
    return pids - {0}  # 0: a process outside this PID namespace
