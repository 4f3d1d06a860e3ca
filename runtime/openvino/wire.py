"""Protobuf's wire format, just enough to take an ONNX graph apart and put it together again.

Format: https://protobuf.dev/programming-guides/encoding. Field numbers are those of onnx.proto.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

_SIZES = {1: 8, 5: 4}


@dataclass(frozen=True)
class Field:
    """One field of a message: its number, its value, and the bytes it is written as, key included."""

    number: int
    value: int | memoryview
    raw: memoryview

    def message(self) -> memoryview:
        """The value as bytes.

        Raises:
            ValueError: It is a number.
        """
        if isinstance(self.value, int):
            raise ValueError(f"a number in field {self.number}, where a message should be")
        return self.value

    def text(self) -> str:
        """The value as text.

        Raises:
            ValueError: It is a number, or no UTF-8.
        """
        return bytes(self.message()).decode()

    def integer(self) -> int:
        """The value as a number.

        Raises:
            ValueError: It is no varint.
        """
        if not isinstance(self.value, int):
            raise ValueError(f"bytes in field {self.number}, where a number should be")
        return self.value


def fields(data: memoryview) -> Iterator[Field]:
    """The fields of one message, in the order they are written.

    Raises:
        ValueError: This is no message.
    """
    at = 0
    while at < len(data):
        start = at
        key, at = _varint(data, at)
        kind = key & 7
        value: int | memoryview
        if kind == 0:
            value, at = _varint(data, at)
        else:
            if kind == 2:
                length, at = _varint(data, at)
            elif kind in _SIZES:
                length = _SIZES[kind]
            else:
                raise ValueError(f"wire type {kind} at byte {start}")
            if at + length > len(data):
                raise ValueError(f"a field of {length} bytes at byte {start} runs past the end")
            value, at = data[at : at + length], at + length
        yield Field(key >> 3, value, data[start:at])


def integers(found: list[Field]) -> list[int]:
    """Repeated numbers, packed or not."""
    numbers = []
    for item in found:
        if isinstance(item.value, int):
            numbers.append(item.value)
            continue
        at = 0
        while at < len(item.value):
            number, at = _varint(item.value, at)
            numbers.append(number)
    return numbers


def packed(number: int, value: str | bytes | int) -> bytes:
    """One field: a text, a message, or a number that is not negative."""
    if isinstance(value, int):
        return _number(number << 3) + _number(value)
    data = value.encode() if isinstance(value, str) else value
    return _number(number << 3 | 2) + _number(len(data)) + data


def _number(value: int) -> bytes:
    made = bytearray()
    while value > 0x7F:
        made.append(value & 0x7F | 0x80)
        value >>= 7
    made.append(value)
    return bytes(made)


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while shift < 70 and at < len(data):
        byte = data[at]
        value, at, shift = value | (byte & 0x7F) << shift, at + 1, shift + 7
        if byte < 0x80:
            return value, at
    raise ValueError(f"a number that does not end at byte {at}")
