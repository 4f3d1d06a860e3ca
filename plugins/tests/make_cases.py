"""Write cases/*.bin: inputs and what the Python functions make of them. ``python plugins/tests/make_cases.py``.

File: lines ``key value`` and ``tensor NAME DTYPE BYTES``, one empty line, then the tensors' bytes in that order.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from luvc_export.core.operators import SCORES
from luvc_export.core.plan import MergePass
from luvc_export.export.compression import oim, scores, spu

CASES = Path(__file__).resolve().parent / "cases"
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def write(name: str, keys: dict[str, int | float | str], tensors: dict[str, Tensor]) -> None:
    """Write one case file."""
    lines = [f"{key} {value}" for key, value in keys.items()]
    payload = b""
    for label, tensor in tensors.items():
        raw = tensor.contiguous().view(torch.uint8).numpy().tobytes()
        lines.append(f"tensor {label} {str(tensor.dtype).removeprefix('torch.')} {len(raw)}")
        payload += raw
    (CASES / f"{name}.bin").write_bytes("\n".join(lines).encode() + b"\n\n" + payload)


def prune(
    name: str,
    values: Tensor,
    keep: int,
    score: str,
    rho: float,
    grid: tuple[int, int] | None = None,
    padding: Tensor | None = None,
) -> None:
    """Save a SpectrumPrune case of ``values`` [G, N, D] with the scores the Python functions give.

    With a ``grid`` of rows and columns the spectrum is the separable 2-D one. ``padding``, bool [G, N], has the score
    -infinity in the file, as the kernels give it; what is kept is what ``spu.padding_last`` ranks.
    """
    groups, tokens, channels = values.shape
    epsilon = 1e-6
    weight = (1 + 0.1 * torch.randn(channels)).to(values.dtype)
    basis = spu.lowpass_basis(tokens, rho) if grid is None else spu.lowpass_basis_2d(*grid, rho)
    wide = values.float()
    normed = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + epsilon) * weight.float()
    result = scores.find(score).score(scores.ScoreInput(normed[None], basis, "token"))
    keys: dict[str, int | float | str] = {
        "function": "spectrum_prune",
        "groups": groups,
        "tokens": tokens,
        "channels": channels,
        "frequencies": basis.shape[1],
        "keep": keep,
        "score": SCORES.index(score),
        "epsilon": epsilon,
    }
    tensors = {
        "values": values,
        "weight": weight,
        "basis": basis,
        "scores": result[0],
        "kept": spu.select(result, keep)[0],
    }
    if padding is not None:
        places = spu.mark_padding(torch.arange(tokens).expand(1, groups, -1), padding[None])
        keys["padded"] = 1
        tensors["scores"] = result[0].masked_fill(padding, -torch.inf)
        tensors["kept"] = spu.select(spu.padding_last(result, places), keep)[0]
        tensors["places"] = places[0]
    write(name, keys, tensors)


def merge(name: str, units: oim.Units, columns: int, rows: int, padded: bool = False) -> oim.Units:
    """Save one OrthogonalMerge pass over ``units`` and return the merged units."""
    batch, height, width, channels = units.x.shape
    fresh = torch.arange(height * width).expand(batch, -1)
    merged = oim.merge(units._replace(merged_into=fresh), MergePass(block=0, rows=rows, columns=columns), padded=padded)
    keys: dict[str, int | float | str] = {
        "function": "orthogonal_merge",
        "batch": batch,
        "height": height,
        "width": width,
        "channels": channels,
        "position_planes": units.positions.shape[-1],
        "removed_columns": columns,
        "removed_rows": rows,
    } | ({"padded": 1} if padded else {})
    write(
        name,
        keys,
        {
            "values": units.x,
            "sizes": units.sizes,
            "positions": units.positions,
            "merged_values": merged.x,
            "merged_sizes": merged.sizes,
            "merged_positions": merged.positions,
            "merged_into": merged.merged_into.to(torch.int32),
        },
    )
    return merged


def main() -> None:
    """Write every case."""
    torch.manual_seed(9)
    CASES.mkdir(exist_ok=True)
    for old in CASES.glob("*.bin"):
        old.unlink()
    for label, dtype in DTYPES.items():
        for score in SCORES:
            prune(f"prune_{score}_{label}", torch.randn(2, 48, 24).to(dtype), 19, score, 0.25)
        first = merge(f"merge_first_{label}", oim.start(torch.randn(2, 8, 10, 12).to(dtype)), 3, 2)
        merge(f"merge_second_{label}", first, 3, 3)
    prune("prune_one_token", torch.randn(1, 1, 8), 1, "low", 0.25)
    prune("prune_keep_none", torch.randn(1, 20, 8), 0, "low", 0.25)
    prune("prune_keep_all", torch.randn(1, 20, 8), 20, "residual", 0.5)
    prune("prune_full_band", torch.randn(1, 30, 8), 11, "low", 1.0)
    prune("prune_equal_scores", torch.ones(1, 24, 8), 9, "low", 0.25)
    poisoned = torch.randn(2, 24, 8)
    poisoned[1, 7, 3] = torch.nan
    prune("prune_nan_group", poisoned, 9, "low", 0.25)
    prune("prune_nan_ratio", torch.zeros(1, 24, 8), 5, "ratio", 0.25)
    empty_token = torch.randn(1, 24, 8)
    empty_token[0, 5] = 0
    prune("prune_infinite_ratio", empty_token, 5, "ratio", 0.25)
    merge("merge_odd_sides", oim.start(torch.randn(1, 7, 9, 20)), 4, 3)
    merge("merge_columns_only", oim.start(torch.randn(1, 5, 8, 16)), 2, 0)
    for score in SCORES:
        prune(f"prune_2d_{score}", torch.randn(2, 63, 16), 21, score, 0.3, grid=(7, 9))
    prune("prune_narrow_residual", torch.randn(1, 100, 16), 40, "residual", 0.05)
    padding = torch.zeros(2, 8, 10, dtype=torch.bool)
    padding[0, 6:] = padding[1, :, 7:] = True
    first = merge("merge_padded", oim.start(torch.randn(2, 8, 10, 12), padding=padding), 3, 2, padded=True)
    merge("merge_padded_again", first, 3, 3, padded=True)
    merge("merge_padding_alone", oim.start(torch.randn(1, 4, 6, 8), padding=torch.ones(1, 4, 6).bool()), 2, 2, True)
    void = torch.arange(48) >= torch.tensor([[30], [11]])
    for score in SCORES:
        prune(f"prune_padded_{score}", torch.randn(2, 48, 24), 19, score, 0.25, padding=void)


if __name__ == "__main__":
    main()
