"""Qwen2.5-VL: 2x2-patch units, window attention with a few full blocks, 2-D rotary encoder, M-RoPE decoder."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLRotaryEmbedding

from luvc_export.export.compression import oim
from luvc_export.export.decoder import Decoder
from luvc_export.export.families.base import Family, Normalise
from luvc_export.export.layers import attention, rms_norm, rotate
from luvc_export.export.rope import Rope, mrope_axes
from luvc_export.export.windows import WindowLayout, layout
from luvc_export.plan import Plan
from luvc_export.shapes import DecoderShape, EncoderShape

POSITION_COPIES = 4


class Vision(nn.Module):
    """Encoder on one static grid: tokens stay in window order, and go back to raster order only to merge.

    Window order lasts from block to block (full attention does not care), so windows are slices, not gathers.
    """

    def __init__(self, visual: nn.Module, plan: Plan, normalise: Normalise) -> None:
        super().__init__()
        config = visual.config
        self.patch_embed, self.blocks, self.merger = visual.patch_embed, visual.blocks, visual.merger
        self.normalise, self.plan, self.config = normalise, plan, config
        self.head_dim = config.hidden_size // config.num_heads
        self.copies = POSITION_COPIES if plan.positions == "multi" else 1
        frequencies = self.head_dim // 4
        inv_freq = config.rope_parameters["rope_theta"] ** -(torch.arange(frequencies) / frequencies)
        self.rope = Rope(inv_freq.repeat(2), [0] * frequencies + [1] * frequencies)
        merge = config.spatial_merge_size
        inner = torch.stack(torch.meshgrid(torch.arange(merge), torch.arange(merge), indexing="ij"), -1)
        self.register_buffer("inner", inner.reshape(merge * merge, 2).float(), persistent=False)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """uint8 [n, F, H, W, 3] -> embeddings [n, N_0, D], fp32 positions [n, N_0, 2 * copies], places [n, H0 * W0]."""
        units = oim.start(self._embed(image), self.copies)
        windows = self._windows(units)
        x, cos, sin, bias = self._enter(units, windows)
        for number, block in enumerate(self.blocks):
            full = number in self.config.fullatt_block_indexes
            x = self._block(block, x, cos, sin, bias, None if full else windows)
            passes = [step for step in self.plan.merges if step.block == number]
            if passes:
                units = self._leave(units, x, windows)
                for step in passes:
                    units = oim.merge(units, step, self.plan.merge_mode)
                windows = self._windows(units)
                x, cos, sin, bias = self._enter(units, windows)
        embeds = self.merger.mlp(rms_norm(self.merger.ln_q, x).flatten(2))
        embeds = embeds.index_select(1, torch.tensor(windows.inverse))
        return embeds, units.copies.flatten(1, 2), units.merged_into

    def _embed(self, image: Tensor) -> Tensor:
        """Patches of every unit, embedded: [n, rows, columns, patches * C]. One frame fills both temporal places."""
        patch, merge, frames = self.config.patch_size, self.config.spatial_merge_size, self.config.temporal_patch_size
        (rows, columns), count = self.plan.grid, image.shape[0]
        pixels = self.normalise(image).expand(-1, frames, -1, -1, -1)
        pixels = pixels.reshape(count, frames, rows, merge, patch, columns, merge, patch, 3)
        pixels = pixels.permute(0, 2, 5, 3, 6, 8, 1, 4, 7).flatten(5).flatten(3, 4)
        weight = self.patch_embed.proj.weight
        return nn.functional.linear(pixels.to(weight.dtype), weight.flatten(1)).flatten(3)

    def _windows(self, units: oim.Units) -> WindowLayout:
        config = self.config
        side = config.window_size // config.spatial_merge_size // config.patch_size
        original = self.plan.grid if self.plan.windows == "area" else None
        return layout(units.x.shape[1], units.x.shape[2], side, original)

    def _enter(self, units: oim.Units, windows: WindowLayout) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """Raster units -> x [n, U, patches, C] in window order, cos and sin [n, U * patches, Dh / 2], size bias."""
        count, inner = units.x.shape[0], self.inner.shape[0]
        order = torch.tensor(windows.order)
        x = units.x.flatten(1, 2).unflatten(-1, (inner, -1)).index_select(1, order)
        place = units.positions.flatten(1, 2).index_select(1, order)
        patch = (place[:, :, None] * self.config.spatial_merge_size + self.inner).flatten(1, 2)
        cos, sin = self.rope(patch.permute(2, 0, 1))
        bias = None
        if self.plan.size_bias:
            sizes = units.sizes.flatten(1).index_select(1, order)
            bias = sizes.log()[:, :, None].expand(count, -1, inner).flatten(1).to(x.dtype)
        return x, cos, sin, bias

    def _leave(self, units: oim.Units, x: Tensor, windows: WindowLayout) -> oim.Units:
        raster = x.flatten(2).index_select(1, torch.tensor(windows.inverse))
        return units._replace(x=raster.unflatten(1, units.x.shape[1:3]))

    def _block(
        self, block: nn.Module, x: Tensor, cos: Tensor, sin: Tensor, bias: Tensor | None, windows: WindowLayout | None
    ) -> Tensor:
        qkv = block.attn.qkv(rms_norm(block.norm1, x)).flatten(1, 2)
        query, key, value = qkv.unflatten(-1, (3, self.config.num_heads, self.head_dim)).permute(2, 0, 3, 1, 4)
        query, key = rotate(query, cos, sin), rotate(key, cos, sin)
        mask = None if bias is None else bias[:, None, None, :]
        if windows is None:
            out = attention(query, key, value, mask, self.head_dim**-0.5)
        else:
            out = self._windowed(query, key, value, mask, windows)
        x = x + block.attn.proj(out).unflatten(1, x.shape[1:3])
        return x + block.mlp(rms_norm(block.norm2, x))

    def _windowed(
        self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, windows: WindowLayout
    ) -> Tensor:
        """Attention inside each window: [n, heads, U * patches, Dh] -> [n, U * patches, heads * Dh]."""
        outs, begin, count = [], 0, query.shape[0]
        for number, units in windows.batches:
            length = units * self.inner.shape[0]
            end = begin + number * length

            def batch(part: Tensor, begin: int = begin, end: int = end, number: int = number) -> Tensor:
                return part[:, :, begin:end].unflatten(2, (number, -1)).transpose(1, 2).flatten(0, 1)

            inside = None if mask is None else mask[..., begin:end].unflatten(3, (number, 1, length))
            if inside is not None:
                inside = inside.reshape(count * number, 1, 1, length)
            out = attention(batch(query), batch(key), batch(value), inside, self.head_dim**-0.5)
            outs.append(out.unflatten(0, (count, number)).flatten(1, 2))
            begin = end
        return torch.cat(outs, 1) if len(outs) > 1 else outs[0]


class Qwen25VL(Family):
    """Qwen2.5-VL of any size."""

    model_type = "qwen2_5_vl"
    position_kind = "mrope"

    def build(self, config: Any) -> nn.Module:
        """Qwen2_5_VLForConditionalGeneration."""
        return Qwen2_5_VLForConditionalGeneration(config)

    def decoder_shape(self, config: Any) -> DecoderShape:
        """Sizes from ``text_config``."""
        text = config.text_config
        return DecoderShape(
            layers=text.num_hidden_layers,
            hidden=text.hidden_size,
            heads=text.num_attention_heads,
            kv_heads=text.num_key_value_heads,
            head_dim=text.hidden_size // text.num_attention_heads,
            intermediate=text.intermediate_size,
            vocab=text.vocab_size,
            context=text.max_position_embeddings,
        )

    def encoder_shape(self, config: Any) -> EncoderShape:
        """Sizes from ``vision_config``."""
        vision = config.vision_config
        return EncoderShape(
            blocks=vision.depth,
            hidden=vision.hidden_size,
            intermediate=vision.intermediate_size,
            unit=vision.spatial_merge_size**2,
            window=vision.window_size // vision.spatial_merge_size // vision.patch_size,
            full_attention=tuple(vision.fullatt_block_indexes),
        )

    def unit_pixels(self, config: Any) -> int:
        """Patch size times the patch merger's side (28)."""
        return int(config.vision_config.patch_size * config.vision_config.spatial_merge_size)

    def vision(self, model: nn.Module, plan: Plan, normalise: Normalise) -> nn.Module:
        """The encoder with the plan's merges."""
        return Vision(model.model.visual, plan, normalise)

    def decoder(self, model: nn.Module, plan: Plan) -> Decoder:
        """The language model with the plan's prunes."""
        text = model.config.text_config
        rotary = Qwen2_5_VLRotaryEmbedding(text)
        copies = POSITION_COPIES if plan.positions == "multi" else 1
        axes = mrope_axes(text.rope_parameters["mrope_section"])
        rope = Rope(rotary.inv_freq, axes, rotary.attention_scaling, copies, axes_per_copy=3)
        return Decoder(model.model.language_model, model.lm_head, self.decoder_shape(model.config).head_dim, rope, plan)

    def image_token_id(self, config: Any) -> int:
        """``image_token_id``."""
        return int(config.image_token_id)

    def tiny_config(self) -> Qwen2_5_VLConfig:
        """Four encoder blocks (windows in 0 and 2), four LLM layers, untied head."""
        return Qwen2_5_VLConfig(
            vision_config={
                "depth": 4,
                "hidden_size": 64,
                "intermediate_size": 96,
                "num_heads": 4,
                "out_hidden_size": 64,
                "fullatt_block_indexes": [1, 3],
                "window_size": 112,
            },
            text_config={
                "hidden_size": 64,
                "intermediate_size": 128,
                "num_hidden_layers": 4,
                "num_attention_heads": 4,
                "num_key_value_heads": 2,
                "vocab_size": 256,
                "max_position_embeddings": 2048,
                "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]},
                "bos_token_id": 1,
                "eos_token_id": 2,
                "pad_token_id": 0,
            },
            image_token_id=250,
            video_token_id=251,
            vision_start_token_id=252,
            vision_end_token_id=253,
            tie_word_embeddings=False,
        )


FAMILY = Qwen25VL()
