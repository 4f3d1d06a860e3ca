"""A model whose LLM has to do the seeing: two encoder blocks, and two layers before those that answer."""

from __future__ import annotations

from pathlib import Path

from glyph_vqa.model import build, configuration
from safetensors.torch import load_file
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from luvc_export.demo import CHECKPOINT

DEPTH = 2  # encoder blocks, the bundled model's first two
NEW_LAYERS, OLD_LAYERS = 2, 6  # LLM layers that begin as the identity, and the bundled model's after them


def shallow(vocabulary: int, special: dict[str, int]) -> Qwen2_5_VLConfig:
    """Return the configuration: the bundled model's widths, 2 encoder blocks, 8 LLM layers."""
    config = configuration(vocabulary, special, NEW_LAYERS + OLD_LAYERS)
    config.vision_config.depth = DEPTH
    config.vision_config.fullatt_block_indexes = [DEPTH - 1]
    return config


def moved(name: str) -> str | None:
    """Return this model's name of a tensor of the bundled model; None of one that is left out."""
    for stem, place in (("visual.blocks.", 0), ("language_model.layers.", NEW_LAYERS)):
        before, there, rest = name.partition(stem)
        if there:
            number, _, tail = rest.partition(".")
            if stem.startswith("visual") and int(number) >= DEPTH:
                return None
            return f"{before}{stem}{int(number) + place}.{tail}"
    return name


def grow(config: Qwen2_5_VLConfig, folder: Path = CHECKPOINT, seed: int = 0) -> Qwen2_5_VLForConditionalGeneration:
    """Return a float32 model of the bundled one's weights; it answers badly until it is trained."""
    from glyph_deep.model import rename

    model = build(config, seed)
    own = model.state_dict()
    for name, value in own.items():
        if any(f"language_model.layers.{layer}." in name for layer in range(NEW_LAYERS)):
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                value.zero_()
    for name, value in load_file(folder / "model.safetensors").items():
        place = moved(rename(name))
        if place is not None:
            own[place].copy_(value.float())
    return model
