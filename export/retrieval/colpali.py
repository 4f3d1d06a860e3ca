"""ColPali: PaliGemma and a projection of every token to 128 numbers."""

from __future__ import annotations

from pathlib import Path

from transformers import ColPaliConfig, ColPaliForRetrieval

from luvc_export.export.families.base import HALF
from luvc_export.export.families.paligemma import FAMILY as PALIGEMMA
from luvc_export.export.retrieval.base import RetrievalFamily, one_input, padding_token, processor_texts


class ColPali(RetrievalFamily):
    """ColPali, at the picture size of the checkpoint."""

    model_type = "colpali"
    architecture = ColPaliForRetrieval
    position_kind = PALIGEMMA.position_kind
    pixels = HALF
    inner = PALIGEMMA

    def prompts(self, folder: Path) -> str:
        """Of ``ColPaliProcessor``, which PaliGemma's ``prefix`` puts the beginning and the end around."""
        texts = processor_texts(folder, {"visual_prompt_prefix": "Describe the image.", "query_prefix": "Question: "})
        behind = padding_token(folder, "<pad>") * 10
        return one_input(f"<image>{texts['visual_prompt_prefix']}", (texts["query_prefix"], behind))

    def tiny_config(self) -> ColPaliConfig:
        """The tiny PaliGemma, projected to 16 numbers."""
        return ColPaliConfig(vlm_config=self.inner.tiny_config().to_dict(), embedding_dim=16)


FAMILY = ColPali()
