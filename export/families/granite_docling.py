"""Granite Docling: Idefics3's tower, InternVL's tiles, DeepStack planes, sines of the units' places, Granite's decoder.

The first Granite-Docling-258M is Idefics3 (``idefics3``); this is the type of those after it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from transformers import GraniteDoclingConfig, GraniteDoclingForConditionalGeneration

from luvc_export.core.plan import Plan
from luvc_export.core.tiling import Tiling
from luvc_export.errors import UsageError
from luvc_export.export.compression import oim, unit_prune
from luvc_export.export.families import _tiny
from luvc_export.export.families.base import Normalise, Pixels, ReferencePrompt
from luvc_export.export.families.idefics3 import Idefics3
from luvc_export.export.layers import norm
from luvc_export.export.llm.decoder import Decoder
from luvc_export.export.towers.learned_position_vit import LearnedPositionViT, Stage

#: Base of the sines' frequencies (transformers, ``build_2d_sinusoidal_position_embedding``).
TEMPERATURE = 10000.0
#: Tiles along a side that the tokenizer has names for.
SIDE = 16


class Vision(LearnedPositionViT):
    """Tower and the connector's coarse path, scaled as the LLM's embeddings are; a merger for each plane, unscaled."""

    omega: Tensor

    def __init__(self, model: Any, plan: Plan, normalise: Normalise, grid: tuple[int, int], side: int) -> None:
        config, tower = model.config.vision_config, model.vision_model
        taps = sorted(index + 1 for index in config.deepstack_visual_indexes)
        super().__init__(tower, plan, normalise, grid, side, (*taps, config.num_hidden_layers))
        self.connector: Any = tower.connector
        self.embedding = float(model.config.text_config.embedding_multiplier)
        quarter = config.out_hidden_size // 4
        omega = TEMPERATURE ** -(torch.arange(quarter, dtype=torch.float64) / quarter)
        self.register_buffer("omega", omega.float(), persistent=False)

    def give(
        self, x: Tensor, saved: list[Tensor], units: oim.Units, stage: Stage, pruned: unit_prune.Kept | None
    ) -> Tensor:
        """Embeddings and planes [n, U, (1 + planes) * D]; a merged unit stands at the mean of its places."""
        *tapped, last = self.states_left(x, saved, units, stage, pruned)
        at = units.positions.flatten(1, 2)
        if pruned is not None and not self.plan.encoder.grid_intact:
            at = unit_prune.rows(at, self.stayed(pruned))
        c, path = self.connector, self.connector.coarse
        shuffled = path.projection(self._joined(norm(c.ln_in, norm(self.tower.post_layernorm, last))))
        placed = shuffled + self._sines(at).to(shuffled.dtype)
        embeds = norm(c.ln_out, c.mlp_fc2(torch.nn.functional.gelu(norm(c.ln_mid, placed))))
        planes = [merger(self._joined(state)) for merger, state in zip(path.deepstack_mergers, tapped, strict=True)]
        return torch.cat([embeds * self.embedding, *planes], -1)

    def _joined(self, x: Tensor) -> Tensor:
        """[n, U * side * side, C] -> [n, U, side * side * C]."""
        return x.reshape(x.shape[0], -1, self.side**2 * x.shape[2])

    def _sines(self, at: Tensor) -> Tensor:
        """Places (row, column) [n, U, 2] -> [n, U, D]: sine and cosine of the column, then of the row."""
        rows, columns = (at[:, :, axis : axis + 1] * self.omega for axis in (0, 1))
        return torch.cat([columns.sin(), columns.cos(), rows.sin(), rows.cos()], -1)


class GraniteDecoder(Decoder):
    """Factors on embeddings of text, on what a layer adds and on logits."""

    embedding: float
    residual: float
    divisor: float

    def embed_text(self, input_ids: Tensor) -> Tensor:
        """Scaled."""
        return super().embed_text(input_ids) * self.embedding

    def after_attention(self, layer: Any, attended: Tensor) -> Tensor:
        """Scaled."""
        return attended * self.residual

    def feed_forward(self, layer: Any, x: Tensor) -> Tensor:
        """Scaled."""
        return super().feed_forward(layer, x) * self.residual

    def logits(self, rows: Tensor) -> Tensor:
        """Divided."""
        return super().logits(rows) / self.divisor


class GraniteDocling(Idefics3):
    """Granite for Docling 500M and 2B: pages to DocTags, on the coarse path of their connector."""

    model_type = "granite_docling"
    architecture = GraniteDoclingForConditionalGeneration
    text_models = ("granite_docling_text",)
    limits = ("the connector's fine path, and the router that asks for it", "more tiles for some wide pages")
    pixels = Pixels()
    tiling = "closest_ratio"
    encoder = Vision

    def side(self, config: Any) -> int:
        """The pixel shuffle's side."""
        return int(config.vision_config.scale_factor)

    def visual_width(self, config: Any) -> int:
        """The embedding and its DeepStack planes side by side."""
        return int(config.text_config.hidden_size * (1 + len(config.vision_config.deepstack_visual_indexes)))

    def plane_mergers(self, model: Any) -> Sequence[Any]:
        """The coarse path's."""
        mergers: Sequence[Any] = model.model.vision_model.connector.coarse.deepstack_mergers
        return mergers

    def decoder(self, model: Any, plan: Plan) -> Decoder:
        """The language model with the plan's prunes."""
        self.check_half("text", model.config, self.text_models)
        text, head_dim = model.config.text_config, self.decoder_shape(model.config).head_dim
        planes, rope = len(model.config.vision_config.deepstack_visual_indexes), self.rope(model, plan)
        decoder = GraniteDecoder(self.language_model(model), model.lm_head, head_dim, rope, plan, planes)
        decoder.scale, decoder.embedding = float(text.attention_multiplier), float(text.embedding_multiplier)
        decoder.residual, decoder.divisor = float(text.residual_multiplier), float(text.logits_scaling)
        return decoder

    def tile_settings(self, config: Any, image: tuple[int, int]) -> dict[str, Any]:
        """The coarse path, and one rule for every page."""
        return {"fine_route": False, "dense_max_patches": 0}

    def cut(self, config: Any, grid: tuple[int, int]) -> Tiling:
        """Tiles row by row, each behind its label; an uncut picture is a tile alone, without a whole after it.

        Raises:
            UsageError: More tiles along a side than there are labels for.
        """
        if max(grid) > SIDE:
            raise UsageError(
                "this model does not cut pictures so",
                where="--tiles",
                got=f"{grid[0]}x{grid[1]}",
                expected=f"at most {SIDE} tiles along a side",
                fix="ask for fewer tiles",
            )
        cut = super().cut(config, grid)
        if grid != (1, 1):
            return cut
        return replace(cut, written=("<fake_token_around_image><row_1_col_1>", self.image_token_id(config), "\n"))

    def reference_inputs(self, config: Any, prompt: ReferencePrompt) -> dict[str, Any]:
        """As Idefics3's, and that no tile is padding."""
        inputs = super().reference_inputs(config, prompt)
        real = {"pixel_attention_mask": torch.ones(1, len(prompt.pixels), dtype=torch.bool)}
        return inputs | real if len(prompt.pixels) else inputs

    def tiny_config(self) -> GraniteDoclingConfig:
        """Three blocks, planes after the first two, Granite of three layers, both paths."""
        return GraniteDoclingConfig(
            vision_config=_tiny.vision(
                image_size=64, patch_size=8, scale_factor=2, out_hidden_size=64, deepstack_visual_indexes=[0, 1]
            ),
            text_config=_tiny.text(attention_multiplier=0.2, residual_multiplier=0.6, **_tiny.ENDS),
            image_token_id=250,
            pad_token_id=0,
        )


FAMILY = GraniteDocling()
