"""Quantised copies of a small checkpoint, written by the published layout of each format.

Where a layout is published stands in the reader's own page: ``luvc_export.export.stored``. What is written here does
not import the readers: it packs in its own way, from the layouts.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cut_checkpoint
import torch
from torch import Tensor

LAYERS, BLOCKS = 1, 2
Written = tuple[dict[str, Tensor], Tensor]


def write(folder: Path, settings: dict[str, Any], quantise: Callable[[str, Tensor], Written]) -> dict[str, Tensor]:
    """Write the cut demo checkpoint with the products of its text layers quantised.

    Args:
        folder: Where to; made here.
        settings: ``quantization_config``.
        quantise: Of a module's name and its weight [N, K]: the tensors to store by the last part of their names, and
            the weight that they stand for.

    Returns:
        The weights they stand for, by the checkpoint's names: what a torch model computes with.
    """
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    cut_checkpoint.write(folder, LAYERS, BLOCKS)
    tensors, meant = {}, {}
    for name, tensor in cut_checkpoint.tensors(LAYERS, BLOCKS).items():
        module = name.removesuffix(".weight")
        if "layers." in name and name.endswith("_proj.weight"):
            parts, meant[name] = quantise(module, tensor.float())
            tensors |= {f"{module}.{tail}": part.contiguous() for tail, part in parts.items()}
        else:
            tensors[name] = tensor
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text()) | {"quantization_config": settings}
    (folder / "config.json").write_text(json.dumps(config))
    return meant


def rounded(weight: Tensor, group: int, bits: int, symmetric: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Codes int64 [N, K] from 0, scales fp16 [N, K / group], zeros int64 [N, K / group], and what they stand for."""
    rows, channels = weight.shape
    blocks = weight.reshape(rows, channels // group, group)
    top, half = 2**bits - 1, 2 ** (bits - 1)
    if symmetric:
        scale = (blocks.abs().amax(-1) / (half - 1)).clamp(min=1e-4).half()
        zero = torch.full(scale.shape, half)
    else:
        low, high = blocks.amin(-1).clamp(max=0), blocks.amax(-1).clamp(min=0)
        scale = ((high - low) / top).clamp(min=1e-4).half()
        zero = (-low / scale.float()).round().clamp(0, top).long()
    codes = ((blocks / scale.float()[..., None]).round() + zero[..., None]).clamp(0, top).long()
    meant = (codes - zero[..., None]).float() * scale.float()[..., None]
    return codes.reshape(rows, channels), scale, zero, meant.reshape(rows, channels)


def words(codes: Tensor, bits: int, order: tuple[int, ...] | None = None) -> Tensor:
    """int32 [R, C * bits / 32] of codes [R, C]: a word's lowest bits hold its column ``order[0]``."""
    each = 32 // bits
    parts = codes.reshape(codes.shape[0], -1, each).long()
    packed = torch.zeros(parts.shape[:2], dtype=torch.int64)
    for place in range(each):
        packed |= parts[..., order[place] if order else place] << (bits * place)
    return torch.where(packed >= 2**31, packed - 2**32, packed).to(torch.int32)


AWQ_SETTINGS = {"quant_method": "awq", "bits": 4, "group_size": 64, "zero_point": True, "version": "gemm"}


def awq(module: str, weight: Tensor) -> Written:
    """As AutoAWQ does."""
    codes, scale, zero, meant = rounded(weight, 64, 4, symmetric=False)
    return awq_parts(codes, scale, zero), meant


def awq_parts(codes: Tensor, scale: Tensor, zero: Tensor) -> dict[str, Tensor]:
    """The tensors of a weight whose codes, scales and zeros are as ``rounded`` gives them."""
    order = (0, 2, 4, 6, 1, 3, 5, 7)
    return {"qweight": words(codes.T, 4, order), "qzeros": words(zero.T, 4, order), "scales": scale.T}


def compressed_settings(
    bits: int = 4, group: int | None = 64, symmetric: bool = True, form: str = "pack-quantized"
) -> dict[str, Any]:
    """What llmcompressor writes into the config."""
    weights = {
        "num_bits": bits, "type": "int", "symmetric": symmetric, "group_size": group,
        "strategy": "group" if group else "channel",
    }  # fmt: skip
    return {
        "quant_method": "compressed-tensors",
        "format": form,
        "quantization_status": "compressed",
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights, "input_activations": None}},
        "ignore": ["lm_head"],
    }


def pack_quantized(bits: int = 4, symmetric: bool = True) -> Callable[[str, Tensor], Written]:
    """As compressed-tensors does."""

    def quantise(module: str, weight: Tensor) -> Written:
        codes, scale, zero, meant = rounded(weight, 64, bits, symmetric)
        parts = packed_parts(codes, scale, bits)
        if not symmetric:
            parts["weight_zero_point"] = words(zero.T, bits).T
        return parts, meant

    return quantise


def packed_parts(codes: Tensor, scale: Tensor, bits: int) -> dict[str, Tensor]:
    """The tensors of a weight whose zeros are half the range."""
    return {"weight_packed": words(codes, bits), "weight_scale": scale, "weight_shape": torch.tensor(codes.shape)}


