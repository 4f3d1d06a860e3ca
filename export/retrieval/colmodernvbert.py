"""ColModernVBert: SigLIP, pixel shuffle, ModernBERT (every token sees every other), a projection of each token."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from torch import Tensor, nn
from transformers import ColModernVBertConfig, ColModernVBertForRetrieval

from luvc_export.core.plan import Plan
from luvc_export.core.shapes import DecoderShape
from luvc_export.core.tiling import Tiling
from luvc_export.export.families import _tiny
from luvc_export.export.families.base import rope_of_kinds
from luvc_export.export.families.idefics3 import FAMILY as IDEFICS3
from luvc_export.export.families.idefics3 import Idefics3
from luvc_export.export.families.idefics3 import Vision as Idefics3Vision
from luvc_export.export.layers import norm, split_heads
from luvc_export.export.llm.decoder import Decoder
from luvc_export.export.llm.rope import Rope
from luvc_export.export.llm.sight import Kind
from luvc_export.export.llm.span import Parts
from luvc_export.export.retrieval.base import RetrievalFamily, one_input, processor_texts

LAYER_KINDS = ("full_attention", "sliding_attention")


class Vision(Idefics3Vision):
    """As Idefics3's, with the norm of ModernBERT's embeddings at the end, which it has for images too."""

    def __init__(self, model: Any, plan: Plan, normalise: Any, grid: tuple[int, int], side: int) -> None:
        super().__init__(model, plan, normalise, grid, side)
        self.entered = model.text_model.embeddings.norm

    def finish(self, states: list[Tensor]) -> Tensor:
        """[n, U * side * side, C] -> [n, U, D]."""
        return norm(self.entered, super().finish(states))

    def positions(self) -> Tensor:
        """Learned positions [patches, C], row by row."""
        table: Tensor = self.tower.embeddings.position_embedding.weight
        return table


class ModernBertDecoder(Decoder):
    """ModernBERT: keys, queries and values of one product, LayerNorms, none before the first layer's attention."""

    def __init__(self, text: Any, head: Any, head_dim: int, rope: Rope, plan: Plan) -> None:
        names = SimpleNamespace(embed_tokens=text.embeddings.tok_embeddings, layers=text.layers, norm=text.final_norm)
        super().__init__(names, head, head_dim, rope, plan)
        self.entered, self.radius = text.embeddings.norm, int(text.config.sliding_window)

    def embed_text(self, input_ids: Tensor) -> Tensor:
        """Normed, as images are behind their projection."""
        return norm(self.entered, super().embed_text(input_ids))

    def parts(self, layer: Any) -> Parts:
        """ModernBERT's names."""
        return Parts(layer.attn_norm, layer.attn.Wo)

    def norm_of(self, module: Any, x: Tensor) -> Tensor:
        """The first layer has none."""
        return x if isinstance(module, nn.Identity) else super().norm_of(module, x)

    def kind(self, layer: Any) -> Kind:
        """Sliding layers see so many places on either side."""
        return Kind(window=self.radius + 1 if self._slides(layer) else None, encoder=True)

    def angles(self, layer: Any, cache: Tensor) -> Tensor:
        """The second half for sliding layers, the first for the others."""
        half = self.head_dim // 2
        return cache[:, :, half:] if self._slides(layer) else cache[:, :, :half]

    def keys_values(self, layer: Any, normed: Tensor) -> tuple[Tensor, Tensor]:
        """The second and the last third of the product."""
        key, value = self._product(layer, normed, slice(1, 3)).chunk(2, -1)
        return split_heads(key, self.head_dim), split_heads(value, self.head_dim)

    def queries(self, layer: Any, normed: Tensor) -> Tensor:
        """The first third of the product."""
        return split_heads(self._product(layer, normed, slice(0, 1)), self.head_dim)

    def feed_forward(self, layer: Any, x: Tensor) -> Tensor:
        """Gated MLP behind its norm."""
        out: Tensor = layer.mlp(norm(layer.mlp_norm, x))
        return out

    def _product(self, layer: Any, normed: Tensor, thirds: slice) -> Tensor:
        linear = layer.attn.Wqkv
        weight = linear.weight.unflatten(0, (3, -1))[thirds].flatten(0, 1)
        bias = linear.bias if linear.bias is None else linear.bias.unflatten(0, (3, -1))[thirds].flatten()
        return nn.functional.linear(normed, weight, bias)

    def _marks(self, number: int, x: Tensor) -> bool:
        """Surgery fuses scores of an RMSNorm alone."""
        return False

    def _slides(self, layer: Any) -> bool:
        return bool(layer.attention_type == "sliding_attention")


