"""Small weights: where a run starts from, and what it leaves, at most 10 MB.

`python -m pretrained.start runs/a/state.pt small.safetensors` writes those of a run's state, in bfloat16.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from .layers import Instrument

#: Names that the trial's file has for ours (issue 62's material), and by what it multiplied its LoRA.
TRIAL = {"proj_w": "project.weight", "proj_b": "project.bias", "marks": "marks"}
TRIAL_FUSED = {"qkv": "qkv", "o": "o", "gu": "gate_up", "down": "down"}
TRIAL_SCALE = 2.0


def lower(b: Tensor, a: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Return (b [rows, rank], a [rank, columns]) whose product is nearest to that of the two matrices (SVD)."""
    (qb, rb), (qa, ra) = torch.linalg.qr(b), torch.linalg.qr(a.T)
    u, s, v = torch.linalg.svd(rb @ ra.T)
    root = s[:rank].sqrt()
    return qb @ u[:, :rank] * root, (qa @ v[:rank].T * root).T


def weights_of(file: Path) -> dict[str, Tensor]:
    """Return the small weights of a file by this folder's names, float32, the trial's renamed."""
    small = {name: value.float() for name, value in load_file(file).items()}
    if "proj_w" not in small:
        return small
    own = {ours: small[theirs] for theirs, ours in TRIAL.items()}
    for name in small.keys() - TRIAL.keys():
        stem, _, fused = name.rpartition("_")
        own[f"{stem}_{TRIAL_FUSED[fused]}"] = small[name] * (TRIAL_SCALE if name.startswith("b.") else 1.0)
    return own


@torch.no_grad()
def begin(model: Instrument, file: Path, share: float = 1.0) -> None:
    """Give a model a file's projection and marks, and `share` of its LoRA, brought down to the model's rank."""
    small = weights_of(file)
    for place, value in model.state_dict().items():
        if place in TRIAL.values():
            value.copy_(small[place])
    for place, own in model.a.items() if share else ():
        b, a = share * small[f"b.{place}"], small[f"a.{place}"]
        b, a = (b, a) if len(a) == len(own) else lower(b, a, len(own))
        model.b[place].copy_(b)
        own.copy_(a)


def main() -> None:
    """Read the command line and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("state", type=Path, help="state.pt of a run")
    parser.add_argument("out", type=Path, help="file to write")
    args = parser.parse_args()
    state = torch.load(args.state, map_location="cpu")
    save_file({name: value.bfloat16().contiguous() for name, value in state["model"].items()}, args.out)
    print(f"step {state['step']}: {args.out.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
