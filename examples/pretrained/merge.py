"""A checkpoint to export: `python -m pretrained.merge runs/base runs/a/small.safetensors runs/a/checkpoint`.

The base with the small weights in it: LoRA merged, projection and marks in their places, float32, 550 MB.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from .layers import FUSED, PROJECTION, STEM
from .start import weights_of


@torch.no_grad()
def merged(state: dict[str, Tensor], small: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return a base's tensors with small weights in them (names as in their files, float32)."""
    own = {name: value.clone() for name, value in state.items()}
    for part in ("weight", "bias"):
        own[PROJECTION + part] = small[f"project.{part}"]
    own[STEM + "embed_tokens.weight"][-4:-2] = small["marks"]
    for place in [name.removeprefix("a.") for name in small if name.startswith("a.")]:
        layer, _, fused = place.partition("_")
        names = [f"{STEM}layers.{layer}.{part}.weight" for part in FUSED[fused]]
        change = small[f"b.{place}"] @ small[f"a.{place}"]
        for name, rows in zip(names, change.split([len(own[name]) for name in names]), strict=True):
            own[name] += rows
    return own


def write(base: Path, small: Path, out: Path) -> None:
    """Write the folder `out`: a base's files, its weights merged with small ones."""
    out.mkdir(parents=True, exist_ok=True)
    for file in base.iterdir():
        if file.name != "model.safetensors":
            shutil.copy(file, out / file.name)
    state = merged(load_file(base / "model.safetensors"), weights_of(small))
    save_file({name: value.contiguous() for name, value in state.items()}, out / "model.safetensors", {"format": "pt"})


def main() -> None:
    """Read the command line and merge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base", type=Path, help="folder that `pretrained.base` wrote")
    parser.add_argument("small", type=Path, help="small weights (`pretrained.start`)")
    parser.add_argument("out", type=Path, help="folder to write")
    args = parser.parse_args()
    write(args.base, args.small, args.out)


if __name__ == "__main__":
    main()
