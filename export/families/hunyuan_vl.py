"""HunyuanOCR: SigLIP at the picture's own grid, 2x2-patch units, rows and pictures that end with vectors of its own."""

from __future__ import annotations

import os
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from transformers import HunYuanVLConfig, HunYuanVLForConditionalGeneration

from luvc_export.core.plan import Plan
from luvc_export.core.tiling import Tiling
from luvc_export.errors import CheckpointError
from luvc_export.export.families import _tiny
from luvc_export.export.families.base import FIXED_ROPES, Family, Normalise, ReferencePrompt, rotary_embedding
from luvc_export.export.layers import norm
from luvc_export.export.llm.decoder import Decoder
from luvc_export.export.llm.mrope import flat_patches
from luvc_export.export.llm.rope import Rope, mrope_axes
from luvc_export.export.llm.span import Parts as LayerParts
from luvc_export.export.towers.interpolated_positions import centre_taps, interpolated
from luvc_export.export.towers.learned_position_vit import LearnedPositionViT, Parts
from luvc_export.export.towers.unit_tower import Seen

#: Axes of its positions: place in the text, column, row, number of the picture.
AXES = 4


class Vision(LearnedPositionViT):
    """Tower, a norm of each patch, the patches of a unit to one, two products, a norm of each unit."""

    def __init__(self, tower: Any, plan: Plan, normalise: Normalise) -> None:
        config = tower.config
        super().__init__(tower, plan, normalise, plan.grid, config.spatial_merge_size, (config.num_hidden_layers,))
        self.merger: Any = tower.patch_merger

    def from_patches(self, pixels: Tensor, beside: Tensor | None = None) -> Seen:
        """As ``forward``, from normalised patches row by row, as this family's processor writes them."""
        (rows, columns), side, patch = self.plan.grid, self.side, self.config.patch_size
        pixels = pixels.reshape(-1, rows * side, columns * side, 3, patch, patch).permute(0, 1, 4, 2, 5, 3)
        return self.from_pixels(pixels.flatten(1, 2).flatten(2, 3)[:, None], beside)

    def layers(self) -> Any:
        """Encoder blocks."""
        return self.tower.layers

    def parts(self, layer: Any) -> Parts:
        """Names of SigLIP but for the product behind attention."""
        a = layer.self_attn
        return Parts(layer.layer_norm1, a.q_proj, a.k_proj, a.v_proj, a.o_proj, layer.layer_norm2, layer.mlp)

    def positions(self) -> Tensor:
        """The square table behind a place that nothing has, bilinear between centres of patches."""
        embeddings, side = self.tower.embeddings, self.side
        rows, columns = (centre_taps(count * side, embeddings.position_edge) for count in self.plan.grid)
        table = embeddings.position_embedding.weight
        return interpolated(table[1:].float(), embeddings.position_edge, rows, columns, 1).to(table.dtype)

    def finish(self, states: list[Tensor]) -> Tensor:
        """[n, U * side * side, C] -> [n, U, D]; the first weight has the patches of a channel side by side."""
        merger = self.merger
        units = norm(merger.before_rms, states[0]).unflatten(1, (-1, self.patches)).transpose(2, 3).flatten(2)
        joined = nn.functional.linear(units, merger.proj_conv.weight.flatten(1), merger.proj_conv.bias)
        wide = nn.functional.linear(merger.proj_act(joined), merger.proj_out.weight.flatten(1), merger.proj_out.bias)
        return norm(merger.after_rms, merger.mlp(wide))


