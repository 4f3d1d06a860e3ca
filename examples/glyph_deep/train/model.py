"""The deeper model, grown from the bundled one by blocks that start out adding nothing."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from glyph_vqa.model import build, configuration
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from glyph_deep.data.tokenizer import VOCABULARY, build_tokenizer
from luvc_export.demo import CHECKPOINT

ENCODER_BLOCKS = (0, 3, 6, 11)  # where the bundled encoder's four blocks stand among the twelve
FULL_ATTENTION = [3, 7, 11]
DEPTH = 12
LLM_LAYERS = (1, 2, 4, 5, 6, 7)  # where the bundled LLM's six layers stand among the eight
LAYERS = 8


def deeper(special: dict[str, int], vocabulary: int = VOCABULARY) -> Qwen2_5_VLConfig:
    """Return the configuration: the bundled model's widths, 12 encoder blocks, 8 LLM layers."""
    config = configuration(vocabulary, special, LAYERS)
    config.vision_config.depth = DEPTH
    config.vision_config.fullatt_block_indexes = list(FULL_ATTENTION)
    return config


def moved(name: str) -> str:
    """Return the grown model's name of a tensor of the bundled model."""
    for stem, places in (("visual.blocks.", ENCODER_BLOCKS), ("language_model.layers.", LLM_LAYERS)):
        before, stem_part, rest = name.partition(stem)
        if stem_part:
            number, _, tail = rest.partition(".")
            return f"{before}{stem}{places[int(number)]}.{tail}"
    return name


def grow(tokenizer: Tokenizer, folder: Path = CHECKPOINT, seed: int = 0) -> Qwen2_5_VLForConditionalGeneration:
    """Return a float32 model that answers the bundled task as the checkpoint in `folder` does.

    New blocks have zero output projections; tokens that both tokenizers know keep their embedding, the others start
    with a hundredth of a usual one, so that none of them is the likeliest next token anywhere.
    """
    special = {name: tokenizer.token_to_id(name) for name in SPECIAL_OF_CONFIG}
    model = build(deeper(special), seed)
    own = model.state_dict()
    old = {rename(k): v.float() for k, v in load_file(folder / "model.safetensors").items()}
    for name, value in own.items():
        if name.endswith(("attn.proj.weight", "attn.proj.bias", "o_proj.weight", "down_proj.weight", "down_proj.bias")):
            value.zero_()
    before = json.loads((folder / "tokenizer.json").read_text())
    ids = {**{t["content"]: t["id"] for t in before["added_tokens"]}, **before["model"]["vocab"]}
    for name, value in old.items():
        if "embed_tokens" in name or "lm_head" in name:
            own[name].mul_(0.01)
            for token, i in ids.items():
                if (new := tokenizer.token_to_id(token)) is not None:
                    own[name][new] = value[i]
        else:
            own[moved(name)].copy_(value)
    return model


SPECIAL_OF_CONFIG = (
    "<|endoftext|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>",
)  # fmt: skip


def rename(name: str) -> str:
    """Return the name in memory of a tensor as transformers writes it on disk."""
    if name.startswith("visual."):
        return f"model.{name}"
    if name.startswith("model.") and not name.startswith(("model.visual.", "model.language_model.")):
        return f"model.language_model.{name.removeprefix('model.')}"
    return name


def parameters(model: torch.nn.Module) -> int:
    """Return how many parameters the model has, tied ones counted once."""
    return sum(p.numel() for p in model.parameters())


def fresh() -> tuple[Qwen2_5_VLForConditionalGeneration, Tokenizer]:
    """Return the grown model and its tokenizer."""
    tokenizer = build_tokenizer()
    return grow(tokenizer), tokenizer


def load(folder: Path) -> Qwen2_5_VLForConditionalGeneration:
    """Return a checkpoint in float32."""
    return Qwen2_5_VLForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)


State = dict[str, Tensor]
