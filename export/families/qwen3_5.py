"""Qwen3.5 (dense): Qwen3-VL's tower without DeepStack, gated DeltaNet in three of four layers, gated attention."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Qwen3_5Config, Qwen3_5ForConditionalGeneration
from transformers.activations import ACT2FN

from luvc_export.core.plan import Plan
from luvc_export.core.shapes import DecoderShape, LayerShape, State
from luvc_export.export.families import _tiny
from luvc_export.export.families.qwen3_vl import Qwen3VL
from luvc_export.export.layers import rms_norm, split_heads
from luvc_export.export.llm.decoder import Decoder
from luvc_export.export.llm.gemma import UnitNormDecoder
from luvc_export.export.llm.span import Parts
from luvc_export.export.llm.states import delta_rule
from luvc_export.export.llm.states.logical_order import LogicalOrder

#: What a layer without keys keeps: the last inputs of its convolution, and its matrix of each head.
CONVOLUTION, RECURRENT = "convolution", "recurrent"
#: Under the root of a head's sum of squares (``l2norm``).
_EPSILON = 1e-6


class Qwen35Decoder(UnitNormDecoder):
    """Norms around 1; attention behind a gate, heads turned in part; or the gated delta rule, in fp32."""

    def parts(self, layer: Any) -> Parts:
        """Layers of the rule have the first norm alone."""
        return super().parts(layer) if hasattr(layer, "self_attn") else Parts(layer.input_layernorm, None)

    def queries(self, layer: Any, normed: Tensor) -> Tensor:
        """The first half of each head of the product."""
        return self._halves(layer, normed)[0].transpose(1, 2)

    def gate(self, layer: Any, normed: Tensor) -> Tensor | None:
        """The second half, a share of each number."""
        return torch.sigmoid(self._halves(layer, normed)[1].flatten(2))

    def _halves(self, layer: Any, normed: Tensor) -> tuple[Tensor, Tensor]:
        """Queries and gates [B, S, heads, Dh]; a graph has the product once."""
        both = layer.self_attn.q_proj(normed).unflatten(-1, (-1, 2 * self.head_dim))
        query, gate = both.chunk(2, -1)
        return query, gate

    def mix(
        self, layer: Any, normed: Tensor, held: Mapping[str, Tensor], logical: LogicalOrder
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Convolution, then the rule over queries, keys and values of each row; padding changes no state."""
        net, length = layer.linear_attn, normed.shape[1]
        taps = net.conv1d.weight.shape[2]
        before = held[CONVOLUTION].to(normed.dtype)
        rows = torch.cat([before, logical.arrange(net.in_proj_qkv(normed))], 1)
        shifted = [rows[:, tap : tap - taps + 1 or None] for tap in range(taps)]
        mixed = ACT2FN[net.activation](sum(part * net.conv1d.weight[:, 0, tap] for tap, part in enumerate(shifted)))
        query, key, value = mixed.float().split([net.key_dim, net.key_dim, net.value_dim], -1)
        rates = logical.arrange(torch.cat([net.in_proj_b(normed), net.in_proj_a(normed)], -1)).float()
        beta, decay = rates.chunk(2, -1)
        decay = -net.A_log.float().exp() * nn.functional.softplus(decay + net.dt_bias.float())
        real = (torch.arange(length) < logical.count)[:, :, None].float()
        times = net.num_v_heads // net.num_k_heads
        ruled = delta_rule.Rows(
            _repeated(_unit(split_heads(query, net.head_k_dim)), times) * net.head_k_dim**-0.5,
            _repeated(_unit(split_heads(key, net.head_k_dim)), times),
            split_heads(value, net.head_v_dim),
            (decay * real).transpose(1, 2),
            (torch.sigmoid(beta) * real).transpose(1, 2),
        )
        out, after = delta_rule.gated_delta_rule(ruled, held[RECURRENT], logical.rows)
        read = logical.back(out.transpose(1, 2).flatten(2).to(normed.dtype)).unflatten(-1, (-1, net.head_v_dim))
        gate = net.in_proj_z(normed).unflatten(-1, (-1, net.head_v_dim))
        gated = rms_norm(net.norm, read) * nn.functional.silu(gate.float()).to(read.dtype)
        kept = {CONVOLUTION: logical.last(rows, taps - 1).float(), RECURRENT: after}
        return net.out_proj(gated.flatten(2)), kept


