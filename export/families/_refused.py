"""Models of the installed transformers that no family is right about yet, and what stands in the way."""

from __future__ import annotations

from collections.abc import Mapping

_CANVAS = (
    "its positions lie on a canvas that the marks around a picture and its slices share, and half-way its encoder "
    "joins patches in windows, before which units merge otherwise than behind"
)
_SLICES = "half-way its encoder joins patches in windows, before which units merge otherwise than behind"
#: By ``model_type``.
REFUSED: Mapping[str, str] = {
    "cosmos3_edge": "its tower packs pictures of unlike sizes in one row, which nothing here holds to transformers yet",
    "deepseek_ocr2": "64 routed experts a layer, and an encoder that itself compresses a picture to fixed queries: "
    "no unit is left to merge or prune in it",
    "granite4_vision": "a Q-Former reads each window of its tower by queries of its own: units that merged or left "
    "have no window",
    "lfm3_vl": "most blocks of its encoder are convolutions over the grid of patches, in which units that merged or "
    "left have no neighbours",
    "minicpm_ocr": _SLICES,
    "minicpmv4_6": _SLICES,
    "molmo2": "its connector pools patches by attention, in windows that the processor lists: units that merged or "
    "left have no place in them",
    "ovis2": "a visual vocabulary stands between tower and language model, and its own marks are rows of it",
}
