"""The bundled model with more words; a film's embeddings, its positions, and what its visual tokens are taught."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from glyph_vqa.decoder import Prefix
from glyph_vqa.model import build, configuration, encode
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor
from transformers import Qwen2_5_VLForConditionalGeneration

from luvc_export.demo import CHECKPOINT

from .films import DIRECTIONS, FRAMES, GRID, MOMENTS, MOST_CHANGES, Film
from .tokenizer import VOCABULARY

SPECIAL_OF_CONFIG = (
    "<|endoftext|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>",
)  # fmt: skip
UNITS = MOMENTS * GRID[0] * GRID[1]
#: What a visual token of an actor is taught to know by its moment: how many came before, where it went, its changes.
LABELS = {"rank": 4, "direction": len(DIRECTIONS), "changes": MOST_CHANGES + 1}


def renamed(name: str) -> str:
    """Return the name in memory of a tensor as transformers writes it on disk."""
    if name.startswith("visual."):
        return f"model.{name}"
    if name.startswith("model.") and not name.startswith(("model.visual.", "model.language_model.")):
        return f"model.language_model.{name.removeprefix('model.')}"
    return name


def grow(tokenizer: Tokenizer, folder: Path = CHECKPOINT, seed: int = 0) -> Qwen2_5_VLForConditionalGeneration:
    """Return a float32 model that is the checkpoint in `folder`; words it does not know start small and at random."""
    special = {name: tokenizer.token_to_id(name) for name in SPECIAL_OF_CONFIG}
    model = build(configuration(VOCABULARY, special), seed)
    own = model.state_dict()
    before = json.loads((folder / "tokenizer.json").read_text())
    ids = {**{t["content"]: t["id"] for t in before["added_tokens"]}, **before["model"]["vocab"]}
    for name, value in ((renamed(k), v.float()) for k, v in load_file(folder / "model.safetensors").items()):
        if "embed_tokens" not in name and "lm_head" not in name:
            own[name].copy_(value)
            continue
        own[name].mul_(0.3)
        for token, i in ids.items():
            if (new := tokenizer.token_to_id(token)) is not None:
                own[name][new] = value[i]
    return model


def load(folder: Path) -> Qwen2_5_VLForConditionalGeneration:
    """Return a checkpoint in float32."""
    return Qwen2_5_VLForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)


@torch.no_grad()
def embeddings(model: Qwen2_5_VLForConditionalGeneration, frames: np.ndarray) -> Tensor:
    """Return visual embeddings [B, 288, 192] of films, uint8 [B, 16, H, W, 3]; both frames of a moment show the same.

    The encoder takes pairs of frames; here the first stands for both, which differ in grain alone.
    """
    moments = frames[:, ::2].reshape(-1, *frames.shape[2:])
    return encode(model, moments).float().view(len(frames), -1, encode_width(model))


def encode_width(model: Qwen2_5_VLForConditionalGeneration) -> int:
    """Return the width of a visual embedding."""
    return int(model.config.text_config.hidden_size)


def prefix(
    model: Qwen2_5_VLForConditionalGeneration, tokenizer: Tokenizer, visual: Tensor, shown: Tensor | None = None
) -> Prefix:
    """Return the chat header and a film, with the positions of `core.token_layout` at 8 frames a second.

    A moment is two frames, a quarter of a second, one time position (4 a second); text goes on after the largest.
    `shown` [B, K] are the units, in order, that the LLM gets to see; all by default.
    """
    ids = tokenizer.encode("<|im_start|>user\n<|vision_start|>").ids
    positions = [(i, i, i) for i in range(len(ids))]
    moments = visual.shape[1] // (GRID[0] * GRID[1])
    first = len(ids)
    positions += [
        (first + t, first + r, first + c) for t in range(moments) for r in range(GRID[0]) for c in range(GRID[1])
    ]
    end = first + max(moments - 1, GRID[0] - 1, GRID[1] - 1) + 1
    positions.append((end, end, end))
    places = torch.tensor(positions).T
    if shown is not None:
        visual = visual.gather(1, shown[..., None].expand(-1, -1, visual.shape[-1]))
        taken = places[:, first:-1][:, shown]
        ends = (places[:, None, :first].expand(-1, len(visual), -1), places[:, None, -1:].expand(-1, len(visual), -1))
        places = torch.cat([ends[0], taken, ends[1]], 2)
    embed = model.model.language_model.embed_tokens
    text = embed(torch.tensor([*ids, tokenizer.token_to_id("<|vision_end|>")])).to(visual.dtype)
    rows = len(visual)
    states = torch.cat([text[None, :-1].expand(rows, -1, -1), visual, text[None, -1:].expand(rows, -1, -1)], 1)
    seen = torch.zeros(places.shape[-1], dtype=torch.bool)
    seen[first:-1] = True
    return Prefix(states, places, seen)


def labels(film: Film) -> np.ndarray:
    """Return int64 [288, 3]: see `LABELS`, as far as the film has gone at the token's moment; -1 where no actor is."""
    names, targets = list(DIRECTIONS), np.full((MOMENTS, *GRID, len(LABELS)), -1, np.int64)
    for moment in range(MOMENTS):
        for rank, actor in enumerate(film.actors):
            if moment < actor.comes:
                continue
            gone = actor.steps[moment] > actor.steps[actor.comes]
            digits = actor.digits[actor.comes : moment + 1]
            targets[moment][film.owner[moment] == rank] = (
                rank,
                names.index(actor.direction if gone else "none"),
                sum(a != b for a, b in pairwise(digits)),
            )
    return targets.reshape(-1, len(LABELS))


assert FRAMES == 2 * MOMENTS
