"""Reads scalars from TensorBoard's event files, from an offset, without TensorBoard.

A record is `<Q length`, `<I masked crc32c of the length`, data, `<I masked crc32c of the data`. The data is a protobuf
message Event: 1 wall_time (double), 2 step (varint), 5 summary. Summary: 1 value, repeated. Value: 1 tag, 2
simple_value (float), 8 tensor. TensorProto: 1 dtype, 4 tensor_content, 5 float_val, 6 double_val.
"""

from __future__ import annotations

import contextlib
import struct
from typing import Any, Iterator

LONGEST_RECORD = 1 << 30
"""Bytes; a length above it is no length."""

LONGEST_SCALARS = 64 * 1024
"""Bytes of a record that is read: images, audio and graphs are longer, and have no scalars."""

HEADER, TRAILER = 12, 4
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5


class Damaged(Exception):
    """The file is of another format, or was cut and written on; the text says which."""


def crc_table() -> list[int]:
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
        table.append(byte)
    return table


TABLE = crc_table()


def masked_crc(data: bytes) -> int:
    """Return the masked CRC-32C of some bytes, as TensorFlow's record files have it."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = TABLE[(crc ^ byte) & 0xFF] ^ crc >> 8
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def read_events(file: Any, offset: int, size: int, most: int) -> tuple[list[list[Any]], int]:
    """Return the scalars after an offset as [name, value, step, at], and the offset of the next record.

    At most `most` bytes are read. The last record may still be written: it is left for the next time.

    Raises:
        Damaged: no record begins at the offset.
    """
    file.seek(offset)
    data = file.read(most)
    found: list[list[Any]] = []
    at = 0
    while at + HEADER <= len(data):
        length, crc = struct.unpack_from("<QI", data, at)
        if crc != masked_crc(data[at : at + 8]) or length > LONGEST_RECORD:
            raise Damaged("it is no event file" if offset + at == 0 else f"it is damaged at byte {offset + at}")
        end = at + HEADER + length + TRAILER
        if length > LONGEST_SCALARS and offset + end <= size:
            at = end  # it may end behind what was read
            continue
        if end > len(data):
            break
        with contextlib.suppress(struct.error, IndexError, ValueError):  # the next record begins where this one ends
            found += scalars(data[at + HEADER : end - TRAILER])
        at = end
    return found, offset + at


def scalars(event: bytes) -> list[list[Any]]:
    """Return the scalars of one event."""
    at, step, found = 0.0, 0, []
    for number, kind, value in fields(event):
        if number == 1 and kind == FIXED64:
            at = struct.unpack("<d", value)[0]
        elif number == 2 and kind == VARINT:
            step = value - (1 << 64) if value >> 63 else value
        elif number == 5 and kind == BYTES:
            for inner, inner_kind, item in fields(value):
                if inner == 1 and inner_kind == BYTES:
                    found += scalar(item)
    return [[name, number, step, at] for name, number in found]


def scalar(value: bytes) -> list[tuple[str, float]]:
    """Return a summary's value with its tag; nothing, if it is an image, a text or a histogram."""
    name, number = "", None
    for field, kind, item in fields(value):
        if field == 1 and kind == BYTES:
            name = item.decode("utf-8", "replace")
        elif field == 2 and kind == FIXED32:
            number = struct.unpack("<f", item)[0]
        elif field == 8 and kind == BYTES:
            number = tensor(item)
    return [(name, number)] if name and number is not None else []


def tensor(value: bytes) -> Any:
    """Return the one number in a tensor of floats; None: it has another type, or more of them."""
    dtype, packed = 0, b""
    for field, kind, item in fields(value):
        if field == 1 and kind == VARINT:
            dtype = item
        elif field in (4, 5, 6) and kind in (BYTES, FIXED32, FIXED64):
            packed += item
    shape = {(1, 4): "<f", (2, 8): "<d"}.get((dtype, len(packed)))
    return struct.unpack(shape, packed)[0] if shape else None


def fields(message: bytes) -> Iterator[tuple[int, int, Any]]:
    """Yield the fields of a protobuf message: number, kind on the wire, value.

    Raises:
        ValueError, IndexError: it is none.
    """
    at = 0
    while at < len(message):
        key, at = varint(message, at)
        kind = key & 7
        if kind == VARINT:
            value, at = varint(message, at)
            yield key >> 3, kind, value
            continue
        if kind == BYTES:
            length, at = varint(message, at)
        elif kind in (FIXED32, FIXED64):
            length = 4 if kind == FIXED32 else 8
        else:
            raise ValueError("a kind that is not known")
        if at + length > len(message):
            raise ValueError("it is cut short")
        yield key >> 3, kind, message[at : at + length]
        at += length


def varint(message: bytes, at: int) -> tuple[int, int]:
    """Return the number at an offset, and the offset behind it."""
    value = 0
    for shift in range(0, 70, 7):
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & ((1 << 64) - 1), at
    raise ValueError("a number without an end")
