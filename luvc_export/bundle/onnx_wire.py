"""Protobuf's wire format as ONNX files use it: what is read of a graph without the ``onnx`` package.

A field that may stand once and stands twice has one value for one reader and another for the next (protobuf keeps the
last number and joins the messages), so it is refused.
"""

from __future__ import annotations

#: Fields of a message by number: numbers, or bytes of texts, messages and packed numbers.
Message = dict[int, list[int | memoryview]]


def decode(data: memoryview) -> Message:
    """Fields of one message.

    Raises:
        ValueError: It is none.
        IndexError: It ends early.
    """
    message: Message = {}
    at, end = 0, len(data)
    while at < end:
        key = data[at]
        if key < 0x80:
            at += 1
        else:
            key, at = _varint(data, at)
        kind = key & 7
        if kind == 0:
            number, at = _varint(data, at)
            message.setdefault(key >> 3, []).append(number)
            continue
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
        if at + length > end:
            raise ValueError(f"a field of {length} bytes at byte {at} runs past the end")
        end_of = at + length
        field = key >> 3
        if field in message:
            message[field].append(data[at:end_of])
        else:
            message[field] = [data[at:end_of]]
        at = end_of
    return message


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
    found = []
    for value in message.get(field, ()):
        if isinstance(value, int):
            found.append(signed(value))
            continue
        at = 0
        while at < len(value):
            one, at = _varint(value, at)
            found.append(signed(one))
    return found


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
