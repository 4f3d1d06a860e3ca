"""LLM layers of published sizes in plain torch, random weights: no checkpoint, no particular transformers."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from luvc_export.core.named_plans import PICTURES
from luvc_export.core.plan import Plan
from luvc_export.core.planning import LlmRequest, PlanRequest, solve
from luvc_export.core.shapes import DecoderShape, EncoderShape
from luvc_export.export.llm.decoder import Decoder
from luvc_export.export.llm.rope import Rope, mrope_axes
from luvc_export.export.synthetic import presets

#: Qwen2.5-VL's encoder has 32 blocks, four of them with full attention (its config.json).
ENCODER = EncoderShape(32, 1280, 3420, 4, 4, (7, 15, 23, 31))
TINY = DecoderShape(layers=4, hidden=64, heads=4, kv_heads=2, head_dim=32, intermediate=96, vocab=128, context=4096)
MROPE_SECTION = {128: [16, 24, 24], 32: [4, 6, 6]}


def shape_of(name: str) -> DecoderShape:
    """LLM sizes of a preset of ``make-random``, or ``tiny``."""
    if name == "tiny":
        return TINY
    config = presets.find(name).config
    text = {**config, **config.get("text_config", {})}
    heads = text["num_attention_heads"]
    return DecoderShape(
        *(text["num_hidden_layers"], text["hidden_size"], heads, text["num_key_value_heads"]),
        *(text["hidden_size"] // heads, text["intermediate_size"], text["vocab_size"], text["max_position_embeddings"]),
    )


def plans(shape: DecoderShape, grid: tuple[int, int], text: int, encoder: EncoderShape = ENCODER) -> dict[str, Plan]:
    """No compression, and every plan for pictures that has a name, with ``text`` tokens of text."""
    requests = {name: PlanRequest(LlmRequest(name, text=text)) for name in ("none", *PICTURES)}
    return {name: solve(request, grid, shape, encoder) for name, request in requests.items()}


class Norm(nn.Module):
    """RMSNorm under the names of transformers' modules."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight, self.variance_epsilon = nn.Parameter(torch.ones(size)), 1e-6


class Mlp(nn.Module):
    """Gated MLP."""

    def __init__(self, shape: DecoderShape) -> None:
        super().__init__()
        self.gate, self.up = (nn.Linear(shape.hidden, shape.intermediate, bias=False) for _ in range(2))
        self.down = nn.Linear(shape.intermediate, shape.hidden, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(nn.functional.silu(self.gate(x)) * self.up(x))


class Layer(nn.Module):
    """One LLM layer under the names ``Decoder`` reads."""

    def __init__(self, shape: DecoderShape) -> None:
        super().__init__()
        wide, narrow = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
        self.self_attn = nn.Module()
        for name, size in (("q_proj", wide), ("k_proj", narrow), ("v_proj", narrow)):
            setattr(self.self_attn, name, nn.Linear(shape.hidden, size))
        self.self_attn.o_proj = nn.Linear(wide, shape.hidden, bias=False)
        self.input_layernorm, self.post_attention_layernorm = Norm(shape.hidden), Norm(shape.hidden)
        self.mlp = Mlp(shape)


class Model:
    """Weights once, decoders for any plan on top of them."""

    def __init__(self, shape: DecoderShape, device: str, dtype: torch.dtype) -> None:
        self.shape, self.device, self.dtype = shape, device, dtype
        torch.manual_seed(0)
        before = torch.get_default_dtype()
        torch.set_default_dtype(dtype)
        try:
            with torch.device(device):
                layers = nn.ModuleList(Layer(shape) for _ in range(shape.layers))
                embed, head = nn.Embedding(shape.vocab, shape.hidden), nn.Linear(shape.hidden, shape.vocab, bias=False)
                self.text = SimpleNamespace(embed_tokens=embed, layers=layers, norm=Norm(shape.hidden))
                self.head = head
        finally:
            torch.set_default_dtype(before)

    def decoder(self, plan: Plan) -> Decoder:
        """The LLM with the prunes of ``plan``."""
        half = self.shape.head_dim // 2
        frequencies = 1e6 ** -(torch.arange(half) / half)
        rope = Rope(frequencies, mrope_axes(MROPE_SECTION[self.shape.head_dim]))
        return Decoder(self.text, self.head, self.shape.head_dim, rope, plan).to(self.device).eval()

    def prompt(self, plan: Plan, text: int) -> dict[str, Any]:
        """Inputs of a prompt with one image before ``text`` tokens, by argument name of ``Decoder.forward``."""
        tokens = plan.vision_tokens
        inputs: dict[str, Any] = {
            "visual_embeds": torch.randn(1, 1, tokens, self.shape.hidden).to(self.dtype),
            "input_ids": torch.randint(self.shape.vocab, (1, text)),
            "visual_position_ids": torch.arange(tokens).expand(3, 1, tokens).float(),
            "position_ids": (torch.arange(text) + tokens).expand(3, 1, text).float(),
            "visual_order": torch.arange(tokens)[None],
            "order": torch.arange(text)[None] + tokens,
            "text_mask": torch.ones(1, text, dtype=torch.bool),
            "logits_indices": torch.tensor([[text - 1]]),
        }
        caches = torch.zeros(1, self.shape.kv_heads, 0, self.shape.head_dim, dtype=self.dtype, device=self.device)
        moved = {name: value.to(self.device) for name, value in inputs.items()}
        return {**moved, "past": [caches] * (2 * self.shape.layers)}

    def step(self, plan: Plan, text: int, past: list[Tensor]) -> dict[str, Any]:
        """Inputs of the token after that prompt."""
        inputs = self.prompt(plan, 1)
        inputs["visual_embeds"] = inputs["visual_embeds"][:, :0]
        for name in ("visual_position_ids", "visual_order"):
            inputs[name] = inputs[name][..., :0]
        inputs["position_ids"], inputs["order"] = inputs["position_ids"] + text, inputs["order"] + text
        inputs["text_mask"] = torch.ones(1, text + 1, dtype=torch.bool, device=self.device)
        return {**inputs, "past": past}
