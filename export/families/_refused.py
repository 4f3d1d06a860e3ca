"""Models of the installed transformers that no family is right about yet, and what stands in the way."""

from __future__ import annotations

from collections.abc import Mapping

#: By ``model_type``.
REFUSED: Mapping[str, str] = {
    "deepseek_ocr2": "64 routed experts a layer, and an encoder that itself compresses a picture to fixed queries: "
    "no unit is left to merge or prune in it",
    "granite4_vision": "a window of its Q-Former gives several tokens, where a unit here is one, and what it gives "
    "enters layers all over the language model, where planes enter the first ones",
    "lfm3_vl": "its text model has windows of attention beside layers that keep inputs of a convolution, which no "
    "decoder here has together, and most blocks of its encoder are convolutions over the grid of patches",
    "minicpm_ocr": "pages are read as a whole beside slices of other shapes, and the images of a bundle have one",
    "minicpmv4_6": "it is minicpmv4_7 without a canvas, and nothing holds it to transformers yet",
    "molmo2": "its connector pools patches by attention, in windows that the processor lists: units that merged or "
    "left have no place in them",
}
