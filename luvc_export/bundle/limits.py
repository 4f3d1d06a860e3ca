"""How large the numbers and texts of ``luvc.json`` and ``pack.json`` may be, by the name of their field.

What is beyond would reach numpy, a runtime or a loop as a size: far above every model there is, far below what hangs
or fills memory.
"""

from __future__ import annotations

import unicodedata

from luvc_export.errors import BundleError

#: Least and largest number of a field; those that are not named have ``DEFAULT``.
NUMBERS: dict[str, tuple[float, float]] = {
    "layers": (1, 4096),
    "hidden": (1, 2**20),
    "heads": (1, 2**16),
    "kv_heads": (0, 2**16),
    "head_dim": (1, 2**16),
    "intermediate": (1, 2**24),
    "vocab": (1, 2**26),
    "context": (1, 2**31),
    "text_capacity": (1, 2**24),
    "size": (1, 2**16),
    "pad_colour": (0, 255),
    "frames": (1, 4096),
    "unit_tolerance": (0, 255),
    "tiles": (1, 256),
    "planes": (0, 64),
    "position_copies": (1, 64),
    "image_token_id": (0, 2**31),
    "eos_token_ids": (0, 2**31),
    "temperature": (0, 100),
    "top_k": (0, 2**31),
    "top_p": (1e-6, 1),
    "min_p": (0, 1),
    "repetition_penalty": (1e-3, 1000),
    "no_repeat_ngram_size": (0, 2**16),
    "bad_words_ids": (0, 2**31),
    "suppress_tokens": (0, 2**31),
    "begin_suppress_tokens": (0, 2**31),
    "forced_eos_token_id": (0, 2**31),
    "min_new_tokens": (0, 2**24),
    "max_new_tokens": (1, 2**24),
    "written": (0, 2**31),
    "step": (0, 2**16),
    "batch": (1, 2**16),
    "images": (1, 2**16),
    "cases": (0, 2**24),
    "workspace_mib": (0, 2**24),
    "builder_optimization_level": (0, 5),
}
DEFAULT = (-(2**62), 2**62)
#: Pixels of all images of one picture or video: 400 MB of uint8. A 7B model's largest video has 116 million.
PIXELS = 2**27
#: Entries of a list or an object, and characters of a text.
ENTRIES, CHARACTERS = 200_000, 65_536
#: Fields whose texts are written into prompts and may hold line ends.
_PROMPT = frozenset({"marker", "written", "after_pictures", "at_end", "opening", "between", "closing", "template"})


def problem(field: str, value: object) -> str | None:
    """What is wrong with the size of a value of ``field``; None if nothing is."""
    if isinstance(value, str):
        if len(value) > CHARACTERS:
            return f"at most {CHARACTERS:,} characters"
        if field not in _PROMPT and not printable(value):
            return "a text without control characters"
    elif isinstance(value, int | float) and not isinstance(value, bool):
        low, high = NUMBERS.get(field, DEFAULT)
        if not low <= value <= high:  # also what is not a number
            return f"{low} to {high}"
    elif isinstance(value, list | dict) and len(value) > ENTRIES:
        return f"at most {ENTRIES:,} entries"
    return None


def check_pixels(frames: int, size: tuple[int, int], where: str) -> None:
    """Refuse ``frames`` of ``size`` (height, width) that would fill memory before a graph sees one image.

    Raises:
        BundleError: More than ``PIXELS`` at once.
    """
    height, width = size
    if frames * height * width > PIXELS:
        raise BundleError(
            "a plan sees more pixels at once than any model",
            where=where,
            got=f"{frames} x {height}x{width}",
            expected=f"at most {PIXELS:,} pixels",
        )


def printable(text: str) -> bool:
    """Whether a text holds no control characters: some move a terminal's cursor, others turn its text around."""
    return not any(unicodedata.category(letter) in ("Cc", "Cf", "Zl", "Zp") for letter in text)