class HunyuanDecoder(Decoder):
    """Heads normed behind their turn, whose halves turn by axes of their own; three tokens beyond the vocabulary."""

    merger: Any

    def parts(self, layer: Any) -> LayerParts:
        """Hunyuan's names of the norms of heads."""
        attn = layer.self_attn
        return LayerParts(layer.input_layernorm, attn.o_proj, attn.query_layernorm, attn.key_layernorm)

    def placed(self, layer: Any, heads: Tensor, norm: Any, cos: Tensor, sin: Tensor) -> Tensor:
        """Turned, then normed."""
        return self.norm_of(norm, self.turn(layer, heads, cos, sin))

    def turn(self, layer: Any, heads: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Each half by its own angles, [B, S, Dh] of both."""
        first, second = heads.chunk(2, -1)
        cos, sin = (part[:, None].to(heads.dtype) for part in (cos, sin))
        return heads * cos + torch.cat([-second, first], -1) * sin

    def embed_text(self, input_ids: Tensor) -> Tensor:
        """Text embeddings [B, T, D]; ids behind the vocabulary end a row, begin a picture, end a picture."""
        merger, rows = self.merger, self.embed_tokens.weight.shape[0]
        newline = (merger.mlp.weight * merger.image_newline).sum(1) + merger.mlp.bias
        marks = norm(merger.after_rms, torch.stack([newline, merger.image_begin, merger.image_end]))
        own = marks.index_select(0, (input_ids - rows).clamp(min=0).flatten()).unflatten(0, input_ids.shape)
        return torch.where((input_ids >= rows)[:, :, None], own, self.embed_tokens(input_ids.clamp(max=rows - 1)))


class HunyuanVL(Family):
    """HunyuanOCR: pages to text, tables, formulas, and what is asked about them."""

    model_type = "hunyuan_vl"
    architecture = HunYuanVLForConditionalGeneration
    position_kind = "xdrope"
    text_models = ("hunyuan_vl_text",)

    def side(self, config: Any) -> int:
        """The patch merger's."""
        return int(config.vision_config.spatial_merge_size)

    def vision(self, model: Any, plan: Plan, normalise: Normalise) -> nn.Module:
        """The tower with the plan's merges.

        Raises:
            CheckpointError: Learned positions are interpolated otherwise.
        """
        mode = model.config.vision_config.interpolate_mode
        if mode != "bilinear":
            raise CheckpointError(
                "learned positions are interpolated otherwise than here",
                where="vision_config.interpolate_mode",
                got=repr(mode),
                expected="'bilinear'",
            )
        return Vision(model.model.vision_tower, plan, normalise)

    def rope(self, model: Any, plan: Plan) -> Rope:
        """Angles of both halves of a head, which are turned by two axes each.

        Raises:
            CheckpointError: See ``rotary_embedding``, or the sections of the config do not fit the heads.
        """
        text = model.config.text_config
        asked = text.rope_parameters
        fixed = (*FIXED_ROPES, "dynamic") if asked.get("alpha") else FIXED_ROPES  # with alpha transformers fixes it
        rotary = rotary_embedding(self.language_model(model), text, fixed=fixed)
        frequencies, section = rotary.inv_freq.repeat(2), asked.get("mrope_section") or []
        if len(section) != AXES or 2 * sum(section) != len(frequencies):
            raise CheckpointError(
                "the sections of the positions do not fit the heads",
                where="text_config.rope_parameters.mrope_section",
                got=section,
                expected=f"{AXES} numbers that together are {len(rotary.inv_freq)}, half a head",
            )
        axes, copies = mrope_axes([2 * count for count in section]), plan.encoder.position_copies
        return Rope(frequencies, axes, rotary.attention_scaling, copies, AXES)

    def decoder(self, model: Any, plan: Plan) -> Decoder:
        """The language model with the plan's prunes and the vectors around a picture. These are text: never pruned."""
        self.check_half("text", model.config, self.text_models)
        head_dim, rope = self.decoder_shape(model.config).head_dim, self.rope(model, plan)
        decoder = HunyuanDecoder(self.language_model(model), model.lm_head, head_dim, rope, plan)
        decoder.merger = model.model.vision_tower.patch_merger
        return decoder

    def cut(self, config: Any, grid: tuple[int, int]) -> Tiling:
        """A picture between two vectors, each of whose rows ends with one."""
        newline = config.text_config.vocab_size
        begin, end = newline + 1, newline + 2
        return Tiling((begin, *super().cut(config, grid).written), mosaic=True, row_ends=(newline, newline, end))

    def image_processor(self, folder: str | os.PathLike[str]) -> Any:
        """The checkpoint's, whose own filter it never uses."""
        processor = super().image_processor(folder)
        processor.resample = Image.Resampling.BICUBIC
        return processor

    def reference_inputs(self, config: Any, prompt: ReferencePrompt) -> dict[str, Any]:
        """Patches row by row and their grids; all that stands for a picture is image tokens in transformers."""
        image, patch, own = self.image_token_id(config), config.vision_config.patch_size, config.text_config.vocab_size
        ids = self.expanded(config, prompt)
        ids = torch.where(ids >= own, image, ids)
        if not len(prompt.pixels):
            return {"input_ids": ids}
        rows, columns = (size // patch for size in prompt.pixels.shape[2:4])
        return {
            "input_ids": ids,
            "mm_token_type_ids": (ids == image).int(),
            "pixel_values": flat_patches(prompt.pixels, patch, 1, 1),
            "image_grid_thw": torch.tensor([(1, rows, columns)] * len(prompt.pixels)),
        }

    def tiny_config(self) -> HunYuanVLConfig:
        """Three blocks whose positions are of another grid than pictures, three LLM layers with grouped keys."""
        rope = _tiny.mrope(3, 2, 1, 2, rope_type="dynamic", rope_theta=100.0, alpha=4.0, factor=1.0)
        return HunYuanVLConfig(
            vision_config=_tiny.vision(patch_size=8, max_image_size=40),
            text_config=_tiny.text(head_dim=16, rope_parameters=rope, **_tiny.ENDS),
            image_token_id=250,
        )


FAMILY = HunyuanVL()