def _unit(x: Tensor) -> Tensor:
    """Of length 1."""
    return x * torch.rsqrt((x * x).sum(-1, keepdim=True) + _EPSILON)


def _repeated(x: Tensor, times: int) -> Tensor:
    """[B, H, S, D] -> [B, H * times, S, D], each head beside itself."""
    return x if times == 1 else x[:, :, None].expand(-1, -1, times, -1, -1).flatten(1, 2)


class Qwen35(Qwen3VL):
    """Qwen3.5, dense, without several tokens ahead (``mtp``). Videos are Qwen3-VL's: both have one processor."""

    model_type = "qwen3_5"
    architecture = Qwen3_5ForConditionalGeneration
    also = ()
    limits: tuple[str, ...] = (
        "mixtures of experts, which are qwen3_5_moe",
        f"contexts above {delta_rule.MOST_ROWS:,} tokens",
        "compression inside transformers",
    )

    def tapped(self, config: Any) -> tuple[int, ...]:
        """None: the embedding alone."""
        return ()

    def decoder_shape(self, config: Any) -> DecoderShape:
        """Sizes of the LLM, and what layers of the delta rule keep in place of keys."""
        text, layers, states = config.text_config, list[LayerShape](), list[State]()
        key_size, value_size = text.linear_key_head_dim, text.linear_value_head_dim
        keys, values = text.linear_num_key_heads * key_size, text.linear_num_value_heads * value_size
        wide, heads, taps = 2 * keys + values, text.linear_num_value_heads, text.linear_conv_kernel_dim
        products = text.hidden_size * (wide + 2 * values + 2 * heads) + wide * taps + 4 * values * key_size
        for number, kind in enumerate(text.layer_types):
            keyed = kind == "full_attention"
            kv_heads, mixer = (text.num_key_value_heads, 0) if keyed else (0, products)
            layers.append(LayerShape(kv_heads, text.head_dim, text.intermediate_size, number, mixer))
            if not keyed:
                states.append(State(number, CONVOLUTION, (taps - 1, wide), "float32"))
                states.append(State(number, RECURRENT, (heads, key_size, value_size), "float32"))
        shape = super().decoder_shape(config)
        context = min(shape.context, delta_rule.MOST_ROWS)
        return replace(shape, context=context, per_layer=tuple(layers), states=tuple(states))

    def decoder(self, model: Any, plan: Plan) -> Decoder:
        """The language model with the plan's prunes."""
        inner, shape, rope = self.language_model(model), self.decoder_shape(model.config), self.rope(model, plan, True)
        return Qwen35Decoder(
            inner, model.lm_head, shape.head_dim, rope, plan, states=shape.states, keyless=shape.keyless
        )

    def tiny_config(self) -> Qwen3_5Config:
        """Three blocks; every other of four LLM layers has attention, two value heads share a key head."""
        return Qwen3_5Config(
            vision_config=_tiny.qwen_vision(patch_size=8, num_position_embeddings=36),
            text_config=_tiny.text(
                num_hidden_layers=4,
                head_dim=32,
                linear_num_key_heads=2,
                linear_num_value_heads=4,
                linear_key_head_dim=16,
                linear_value_head_dim=12,
                layer_types=["linear_attention", "full_attention"] * 2,
                rope_parameters=_tiny.mrope(4, 2, 2, partial_rotary_factor=0.5, mrope_interleaved=True),
                **_tiny.ENDS,
            ),
            **_tiny.QWEN_TOKENS,
        )


FAMILY = Qwen35()
