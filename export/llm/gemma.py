"""What Gemma's text models share: scaled embeddings, norms around 1, four norms a layer, soft caps."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from luvc_export.export.layers import capped
from luvc_export.export.llm.decoder import Decoder


def gemma_norm(module: Any, x: Tensor) -> Tensor:
    """RMSNorm around 1: the stored weight is the difference from 1, added in fp32 (16-bit would round it away)."""
    weight = 1.0 + module.weight.float()
    return nn.functional.rms_norm(x.float(), (x.shape[-1],), weight, module.eps).to(x.dtype)


class UnitNormDecoder(Decoder):
    """Norms around 1."""

    def norm_of(self, module: Any, x: Tensor) -> Tensor:
        """RMSNorm around 1."""
        return gemma_norm(module, x)

    def norm_weight(self, module: Any) -> tuple[Tensor, float]:
        """The stored weight is the difference from 1."""
        return 1.0 + module.weight.float(), float(module.eps)


class GemmaDecoder(UnitNormDecoder):
    """Gemma: scaled embeddings and norms around 1."""

    def embed_text(self, input_ids: Tensor) -> Tensor:
        """Embeddings times sqrt(D), rounded to the embedding's dtype as in training."""
        weight = self.embed_tokens.weight
        scale = torch.tensor(self.embed_tokens.scalar_embed_scale, dtype=weight.dtype)
        return nn.functional.embedding(input_ids, weight) * scale


class FourNormDecoder(GemmaDecoder):
    """Gemma 2 and 3: norms before and after each half of a layer; scores and logits that may be capped softly."""

    logits_cap: float | None = None

    def after_attention(self, layer: Any, attended: Tensor) -> Tensor:
        """Normed once more."""
        return gemma_norm(layer.post_attention_layernorm, attended)

    def feed_forward(self, layer: Any, x: Tensor) -> Tensor:
        """MLP between two norms."""
        return gemma_norm(layer.post_feedforward_layernorm, layer.mlp(gemma_norm(layer.pre_feedforward_layernorm, x)))

    def logits(self, rows: Tensor) -> Tensor:
        """Capped softly where the model does so."""
        return capped(super().logits(rows), self.logits_cap)
