"""What of a quantised checkpoint's codes is written anew for a target: said in a graph's metadata, done by a build."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from luvc_export.errors import BundleError

#: Metadata of a graph whose codes are not written yet.
KEY = "luvc.codes"
ALIGNMENT = 4096
#: Outputs and channels of a block of FP8 that has a scale of its own (DeepSeek-V3, ``weight_block_size``).
FP8_BLOCK = 128


def file_of(part: str) -> str:
    """The file that holds the rewritten weights of a graph: ``vision`` or ``decoder``."""
    return f"weights.codes.{part}"


def aligned(offset: int) -> int:
    """The next page's start."""
    return -(-offset // ALIGNMENT) * ALIGNMENT


#: The files that may be written.
WRITTEN = (file_of("vision"), file_of("decoder"))


@dataclass(frozen=True)
class Place:
    """Bytes in a file of the bundle, or of a build."""

    file: str
    offset: int
    bytes: int


@dataclass(frozen=True)
class Rewrite:
    """One weight [K, N].

    Args:
        shape: [K, N].
        block: Channels of a block; 0 for FP8.
        precision: What FP8 is widened to: fp32, fp16, bf16; empty for codes.
        sources: Codes (uint8 [N, K / 2], or FP8 [N, K]), scales and, where there are some, zeros, as in MatMulNBits.
        scale_shape: Of the scales as they are.
        scale_type: Their element type, such as float32.
        places: Where codes, scales and shift are to be written.
    """

    shape: tuple[int, int]
    block: int
    precision: str
    sources: dict[str, Place]
    scale_shape: list[int]
    scale_type: str
    places: dict[str, Place]

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Rewrite:
        """From ``to_json``.

        Raises:
            BundleError: Something is to be written elsewhere than in the files for rewritten weights.
        """
        for place in data["places"].values():
            if place["file"] not in WRITTEN:
                raise BundleError(
                    "a graph names another file for rewritten weights",
                    where=KEY,
                    got=str(place["file"])[:200],
                    expected=" or ".join(WRITTEN),
                    fix="do not use this bundle; export it again from the checkpoint",
                )
        parts = {name: {key: Place(**value) for key, value in data[name].items()} for name in ("sources", "places")}
        return cls(**{**data, **parts, "shape": tuple(data["shape"])})
