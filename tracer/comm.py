"""The name of a thread (``comm``): 15 bytes that it may choose as it likes."""

from __future__ import annotations

__all__ = ("COMM_BYTES", "printable")

COMM_BYTES = 15
"""TASK_COMM_LEN - 1: the kernel keeps no more of a name, be it in the middle of a character."""


def printable(comm: bytes) -> str:
    """Decode a name; what is no UTF-8, and what a terminal would obey, is escaped."""
    text = comm.decode("utf-8", "backslashreplace")
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in text
    )