class _ModernVBert(Idefics3):
    """What is inside, without a head."""

    model_type = "modernvbert"
    encoder: Callable[..., nn.Module] = Vision

    def side(self, config: Any) -> int:
        return int(config.pixel_shuffle_factor)

    def decoder_shape(self, config: Any) -> DecoderShape:
        text = config.text_config
        return DecoderShape(
            layers=text.num_hidden_layers,
            hidden=text.hidden_size,
            heads=text.num_attention_heads,
            kv_heads=text.num_attention_heads,
            head_dim=text.hidden_size // text.num_attention_heads,
            intermediate=text.intermediate_size,
            vocab=text.vocab_size,
            context=int(text.max_position_embeddings),
        )

    def decoder(self, model: Any, plan: Plan) -> Decoder:
        self.check_half("text", model.config, ("modernbert",))
        self.check_half("vision", model.config, ("siglip_vision_model",))
        text = model.model.text_model
        rotary = type(text.rotary_emb)(model.config.text_config)
        kinds = [kind if kind in rotary.layer_types else rotary.layer_types[0] for kind in LAYER_KINDS]
        head_dim = self.decoder_shape(model.config).head_dim
        return ModernBertDecoder(text, model.lm_head, head_dim, rope_of_kinds(rotary, kinds, plan), plan)


class ColModernVBert(RetrievalFamily):
    """ColModernVBert, at the picture size of the tower, and in tiles of it."""

    model_type = "colmodernvbert"
    architecture = ColModernVBertForRetrieval
    pixels, tiling = IDEFICS3.pixels, IDEFICS3.tiling
    inner = _ModernVBert()

    def prompts(self, folder: Path) -> str:
        """Of ``ColModernVBertProcessor``: a page and an instruction; a query and ten ends of an utterance."""
        page = "<|begin_of_text|>User:<image>Describe the image.<end_of_utterance>\nAssistant:"
        texts = processor_texts(folder, {"visual_prompt_prefix": page, "query_prefix": ""})
        return one_input(texts["visual_prompt_prefix"] or page, (texts["query_prefix"], "<end_of_utterance>" * 10))

    def cut(self, config: Any, grid: tuple[int, int]) -> Tiling:
        """As Idefics3's processor does, which this one's derives from."""
        return self.inner.cut(config.vlm_config, grid)

    def language_model(self, model: Any) -> nn.Module:
        """ModernBERT."""
        inner: nn.Module = model.vlm.text_model
        return inner

    def tiny_config(self) -> ColModernVBertConfig:
        """Three blocks with 2x2 units, ModernBERT of four layers of which two see five places, projected to 16."""
        text = _tiny.text(
            model_type="modernbert",
            num_hidden_layers=4,
            vocab_size=260,
            local_attention=10,
            max_position_embeddings=512,
            global_attn_every_n_layers=2,
            pad_token_id=0,
            cls_token_id=1,
            sep_token_id=2,
            bos_token_id=1,
            eos_token_id=2,
        )
        text.pop("num_key_value_heads")
        vlm = {
            "model_type": "modernvbert",
            "vision_config": _tiny.siglip(image_size=64, patch_size=8),
            "text_config": text,
            "image_token_id": 250,
            "pixel_shuffle_factor": 2,
        }
        return ColModernVBertConfig(vlm_config=vlm, embedding_dim=16)


FAMILY = ColModernVBert()
