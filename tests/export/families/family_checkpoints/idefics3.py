"""What idefics3 checkpoints have beside their weights."""

from __future__ import annotations

from typing import Any

from transformers.models.idefics3.processing_idefics3 import Idefics3Processor

from family_checkpoints import FamilyCheckpoint, Json, Parts, no_kinds


def _processor(tiny: Any, parts: Parts) -> Any:
    return Idefics3Processor(**parts, image_seq_len=tiny.plan.units)


def _old(config: Json) -> None:
    """With what Idefics 2 had."""
    text, vision, name = config["text_config"], config["vision_config"], config["model_type"]
    text |= {"_flash_attn_2_enabled": True, "perceiver_config": {"model_type": name, "resampler_n_heads": 16}}
    vision["size"] = {"longest_edge": vision["image_size"]}


CHECKPOINT = FamilyCheckpoint(
    tokens={
        "<image>": 250,
        "<fake_token_around_image>": 251,
        "<global-img>": 252,
        "<row_1_col_1>": 233,
        "<row_1_col_2>": 234,
        "<row_2_col_1>": 235,
        "<row_2_col_2>": 236,
    },
    picture="<image>",
    images="idefics3",
    processor=_processor,
    settings={"do_image_splitting": False, "size": {"longest_edge": 64}, "max_image_size": {"longest_edge": 64}},
    repository="HuggingFaceM4/Idefics3-8B-Llama3",
    fitted=lambda tiny: {name: {"longest_edge": tiny.size[0]} for name in ("size", "max_image_size")},
    two_tiles={"do_image_splitting": True, "size": {"longest_edge": 128}, "max_image_size": {"longest_edge": 64}},
    old=(no_kinds, _old),
)
