"""Qwen2.5-VL: 2x2-patch units, window attention with a few full blocks, 2-D rotary encoder, M-RoPE decoder."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLRotaryEmbedding

from luvc_export.export.compression import oim
from luvc_export.export.decoder import Decoder
from luvc_export.export.families.base import Family, Normalise
from luvc_export.export.layers import attention, rms_norm, rotate, split_heads
from luvc_export.export.rope import Rope, mrope_axes
from luvc_export.export.windows import layout
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
        self.patches = merge * merge
        self.patch_size = 3 * config.temporal_patch_size * config.patch_size**2
        inner = torch.stack(torch.meshgrid(torch.arange(merge), torch.arange(merge), indexing="ij"), -1)
        self.register_buffer("inner", inner.reshape(merge * merge, 2).float(), persistent=False)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """uint8 [n, F, H, W, 3] -> embeddings [n, N_0, D], fp32 positions [n, N_0, 2 * copies], places [n, H0 * W0]."""
        units = oim.start(self._embed(image), self.copies)
        stage = self._enter(units)
        x = stage.x
        for number, block in enumerate(self.blocks):
            x = self._block(block, x, stage.whole if number in self.config.fullatt_block_indexes else stage.windows)
            passes = [step for step in self.plan.merges if step.block == number]
            if passes:
                units = self._leave(units, x, stage)
                for step in passes:
                    units = oim.merge(units, step, self.plan.merge_mode)
                stage = self._enter(units)
                x = stage.x
        embeds = self.merger.mlp(self._per_unit(rms_norm(self.merger.ln_q, x)))
        return embeds.index_select(1, stage.raster), units.copies.flatten(1, 2), units.merged_into

    def _embed(self, image: Tensor) -> Tensor:
        """Patches of every unit, embedded: [n, rows, columns, patches * C]. One frame fills both temporal places."""
        patch, merge, frames = self.config.patch_size, self.config.spatial_merge_size, self.config.temporal_patch_size
        rows, columns = self.plan.grid
        pixels = self.normalise(image).expand(-1, frames, -1, -1, -1)
        pixels = pixels.reshape(-1, frames, rows, merge, patch, columns, merge, patch, 3)
        pixels = pixels.permute(0, 2, 5, 3, 6, 8, 1, 4, 7).reshape(-1, rows * columns * merge * merge, self.patch_size)
        weight = self.patch_embed.proj.weight
        x = nn.functional.linear(pixels.to(weight.dtype), weight.reshape(weight.shape[0], self.patch_size))
        return x.reshape(-1, rows, columns, merge * merge * weight.shape[0])

    def _per_unit(self, x: Tensor) -> Tensor:
        """[n, U * patches, C] -> [n, U, patches * C]."""
        return x.reshape(-1, x.shape[1] // self.patches, self.patches * x.shape[2])

    def _enter(self, units: oim.Units) -> Stage:
        """Put raster units into window order, with rotary caches and size bias of every window batch."""
        rows, columns = units.x.shape[1:3]
        side = self.config.window_size // self.config.spatial_merge_size // self.config.patch_size
        windows = layout(rows, columns, side, self.plan.grid if self.plan.windows == "area" else None)
        order = torch.tensor(windows.order)
        length = rows * columns * self.patches
        x = units.x.flatten(1, 2).index_select(1, order).reshape(-1, length, self.config.hidden_size)
        place = units.positions.flatten(1, 2).index_select(1, order)
        patch = place[:, :, None] * self.config.spatial_merge_size + self.inner
        cos, sin = self.rope(patch.reshape(-1, length, 2).permute(2, 0, 1))
        bias = None
        if self.plan.size_bias:
            sizes = units.sizes.flatten(1).index_select(1, order).log()[:, :, None]
            bias = sizes.expand(-1, -1, self.patches).reshape(-1, length).to(x.dtype)
        whole = Window(0, length, length, cos, sin, bias)
        batches, begin = [], 0
        for number, members in windows.batches:
            end, inside = begin + number * members * self.patches, members * self.patches
            parts = (part[:, begin:end].reshape(-1, inside, self.head_dim // 2) for part in (cos, sin))
            inside_bias = None if bias is None else bias[:, begin:end].reshape(-1, inside)
            batches.append(Window(begin, end, inside, *parts, inside_bias))
            begin = end
        return Stage(x, [whole], batches, torch.tensor(windows.inverse))

    def _leave(self, units: oim.Units, x: Tensor, stage: Stage) -> oim.Units:
        """Back to raster order."""
        return units._replace(x=self._per_unit(x).index_select(1, stage.raster).reshape(units.x.shape))

    def _block(self, block: nn.Module, x: Tensor, windows: list[Window]) -> Tensor:
        qkv = block.attn.qkv(rms_norm(block.norm1, x))
        outs = [self._attend(qkv, window) for window in windows]
        x = x + block.attn.proj(torch.cat(outs, 1) if len(outs) > 1 else outs[0])
        return x + block.mlp(rms_norm(block.norm2, x))

    def _attend(self, qkv: Tensor, window: Window) -> Tensor:
        """Attention inside the windows of one batch: [n, S, 3 * C] -> [n, end - begin, C]."""
        parts = qkv[:, window.begin : window.end].reshape(-1, window.length, qkv.shape[2]).chunk(3, -1)
        query, key, value = (split_heads(part, self.head_dim) for part in parts)
        query, key = rotate(query, window.cos, window.sin), rotate(key, window.cos, window.sin)
        mask = None if window.bias is None else window.bias[:, None, None, :]
        out = attention(query, key, value, mask, self.head_dim**-0.5)
        return out.reshape(-1, window.end - window.begin, self.config.hidden_size)


class Window(NamedTuple):
    """Equal windows side by side: tokens begin..end, ``length`` each, caches [windows, length, Dh / 2]."""

    begin: int
    end: int
    length: int
    cos: Tensor
    sin: Tensor
    bias: Tensor | None


class Stage(NamedTuple):
    """Encoder state between merges: tokens in window order, one window for all, the windows, and the way back."""

    x: Tensor
    whole: list[Window]
    windows: list[Window]
    raster: Tensor


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
