"""glyph_deep's encoder, frozen, up to the last linear layer of its merger."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from glyph_deep.train.encoder import encode
from safetensors import safe_open
from torch import Tensor
from transformers import AutoConfig
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VisionTransformerPretrainedModel


class Sight:
    """Turns pictures into what the projection is fed."""

    def __init__(self, base: Path) -> None:
        visual = Qwen2_5_VisionTransformerPretrainedModel(AutoConfig.from_pretrained(base).vision_config).eval()
        with safe_open(base / "model.safetensors", "pt") as file:
            names = [name for name in file.keys() if name.startswith("visual.")]  # noqa: SIM118
            visual.load_state_dict({name.removeprefix("visual."): file.get_tensor(name) for name in names})
        merger = visual.merger
        self.front = SimpleNamespace(
            blocks=visual.blocks,
            patch_embed=visual.patch_embed,
            fullatt_block_indexes=visual.fullatt_block_indexes,
            merger=lambda x: merger.mlp[1](merger.mlp[0](merger.ln_q(x).view(-1, 512))),
        )

    @torch.no_grad()
    def __call__(self, images: np.ndarray) -> Tensor:
        """Return features [B, units, 512] (float32) of uint8 pictures [B, H, W, 3]."""
        return encode(self.front, images)
