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


def size_of(tokens: int, unit: int) -> tuple[int, int]:
    """Height and width in pixels, near square, of which at most ``tokens`` units of ``unit`` pixels a side are made.

    As many rows as a square has and as many columns as then fit: a page held upright and one held across get the same.
    """
    rows = math.isqrt(tokens)
    return rows * unit, tokens // rows * unit
