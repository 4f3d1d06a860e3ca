"""What smolvlm checkpoints have beside their weights."""

from __future__ import annotations

from typing import Any
from unittest import mock

from family_processors import Still, still
from transformers.models.smolvlm import processing_smolvlm
from transformers.models.smolvlm.modeling_smolvlm import SmolVLMModel

from family_checkpoints import FamilyCheckpoint, Parts
from family_checkpoints.idefics3 import CHECKPOINT as IDEFICS3


def _processor(tiny: Any, parts: Parts) -> Any:
    with mock.patch.object(processing_smolvlm, "num2words", str):  # writes numbers of video frames
        kind = still(processing_smolvlm.SmolVLMProcessor)
        return kind(**parts, video_processor=Still(), image_seq_len=tiny.plan.units)


CHECKPOINT = FamilyCheckpoint(
    tokens=IDEFICS3.tokens,
    picture="<image>",
    images="smolvlm",
    processor=_processor,
    settings={"do_image_splitting": False, "size": {"longest_edge": 100}, "max_image_size": {"longest_edge": 100}},
    repository="HuggingFaceTB/SmolVLM2-500M-Video-Instruct",
    video="<video>",
    fitted=IDEFICS3.fitted,
    two_tiles={"do_image_splitting": True, "size": {"longest_edge": 200}, "max_image_size": {"longest_edge": 100}},
    old=IDEFICS3.old,
    runs=lambda: not hasattr(SmolVLMModel, "inputs_merger"),  # it needs 5.23
    quick=False,
)
