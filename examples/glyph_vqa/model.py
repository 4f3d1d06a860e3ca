"""The small model: a Qwen2.5-VL configuration of 3.9 M parameters, its codebook, its folder on disk."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from luvc_export.demo.scene import COLUMNS, GRID, NAMES, ROWS, Scene

HIDDEN, LAYERS = 192, 6
PATCH, MERGE = 14, 2
LABELS = {"digit": 10, "colour": len(NAMES), "row": ROWS, "column": COLUMNS}  # what one visual token may show


def configuration(vocabulary: int, special: dict[str, int], layers: int = LAYERS) -> Qwen2_5_VLConfig:
    """Return the configuration for a vocabulary size and the ids of its special tokens.

    The rotary base is 10, not 10,000: positions stay below 64, and the width section of M-RoPE gets the slowest
    frequencies, which at 10,000 turn by 0.03 rad over 12 columns and cannot tell one column from another.
    """
    vision = {
        "depth": 4, "hidden_size": 128, "intermediate_size": 320, "num_heads": 4, "out_hidden_size": HIDDEN,
        "patch_size": PATCH, "spatial_merge_size": MERGE, "temporal_patch_size": 2, "window_size": 112,
        "fullatt_block_indexes": [1, 3], "hidden_act": "silu", "in_channels": 3, "tokens_per_second": 4,
    }  # fmt: skip
    text = {
        "hidden_size": HIDDEN, "intermediate_size": 512, "num_hidden_layers": layers, "num_attention_heads": 6,
        "num_key_value_heads": 2, "max_position_embeddings": 2048, "rms_norm_eps": 1e-5, "vocab_size": vocabulary,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10.0, "mrope_section": [4, 6, 6]},
        "bos_token_id": None, "eos_token_id": special["<|im_end|>"], "pad_token_id": special["<|endoftext|>"],
        "tie_word_embeddings": True,
    }  # fmt: skip
    return Qwen2_5_VLConfig(
        vision_config=vision,
        text_config=text,
        image_token_id=special["<|image_pad|>"],
        video_token_id=special["<|video_pad|>"],
        vision_start_token_id=special["<|vision_start|>"],
        vision_end_token_id=special["<|vision_end|>"],
        tie_word_embeddings=True,
    )


def build(config: Qwen2_5_VLConfig, seed: int = 0) -> Qwen2_5_VLForConditionalGeneration:
    """Return a freshly initialised float32 model; matrices have standard deviation 1/sqrt(fan in)."""
    torch.manual_seed(seed)
    model = Qwen2_5_VLForConditionalGeneration(config)
    for parameter in model.parameters():
        if parameter.ndim >= 2:
            torch.nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
    for layer in model.model.language_model.layers:
        for matrix in (layer.self_attn.o_proj.weight, layer.mlp.down_proj.weight):
            matrix.data.mul_((2 * config.text_config.num_hidden_layers) ** -0.5)
    return model.float()


def warm_start(model: Qwen2_5_VLForConditionalGeneration, folder: Path) -> int:
    """Copy the vision encoder of the checkpoint in `folder` where shapes agree; return how many tensors were copied."""
    own, copied = model.model.visual.state_dict(), 0
    for name, value in load_file(folder / "model.safetensors").items():
        key = name.rpartition("visual.")[2]
        if "visual." in name and key in own and own[key].shape == value.shape:
            scale = 0.1 if key.endswith("merger.mlp.2.weight") else 1.0  # its outputs stood on another scale
            own[key].copy_(value.float() * scale)
            copied += 1
    return copied


def codebook() -> dict[str, Tensor]:
    """Return the fixed codes a visual token is taught: `{label: [classes, 192], "none": [1, 192]}`, unit norm rows.

    The encoder learns to put the sum of four codes (digit, colour, row, column) on a token that shows a digit, so the
    decoder can learn to ask questions about such sums before the encoder can read.
    """
    random = torch.Generator().manual_seed(7)
    sizes = {**LABELS, "none": 1}
    rows = {name: torch.randn(size, HIDDEN, generator=random) for name, size in sizes.items()}
    return {name: torch.nn.functional.normalize(row, dim=-1) for name, row in rows.items()}


def labels(scene: Scene) -> np.ndarray:
    """Return int64 [108, 4]: digit, colour, row and column of the digit each visual token shows, -1 where none."""
    table = [(m.digit, NAMES.index(m.colour), m.row, m.column) for m in scene.marks] + [(-1,) * 4]
    return np.array(table, dtype=np.int64)[scene.owner.ravel()]


def patchify(images: np.ndarray) -> Tensor:
    """Return `pixel_values` as the Qwen2-VL image processor makes them: uint8 [B, H, W, 3] -> float32 [B*N, 1176]."""
    b, h, w, _ = images.shape
    x = torch.from_numpy(images).float().div_(127.5).sub_(1)
    x = x.view(b, h // PATCH // MERGE, MERGE, PATCH, w // PATCH // MERGE, MERGE, PATCH, 3)
    x = x.permute(0, 1, 4, 2, 5, 7, 3, 6)[:, :, :, :, :, :, None].expand(*[-1] * 6, 2, -1, -1)
    return x.reshape(-1, 3 * 2 * PATCH * PATCH)


def encode(model: Qwen2_5_VLForConditionalGeneration, images: np.ndarray) -> Tensor:
    """Return the visual embeddings of pictures of one size: uint8 [B, H, W, 3] -> [B, tokens, 192]."""
    device = next(model.parameters()).device
    grid = torch.tensor([[1, images.shape[1] // PATCH, images.shape[2] // PATCH]] * len(images), device=device)
    return model.model.visual(patchify(images).to(device), grid_thw=grid).pooler_output.view(len(images), -1, HIDDEN)


def export(model: Qwen2_5_VLForConditionalGeneration, tokenizer_folder: Path, folder: Path) -> None:
    """Write an ordinary float16 checkpoint folder; an existing one is replaced only once the new one is complete."""
    fresh = folder.with_name(folder.name + ".new")
    shutil.rmtree(fresh, ignore_errors=True)
    model.to(torch.float16).save_pretrained(fresh)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(tokenizer_folder / name, fresh / name)
    height, width = GRID[0] * PATCH * MERGE, GRID[1] * PATCH * MERGE
    processor = {
        "image_processor_type": "Qwen2VLImageProcessor", "patch_size": PATCH, "temporal_patch_size": 2,
        "merge_size": MERGE, "min_pixels": 3136, "max_pixels": 1003520, "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3, "do_rescale": True, "rescale_factor": 1 / 255,
    }  # fmt: skip
    assert height * width <= processor["max_pixels"]
    (fresh / "preprocessor_config.json").write_text(json.dumps(processor, indent=1) + "\n")
    end, pad = model.config.text_config.eos_token_id, model.config.text_config.pad_token_id
    generation = {"eos_token_id": end, "pad_token_id": pad, "do_sample": False, "max_new_tokens": 16}
    (fresh / "generation_config.json").write_text(json.dumps(generation, indent=1) + "\n")
    (fresh / "model.safetensors").chmod(0o644)
    shutil.rmtree(folder, ignore_errors=True)
    fresh.rename(folder)
