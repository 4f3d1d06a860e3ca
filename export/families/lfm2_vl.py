"""LFM2-VL: SigLIP 2 at the picture's own grid, pixel unshuffle as unit, LFM2: short convolutions between attention."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import Lfm2VlConfig, Lfm2VlForConditionalGeneration
from transformers.models.siglip2.image_processing_pil_siglip2 import Siglip2ImageProcessorPil

from luvc_export.core.plan import Plan
from luvc_export.core.shapes import DecoderShape, LayerShape, State
from luvc_export.core.tiling import Tiling
from luvc_export.export.families import _tiny
from luvc_export.export.families.base import (
    HALF,
    Family,
    Normalise,
    ReferencePrompt,
    rows_of_patches,
)
from luvc_export.export.layers import norm
from luvc_export.export.llm.decoder import Decoder
from luvc_export.export.llm.span import Parts
from luvc_export.export.llm.states.logical_order import LogicalOrder
from luvc_export.export.towers.interpolated_positions import antialiased, antialiased_shares
from luvc_export.export.towers.learned_position_vit import LearnedPositionViT

#: What a layer without keys keeps: the last inputs of its convolution.
STATE = "convolution"


class Vision(LearnedPositionViT):
    """Tower, last norm, each unit's patches side by side, norm and two linear layers."""

    colours_last = True
    #: Its processor fills up what it gives: compression inside transformers does not take that.
    padded_patches = True
    down: Tensor
    across: Tensor

    def __init__(self, tower: Any, projector: Any, side: int, plan: Plan, normalise: Normalise) -> None:
        super().__init__(tower, plan, normalise, plan.grid, side, (tower.config.num_hidden_layers,))
        self.projector: Any = projector
        size = self.tower.embeddings.position_embedding_size
        for name, count in zip(("down", "across"), plan.grid, strict=True):
            self.register_buffer(name, antialiased_shares(count * side, size), persistent=False)

    def positions(self) -> Tensor:
        """The square table at the picture's own grid, smoothed where that is smaller."""
        table = self.tower.embeddings.position_embedding.weight
        return antialiased(table, self.down, self.across).to(table.dtype)

    def finish(self, states: list[Tensor]) -> Tensor:
        """[n, U * side * side, C] -> [n, U, D]; a unit's patches row by row."""
        x, projector = norm(self.tower.post_layernorm, states[0]), self.projector
        joined = x.reshape(x.shape[0], -1, self.side**2 * x.shape[2])
        joined = norm(projector.layer_norm, joined) if projector.use_layer_norm else joined
        embeds: Tensor = projector.linear_2(projector.act(projector.linear_1(joined)))
        return embeds


