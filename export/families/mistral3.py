"""Mistral Small 3.1 and Ministral 3: Pixtral tower, 2x2-patch units, a break token after each row, 1-D positions."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Mistral3Config, Mistral3ForConditionalGeneration

from luvc_export.core.plan import Plan
from luvc_export.core.shapes import EncoderShape
from luvc_export.core.tiling import Tiling
from luvc_export.errors import CheckpointError
from luvc_export.export.families import _tiny
from luvc_export.export.families.base import TEXT_MODELS, Family, Normalise, ReferencePrompt, channels_first
from luvc_export.export.layers import norm
from luvc_export.export.llm.decoder import Decoder
from luvc_export.export.llm.rope import Rope
from luvc_export.export.towers.rotary_position_vit import Parts, RotaryPositionViT, Sizes

#: What Mistral's tokenizers end the rows of a picture with, and the picture.
ROW_ENDS = ("[IMG_BREAK]", "[IMG_END]")
#: Numbers of Ministral 3's ``rope_parameters``.
SCALED_BY = ("llama_4_scaling_beta", "original_max_position_embeddings")


class Vision(RotaryPositionViT):
    """Pixtral, norm of each patch, the patches of a unit to one, two linear layers."""

    def __init__(
        self, tower: Any, projector: Any, side: int, plan: Plan, normalise: Normalise, shape: EncoderShape
    ) -> None:
        self.side = side
        super().__init__(tower, plan, normalise, shape)
        self.blocks = shape.blocks
        self.projector: Any = projector

    def sizes_of(self, config: Any) -> Sizes:
        """Pixtral's names; what joins patches is the projector's."""
        return Sizes(config.num_attention_heads, config.patch_size, self.side, 1, config.rope_parameters["rope_theta"])

    def frequencies(self, count: int) -> Tensor:
        """Every other one of a head's frequencies turns by rows, the others by columns."""
        inverse: Tensor = 1.0 / self.sizes.theta ** (torch.arange(2 * count) / (2 * count))
        return torch.cat([inverse[0::2], inverse[1::2]])

    def layers(self, visual: Any) -> Any:
        """Encoder blocks."""
        return visual.transformer.layers

    def parts(self, layer: Any) -> Parts:
        """Pixtral's names; three products where Qwen-VL has one."""
        a = layer.attention

        def qkv(x: Tensor) -> Tensor:
            return torch.cat([a.q_proj(x), a.k_proj(x), a.v_proj(x)], -1)

        return Parts(layer.attention_norm, qkv, a.o_proj, layer.ffn_norm, layer.feed_forward)

    def patch(self) -> Any:
        """Convolution that embeds a patch."""
        return self.visual.patch_conv

    def enter(self, x: Tensor) -> Tensor:
        """Normed once before the blocks."""
        return norm(self.visual.ln_pre, x)

    def finish(self, x: Tensor) -> Tensor:
        """[n, U * patches, C] -> [n, U, D]; the merger's weight has the patches of a channel side by side."""
        units = norm(self.projector.norm, x).unflatten(1, (-1, self.patches)).transpose(2, 3).flatten(2)
        merged = self.projector.patch_merger.merging_layer(units)
        embeds: Tensor = self.projector.linear_2(self.projector.act(self.projector.linear_1(merged)))
        return embeds


