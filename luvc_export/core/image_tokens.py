"""Image sizes from ceilings of visual tokens, as users of vLLM state them."""

from __future__ import annotations

import math
import re

from luvc_export.errors import UsageError

#: Ceilings of ``auto``: a quarter and the whole of the default size's tokens, and 32 x 32.
AUTO = (144, 576, 1024)
#: More units than any encoder here was made for: 4,096 x 4,096 pixels at 16 a unit.
MOST = 65536


def ceilings(text: str) -> tuple[int, ...]:
    """Parse ``N[,N...]`` or ``auto``: visual tokens a picture may become, in the order given.

    Raises:
        UsageError: It is neither, says one twice, or one is 0 or above ``MOST``.
    """
    if text.strip() == "auto":
        return AUTO
    parts = [part.strip() for part in text.split(",")]
    numbers = [int(part) for part in parts if re.fullmatch(r"[1-9]\d{0,5}", part)]
    if len(numbers) != len(parts) or len(set(numbers)) != len(numbers) or max(numbers) > MOST:
        raise UsageError(
            "cannot read the ceilings of visual tokens",
            where="--image-tokens",
            got=text,
            expected=f"numbers from 1 to {MOST}, each once, such as 256,1024; or auto",
        )
    return tuple(numbers)


def shapes(text: str, own: tuple[int, ...] = ()) -> tuple[tuple[int, tuple[int, int] | None], ...]:
    """Parse what an export is told: ceilings, each with the shape (width, height) of the pictures that it is for.

    ``280@16:9`` has one, ``280`` has none: near square. ``auto`` is ``own``, the budgets that a model was trained with,
    or ``AUTO``.

    Raises:
        UsageError: See ``ceilings``; or a shape is no two numbers, or one ceiling has one shape twice.
    """
    if text.strip() == "auto":
        return tuple((tokens, None) for tokens in own or AUTO)
    parts = [re.fullmatch(r"([^@]+)(?:@([1-9]\d{0,3}):([1-9]\d{0,3}))?", part.strip()) for part in text.split(",")]
    read = [(ceilings(part[1])[0], (int(part[2]), int(part[3])) if part[2] else None) for part in parts if part]
    if len(read) != len(parts) or len(set(read)) != len(read):
        raise UsageError(
            "cannot read the ceilings of visual tokens",
            where="--image-tokens",
            got=text,
            expected="numbers, each once for a shape of pictures (width:height), such as 280,280@16:9; or auto",
        )
    return tuple(read)


def ceiling(text: str) -> int | None:
    """Parse what a run is told: one ceiling, or ``auto`` for none: the smallest size that shows all of a picture.

    Raises:
        UsageError: See ``ceilings``; or there are several.
    """
    if text.strip() == "auto":
        return None
    numbers = ceilings(text)
    if len(numbers) > 1:
        raise UsageError(
            "a picture has one ceiling of visual tokens",
            where="--image-tokens",
            got=text,
            expected="one number, or auto: the sizes of a bundle are chosen at export",
        )
    return numbers[0]


def check_ceiling(tokens: object) -> None:
    """Check a ceiling that did not come from text; None is none.

    Raises:
        UsageError: It is no whole number from 1 to ``MOST``.
    """
    if tokens is not None and (not isinstance(tokens, int) or isinstance(tokens, bool) or not 1 <= tokens <= MOST):
        raise UsageError(
            "this is no ceiling of visual tokens",
            where="image_tokens",
            got=repr(tokens)[:40],
            expected=f"a whole number from 1 to {MOST}, or None",
        )


def size_of(tokens: int, unit: int, shape: tuple[int, int] | None = None) -> tuple[int, int]:
    """Height and width in pixels, near square, of which at most ``tokens`` units of ``unit`` pixels a side are made.

    As many rows as a square has and as many columns as then fit: a page held upright and one held across get the same.
    With a ``shape`` (width, height) the grid that Gemma 4's processor makes of pictures of that shape (transformers,
    ``get_aspect_ratio_preserving_size``): both sides in proportion, rounded down, no side of less than one unit.
    """
    if shape is not None:
        width, height = shape
        rows, columns = math.isqrt(tokens * height // width), math.isqrt(tokens * width // height)
        rows, columns = rows or 1, columns or 1
        rows = min(rows if rows > 1 or height <= width else height // width, tokens // columns)
        return rows * unit, min(columns if columns > 1 or width <= height else width // height, tokens // rows) * unit
    rows = math.isqrt(tokens)
    return rows * unit, tokens // rows * unit
