"""What people write for sizes, tiles, layers and shares on a command line, read."""

from __future__ import annotations

import re

from luvc_export.errors import UsageError


def size(text: str | None) -> tuple[int, int] | None:
    """Parse ``HxW``, or one number for a square; None stays None.

    Raises:
        UsageError: It is neither.
    """
    return None if text is None else _pair(text, "the image size", "--image-size", "HxW, such as 672x672")


def joint_tiles(text: str | None) -> tuple[int, int] | None:
    """Parse ``RxC`` of ``--joint-tiles``.

    Raises:
        UsageError: It is no such pair.
    """
    return None if text is None else _pair(text, "the tiles", "--joint-tiles", "RxC, such as 2x3")


def cell(text: str | None) -> tuple[int, int]:
    """Parse ``RxC`` of ``--merge-vectors``; (1, 1) where there is none.

    Raises:
        UsageError: It is no such pair, or larger than a bundle may say.
    """
    rows, columns = (1, 1) if text is None else _pair(text, "the vectors", "--merge-vectors", "RxC, such as 2x2")
    if max(rows, columns) > 64:
        raise UsageError(
            "so many vectors do not become one", where="--merge-vectors", got=text, expected="64x64 at most"
        )
    return rows, columns


def grids(texts: list[str] | None) -> tuple[tuple[int, int], ...]:
    """Parse every ``RxC`` (rows, columns) of ``--tiles``; (1, 1) where there is none.

    Raises:
        UsageError: One is no such pair.
    """
    return tuple(_pair(text, "the tiles", "--tiles", "RxC, such as 2x3") for text in texts or ()) or ((1, 1),)


def layers(text: str | None) -> tuple[int, ...]:
    """Parse numbers of layers and runs of them, ``8-20,24``, into ascending ones; None is no layer.

    Raises:
        UsageError: It is no such list, or so long that no model has these layers.
    """
    numbers = set[int]()
    for part in [] if text is None else re.split(r"[\s,]+", text.strip()):
        match = re.fullmatch(r"(\d{1,4})(?:-(\d{1,4}))?", part)
        if not match or int(match[2] or match[1]) < int(match[1]):
            raise UsageError("cannot read the layers", where="--kv-only", got=text, expected="such as 8-20,24")
        numbers.update(range(int(match[1]), int(match[2] or match[1]) + 1))
    return tuple(sorted(numbers))


def share_at(text: str, flag: str) -> tuple[float, int | None]:
    """Parse ``SHARE@BLOCK``; None for the block where it is not said.

    Raises:
        UsageError: It is neither that nor a share.
    """
    match = re.fullmatch(r"(\d*\.?\d+)(?:@(\d+))?", text.strip())
    if not match:
        raise UsageError("cannot read the share", where=flag, got=text, expected="SHARE or SHARE@BLOCK, such as 0.5@7")
    return float(match[1]), None if match[2] is None else int(match[2])


def percentages(text: str | None) -> tuple[int, ...]:
    """Parse ``25,50,75,100``; none where there is nothing.

    Raises:
        UsageError: It is no such list.
    """
    parts = [] if text is None else re.split(r"[\s,]+", text.strip())
    if not all(re.fullmatch(r"\d{1,4}", part) for part in parts):
        expected = "ascending percentages such as 25,50,75,100"
        raise UsageError("cannot read the buckets", where="--unit-buckets", got=text, expected=expected)
    return tuple(int(part) for part in parts)


def aspect(text: str) -> float:
    """Parse ``W:H``: how many times as wide as high.

    Raises:
        UsageError: It is no such pair.
    """
    match = re.fullmatch(r"([1-9]\d*):([1-9]\d*)", text.strip())
    if not match:
        raise UsageError("cannot read the shape", where="--aspect", got=text, expected="W:H, such as 16:9")
    return int(match[1]) / int(match[2])


def _pair(text: str, what: str, where: str, expected: str) -> tuple[int, int]:
    match = re.fullmatch(r"([1-9]\d*)(?:[xX]([1-9]\d*))?", text.strip())
    if not match:
        raise UsageError(f"cannot read {what}", where=where, got=text, expected=expected)
    return int(match[1]), int(match[2] or match[1])
