"""What gemma3 checkpoints have beside their weights."""

from __future__ import annotations

from typing import Any

from transformers.models.gemma3.processing_gemma3 import Gemma3Processor

from family_checkpoints import FamilyCheckpoint, Json, Parts, token_index


def _processor(tiny: Any, parts: Parts) -> Any:
    return Gemma3Processor(**parts, image_seq_length=tiny.plan.units)


def _two_kinds(config: Json) -> None:
    text = config["text_config"]
    full, local = (text["rope_parameters"][kind] for kind in ("full_attention", "sliding_attention"))
    text |= {"rope_theta": full["rope_theta"], "rope_local_base_freq": local["rope_theta"]}
    text["rope_scaling"] = {"factor": full["factor"], "rope_type": full["rope_type"]}


CHECKPOINT = FamilyCheckpoint(
    tokens={"<image_soft_token>": 250, "<start_of_image>": 252, "<end_of_image>": 253, "<bos>": 254},
    picture="<start_of_image>",
    images="gemma3",
    processor=_processor,
    settings={"size": {"height": 64, "width": 64}},
    repository="google/gemma-3-4b-it",
    bos=True,
    named={"image_token": "<image_soft_token>", "boi_token": "<start_of_image>", "eoi_token": "<end_of_image>"},
    old_rope=_two_kinds,
    old=(token_index,),
    sliding={},
    on_openvino=True,
)
