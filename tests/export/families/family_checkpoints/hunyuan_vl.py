"""What hunyuan_vl checkpoints have beside their weights."""

from __future__ import annotations

from typing import Any

from transformers.models.hunyuan_vl.processing_hunyuan_vl import HunYuanVLProcessor

from family_checkpoints import FamilyCheckpoint, Parts, few_blocks


def _processor(tiny: Any, parts: Parts) -> Any:
    return HunYuanVLProcessor(**parts)


CHECKPOINT = FamilyCheckpoint(
    tokens={"<image>": 250, "<img>": 251, "</img>": 252, "<pad>": 249},
    picture="<img><image></img>",
    images="hunyuan_vl",
    processor=_processor,
    settings={"patch_size": 8, "size": {"shortest_edge": 256, "longest_edge": 2**20}, "resample": 1},
    named={"image_token": "<image>", "image_start_token": "<img>", "image_end_token": "</img>", "pad_token": "<pad>"},
    small=few_blocks,
    on_openvino=True,
    quick=False,
    asked=(
        "text with its places, a formula, a table, a page as Markdown",
        "`Detect and recognize text in the image, and output the text coordinates in a formatted manner.`, "
        "`Identify the formula in the image and represent it using LaTeX format.`, `Parse the table in the "
        "image into HTML.`, `Extract all information from the main body of the document image and represent "
        "it in markdown format, ignoring headers and footers. Tables should be expressed in HTML format, "
        "formulas in the document should be represented using LaTeX format, and the parsing should be "
        "organized according to the reading order.`",
    ),
)
