"""The shallow model, grown from glyph_deep: LLM layers that begin as the identity, encoder blocks that fade away.

glyph_deep hands its LLM embeddings that say all there is to know of a unit, so freezing visual rows in the LLM may be
free by construction. Here blocks 3 to 11 of its encoder fade to nothing in training while the LLM, four layers deeper,
learns from answers alone to do their work on visual rows. What stays of the encoder sees 112 pixels at a time and is
not trained, its merger is.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import torch
from glyph_deep.data.tokenizer import build_tokenizer
from glyph_deep.train import model as deep
from glyph_vqa.model import build
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

BEFORE = Path(deep.__file__).parents[1] / "checkpoint"
BLOCKS = 3  # encoder blocks that stay, none of which sees the whole picture
LAYERS = 12
PLACES = (2, 4, 5, 7, 8, 9, 10, 11)  # where glyph_deep's eight LLM layers stand among the twelve
RAMP = 3.0  # blocks that fade at a time
#: The LLM's residual stream is scaled by this, which changes nothing it computes: glyph_deep's visual embeddings have
#: norm 1, and beside so small a stream an optimiser's first steps in new layers drown it.
SCALE = 10.0


def configuration(blocks: int) -> Qwen2_5_VLConfig:
    """Return glyph_deep's configuration with twelve LLM layers and the first `blocks` of its encoder blocks."""
    tokenizer = build_tokenizer()
    config = deep.deeper({name: tokenizer.token_to_id(name) for name in deep.SPECIAL_OF_CONFIG})
    config.vision_config.depth = blocks
    config.vision_config.fullatt_block_indexes = [i for i in deep.FULL_ATTENTION if i < blocks]
    config.text_config.num_hidden_layers = LAYERS
    config.text_config.layer_types = ["full_attention"] * LAYERS
    return config


def moved(name: str) -> str:
    """Return the shallow model's name of a tensor of glyph_deep."""
    stem = "language_model.layers."
    before, there, rest = name.partition(stem)
    if not there:
        return name
    number, _, tail = rest.partition(".")
    return f"{before}{stem}{PLACES[int(number)]}.{tail}"


def grow(folder: Path = BEFORE, seed: int = 0) -> Qwen2_5_VLForConditionalGeneration:
    """Return a float32 model with all of glyph_deep's encoder blocks that answers as glyph_deep does."""
    model = build(configuration(deep.DEPTH), seed)
    own = model.state_dict()
    for name, value in own.items():
        if "language_model.layers." in name and name.endswith(("o_proj.weight", "down_proj.weight")):
            value.zero_()
    for name, value in load_file(folder / "model.safetensors").items():
        own[moved(deep.rename(name))].copy_(value.float())
    rescale(model)
    return model


@torch.no_grad()
def rescale(model: Qwen2_5_VLForConditionalGeneration) -> None:
    """Scale the LLM's residual stream by `SCALE`: all that writes into it, and the last norm the other way."""
    text = model.model.language_model
    last = model.model.visual.merger.mlp[2]
    for tensor in (text.embed_tokens.weight, last.weight, last.bias):
        tensor.mul_(SCALE)
    for layer in text.layers:
        layer.self_attn.o_proj.weight.mul_(SCALE)
        layer.mlp.down_proj.weight.mul_(SCALE)
    text.norm.weight.div_(SCALE)


def shares(progress: float) -> list[float]:
    """Return what each of the twelve encoder blocks still adds, 1 to 0, when `progress` (0 to 1) of the fading is over.

    The last block goes first, `RAMP` of them fade at a time.
    """
    gone = progress * (deep.DEPTH - BLOCKS + RAMP - 1)
    last = deep.DEPTH - 1
    return [1.0 if b < BLOCKS else min(max(1.0 - (gone - (last - b)) / RAMP, 0.0), 1.0) for b in range(deep.DEPTH)]


class Faded(nn.Module):
    """A module whose output counts for `share`."""

    def __init__(self, inner: nn.Module, share: float) -> None:
        super().__init__()
        self.inner, self.share = inner, share

    def forward(self, x: Tensor) -> Tensor:
        """Return the inner module's output of x [..., D], times the share."""
        return self.inner(x) * self.share


def faded(visual: nn.Module, parts: list[float]) -> SimpleNamespace:
    """Return what `glyph_deep.train.encoder.encode` needs of an encoder whose blocks add `parts` of what they did."""
    blocks = []
    for block, share in zip(visual.blocks, parts, strict=True):
        if share > 0:
            attention = SimpleNamespace(
                qkv=block.attn.qkv, proj=Faded(block.attn.proj, share), num_heads=block.attn.num_heads
            )
            blocks.append(
                SimpleNamespace(norm1=block.norm1, norm2=block.norm2, attn=attention, mlp=Faded(block.mlp, share))
            )
    return SimpleNamespace(
        blocks=blocks,
        patch_embed=visual.patch_embed,
        merger=visual.merger,
        fullatt_block_indexes=visual.fullatt_block_indexes,
    )


def cut(model: Qwen2_5_VLForConditionalGeneration) -> Qwen2_5_VLForConditionalGeneration:
    """Return the model without the blocks that have faded, sharing the tensors of all else."""
    with torch.device("meta"):
        small = Qwen2_5_VLForConditionalGeneration(configuration(BLOCKS))
    small.load_state_dict({k: v for k, v in model.state_dict().items() if k in small.state_dict()}, assign=True)
    small.tie_weights()
    return small