class Lfm2Decoder(Decoder):
    """Layers of attention, and layers of a gated causal convolution over the rows in logical order."""

    def parts(self, layer: Any) -> Parts:
        """LFM2's names."""
        attn = getattr(layer, "self_attn", None)
        heads = () if attn is None else (attn.out_proj, attn.q_layernorm, attn.k_layernorm)
        return Parts(layer.operator_norm, *(heads or (None,)))

    def mix(
        self, layer: Any, normed: Tensor, held: Mapping[str, Tensor], logical: LogicalOrder
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Depthwise convolution of each row and those before it, between two gates; the last inputs are kept."""
        conv = layer.conv
        before, after, x = conv.in_proj(normed).chunk(3, -1)
        taps = conv.conv.weight.shape[2]
        rows = torch.cat([held[STATE].to(x.dtype), logical.arrange(before * x)], 1)
        shifted = [rows[:, tap : tap - taps + 1 or None] for tap in range(taps)]
        mixed = sum(part * conv.conv.weight[:, 0, tap] for tap, part in enumerate(shifted))
        mixed = mixed if conv.conv.bias is None else mixed + conv.conv.bias
        return conv.out_proj(after * logical.back(mixed)), {STATE: logical.last(rows, taps - 1).float()}

    def feed_forward(self, layer: Any, x: Tensor) -> Tensor:
        """Gated MLP behind its norm."""
        out: Tensor = layer.feed_forward(norm(layer.ffn_norm, x))
        return out


class Lfm2Vl(Family):
    """LFM2-VL. Its tower takes any grid; tiles are of 512 pixels, for pictures larger than two of them."""

    model_type = "lfm2_vl"
    text_models = ("lfm2",)
    pixels = replace(HALF, resample="bilinear")
    tiling = "closest_ratio_of_large"
    limits = (
        "thumbnails beside tiles in another shape than a tile's",
        "compression inside transformers",
    )

    def build(self, config: Any) -> nn.Module:
        """Lfm2VlForConditionalGeneration.

        Raises:
            CheckpointError: The text model is another one.
        """
        self.check_half("text", config, self.text_models)
        return Lfm2VlForConditionalGeneration(config)

    def side(self, config: Any) -> int:
        """Of what pixel unshuffle joins."""
        return int(config.downsample_factor)

    def decoder_shape(self, config: Any) -> DecoderShape:
        """Sizes of the LLM, and which layers keep inputs of a convolution in place of keys."""
        text, shape = config.text_config, super().decoder_shape(config)
        wide, layers = _intermediate(text), list[LayerShape]()
        for number, kind in enumerate(text.layer_types):
            keyed = kind == "full_attention"
            mixer = 0 if keyed else text.hidden_size * (4 * text.hidden_size + text.conv_L_cache)
            layers.append(LayerShape(text.num_key_value_heads if keyed else 0, shape.head_dim, wide, number, mixer))
        sizes = (text.conv_L_cache - 1, text.hidden_size)
        states = [State(number, STATE, sizes, "float32") for number, layer in enumerate(layers) if not layer.kv_heads]
        return replace(shape, intermediate=wide, per_layer=tuple(layers), states=tuple(states))

    def vision(self, model: Any, plan: Plan, normalise: Normalise) -> nn.Module:
        """The tower with the plan's merges."""
        inner = model.model
        return Vision(inner.vision_tower, inner.multi_modal_projector, self.side(model.config), plan, normalise)

    def decoder(self, model: Any, plan: Plan) -> Decoder:
        """The language model with the plan's prunes."""
        inner, shape, rope = self.language_model(model), self.decoder_shape(model.config), self.rope(model, plan)
        return Lfm2Decoder(inner, model.lm_head, shape.head_dim, rope, plan, states=shape.states, keyless=shape.keyless)

    def image_processor(self, folder: str | os.PathLike[str]) -> Any:
        """SigLIP 2's: the same arithmetic of pixels, and LFM2-VL's own asks for torchvision, which cuts its tiles."""
        processor = Siglip2ImageProcessorPil.from_pretrained(folder, local_files_only=True)
        processor.patch_size = getattr(processor, "encoder_patch_size", processor.patch_size)
        return processor

    def tile_settings(self, config: Any, image: tuple[int, int]) -> Mapping[str, Any]:
        """What is cut has more pixels than two tiles, and the whole stands beside the tiles."""
        tokens = image[0] * image[1] // self.unit_pixels(config) ** 2
        splits = {"do_image_splitting": True, "use_thumbnail": True, "min_tiles": 2}
        return splits | {"max_image_tokens": tokens, "max_pixels_tolerance": 2.0}

    def cut(self, config: Any, grid: tuple[int, int]) -> Tiling:
        """Marks around a picture; tiles row by row, each behind its label, and the whole picture after them.

        The processor shows the whole in a size of its own, up to 256 tokens in the picture's shape; here it is as large
        as a tile, which is the same for square pictures.
        """
        rows, columns = grid
        labels = [f"<|img_row_{row + 1}_col_{column + 1}|>" for row in range(rows) for column in range(columns)]
        marks = [""] if grid == (1, 1) else [*labels, "<|img_thumbnail|>"]
        image = self.image_token_id(config)
        inside = [part for mark in marks for part in ((mark, image) if mark else (image,))]
        whole: Literal["none", "last"] = "none" if grid == (1, 1) else "last"
        return Tiling(("<|image_start|>", *inside, "<|image_end|>"), grid, whole)

    def reference_inputs(self, config: Any, prompt: ReferencePrompt) -> dict[str, Any]:
        """Patches row by row, rows and columns of each picture, and that none is padding."""
        ids, patch = self.expanded(config, prompt), config.vision_config.patch_size
        if not len(prompt.pixels):
            return {"input_ids": ids}
        patches = rows_of_patches(prompt.pixels, patch)
        grid = [side // patch for side in prompt.pixels.shape[2:4]]
        return {
            "input_ids": ids,
            "pixel_values": patches,
            "spatial_shapes": torch.tensor([grid] * len(patches)),
            "pixel_attention_mask": torch.ones(patches.shape[:2], dtype=torch.int32),
        }

    def tiny_config(self) -> Lfm2VlConfig:
        """Three blocks whose positions are of another grid than pictures, two convolutions, two attentions."""
        return Lfm2VlConfig(
            vision_config=_tiny.vision(
                model_type="siglip2_vision_model", num_patches=81, patch_size=8, vision_use_head=False
            ),
            text_config=_tiny.text(
                model_type="lfm2",
                num_hidden_layers=4,
                block_multiple_of=32,
                layer_types=["conv", "full_attention", "conv", "full_attention"],
            ),
            image_token_id=250,
            projector_hidden_size=80,
        )


def _intermediate(text: Any) -> int:
    """Width of the MLP (``Lfm2MLP``)."""
    width = int(text.intermediate_size)
    if not text.block_auto_adjust_ff_dim:
        return width
    width = int(2 * width / 3)
    if text.block_ffn_dim_multiplier is None:
        return width
    width, step = int(text.block_ffn_dim_multiplier * width), text.block_multiple_of
    return -(-width // step) * step


FAMILY = Lfm2Vl()
