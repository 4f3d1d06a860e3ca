"""The first layers and encoder blocks of the bundled checkpoint: what is tested of a graph's shape needs no more."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luvc_export.demo import CHECKPOINT

if TYPE_CHECKING:
    from torch import Tensor


def config(layers: int, blocks: int) -> dict[str, Any]:
    """The bundled config with so many layers and encoder blocks."""
    fields: dict[str, Any] = json.loads((CHECKPOINT / "config.json").read_text())
    fields["text_config"] |= {"num_hidden_layers": layers, "layer_types": ["full_attention"] * layers}
    fields["vision_config"] |= {"depth": blocks, "fullatt_block_indexes": [blocks - 1]}
    return fields


def tensors(layers: int, blocks: int) -> dict[str, Tensor]:
    """Its weights by name."""
    from safetensors.torch import load_file

    return {
        name: tensor
        for name, tensor in load_file(CHECKPOINT / "model.safetensors").items()
        if not any(f"layers.{n}." in name for n in range(layers, 99))
        and not any(f"blocks.{n}." in name for n in range(blocks, 99))
    }


def write(folder: Path, layers: int, blocks: int) -> Path:
    """Everything but the weights, into ``folder``, which is there."""
    for path in CHECKPOINT.iterdir():
        if path.suffix != ".safetensors":
            shutil.copyfile(path, folder / path.name)
    (folder / "config.json").write_text(json.dumps(config(layers, blocks)))
    return folder


def write_weights(path: Path, layers: int, blocks: int, stored: str = "fp16") -> None:
    """The weights, into one file; ``stored`` is fp16, as they are bundled, or bf16."""
    import torch
    from safetensors.torch import save_file

    kind = {"fp16": torch.float16, "bf16": torch.bfloat16}[stored]
    save_file({name: tensor.to(kind) for name, tensor in tensors(layers, blocks).items()}, path)
