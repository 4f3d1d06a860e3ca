"""A glyph model's LLM with a LoRA for vectors of pages, in torch, for training.

``Embedder`` computes what ColQwen2ForRetrieval of transformers does of the merged checkpoint: a projection of every
token, visual tokens one behind another. ``OneVector`` computes the last token's row of Qwen2.5-VL, as `--task embed`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from glyph_deep.train.encoder import encode, rotate
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from glyph_search.checkpoint import CHAT, PADDING, PAGE, QUERY, WIDTH

RANK, RANK_OF_ONE = 16, 32
UNIT = 28  # pixels of a visual token's side
READ = 3  # layer of eight behind which facts of units are read


class Lora(nn.Module):
    """A frozen linear layer with a product of two thin matrices beside it."""

    def __init__(self, base: nn.Linear, rank: int, random: torch.Generator) -> None:
        super().__init__()
        self.base = base
        rows, columns = base.weight.shape
        self.a = nn.Parameter((torch.rand(rank, columns, generator=random) * 2 - 1) * columns**-0.5)
        self.b = nn.Parameter(torch.zeros(rows, rank))

    def forward(self, x: Tensor) -> Tensor:
        """[..., columns] -> [..., rows]."""
        return self.base(x) + nn.functional.linear(nn.functional.linear(x, self.a), self.b)


class Embedder(nn.Module):
    """Pages and queries to vectors; LoRA and projection alone train.

    Args:
        base: Folder of a glyph model.

    Attributes:
        rank: Of the LoRA.
    """

    rank = RANK

    def __init__(self, base: Path) -> None:
        super().__init__()
        model = Qwen2_5_VLForConditionalGeneration.from_pretrained(base, dtype=torch.float32)
        self.config: Qwen2_5_VLConfig = model.config
        self.inner = model.model.requires_grad_(False).eval()
        random = torch.Generator().manual_seed(0)
        self.adapted: dict[str, Lora] = {}
        llm = self.inner.language_model
        for name, layer in [(n, m) for n, m in llm.layers.named_modules() if isinstance(m, nn.Linear)]:
            self.adapted[name] = lora = Lora(layer, self.rank, random)
            parent, _, last = name.rpartition(".")
            setattr(llm.layers.get_submodule(parent), last, lora)
        self.project: nn.Module = nn.Linear(llm.config.hidden_size, WIDTH)
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
        self.project.load_state_dict({n: state[f"projection.{n}"].float() for n in self.project.state_dict()})

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
        """Vectors [B, S, 128] of embeddings [B, S, D]."""
        *_, rows = self._layers(x, torch.arange(x.shape[1]).expand(3, -1))
        return nn.functional.normalize(self.project(self.inner.language_model.norm(rows)).float(), dim=-1)

    def _layers(self, x: Tensor, places: Tensor) -> Iterator[Tensor]:
        """Rows [B, S, D] behind each layer; attention as plain products, which train faster on a CPU."""
        llm, shape = self.inner.language_model, self.inner.language_model.config
        groups, length = shape.num_attention_heads // shape.num_key_value_heads, x.shape[1]
        cos, sin = self._rotary(places, shape.hidden_size // shape.num_attention_heads)
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
            yield x

    def _rotary(self, places: Tensor, width: int) -> tuple[Tensor, Tensor]:
        """Cosines and sines [S, width] of places [3, S]: time, row and column, of which each turns a section."""
        rope = self.inner.language_model.config.rope_parameters
        frequencies = rope["rope_theta"] ** -(torch.arange(0, width, 2).float() / width)
        section = torch.arange(3).repeat_interleave(torch.tensor(rope["mrope_section"]))
        angles = (places.float()[section].T * frequencies).repeat(1, 2)
        return angles.cos(), angles.sin()


class OneVector(Embedder):
    """A page or a query to one vector, the row of its last token; LoRA alone is kept.

    Attributes:
        read: Facts that units show, from their rows behind layer ``READ``: a help in training.
        bias: What fits scores to facts that a page shows, with ``scale``.
    """

    rank = RANK_OF_ONE

    def __init__(self, base: Path, facts: int) -> None:
        super().__init__(base)
        self.project = nn.Identity()
        self.read = nn.Linear(self.config.text_config.hidden_size, facts + 1)
        self.scale, self.bias = nn.Parameter(torch.tensor(1.8)), nn.Parameter(torch.tensor(-2.4))

    def page(self, seen: Tensor, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Vectors [B, D] of pages from visual embeddings [B, N, D], and what is read of units [B, N, facts + 1]."""
        picture = "<|vision_start|><|image_pad|><|vision_end|>"
        ids = [self.tokenizer.encode(part).ids for part in CHAT.format(picture).split("<|image_pad|>")]
        embed, first = self.inner.get_input_embeddings(), len(ids[0])
        before, behind = (embed(torch.tensor(some))[None].expand(len(seen), -1, -1) for some in ids)
        rows, columns = torch.meshgrid(*map(torch.arange, grid), indexing="ij")
        units = first + torch.stack([torch.zeros_like(rows), rows, columns]).flatten(1)
        text = torch.arange(first), first + max(grid) + torch.arange(len(ids[1]))
        places = torch.cat([text[0].expand(3, -1), units, text[1].expand(3, -1)], 1)
        layers = list(self._layers(torch.cat([before, seen, behind], 1), places))
        return self._of_last(layers[-1][:, -1]), self._read(layers[READ][:, first : first + seen.shape[1]])

    def query(self, texts: list[str]) -> tuple[Tensor, Tensor]:
        """Vectors [Q, D] of queries, and what is read of their tokens [Q, T, facts + 1]."""
        rows = [self.tokenizer.encode(CHAT.format(text)).ids for text in texts]
        longest, ends = max(map(len, rows)), torch.tensor([len(row) - 1 for row in rows])
        ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
        layers = list(self._layers(self.inner.get_input_embeddings()(ids), torch.arange(longest).expand(3, -1)))
        return self._of_last(layers[-1][torch.arange(len(rows)), ends]), self._read(layers[READ])

    def _read(self, rows: Tensor) -> Tensor:
        return self.read(nn.functional.rms_norm(rows.float(), rows.shape[-1:])).float()

    def _of_last(self, rows: Tensor) -> Tensor:
        return nn.functional.normalize(self.inner.language_model.norm(rows).float(), dim=-1)
