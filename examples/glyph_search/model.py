"""A glyph model's LLM with a LoRA and a projection for vectors of pages, in torch, for training.

What is computed is what ColQwen2ForRetrieval of transformers computes of the merged checkpoint: visual tokens stand one
behind another.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from glyph_deep.train.encoder import encode, rotate
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from glyph_search.checkpoint import PADDING, PAGE, QUERY, WIDTH

RANK = 16
UNIT = 28  # pixels of a visual token's side


class Lora(nn.Module):
    """A frozen linear layer with a product of two thin matrices beside it."""

    def __init__(self, base: nn.Linear, random: torch.Generator) -> None:
        super().__init__()
        self.base = base
        rows, columns = base.weight.shape
        self.a = nn.Parameter((torch.rand(RANK, columns, generator=random) * 2 - 1) * columns**-0.5)
        self.b = nn.Parameter(torch.zeros(rows, RANK))

    def forward(self, x: Tensor) -> Tensor:
        """[..., columns] -> [..., rows]."""
        return self.base(x) + nn.functional.linear(nn.functional.linear(x, self.a), self.b)


class Embedder(nn.Module):
    """Pages and queries to vectors; LoRA and projection alone train.

    Args:
        base: Folder of a glyph model.
    """

    def __init__(self, base: Path) -> None:
        super().__init__()
        model = Qwen2_5_VLForConditionalGeneration.from_pretrained(base, dtype=torch.float32)
        self.config: Qwen2_5_VLConfig = model.config
        self.inner = model.model.requires_grad_(False).eval()
        random = torch.Generator().manual_seed(0)
        self.adapted: dict[str, Lora] = {}
        llm = self.inner.language_model
        for name, layer in [(n, m) for n, m in llm.layers.named_modules() if isinstance(m, nn.Linear)]:
            self.adapted[name] = lora = Lora(layer, random)
            parent, _, last = name.rpartition(".")
            setattr(llm.layers.get_submodule(parent), last, lora)
        self.project = nn.Linear(llm.config.hidden_size, WIDTH)
        self.scale = nn.Parameter(torch.tensor(0.5))
        self.tokenizer = Tokenizer.from_file(str(base / "tokenizer.json"))

    def small(self) -> dict[str, Tensor]:
        """What is trained and kept."""
        own = {f"{name}.{part}": getattr(lora, part) for name, lora in self.adapted.items() for part in "ab"}
        projection = {f"projection.{n}": p for n, p in self.project.named_parameters()}
        return {name: tensor.detach().half().contiguous() for name, tensor in (own | projection).items()}

    def save(self, file: Path) -> None:
        """Write the small weights."""
        save_file(self.small(), file)

    @torch.no_grad()
    def load(self, file: Path) -> None:
        """Take a file's small weights."""
        state = load_file(file)
        for name, lora in self.adapted.items():
            lora.a.copy_(state[f"{name}.a"])
            lora.b.copy_(state[f"{name}.b"])
        self.project.load_state_dict({n: state[f"projection.{n}"].float() for n in ("weight", "bias")})

    @torch.no_grad()
    def see(self, pictures: NDArray[np.uint8]) -> Tensor:
        """Visual embeddings [B, N, D] of pictures uint8 [B, H, W, 3]."""
        return encode(self.inner.visual, pictures)

    def pages(self, seen: Tensor) -> Tensor:
        """Vectors [B, S, 128] of pages from visual embeddings [B, N, D]."""
        ids = [self.tokenizer.encode(part).ids for part in PAGE.split("<|image_pad|>")]
        embed = self.inner.get_input_embeddings()
        before, behind = (embed(torch.tensor(some))[None].expand(len(seen), -1, -1) for some in ids)
        return self._vectors(torch.cat([before, seen, behind], 1))

    def queries(self, facts: list[tuple[str, ...]]) -> tuple[Tensor, Tensor, list[tuple[int, int]]]:
        """Vectors [Q, T, 128] of queries of some facts, which are no padding, and where facts end.

        The second is bool [Q, T]; the third (query, token) of each fact of each query, one after another.
        """
        frame = f"{QUERY}{{}}{PADDING * 10}\n"
        read = [self.tokenizer.encode(frame.format(" ".join(some))) for some in facts]
        rows, ends = [one.ids for one in read], []
        for at, some in enumerate(facts):
            first = frame.index("{}")
            for count in range(1, len(some) + 1):
                end = first + len(" ".join(some[:count]))
                ends.append((at, next(i for i, (_, stop) in enumerate(read[at].offsets) if stop == end)))
        longest = max(map(len, rows))
        ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
        real = torch.tensor([[True] * len(row) + [False] * (longest - len(row)) for row in rows])
        return self._vectors(self.inner.get_input_embeddings()(ids)), real, ends

    def _vectors(self, x: Tensor) -> Tensor:
        """Vectors [B, S, 128] of embeddings [B, S, D]; attention as plain products, which train faster on a CPU."""
        llm, length = self.inner.language_model, x.shape[1]
        shape = llm.config
        groups = shape.num_attention_heads // shape.num_key_value_heads
        cos, sin = self._rotary(length, shape.hidden_size // shape.num_attention_heads)
        later = torch.ones(1, length, length, dtype=torch.bool).triu(1)
        for layer in llm.layers:
            normed, own = layer.input_layernorm(x), layer.self_attn
            heads = [own.q_proj(normed), own.k_proj(normed), own.v_proj(normed)]
            q, k, v = (part.unflatten(-1, (-1, len(cos[0]))).transpose(1, 2) for part in heads)
            q, k = (rotate(part, cos.to(part.dtype), sin.to(part.dtype)) for part in (q, k))
            q = q.unflatten(1, (-1, groups))
            weights = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)[:, :, None]
            mixed = weights.masked_fill(later, float("-inf")).softmax(-1, dtype=q.dtype) @ v[:, :, None]
            x = x + own.o_proj(mixed.flatten(1, 2).transpose(1, 2).flatten(2))
            x = x + layer.mlp(layer.post_attention_layernorm(x))
        return nn.functional.normalize(self.project(llm.norm(x)).float(), dim=-1)

    def _rotary(self, length: int, width: int) -> tuple[Tensor, Tensor]:
        """Cosines and sines [S, width] of positions one behind another."""
        theta = self.inner.language_model.config.rope_parameters["rope_theta"]
        frequencies = theta ** -(torch.arange(0, width, 2).float() / width)
        angles = (torch.arange(length).float()[:, None] * frequencies).repeat(1, 2)
        return angles.cos(), angles.sin()