class ScaledRope(Rope):
    """A last column beside the angles: the factor on queries, 1 + beta * log(1 + floor(position / original)).

    transformers' ``get_llama_4_attn_scale``.
    """

    def __init__(self, plain: Rope, copies: int, beta: float, original: int) -> None:
        super().__init__(plain.inv_freq, [0] * len(plain.inv_freq), plain.scaling, copies)  # type: ignore[arg-type]
        self.beta, self.original = beta, original

    def forward(self, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        """fp32 positions [A, B, S] -> (cos, sin), each fp32 [B, S, Dh / 2 + 1]."""
        cos, sin = super().forward(position_ids)
        factor = 1 + self.beta * torch.log(1 + torch.floor(position_ids[0] / self.original))
        return tuple(torch.cat([part, factor[:, :, None]], -1) for part in (cos, sin))  # type: ignore[return-value]


class Ministral3Decoder(Decoder):
    """Queries far from the start are larger."""

    def angles(self, layer: Any, cache: Tensor) -> Tensor:
        """Without the factor."""
        return cache[:, :, : self.head_dim // 2]

    def query_factor(self, cache: Tensor) -> Tensor | None:
        """The last column."""
        return cache[:, :, self.head_dim // 2 :]


class Mistral3(Family):
    """Mistral Small 3.1 and 3.2, Magistral, Devstral 2, Ministral 3."""

    model_type = "mistral3"
    architecture = Mistral3ForConditionalGeneration
    text_models: tuple[str, ...] = (*TEXT_MODELS, "ministral3")
    #: What ends the rows of a picture; None where nothing does.
    row_ends: tuple[str, str] | None = ROW_ENDS

    def side(self, config: Any) -> int:
        """The patch merger's."""
        return int(config.spatial_merge_size)

    def encoder_shape(self, config: Any) -> EncoderShape:
        """Full attention in every block, gated MLPs."""
        return replace(super().encoder_shape(config), gated=True)

    def blocks(self, config: Any) -> int:
        """Those up to the feature layer.

        Raises:
            CheckpointError: Features of several blocks (which transformers computes for none), or of no block.
        """
        vision, layer = config.vision_config, getattr(config, "vision_feature_layer", -1)
        layer = layer[0] if isinstance(layer, list | tuple) and len(layer) == 1 else layer
        blocks = vision.num_hidden_layers + 1 + layer if isinstance(layer, int) and layer < 0 else layer
        if not isinstance(blocks, int) or not 1 <= blocks <= vision.num_hidden_layers:
            raise CheckpointError(
                "this vision feature layer is none of the tower's blocks",
                where="vision_feature_layer",
                got=layer,
                expected=f"one of 1 to {vision.num_hidden_layers}, or of -1 to -{vision.num_hidden_layers}",
            )
        return blocks

    def vision(self, model: Any, plan: Plan, normalise: Normalise) -> nn.Module:
        """The tower with the plan's merges.

        Raises:
            CheckpointError: Another kind of tower.
        """
        self.check_half("vision", model.config, ("pixtral",))
        shape, side = self.encoder_shape(model.config), self.side(model.config)
        return Vision(*self.halves_of_vision(model.model), side, plan, normalise, shape)

    def halves_of_vision(self, inner: Any) -> tuple[Any, Any]:
        """Tower and projector of the transformers model's inner one."""
        return inner.vision_tower, inner.multi_modal_projector

    def decoder(self, model: Any, plan: Plan) -> Decoder:
        """The language model with the plan's prunes; Ministral 3's queries are scaled by their place.

        Raises:
            CheckpointError: A text model this package does not compute, or a Ministral 3 that does not say how.
        """
        plain, text = super().decoder(model, plan), model.config.text_config
        if text.model_type != "ministral3":
            return plain
        parameters, copies = text.rope_parameters, plan.encoder.position_copies
        lacking = [name for name in SCALED_BY if not isinstance(parameters.get(name), int | float)]
        if lacking:
            raise CheckpointError(
                "the config does not say how queries are scaled",
                where="text_config.rope_parameters",
                got=f"no {', no '.join(lacking)}",
                expected="two numbers, as Ministral 3's repositories have them",
            )
        beta, original = float(parameters["llama_4_scaling_beta"]), int(parameters["original_max_position_embeddings"])
        rope = ScaledRope(plain.rope, copies, beta, original)
        return Ministral3Decoder(self.language_model(model), model.lm_head, plain.head_dim, rope, plan)

    def cut(self, config: Any, grid: tuple[int, int]) -> Tiling:
        """A picture, whose rows end with a token each."""
        plain = super().cut(config, grid)
        return plain if self.row_ends is None else Tiling(plain.written, mosaic=True, row_ends=self.row_ends)

    def reference_inputs(self, config: Any, prompt: ReferencePrompt) -> dict[str, Any]:
        """Rows of placeholders, each with its end, and the pixels."""
        ids = self.expanded(config, prompt) if self.row_ends is None else self._with_ends(config, prompt)
        if not len(prompt.pixels):
            return {"input_ids": ids}
        sizes = torch.tensor([prompt.pixels.shape[2:4]] * len(prompt.pixels))
        return {"input_ids": ids, "pixel_values": channels_first(prompt.pixels), "image_sizes": sizes}

    def _with_ends(self, config: Any, prompt: ReferencePrompt) -> torch.Tensor:
        """Prompt int64 [1, S] whose ends of rows, which follow a placeholder, stand at the rows' ends."""
        unit, image = self.unit_pixels(config), self.image_token_id(config)
        rows, columns = prompt.pixels.shape[2] // unit, prompt.pixels.shape[3] // unit
        ids, left = list[int](), 0
        for token in prompt.token_ids:
            left = rows if token == image else left
            ids += [image] * columns if token == image else [token]
            if left and token != image:
                left -= 1
                ids += [image] * columns if left else []
        return torch.tensor([ids])

    def tiny_config(self) -> Mistral3Config:
        """Three blocks, Ministral 3 of three layers whose queries are scaled after sixteen places."""
        return Mistral3Config(
            vision_config=_tiny.vision(model_type="pixtral", image_size=128, patch_size=8),
            text_config=_tiny.text(
                model_type="ministral3",
                head_dim=16,
                rope_parameters={
                    "rope_type": "yarn",
                    "rope_theta": 10000.0,
                    "factor": 128.0,
                    "original_max_position_embeddings": 16,
                    "mscale": 1.0,
                    "mscale_all_dim": 1.0,
                    "llama_4_scaling_beta": 0.4,
                },
            ),
            image_token_index=250,
            spatial_merge_size=2,
        )


FAMILY = Mistral3()