def gptq_settings(bits: int = 4, symmetric: bool = True, form: str = "gptq", act: bool = False) -> dict[str, Any]:
    """What GPTQModel writes into the config."""
    stated = {"bits": bits, "group_size": 64, "sym": symmetric, "desc_act": act}
    return {"quant_method": "gptq", "checkpoint_format": form, **stated}


def gptq(
    bits: int = 4, symmetric: bool = True, version: int = 1, act: bool = False
) -> Callable[[str, Tensor], Written]:
    """As GPTQModel does; with ``act`` the channels of a group lie apart, in one order for q, k and v."""

    def quantise(module: str, weight: Tensor) -> Written:
        channels = weight.shape[1]
        index = torch.arange(channels) // 64
        if act:
            seed = 1 if module.rpartition(".")[2] in ("q_proj", "k_proj", "v_proj") else 2
            index = index[torch.randperm(channels, generator=torch.Generator().manual_seed(seed))]
        order = torch.argsort(index, stable=True)
        codes, scale, zero, meant = rounded(weight[:, order], 64, bits, symmetric)
        back = torch.argsort(order)
        return gptq_parts(codes[:, back], scale, zero, index, bits, version), meant[:, back]

    return quantise


def gptq_parts(
    codes: Tensor, scale: Tensor, zero: Tensor, index: Tensor, bits: int, version: int = 1
) -> dict[str, Tensor]:
    """The tensors of a weight [N, K] whose channels are in groups ``index`` [K]."""
    stored = (zero.T - int(version == 1)) & (2**bits - 1)
    return {
        "qweight": words(codes, bits).T, "qzeros": words(stored, bits), "scales": scale.T,
        "g_idx": index.to(torch.int32),
    }  # fmt: skip


def int_quantized(symmetric: bool = True) -> Callable[[str, Tensor], Written]:
    """As compressed-tensors does with a byte a number and a scale a row."""

    def quantise(module: str, weight: Tensor) -> Written:
        codes, scale, zero, meant = rounded(weight, weight.shape[1], 8, symmetric)
        parts = {"weight": (codes - 128).to(torch.int8), "weight_scale": scale}
        return (parts if symmetric else parts | {"weight_zero_point": (zero - 128).to(torch.int8)}), meant

    return quantise


def fp8(blocks: str, tail: str = "weight_scale") -> Callable[[str, Tensor], Written]:
    """E4M3 with a scale for the tensor, for each row (``channel``) or for each block of 128 x 128 (``block``)."""

    def quantise(module: str, weight: Tensor) -> Written:
        rows, channels = weight.shape
        height, width = {"tensor": (rows, channels), "channel": (1, channels), "block": (128, 128)}[blocks]
        tall, wide = -(-rows // height), -(-channels // width)
        scale = torch.empty(tall, wide)
        for i in range(tall):
            for j in range(wide):
                scale[i, j] = weight[i * height : (i + 1) * height, j * width : (j + 1) * width].abs().max() / 448
        whole = scale.repeat_interleave(height, 0)[:rows].repeat_interleave(width, 1)[:, :channels]
        numbers = (weight / whole).to(torch.float8_e4m3fn)
        parts = {"weight": numbers, tail: scale if blocks != "tensor" else scale.reshape(())}
        return parts, numbers.float() * whole

    return quantise


FP8_SETTINGS = {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [128, 128]}
FLOAT_SETTINGS = compressed_settings(8, None, True, "float-quantized")
#: Every form by name: its ``quantization_config``, and how a weight is stored.
FORMS: dict[str, tuple[dict[str, Any], Callable[[str, Tensor], Written]]] = {
    "awq": (AWQ_SETTINGS, awq),
    "pack4": (compressed_settings(), pack_quantized()),
    "pack4_zeros": (compressed_settings(symmetric=False), pack_quantized(symmetric=False)),
    "pack8_zeros": (compressed_settings(8, symmetric=False), pack_quantized(8, symmetric=False)),
    "int8": (compressed_settings(8, None, True, "int-quantized"), int_quantized()),
    "int8_zeros": (compressed_settings(8, None, False, "int-quantized"), int_quantized(symmetric=False)),
    "gptq_v1": (gptq_settings(), gptq()),
    "gptq_v2": (gptq_settings(form="gptq_v2"), gptq(version=2)),
    "gptq_zeros": (gptq_settings(symmetric=False), gptq(symmetric=False)),
    "gptq_act": (gptq_settings(act=True), gptq(act=True)),
    "gptq8_act": (gptq_settings(8, act=True), gptq(8, act=True)),
    "float_tensor": (FLOAT_SETTINGS, fp8("tensor")),
    "float_channel": (FLOAT_SETTINGS, fp8("channel")),
    "fp8_block": (FP8_SETTINGS, fp8("block", "weight_scale_inv")),
    "fp8_tensor": (
        FP8_SETTINGS | {"weight_block_size": None, "activation_scheme": "static"},
        fp8("tensor", "weight_scale_inv"),
    ),
}
