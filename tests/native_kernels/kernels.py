"""The kernels on tensors of any library: selection, prune and merge, on the host or on a GPU.

Shapes: G images, N visual tokens each, K kept, D channels, M low-pass basis columns; B images of H x W units, C
channels, P position coordinates.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from luvc_export.core.operators import SCORES
from luvc_export.errors import UsageError, did_you_mean
from native_kernels.abi import DTYPES, MergeShape, MergeTensors, PayloadRecord, PruneShape, PruneTensors
from native_kernels.dlpack import Tensor, View, borrow, expect_rank
from native_kernels.loaded import Loaded, Workspace

_FLOATS, _INDICES = ("float32", "float16", "bfloat16"), ("int32", "int64")


@dataclass(frozen=True)
class Payload:
    """Rows that travel with the kept tokens, position ids or rotary caches for example.

    Attributes:
        source: [planes..., G, N, row...] of any dtype.
        target: [planes..., G, K, row...], written.
        token_axis: Place of N in the shape; G stands before it.
    """

    source: Tensor
    target: Tensor
    token_axis: int


class Native:
    """The loaded library.

    Args:
        library: Path of ``libluvc_native.so``; by default ``$LUVC_NATIVE_LIBRARY``, else the newest under ``build/``.

    Raises:
        MachineError: No library was found, it cannot be loaded, or its ABI is another.
    """

    def __init__(self, library: Path | str | None = None) -> None:
        self._loaded = Loaded(library)

    @property
    def path(self) -> Path:
        """Of the library."""
        return self._loaded.path

    @property
    def has_cuda(self) -> bool:
        """Whether the library has CUDA kernels; a device may still be missing."""
        return self._loaded.has_cuda

    def select_top_k(self, scores: Tensor, indices: Tensor, stream: int = 0) -> None:
        """Write the ascending indices of the best K scores; equal: lower index, NaN: as -infinity.

        Args:
            scores: float32 [G, N].
            indices: int32 or int64 [G, K], written.
            stream: CUDA stream as an integer, for tensors on a GPU.

        Raises:
            UsageError: A shape, dtype or device does not fit.
            MachineError: The tensors are on a GPU and the library has no CUDA kernels, or the launch failed.
        """
        source, target = borrow("scores", scores, stream), borrow("indices", indices, stream)
        groups, tokens = expect_rank(source, 2)
        keep = expect_rank(target, 2)[1]
        source.expect((groups, tokens), ("float32",), source.device)
        target.expect((groups, keep), _INDICES, source.device)
        sizes = (ctypes.c_int64(groups), ctypes.c_int64(tokens), ctypes.c_int64(keep))
        head = (ctypes.c_void_p(source.address), *sizes, DTYPES[target.dtype], ctypes.c_void_p(target.address))
        if source.device == "cuda":
            self._loaded.call("luvc_select_top_k_cuda", *head, ctypes.c_void_p(stream))
            return
        bytes_needed = ctypes.c_size_t()
        self._loaded.call("luvc_select_top_k_host_workspace", sizes[1], ctypes.byref(bytes_needed))
        work = Workspace(bytes_needed.value, None, "cpu", stream)
        self._loaded.call("luvc_select_top_k_host", *head, *work.arguments)

    def spectrum_prune(
        self,
        values: Tensor,
        norm_weight: Tensor,
        basis: Tensor,
        kept_values: Tensor,
        indices: Tensor,
        *,
        score: str = "low",
        epsilon: float = 1e-6,
        scores: Tensor | None = None,
        places: Tensor | None = None,
        payloads: Sequence[Payload] = (),
        workspace: Tensor | None = None,
        stream: int = 0,
    ) -> None:
        """Score, select and gather every image's visual tokens; plugins/include/luvc/spectrum_prune.h has the rules.

        Args:
            values: [G, N, D], float32, float16 or bfloat16.
            norm_weight: [D] of the layer's input RMSNorm, any of the three.
            basis: float32 [N, M].
            kept_values: [G, K, D] of values' dtype, written.
            indices: int32 or int64 [G, K], written.
            score: ``low``, ``residual`` or ``ratio``.
            epsilon: Of the RMSNorm.
            scores: float32 [G, N], written, or None.
            places: int64 [G, N], negative for padding, or None.
            payloads: At most 7.
            workspace: For tensors on a GPU, at least the bytes the error for a missing one names.
            stream: CUDA stream as an integer.

        Raises:
            UsageError: A shape, dtype, device or value does not fit.
            MachineError: The tensors are on a GPU and the library has no CUDA kernels, or the launch failed.
        """
        if score not in SCORES:
            raise UsageError("unknown score", got=repr(score), expected=did_you_mean(score, SCORES))
        named = {"values": values, "norm_weight": norm_weight, "basis": basis, "kept_values": kept_values}
        views = {name: borrow(name, tensor, stream) for name, tensor in (named | {"indices": indices}).items()}
        first = views["values"]
        groups, tokens, channels = expect_rank(first, 3)
        frequencies, keep = expect_rank(views["basis"], 2)[1], expect_rank(views["indices"], 2)[1]
        first.expect(first.shape, _FLOATS, first.device)
        views["norm_weight"].expect((channels,), _FLOATS, first.device)
        views["basis"].expect((tokens, frequencies), ("float32",), first.device)
        views["kept_values"].expect((groups, keep, channels), (first.dtype,), first.device)
        views["indices"].expect((groups, keep), _INDICES, first.device)
        if scores is not None:
            views["scores"] = borrow("scores", scores, stream)
            views["scores"].expect((groups, tokens), ("float32",), first.device)
        if places is not None:
            views["places"] = borrow("places", places, stream)
            views["places"].expect((groups, tokens), ("int64",), first.device)
        pairs = [_payload(payload, place, first, keep, stream) for place, payload in enumerate(payloads)]
        rows = (PayloadRecord * max(len(pairs), 1))(*(row for row, _ in pairs))
        shape = PruneShape(
            *(groups, tokens, channels, frequencies, keep),
            *(DTYPES[views[name].dtype] for name in ("values", "norm_weight", "indices")),
            SCORES.index(score),
            epsilon,
        )
        tensors = PruneTensors(
            **{name: view.address for name, view in views.items()}, payloads=rows, payload_count=len(pairs)
        )
        self._loaded.run("luvc_spectrum_prune", shape, tensors, first.device, workspace, stream)

    def orthogonal_merge(
        self,
        values: Tensor,
        sizes: Tensor,
        positions: Tensor,
        merged_values: Tensor,
        merged_sizes: Tensor,
        merged_positions: Tensor,
        *,
        merged_into: Tensor | None = None,
        padded: bool = False,
        workspace: Tensor | None = None,
        stream: int = 0,
    ) -> None:
        """Merge columns, then rows, down to the outputs' grid; plugins/include/luvc/orthogonal_merge.h has the rules.

        Args:
            values: [B, H, W, C], float32, float16 or bfloat16.
            sizes: float32 [B, H, W].
            positions: float32 [B, H, W, P].
            merged_values: [B, H', W', C] of values' dtype, written.
            merged_sizes: float32 [B, H', W'], written.
            merged_positions: float32 [B, H', W', P], written.
            merged_into: int32 [B, H * W], written: the row-major place of every unit in (H', W'); or None.
            padded: Units of a size below 0.5 are padding.
            workspace: For tensors on a GPU, at least the bytes the error for a missing one names.
            stream: CUDA stream as an integer.

        Raises:
            UsageError: A shape, dtype or device does not fit.
            MachineError: The tensors are on a GPU and the library has no CUDA kernels, or the launch failed.
        """
        named = {"values": values, "sizes": sizes, "positions": positions, "merged_values": merged_values}
        named |= {"merged_sizes": merged_sizes, "merged_positions": merged_positions}
        views = {name: borrow(name, tensor, stream) for name, tensor in named.items()}
        first = views["values"]
        batch, height, width, channels = expect_rank(first, 4)
        planes = expect_rank(views["positions"], 4)[3]
        grid, merged = (batch, height, width), (batch, *expect_rank(views["merged_values"], 4)[1:3])
        first.expect((*grid, channels), _FLOATS, first.device)
        views["sizes"].expect(grid, ("float32",), first.device)
        views["positions"].expect((*grid, planes), ("float32",), first.device)
        views["merged_values"].expect((*merged, channels), (first.dtype,), first.device)
        views["merged_sizes"].expect(merged, ("float32",), first.device)
        views["merged_positions"].expect((*merged, planes), ("float32",), first.device)
        if merged_into is not None:
            views["merged_into"] = borrow("merged_into", merged_into, stream)
            views["merged_into"].expect((batch, height * width), ("int32",), first.device)
        removed = (width - merged[2], height - merged[1])
        shape = MergeShape(batch, height, width, channels, planes, *removed, DTYPES[first.dtype], int(padded))
        tensors = MergeTensors(**{name: view.address for name, view in views.items()})
        self._loaded.run("luvc_orthogonal_merge", shape, tensors, first.device, workspace, stream)


def _payload(payload: Payload, place: int, values: View, keep: int, stream: int) -> tuple[PayloadRecord, object]:
    """The C record of a payload, and what keeps its memory valid."""
    name, axis = f"payloads[{place}]", payload.token_axis
    source, target = borrow(name, payload.source, stream), borrow(f"{name}.target", payload.target, stream)
    if not 1 <= axis < len(source.shape) or source.shape[axis - 1 : axis + 1] != values.shape[:2]:
        expected = f"groups and tokens {list(values.shape[:2])} at axes {axis - 1} and {axis}"
        raise UsageError("a payload does not fit values", where=name, got=list(source.shape), expected=expected)
    source.expect(source.shape, (source.dtype,), values.device)
    target.expect((*source.shape[:axis], keep, *source.shape[axis + 1 :]), (source.dtype,), values.device)
    planes, row = 1, int("".join(filter(str.isdigit, source.dtype))) // 8
    for extent in source.shape[: axis - 1]:
        planes *= extent
    for extent in source.shape[axis + 1 :]:
        row *= extent
    return PayloadRecord(source.address, target.address, planes, row), (source, target)
