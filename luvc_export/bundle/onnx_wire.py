"""Protobuf's wire format as ONNX files use it: graphs are read, and written, without the ``onnx`` package.

Format: https://protobuf.dev/programming-guides/encoding. Field numbers: ``onnx_fields``. A field that may stand once
and stands twice has one value for one reader and another for the next (protobuf keeps the last number and joins the
messages), so it is refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

#: Fields of a message by number: numbers, or bytes of texts, messages and packed numbers.
Message = dict[int, list[int | memoryview]]


class Field(NamedTuple):
    """One field of a message as it is written: its number, its value, and all its bytes, key included."""

    number: int
    value: int | memoryview
    raw: memoryview


def fields(data: memoryview) -> Iterator[Field]:
    """Fields of one message in their order.

    Raises:
        ValueError: It is none.
        IndexError: It ends early.
    """
    at = 0
    while at < len(data):
        start = at
        number, value, at = _field(data, at)
        yield Field(number, value, data[start:at])


def decode(data: memoryview) -> Message:
    """Fields of one message by number; errors: see ``fields``."""
    message: Message = {}
    at, end = 0, len(data)
    while at < end:
        number, value, at = _field(data, at)
        if number in message:
            message[number].append(value)
        else:
            message[number] = [value]
    return message


def _field(data: memoryview, at: int) -> tuple[int, int | memoryview, int]:
    """Number and value of the field at a byte, and where the next one begins."""
    key = data[at]
    if key < 0x80:
        at += 1
    else:
        key, at = _varint(data, at)
    kind = key & 7
    if kind == 0:
        value, at = _varint(data, at)
        return key >> 3, value, at
    if kind == 2:
        length = data[at]
        if length < 0x80:
            at += 1
        else:
            length, at = _varint(data, at)
    elif kind in (1, 5):
        length = 8 if kind == 1 else 4
    else:
        raise ValueError(f"wire type {kind} at byte {at}")
    if at + length > len(data):
        raise ValueError(f"a field of {length} bytes at byte {at} runs past the end")
    return key >> 3, data[at : at + length], at + length


def part(value: int | memoryview) -> Message:
    """The message in a field's value."""
    return decode(contents(value))


def parts(message: Message, field: int) -> list[Message]:
    """The messages of a repeated field."""
    return [part(value) for value in message.get(field, ())]


def contents(value: int | memoryview) -> memoryview:
    """The bytes in a field's value."""
    if isinstance(value, int):
        raise ValueError("a number where a message should be")
    return value


def single(message: Message, field: int) -> int | memoryview | None:
    """The value of a field that stands at most once."""
    values = message.get(field)
    if values is None:
        return None
    if len(values) > 1:
        raise ValueError(f"field {field} stands {len(values)} times, and once is meant")
    return values[0]


def number(message: Message, field: int, default: int = 0) -> int:
    """A number that stands at most once, with its sign."""
    value = single(message, field)
    if value is None:
        return default
    if not isinstance(value, int):
        raise ValueError("a text where a number should be")
    return signed(value)


def text(message: Message, field: int) -> str:
    """A text that stands at most once."""
    value = single(message, field)
    return "" if value is None else str(contents(value), "utf-8")


def texts(message: Message, field: int) -> list[str]:
    """The texts of a repeated field."""
    return [str(contents(value), "utf-8") for value in message.get(field, ())]


def numbers(message: Message, field: int) -> list[int]:
    """Repeated integers, packed or not, with their signs."""
    every = []
    for value in message.get(field, ()):
        if isinstance(value, int):
            every.append(signed(value))
            continue
        at = 0
        while at < len(value):
            one, at = _varint(value, at)
            every.append(signed(one))
    return every


def signed(value: int) -> int:
    """An int64 as protobuf writes it, two's complement in ten bytes."""
    value &= (1 << 64) - 1
    return value - (1 << 64) if value >> 63 else value


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while shift < 70:
        byte = data[at]
        value, at, shift = value | (byte & 0x7F) << shift, at + 1, shift + 7
        if byte < 0x80:
            return value, at
    raise ValueError(f"a number of more than ten bytes at byte {at}")


def encoded(number: int, value: str | bytes | memoryview | int) -> bytes:
    """One field: a text, a message, or a number that is not negative."""
    if isinstance(value, int):
        return _encoded_varint(number << 3) + _encoded_varint(value)
    data = value.encode() if isinstance(value, str) else bytes(value)
    return _encoded_varint(number << 3 | 2) + _encoded_varint(len(data)) + data


def _encoded_varint(value: int) -> bytes:
    encoded_bytes = bytearray()
    while value > 0x7F:
        encoded_bytes.append(value & 0x7F | 0x80)
        value >>= 7
    encoded_bytes.append(value)
    return bytes(encoded_bytes)
