"""A checkpoint that gives vectors of pages: a glyph model with small weights merged into its LLM, trained for search.

The small weights are a LoRA of every linear layer (``NAME.a`` [rank, columns], ``NAME.b`` [rows, rank], float16) and,
for many vectors, a projection of every token.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

HERE = Path(__file__).parent
BASE, SMALL = HERE.parent / "glyph_deep" / "checkpoint", HERE / "small.safetensors"
ONE = HERE / "one.safetensors"
#: What stands around a page and a query, as in ``processor_config.json`` (ColQwen2), and what queries end with.
PAGE, QUERY = "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|><|im_end|>\n", "find "
PADDING = "<|endoftext|>"
#: What stands around a page or a query of one vector, as the chat template has it.
CHAT = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
#: Numbers of each of many vectors, as ColPali has.
WIDTH = 128


def write_checkpoint(base: Path, small: Path, out: Path) -> None:
    """Write a checkpoint of ColQwen2's form, or of Qwen2.5-VL's where there is no projection.

    Args:
        base: Folder of a glyph model (Qwen2.5-VL).
        small: Its small weights.
        out: Folder to write, which must not be there.

    Raises:
        OSError: It is there, or cannot be written.
    """
    out.mkdir(parents=True)
    for name in ("chat_template.jinja", "preprocessor_config.json", "tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(base / name, out / name)
    changes, tensors = load_file(small), load_file(base / "model.safetensors")
    for name in [name.removesuffix(".b") for name in changes if name.endswith(".b")]:
        change = changes[f"{name}.b"].astype(np.float32) @ changes[f"{name}.a"].astype(np.float32)
        weight = tensors[f"model.layers.{name}.weight"]
        tensors[f"model.layers.{name}.weight"] = (weight.astype(np.float32) + change).astype(weight.dtype)
    if "projection.weight" not in changes:
        shutil.copyfile(base / "config.json", out / "config.json")
        save_file(tensors, out / "model.safetensors", {"format": "pt"})
        return
    renamed = {"model.": "vlm.language_model.", "visual.": "vlm.visual."}
    whole = {
        f"{new}{name.removeprefix(old)}": tensor
        for old, new in renamed.items()
        for name, tensor in tensors.items()
        if name.startswith(old)
    }
    whole |= {f"embedding_proj_layer.{part}": changes[f"projection.{part}"] for part in ("weight", "bias")}
    config = json.loads((base / "config.json").read_text(encoding="utf-8"))
    own = {"architectures": ["ColQwen2ForRetrieval"], "model_type": "colqwen2", "embedding_dim": WIDTH}
    _write(out / "config.json", {**own, "dtype": config.get("dtype"), "vlm_config": config})
    _write(out / "processor_config.json", {"visual_prompt_prefix": PAGE, "query_prefix": QUERY})
    save_file(whole, out / "model.safetensors", {"format": "pt"})


def _write(file: Path, data: dict[str, Any]) -> None:
    file.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
