"""Protocol buffers written by the column: messages of one shape are rows of one numpy array.

A varint may be padded with empty continuation bytes (Protocol Buffers, Encoding, "Base 128
Varints"), so a field takes the same width in every row, and a million messages are a few array
operations.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ("Bytes", "constant", "fixed64", "join", "message", "tag", "varint")

Bytes = npt.NDArray[np.uint8]
"""Encoded fields, shape (rows, width)."""

VARINT, FIXED64, LENGTH = 0, 1, 2
"""Wire types."""

_PAYLOAD = np.uint64(0x7F)
_MORE = 0x80


def _encode(value: int) -> bytes:
    """Return the shortest varint."""
    encoded = bytearray()
    while value >= _MORE:
        encoded.append(value & 0x7F | _MORE)
        value >>= 7
    return bytes([*encoded, value])


def tag(field: int, wire_type: int) -> bytes:
    """Return the key of a field."""
    return _encode(field << 3 | wire_type)


def constant(rows: int, content: bytes) -> Bytes:
    """Repeat the same bytes in every row."""
    return np.tile(np.frombuffer(content, dtype=np.uint8), (rows, 1))


def varint(field: int, values: npt.NDArray[np.integer], width: int) -> Bytes:
    """Encode a varint field in ``width`` bytes a row; negative values need a width of 10."""
    rest = values.astype(np.int64).view(np.uint64)
    encoded = np.empty((len(values), width), dtype=np.uint8)
    for index in range(width):
        encoded[:, index] = (rest & _PAYLOAD).astype(np.uint8)
        rest = rest >> np.uint64(7)
    if rest.any():
        raise ValueError(f"field {field}: a value needs more than {width} bytes")
    encoded[:, :-1] |= _MORE
    return join(constant(len(values), tag(field, VARINT)), encoded)


def fixed64(field: int, values: npt.NDArray[np.integer]) -> Bytes:
    """Encode a fixed64 field."""
    raw = np.ascontiguousarray(values.astype("<u8")).view(np.uint8).reshape(len(values), 8)
    return join(constant(len(values), tag(field, FIXED64)), raw)


def message(field: int, *parts: Bytes) -> Bytes:
    """Wrap fields into a message that is a field of another; every row has the same length."""
    content = join(*parts)
    rows, width = content.shape
    return join(constant(rows, tag(field, LENGTH) + _encode(width)), content)


def join(*parts: Bytes) -> Bytes:
    """Put fields side by side."""
    return np.concatenate(parts, axis=1)
