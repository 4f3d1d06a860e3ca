"""ColQwen2: Qwen2-VL, or Qwen2.5-VL where its config says so, and a projection of every token to 128 numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import ColQwen2Config, ColQwen2ForRetrieval

from luvc_export.core.plan import Plan
from luvc_export.core.token_layout import PositionKind
from luvc_export.export.families.base import Family, Pixels, ReferencePrompt
from luvc_export.export.families.qwen2_5_vl import Qwen25VL
from luvc_export.export.families.qwen2_vl import FAMILY as QWEN2_VL
from luvc_export.export.families.qwen2_vl import Qwen2VL
from luvc_export.export.llm.mrope import MropeFamily
from luvc_export.export.llm.rope import Rope
from luvc_export.export.retrieval.base import RetrievalFamily, one_input, padding_token, processor_texts


class _InARow(MropeFamily):
    """A family whose visual tokens stand one behind another, as text does.

    ``ColQwen2ForRetrieval`` of transformers hands the LLM embeddings alone, so no token's row and column reach it.
    """

    position_kind: PositionKind = "sequential"  # type: ignore[assignment]

    def rope(self, model: Any, plan: Plan, partial: bool = False) -> Rope:
        """Angles by one position."""
        return Family.rope(self, model, plan)


class _Qwen2VL(_InARow, Qwen2VL):
    pass


class _Qwen25VL(_InARow, Qwen25VL):
    pass


class ColQwen2(RetrievalFamily):
    """ColQwen2 of any size."""

    model_type = "colqwen2"
    architecture = ColQwen2ForRetrieval
    position_kind = "sequential"
    pixels: Pixels = QWEN2_VL.pixels
    inner = _Qwen2VL()
    newer = _Qwen25VL()

    def inside(self, config: Any) -> Family:
        """Of Qwen2-VL or Qwen2.5-VL."""
        return self.newer if config.vlm_config.model_type == self.newer.model_type else self.inner

    def prompts(self, folder: Path) -> str:
        """Of ``ColQwen2Processor``: a page and an instruction; a query and ten tokens of padding to think with."""
        page = "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>Describe the image.<|im_end|><|endoftext|>"
        texts = processor_texts(folder, {"visual_prompt_prefix": page, "query_prefix": "Query: "})
        behind = padding_token(folder, "<|endoftext|>") * 10 + "\n"
        return one_input(texts["visual_prompt_prefix"] or page, (texts["query_prefix"] or "Query: ", behind))

    def reference_inputs(self, config: Any, prompt: ReferencePrompt) -> dict[str, Any]:
        """Those of Qwen2-VL, patches of one picture a row."""
        inputs = super().reference_inputs(config, prompt)
        if "pixel_values" in inputs:
            inputs["pixel_values"] = inputs["pixel_values"][None]
        return inputs

    def tiny_config(self) -> ColQwen2Config:
        """The tiny Qwen2-VL, projected to 16 numbers."""
        return ColQwen2Config(vlm_config=self.inner.tiny_config().to_dict(), embedding_dim=16)


FAMILY = ColQwen2()
