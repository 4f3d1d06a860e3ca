"""The table of families in docs/families.md, written from the families themselves.

``python -m luvc_export.export.family_table docs/families.md`` rewrites the file; a test compares it.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch

from luvc_export.export import families
from luvc_export.export.families.base import TEXT_MODELS, Family
from luvc_export.export.plain_vision import PlainVision
from luvc_export.planning import Request, solve

HEAD = """# Families

Written by `python -m luvc_export.export.family_table docs/families.md` from `export/families`; do not edit.

For every family below, tests in `tests/export/families` show, with tiny random weights against transformers:

- equal vision embeddings, logits and 32 greedy tokens with plan `none`, for prompts of no, one and two pictures;
- ONNX graphs of the default plan (merging in the encoder, pruning in the LLM) that keep the same tokens and give the
  same logits as the torch modules: with pictures, with text alone, and for a decode step;
- rows of a padded batch equal to rows alone;
- a saved checkpoint found tensor by tensor under the names of its repository.

Real weights are not part of these tests.

| `model_type` | transformers class | unit | picture size | encoder | place in the LLM | text model | not there |
|---|---|---|---|---|---|---|---|
"""


def table() -> str:
    """The whole file as text."""
    return HEAD + "".join(f"| {' | '.join(row(families.find(name, 'docs')))} |\n" for name in families.built_in())


def row(family: Family) -> list[str]:
    """One row: what the family's own tiny configuration and modules say."""
    config = family.tiny_config()
    with torch.device("meta"):
        model: Any = family.build(config)
    llm, encoder = family.decoder_shape(config), family.encoder_shape(config)
    size, unit = family.image_size(config), family.unit_pixels(config)
    grid = (size[0] // unit, size[1] // unit) if size else (4, 4)
    plan = solve(Request("none"), grid, llm, encoder)
    decoder = family.decoder(model, plan)
    pixels = torch.nn.Identity()
    vision = family.vision(model, plan, pixels)  # type: ignore[arg-type]
    traits = ["windows and full attention" if encoder.window else "full attention"]
    if isinstance(vision, PlainVision):
        traits += ["learned positions"] + ["class token set aside"] * (vision.class_token() is not None)
    else:
        traits += ["rotary positions"] + ["learned positions, interpolated"] * hasattr(model.model.visual, "pos_embed")
    if decoder.planes:
        traits.append("DeepStack planes")
    place = ["(t, h, w)" if family.position_kind == "mrope" else "one after another"]
    if decoder.shared_order:
        place.append("seen both ways")
    text = config.get_text_config().model_type
    return [
        f"`{family.model_type}`",
        f"`{type(model).__name__}`",
        "one patch" if encoder.unit == 1 else "square group of patches",
        "the tower's own" if size else "any multiple of the unit",
        ", ".join(traits),
        ", ".join(place),
        ", ".join(f"`{name}`" for name in (TEXT_MODELS if text in TEXT_MODELS else (text,))),
        "; ".join(family.limits),
    ]


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(table(), encoding="utf-8")
