"""SmolLM2's layers, frozen, with LoRA and a projection of glyph_deep's features beside them, for training.

All questions of a picture share one pass over it: each sees the picture and itself alone. What is computed is what
transformers' Qwen2.5-VL computes of [picture, question] (the tests hold the two against each other).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.nn.functional import embedding, linear, scaled_dot_product_attention, silu

#: Fused matrices of a layer and the parts of the checkpoint's that stand in them, in their order.
FUSED = {
    "qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "o": ("self_attn.o_proj",),
    "gate_up": ("mlp.gate_proj", "mlp.up_proj"),
    "down": ("mlp.down_proj",),
}
STEM = "model."
PROJECTION = "visual.merger.mlp.2."
Attend = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Shape:
    """A base checkpoint's language model: layers, heads, those of keys and values, a head's width, its M-RoPE."""

    layers: int
    heads: int
    key_heads: int
    width: int
    theta: float
    sections: tuple[int, ...]
    epsilon: float

    @classmethod
    def of(cls, base: Path) -> Shape:
        """Return the shape of a base checkpoint."""
        text = json.loads((base / "config.json").read_text())["text_config"]
        heads, rope = text["num_attention_heads"], text["rope_parameters"]
        return cls(
            text["num_hidden_layers"],
            heads,
            text["num_key_value_heads"],
            text["hidden_size"] // heads,
            rope["rope_theta"],
            tuple(rope["mrope_section"]),
            text["rms_norm_eps"],
        )

    def rotary(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Return cosines and sines [S, width] of M-RoPE positions [3, S] (time, row, column)."""
        frequencies = self.theta ** -(torch.arange(0, self.width, 2).float() / self.width)
        parts = (positions.float()[..., None] * frequencies).split(self.sections, -1)
        angles = torch.cat([part[i] for i, part in enumerate(parts)] * 2, -1)
        return angles.cos(), angles.sin()

    def normed(self, x: Tensor, weight: Tensor) -> Tensor:
        """Return x over its root mean square, times the weight."""
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.epsilon) * weight


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate queries or keys [B, heads, S, 64]."""
    a, b = x.chunk(2, -1)
    return x * cos + torch.cat([-b, a], -1) * sin


def causal(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention of one text."""
    return scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)


def side_by_side(prefix: int, questions: int, length: int) -> Attend:
    """Return the attention of a prefix followed by questions of one length that do not see each other."""
    seen = torch.ones(length, prefix + length, dtype=torch.bool).tril(prefix)

    def rows(x: Tensor) -> Tensor:
        """[B, heads, Q * T, 64] to [B * Q, heads, T, 64]."""
        return x.unflatten(2, (questions, length)).transpose(1, 2).flatten(0, 1)

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        own = [rows(x[:, :, prefix:]) for x in (q, k, v)]
        shared = [x[:, :, :prefix] for x in (q, k, v)]
        keys, values = (
            torch.cat([a.repeat_interleave(questions, 0), b], 2) for a, b in zip(shared[1:], own[1:], strict=True)
        )
        out = scaled_dot_product_attention(own[0], keys, values, attn_mask=seen, enable_gqa=True)
        out = out.unflatten(0, (-1, questions)).transpose(1, 2).flatten(2, 3)
        return torch.cat([causal(*shared), out], 2)

    return attend


