"""EmbeddingGemma 2: Gemma 4's vision tower, a text model seen both ways, and the mean of all tokens, projected."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import EmbeddingGemma2Config, EmbeddingGemma2Model

from luvc_export.core.plan import Plan
from luvc_export.core.shapes import DecoderShape, LayerShape
from luvc_export.core.tasks import Embedding
from luvc_export.core.tiling import Video
from luvc_export.errors import CheckpointError
from luvc_export.export.families import _tiny
from luvc_export.export.families.base import Normalise, rope_of_kinds, rotary_embedding
from luvc_export.export.families.gemma4 import LAYER_KINDS, Gemma4, Gemma4Decoder, PooledRotaryViT, shape_of
from luvc_export.export.llm.decoder import Decoder
from luvc_export.export.llm.sight import Kind

#: An instruction, then pictures and texts, as they come (``EmbeddingGemma2Processor``).
TEMPLATE = (
    "{% for message in messages %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}{{ '<|image|>' }}{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endfor %}"
)


class EmbeddingGemma2Decoder(Gemma4Decoder):
    """As Gemma 4's, seen both ways; what layers have of their own is a projection of the embedding alone."""

    def take_own(self, text: Any) -> None:
        """No table."""
        self.projection, self.projection_norm = text.ple.per_layer_model_projection, text.ple.per_layer_projection_norm

    def slides(self, layer: Any) -> bool:
        """By the layer's window."""
        return layer.self_attn.sliding_window is not None

    def kind(self, layer: Any) -> Kind:
        """Sliding layers see so many places on either side, that number included."""
        return Kind(window=self.window + 1 if self.window and self.slides(layer) else None, encoder=True)

    def own_embeddings(
        self, layers: range, visual: Tensor | None, words: Tensor, input_ids: Tensor
    ) -> dict[int, Tensor]:
        """A projection of the embedding, the rows of these layers alone."""
        rows = words if visual is None else torch.cat([visual, words], 1)
        return dict(zip(layers, self.projected(layers, rows).unbind(2), strict=True))


class EmbeddingGemma2(Gemma4):
    """EmbeddingGemma 2, texts and pictures."""

    model_type = "embedding_gemma2"
    task = "embed"
    limits = ("audio", "videos", "compression inside transformers")

    def build(self, config: Any) -> nn.Module:
        """EmbeddingGemma2Model without the audio tower.

        Raises:
            CheckpointError: No vision tower.
        """
        if config.vision_config is None:
            raise CheckpointError(
                "this checkpoint reads no pictures", where="vision_config", got="null", expected="one"
            )
        config = copy.deepcopy(config)
        config.audio_config = None
        return EmbeddingGemma2Model(config)

    def embedding(self, config: Any, task: str) -> Embedding | None:
        """The mean of all rows, projected, of length 1."""
        width = int(config.text_config.embedding_dim)
        return Embedding("mean", generation_prompt=False, width=width) if task == self.task else None

    def prompts(self, folder: Path) -> str:
        """Texts as they are, behind an instruction."""
        return TEMPLATE

    def decoder_shape(self, config: Any) -> DecoderShape:
        """Sizes of the text model and of each layer."""
        text = config.text_config
        own = [text.per_layer_config[number] for number in range(text.num_hidden_layers)]
        layers = [
            LayerShape(one.num_key_value_heads, one.head_dim, text.intermediate_size, number)
            for number, one in enumerate(own)
        ]
        return shape_of(text, layers)

    def language_model(self, model: Any) -> nn.Module:
        """The text model, which projects too."""
        inner: nn.Module = model.language_model
        return inner

    def vision(self, model: Any, plan: Plan, normalise: Normalise) -> nn.Module:
        """Gemma 4's tower."""
        return PooledRotaryViT(model.vision_tower, model.embed_vision, plan, normalise)

    def decoder(self, model: Any, plan: Plan) -> Decoder:
        """The text model, its projection as the head."""
        text, inner, shape = model.config.text_config, model.language_model, self.decoder_shape(model.config)
        kinds = [kind for kind in LAYER_KINDS if kind in text.layer_types]
        rope = rope_of_kinds(rotary_embedding(inner, text), kinds, plan)
        tokens = (model.config.image_token_id, model.config.video_token_id, model.config.audio_token_id)
        placeholders = [token for token in tokens if token is not None]
        return EmbeddingGemma2Decoder(inner, inner.embedding_projection, rope, plan, shape, placeholders)

    def plane_mergers(self, model: Any) -> list[Any]:
        """None."""
        return []

    def video(self, config: Any) -> Video | None:
        """None here."""
        return None

    def tiny_config(self) -> EmbeddingGemma2Config:
        """The tiny Gemma 4's tower; three layers of two shapes, of which two see five places; more numbers than D."""
        return EmbeddingGemma2Config(
            vision_config=super().tiny_config().vision_config.to_dict(),
            text_config=_tiny.text(
                num_key_value_heads=2,
                head_dim=16,
                global_head_dim=32,
                num_global_key_value_heads=1,
                hidden_size_per_layer_input=8,
                max_position_embeddings=512,
                sliding_window=5,
                embedding_dim=80,
                layer_types=["sliding_attention", "full_attention", "sliding_attention", "full_attention"],
                num_hidden_layers=4,
            ),
            audio_config=None,
            **_tiny.GEMMA_TOKENS,
        )


FAMILY = EmbeddingGemma2()
