"""Gemma 4: units pooled from a rotary tower, layers of two shapes, embeddings of every layer's own, shared caches."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Gemma4Config, Gemma4ForConditionalGeneration

from luvc_export.core.plan import Plan
from luvc_export.core.shapes import DecoderShape, EncoderShape, LayerShape
from luvc_export.core.tiling import Tiling, Video
from luvc_export.errors import CheckpointError
from luvc_export.export.compression import oim
from luvc_export.export.families import _tiny
from luvc_export.export.families.base import (
    Family,
    Normalise,
    Pixels,
    ReferencePrompt,
    places,
    rope_of_kinds,
    rotary_embedding,
    rows_of_patches,
    window,
)
from luvc_export.export.layers import attention, capped, norm, rotate, split_heads
from luvc_export.export.llm.decoder import Decoder
from luvc_export.export.llm.rope import Rope
from luvc_export.export.llm.sight import Kind
from luvc_export.export.towers.learned_position_vit import LearnedPositionViT, Parts, Stage

#: Of a picture, as the processor takes them.
SOFT_TOKENS = (70, 140, 280, 560, 1120)
#: In the order in which rotary caches hold their frequencies.
LAYER_KINDS = ("full_attention", "sliding_attention")


class PooledRotaryViT(LearnedPositionViT):
    """2-D rotary and learned 2-D positions on any grid, clipped projections, units pooled at the end, projection.

    A unit is the square of patches that becomes one token. Attention is full, so units may stand in any order; each
    patch keeps its own angles, and a merged unit those at the mean position of what it is made of.

    Args:
        tower: Vision model with ``patch_embedder``, ``encoder`` and ``pooler``.
        projector: Norm and linear layer into the LLM.
        plan: Grid and merges.
        normalise: Pixel arithmetic of the processor: values from 0 to 1, which the model itself centres.
    """

    inner: Tensor
    #: What the family's processor gives: patches of any grid, padded to a number.
    padded_patches = True

    def __init__(self, tower: Any, projector: Any, plan: Plan, normalise: Normalise) -> None:
        side = tower.config.pooling_kernel_size
        super().__init__(tower, plan, normalise, plan.grid, side, (tower.config.num_hidden_layers,))
        self.projector = projector
        self.head_dim, self.scale = self.config.head_dim, 1.0
        quarter = self.head_dim // 4
        inv_freq = self.config.rope_parameters["rope_theta"] ** -(torch.arange(quarter) / quarter)
        self.rope = Rope(inv_freq.repeat(2), [1] * quarter + [0] * quarter)  # columns turn the first half of a head
        inner = torch.stack(torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij"), -1)
        self.register_buffer("inner", inner.reshape(side * side, 2).float(), persistent=False)

    def finish(self, states: list[Tensor]) -> Tensor:
        """[n, U * side * side, C] -> [n, U, D]: means and their scale in fp32, which exceeds fp16."""
        x, hidden = states[0], self.config.hidden_size
        pooled = x.float().reshape(x.shape[0], -1, self.side**2, hidden).mean(2).to(x.dtype)
        pooled = pooled.float() * hidden**0.5
        if self.config.standardize:
            pooled = (pooled - self.tower.std_bias.float()) * self.tower.std_scale.float()
        projected: Tensor = self.projector.embedding_projection(
            norm(self.projector.embedding_pre_projection_norm, pooled.to(x.dtype))
        )
        return projected

    def parts(self, layer: Any) -> Parts:
        """Norms before each half; those behind are applied where the halves end."""
        a = layer.self_attn
        before, after = layer.input_layernorm, layer.pre_feedforward_layernorm
        return Parts(before, a.q_proj, a.k_proj, a.v_proj, layer, after, layer.mlp)

    def turns(self, units: oim.Units) -> tuple[Tensor, ...]:
        """Of the patches of every unit, at the unit's position."""
        place = units.positions.flatten(1, 2)
        patch = (place[:, :, None] * self.side + self.inner).flatten(1, 2)
        angles = self.rope(patch.permute(2, 0, 1))
        return tuple(part.reshape(part.shape[0], -1, self.side**2 * self.head_dim // 2) for part in angles)

    def _start(self, pixels: Tensor) -> tuple[Tensor, int]:
        (rows, columns), side, embedder = self.plan.grid, self.side, self.tower.patch_embedder
        patch, weight = self.config.patch_size, embedder.input_proj.weight
        pixels = pixels[:, 0].reshape(-1, rows, side, patch, columns, side, patch, 3)
        pixels = pixels.permute(0, 1, 4, 2, 5, 3, 6, 7).reshape(-1, rows * columns * side * side, 3 * patch * patch)
        x = embedder.input_proj((2 * (pixels - 0.5)).to(weight.dtype))
        raster, table = self._unit_order(), embedder.position_embedding_table
        down, across = raster // (columns * side), raster % (columns * side)
        return x + table[0].index_select(0, across) + table[1].index_select(0, down), 0

    def _attended(self, parts: Parts, x: Tensor, stage: Stage) -> Tensor:
        attn, normed = parts.out.self_attn, norm(parts.before, x)
        query, key, value = (
            norm(normalise, split_heads(projection(normed), self.head_dim))
            for projection, normalise in (
                (parts.query, attn.q_norm),
                (parts.key, attn.k_norm),
                (parts.value, attn.v_norm),
            )
        )
        cos, sin = (turn.reshape(turn.shape[0], -1, self.head_dim // 2) for turn in stage.turns)
        query, key = self._turned(query, cos, sin), self._turned(key, cos, sin)
        return attention(query, key, value, self._bias(stage, x.dtype), self.scale)

    def _turned(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Each half of a head by one axis."""
        halves = zip(x.chunk(2, -1), cos.chunk(2, -1), sin.chunk(2, -1), strict=True)
        return torch.cat([rotate(part, *angles) for part, *angles in halves], -1)

    def _after_attention(self, parts: Parts, x: Tensor, out: Tensor) -> Tensor:
        layer = parts.out
        x = x + norm(layer.post_attention_layernorm, layer.self_attn.o_proj(out))
        return x + norm(layer.post_feedforward_layernorm, parts.mlp(norm(parts.after, x)))


class Gemma4Decoder(Decoder):
    """Layers of two shapes; embeddings that each layer has of its own, where the model has them.

    A visual token's are made of its embedding and of the padding token's, so prunes carry the embedding: it is smaller
    than what all layers make of it, and what is dropped is not projected.
    """

    def __init__(
        self, text: Any, lm_head: Any, rope: Rope, plan: Plan, shape: DecoderShape, placeholders: Sequence[int]
    ) -> None:
        config = text.config
        sources = {layer: shape.layer(layer).reads for layer in range(shape.cached, shape.layers)}
        super().__init__(text, lm_head, shape.head_dim, rope, plan, sources=sources, states=shape.states)
        self.scale, self.config, self.placeholders = 1.0, config, tuple(placeholders)
        self.window = window(config)
        self.both_ways = getattr(config, "use_bidirectional_attention", None) == "vision"
        self.first = len(getattr(text.rotary_emb, f"{LAYER_KINDS[0]}_inv_freq", ()))
        if config.hidden_size_per_layer_input:
            self.take_own(text)

    def take_own(self, text: Any) -> None:
        """What layers' own embeddings are made by."""
        self.table: Any = text.embed_tokens_per_layer
        self.projection: Any = text.per_layer_model_projection
        self.projection_norm: Any = text.per_layer_projection_norm

    def slides(self, layer: Any) -> bool:
        """Whether a layer has a window."""
        return bool(layer.self_attn.is_sliding)

    def embed_text(self, input_ids: Tensor) -> Tensor:
        """Embeddings times sqrt(D), rounded to their dtype as in training."""
        return self._looked_up(self.embed_tokens, input_ids)

    def norm_weight(self, module: Any) -> tuple[Tensor, float]:
        """Factor and epsilon."""
        return module.weight, float(module.eps)

    def angles(self, layer: Any, cache: Tensor) -> Tensor:
        """Frequencies of full layers stand first."""
        return cache[:, :, self.first :] if self.slides(layer) else cache[:, :, : self.first]

    def head_size(self, layer: Any) -> int:
        """Full layers have heads of their own size."""
        return int(layer.self_attn.head_dim)

    def kind(self, layer: Any) -> Kind:
        """Pictures are seen both ways in sliding layers alone, which look back no further than their window."""
        slides = self.slides(layer)
        return Kind(self.both_ways and slides, self.window if slides else None)

    def keys_values(self, layer: Any, normed: Tensor) -> tuple[Tensor, Tensor]:
        """Values are normed; where there is no projection of theirs, they are the keys before both norms."""
        attn, size = layer.self_attn, self.head_size(layer)
        key = split_heads(attn.k_proj(normed), size)
        value = key if attn.v_proj is None else split_heads(attn.v_proj(normed), size)
        return key, norm(attn.v_norm, value)

    def after_attention(self, layer: Any, attended: Tensor) -> Tensor:
        """Normed once more."""
        return norm(layer.post_attention_layernorm, attended)

    def feed_forward(self, layer: Any, x: Tensor) -> Tensor:
        """MLP between two norms."""
        return norm(layer.post_feedforward_layernorm, layer.mlp(norm(layer.pre_feedforward_layernorm, x)))

    def leave(self, layer: Any, x: Tensor, own: Tensor | None) -> Tensor:
        """The layer's own embeddings through a gate, and the layer's factor."""
        if own is not None:
            block = getattr(layer, "ple_block", layer)
            gated = block.act_fn(block.per_layer_input_gate(x)) * own
            x = x + norm(block.post_per_layer_input_norm, block.per_layer_projection(gated))
        scaled: Tensor = x * layer.layer_scalar
        return scaled

    def carried(self, visual: Tensor) -> Tensor | None:
        """The embeddings, where layers make something of them."""
        return visual if self.config.hidden_size_per_layer_input else None

    def own_embeddings(
        self, layers: range, visual: Tensor | None, words: Tensor, input_ids: Tensor
    ) -> dict[int, Tensor]:
        """A row of the table and a projection of the embedding, the rows of these layers alone."""
        width = self.config.hidden_size_per_layer_input
        if not width:
            return {}
        part = slice(layers[0] * width, (layers[-1] + 1) * width)
        projected = self.projected(layers, words if visual is None else torch.cat([visual, words], 1))
        looked_up = self._looked_up(self.table, input_ids)[:, :, part]
        if visual is not None:
            padding = self._looked_up(self.table, torch.full((1, 1), self.config.pad_token_id))[:, :, part]
            looked_up = torch.cat([padding.expand(visual.shape[0], visual.shape[1], -1), looked_up], 1)
        both = (projected + looked_up.unflatten(-1, (len(layers), width))) * 2.0**-0.5
        return {number: both[:, :, index] for index, number in enumerate(layers)}

    def projected(self, layers: range, rows: Tensor) -> Tensor:
        """Of embeddings [B, S, D], what these layers' own are made of, normed: [B, S, layers, P]."""
        width = self.config.hidden_size_per_layer_input
        weight = self.projection.weight[layers[0] * width : (layers[-1] + 1) * width]
        projected = nn.functional.linear(rows, weight) * self.config.hidden_size**-0.5
        return norm(self.projection_norm, projected.unflatten(-1, (len(layers), width)))

    def logits(self, rows: Tensor) -> Tensor:
        """Capped softly where the model does so."""
        return capped(super().logits(rows), self.config.final_logit_softcapping)

    def _looked_up(self, table: Any, input_ids: Tensor) -> Tensor:
        """Rows of an embedding times its factor, rounded to its dtype; placeholders that are said are padding."""
        for placeholder in self.placeholders:
            padding = torch.tensor(self.config.pad_token_id)
            input_ids = torch.where(input_ids == placeholder, padding, input_ids)
        scale = torch.tensor(table.scalar_embed_scale, dtype=table.weight.dtype)
        return nn.functional.embedding(input_ids, table.weight) * scale


def shape_of(text: Any, layers: Sequence[LayerShape], **rest: Any) -> DecoderShape:
    """Sizes of a text model of such layers; ``rest`` are further fields."""
    return DecoderShape(
        layers=text.num_hidden_layers,
        hidden=text.hidden_size,
        heads=text.num_attention_heads,
        kv_heads=layers[0].kv_heads,
        head_dim=layers[0].head_dim,
        intermediate=text.intermediate_size,
        vocab=text.vocab_size,
        context=int(text.max_position_embeddings),
        per_layer=tuple(layers),
        gate=text.hidden_size_per_layer_input or 0,
        **rest,
    )


class Gemma4(Family):
    """Gemma 4 with dense text; what its audio tower hears is left out.

    Where contexts are longer than the window, sliding layers keep the place of each cached row beside it.
    """

    model_type = "gemma4"
    limits = (
        "audio",
        "mixtures of experts",
        "compression inside transformers",
    )
    pixels = Pixels((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))

    def build(self, config: Any) -> nn.Module:
        """Gemma4ForConditionalGeneration without the audio tower.

        Raises:
            CheckpointError: No vision tower, a mixture of experts, or text that is seen both ways.
        """
        text = config.text_config
        for field, got, expected in (
            ("vision_config", config.vision_config and "a vision tower", "a vision tower"),
            ("text_config.enable_moe_block", text.enable_moe_block, False),
            ("text_config.use_bidirectional_attention", text.use_bidirectional_attention, "null or vision"),
        ):
            if got != expected and (expected != "null or vision" or got not in (None, "vision")):
                raise CheckpointError("this Gemma 4 model is not supported", where=field, got=got, expected=expected)
        config = copy.deepcopy(config)
        config.audio_config = None
        return Gemma4ForConditionalGeneration(config)

    def side(self, config: Any) -> int:
        """Of what is pooled."""
        return int(config.vision_config.pooling_kernel_size)

    def encoder_shape(self, config: Any) -> EncoderShape:
        """Full attention in every block, gated MLPs."""
        return replace(super().encoder_shape(config), gated=True)

    def decoder_shape(self, config: Any) -> DecoderShape:
        """Sizes of the LLM and of each layer."""
        text, first = config.text_config, config.text_config.num_hidden_layers - config.text_config.num_kv_shared_layers
        layers = []
        for number, kind in enumerate(text.layer_types):
            own, shares = text.per_layer_config[number], number >= first
            reads = max(n for n in range(first) if text.layer_types[n] == kind) if shares else number
            wide = 2 if text.use_double_wide_mlp and shares else 1
            layers.append(LayerShape(own.num_key_value_heads, own.head_dim, wide * text.intermediate_size, reads))
        return shape_of(text, layers, shared=text.num_kv_shared_layers, states=places(text, first))

    def image_budgets(self, config: Any) -> tuple[int, ...]:
        """``max_soft_tokens`` of its processor."""
        return SOFT_TOKENS

    def vision(self, model: Any, plan: Plan, normalise: Normalise) -> nn.Module:
        """The tower with the plan's merges."""
        return PooledRotaryViT(model.model.vision_tower, model.model.embed_vision, plan, normalise)

    def decoder(self, model: Any, plan: Plan) -> Decoder:
        """The language model with the plan's prunes."""
        text, inner = model.config.text_config, self.language_model(model)
        rotary = rotary_embedding(inner, text)
        rope = rope_of_kinds(rotary, [kind for kind in LAYER_KINDS if kind in text.layer_types], plan)
        tokens = (model.config.image_token_id, model.config.video_token_id, model.config.audio_token_id)
        placeholders = [token for token in tokens if token is not None]
        return Gemma4Decoder(inner, model.lm_head, rope, plan, self.decoder_shape(model.config), placeholders)

    def cut(self, config: Any, grid: tuple[int, int]) -> Tiling:
        """The processor's marks around a picture."""
        plain = super().cut(config, grid)
        return replace(plain, written=(config.boi_token_id, *plain.written, config.eoi_token_id))

    def video(self, config: Any) -> Video | None:
        """Each frame a picture of few tokens behind its time (``Gemma4Processor.replace_video_token``)."""
        written = ("{clock} ", config.boi_token_id, self.image_token_id(config), config.eoi_token_id)
        return Video("<|video|>", 1, written, between=" ", tokens=SOFT_TOKENS[0])

    def reference_inputs(self, config: Any, prompt: ReferencePrompt) -> dict[str, Any]:
        """Patches row by row with their places, and which tokens are images."""
        patch, ids = config.vision_config.patch_size, self.expanded(config, prompt)
        inputs = {"input_ids": ids, "mm_token_type_ids": (ids == self.image_token_id(config)).long()}
        if not len(prompt.pixels):
            return inputs
        rows, columns = (side // patch for side in prompt.pixels.shape[2:4])
        down, across = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
        places = torch.stack([across, down], -1).flatten(0, 1).expand(len(prompt.pixels), -1, -1)
        return inputs | {"pixel_values": rows_of_patches(prompt.pixels, patch), "image_position_ids": places}

    def tiny_config(self) -> Gemma4Config:
        """3x3 patches to a token, six LLM layers of two shapes of which two share caches, a window that holds all."""
        return Gemma4Config(
            vision_config=_tiny.vision(
                num_key_value_heads=2,
                head_dim=16,
                patch_size=4,
                position_embedding_size=64,
                use_clipped_linears=True,
                standardize=True,
            ),
            text_config=_tiny.text(
                num_hidden_layers=6,
                num_key_value_heads=1,
                head_dim=16,
                global_head_dim=32,
                num_kv_shared_layers=2,
                use_double_wide_mlp=True,
                vocab_size_per_layer_input=256,
                hidden_size_per_layer_input=8,
                max_position_embeddings=512,
                sliding_window=512,
                final_logit_softcapping=30.0,
                use_bidirectional_attention="vision",
                layer_types=["sliding_attention", "full_attention"] * 3,
            ),
            audio_config=None,
            **_tiny.GEMMA_TOKENS,
        )


FAMILY = Gemma4()