class Instrument(nn.Module):
    """The language model of a base checkpoint in float32; only LoRA, projection and the picture's two marks train.

    It lies on torch's default device.

    With `bare` it is the base model: the LoRA is switched off (the projection stays).
    """

    def __init__(self, base: Path, rank: int) -> None:
        super().__init__()
        self.shape, self.bare = Shape.of(base), False
        device = torch.get_default_device()
        with safe_open(base / "model.safetensors", "pt", str(device)) as file:
            self.table, self.final = (file.get_tensor(STEM + n) for n in ("embed_tokens.weight", "norm.weight"))
            self.layers = [self._layer(file, f"{STEM}layers.{i}.") for i in range(self.shape.layers)]
            self.project = nn.Linear(512, self.table.shape[1])
            self.project.load_state_dict({n: file.get_tensor(PROJECTION + n) for n in ("weight", "bias")})
        self.first = len(self.table) - 4  # <|vision_start|>, <|vision_end|>, <|image_pad|>, <|video_pad|>
        self.marks = nn.Parameter(self.table[self.first : self.first + 2].clone())
        random = torch.Generator("cpu").manual_seed(0)
        self.a, self.b = nn.ParameterDict(), nn.ParameterDict()
        for i, layer in enumerate(self.layers):
            for name in FUSED:
                rows, columns = layer[name].shape
                self.a[f"{i}_{name}"] = nn.Parameter(
                    (torch.rand(rank, columns, generator=random, device="cpu") * 2 - 1).to(device) * columns**-0.5
                )
                self.b[f"{i}_{name}"] = nn.Parameter(torch.zeros(rows, rank))

    @staticmethod
    def _layer(file: safe_open, stem: str) -> dict[str, Tensor]:
        """Return a layer's fused matrices and the weights of its norms."""
        fused = {n: torch.cat([file.get_tensor(f"{stem}{p}.weight") for p in parts]) for n, parts in FUSED.items()}
        norms = {n: file.get_tensor(f"{stem}{n}.weight") for n in ("input_layernorm", "post_attention_layernorm")}
        return fused | norms

    def adapted(self, i: int, name: str, x: Tensor) -> Tensor:
        """Return layer i's fused product of x, the LoRA's share in it."""
        y = linear(x, self.layers[i][name])
        return y if self.bare else y + linear(linear(x, self.a[f"{i}_{name}"]), self.b[f"{i}_{name}"])

    def run(self, x: Tensor, positions: Tensor, attend: Attend) -> Tensor:
        """Return final hidden states [B, S, 576] of embeddings [B, S, 576] at M-RoPE positions [3, S]."""
        shape = self.shape
        cos, sin = shape.rotary(positions)
        for i, layer in enumerate(self.layers):
            qkv = self.adapted(i, "qkv", shape.normed(x, layer["input_layernorm"]))
            rows = qkv.unflatten(-1, (-1, shape.width)).transpose(1, 2)
            q, k, v = rows.split((shape.heads, shape.key_heads, shape.key_heads), 1)
            mixed = attend(rotate(q, cos, sin), rotate(k, cos, sin), v)
            x = x + self.adapted(i, "o", mixed.transpose(1, 2).flatten(2))
            gate, up = self.adapted(i, "gate_up", shape.normed(x, layer["post_attention_layernorm"])).chunk(2, -1)
            x = x + self.adapted(i, "down", silu(gate) * up)
        return shape.normed(x, self.final)

    def embed(self, ids: Tensor) -> Tensor:
        """Return embeddings [..., 576] of token ids [...], the picture's marks as they are trained."""
        x = embedding(ids, self.table)
        for k, mark in enumerate(self.marks):
            x = torch.where((ids == self.first + k)[..., None], mark, x)
        return x

    def read(self, ids: Tensor) -> Tensor:
        """Return final hidden states [B, T, 576] of texts ids [B, T]."""
        return self.run(self.embed(ids), torch.arange(ids.shape[1]).expand(3, -1), causal)

    def answer(self, head: list[int], features: Tensor, grid: tuple[int, int], ids: Tensor) -> Tensor:
        """Return final hidden states [B, Q, T, 576] of questions ids [B, Q, T] about pictures.

        `head` are the ids before the picture, <|vision_start|> last; features [B, rows * columns, 512] are the
        encoder's before its last projection, grid their rows and columns.
        """
        visual = self.project(features)
        (b, n, _), h = visual.shape, len(head)
        start, end = (self.embed(torch.tensor(x))[None].expand(b, -1, -1) for x in (head, [self.first + 1]))
        rows, columns = torch.meshgrid(*(torch.arange(side) for side in grid), indexing="ij")
        picture = h + torch.stack([torch.zeros(n), rows.flatten(), columns.flatten()])
        closing = torch.full((3, 1), h + max(grid))
        positions = torch.cat([torch.arange(h).expand(3, -1), picture, closing], 1)
        return self._after(torch.cat([start, visual, end], 1), positions, ids)

    def ask(self, head: list[int], ids: Tensor) -> Tensor:
        """Return final hidden states [Q, T, 576] of texts ids [Q, T] that each follow the ids `head`."""
        prefix = self.embed(torch.tensor([head]))
        return self._after(prefix, torch.arange(len(head)).expand(3, -1), ids[None])[0]

    def _after(self, prefix: Tensor, positions: Tensor, ids: Tensor) -> Tensor:
        """Return final hidden states [B, Q, T, 576] of ids [B, Q, T] after prefixes [B, P, 576] at positions [3, P]."""
        _, questions, length = ids.shape
        after = positions.max() + 1 + torch.arange(length).repeat(questions)
        x = torch.cat([prefix, self.embed(ids).flatten(1, 2)], 1)
        positions = torch.cat([positions, after.expand(3, -1)], 1)
        hidden = self.run(x, positions, side_by_side(prefix.shape[1], questions, length))
        return hidden[:, prefix.shape[1] :].unflatten(1, (questions, length))

    def logits(self, hidden: Tensor) -> Tensor:
        """Return logits [..., vocabulary] of final hidden states."""
        return linear(hidden, self.table)
