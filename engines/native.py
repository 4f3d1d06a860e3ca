"""The native kernels of ``plugins/`` from Python: ctypes on their C ABI, DLPack for tensors, no torch extension.

Any object with ``__dlpack__`` and ``__dlpack_device__`` is a tensor here: numpy arrays, torch tensors on the CPU or a
GPU, CuPy arrays. The caller makes the outputs; they are written in place. Where the tensors lie decides whether the
host reference or the CUDA kernels run. ``python -m luvc_export.engines.native`` says what was found, ``--bench`` times
the kernels on this machine's GPU.

Shapes: G images, N visual tokens each, K kept, D channels, M low-pass basis columns; B images of H x W units, C
channels, P position coordinates.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from luvc_export.errors import LuvcError, MachineError, UsageError, did_you_mean

ABI_MAJOR, ABI_MINOR = 1, 0
LIBRARY_VARIABLE = "LUVC_NATIVE_LIBRARY"
LIBRARY_NAME, PLUGINS_NAME, BENCH_NAME = "libluvc_native.so", "libluvc_plugins.so", "luvc_bench"
BUILD_COMMAND = "cmake --preset host && cmake --build --preset host"
SCORES = ("low", "residual", "ratio")

_ALIGNMENT = 16
_DTYPES = {"float32": 0, "float16": 1, "bfloat16": 2, "int32": 3, "int64": 4}
_FLOATS, _INDICES = ("float32", "float16", "bfloat16"), ("int32", "int64")
_DLPACK_CODES = {0: "int", 1: "uint", 2: "float", 4: "bfloat"}
_DLPACK_DEVICES = {1: "cpu", 2: "cuda", 3: "cpu", 13: "cuda"}  # 3: pinned host memory, 13: managed memory
_DEVICES = {"cpu": 0, "cuda": 1}
_NO_CUDA, _CUDA_ERROR = 12, 13


class Tensor(Protocol):
    """A tensor of any library that speaks DLPack."""

    def __dlpack__(self, *, stream: int | None = None) -> Any: ...

    def __dlpack_device__(self) -> tuple[Any, int]: ...


class _DLTensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


class _PruneShape(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int64) for name in ("groups", "tokens", "channels", "frequencies", "keep")),
        *((name, ctypes.c_int32) for name in ("dtype", "weight_dtype", "index_dtype", "score")),
        ("epsilon", ctypes.c_float),
    )


class _Payload(ctypes.Structure):
    _fields_ = (
        ("source", ctypes.c_void_p),
        ("target", ctypes.c_void_p),
        ("planes", ctypes.c_int64),
        ("row_bytes", ctypes.c_int64),
    )


class _PruneTensors(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("values", "norm_weight", "basis", "kept_values", "indices", "scores")),
        ("payloads", ctypes.POINTER(_Payload)),
        ("payload_count", ctypes.c_int32),
    )


class _MergeShape(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int64) for name in ("batch", "height", "width", "channels", "position_planes")),
        *((name, ctypes.c_int64) for name in ("removed_columns", "removed_rows")),
        ("dtype", ctypes.c_int32),
    )


class _MergeTensors(ctypes.Structure):
    _fields_ = tuple(
        (name, ctypes.c_void_p)
        for name in (
            *("values", "sizes", "positions"),
            *("merged_values", "merged_sizes", "merged_positions", "merged_into"),
        )
    )


_GetPointer = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)


@dataclass(frozen=True)
class _View:
    """A borrowed tensor; the memory is valid while this lives."""

    name: str
    address: int
    shape: tuple[int, ...]
    dtype: str
    device: str
    owner: object

    def expect(self, shape: tuple[int, ...], dtypes: Sequence[str], device: str) -> None:
        """Raise UsageError unless shape, dtype and device are these."""
        if self.shape != shape or self.dtype not in dtypes or self.device != device:
            got = f"{self.dtype} {list(self.shape)} on {self.device}"
            expected = f"{' or '.join(dtypes)} {list(shape)} on {device}"
            raise UsageError("a tensor does not fit the others", where=self.name, got=got, expected=expected)


def _borrow(name: str, tensor: Tensor, stream: int = 0) -> _View:
    device = _DLPACK_DEVICES.get(int(tensor.__dlpack_device__()[0]))
    if device is None:
        raise UsageError("a tensor lies on a device this library cannot read", where=name, expected="cpu or cuda")
    try:
        # DLPack calls CUDA's default stream 1.
        capsule = tensor.__dlpack__(stream=stream or 1) if device == "cuda" else tensor.__dlpack__()
    except (BufferError, RuntimeError, TypeError) as error:
        fix = "pass a writable, dense tensor without gradient"
        raise UsageError("a tensor cannot be shared through DLPack", where=name, got=error, fix=fix) from error
    address = _GetPointer(("PyCapsule_GetPointer", ctypes.pythonapi))(capsule, b"dltensor")
    raw = _DLTensor.from_address(address)
    shape = tuple(raw.shape[: raw.ndim])
    dense = 1
    for axis in reversed(range(raw.ndim)):
        if raw.strides and shape[axis] > 1 and 0 not in shape and raw.strides[axis] != dense:
            raise UsageError(
                "a tensor is not dense and row-major", where=name, got=list(shape), fix="make it contiguous"
            )
        dense *= shape[axis]
    dtype = f"{_DLPACK_CODES.get(raw.code, 'unknown')}{raw.bits}"
    return _View(name, (raw.data or 0) + raw.byte_offset, shape, dtype, device, capsule)


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
        self.path = find(LIBRARY_NAME, library)
        try:
            self._library = ctypes.CDLL(str(self.path))
        except OSError as error:
            raise MachineError("the native library cannot be loaded", where=str(self.path), got=error) from error
        self._library.luvc_abi_version.restype = ctypes.c_uint32
        self._library.luvc_status_string.restype = ctypes.c_char_p
        version = self._library.luvc_abi_version()
        if version >> 16 != ABI_MAJOR or version & 0xFFFF < ABI_MINOR:
            raise MachineError(
                "the native library speaks another ABI",
                where=str(self.path),
                got=f"{version >> 16}.{version & 0xFFFF}",
                expected=f"{ABI_MAJOR}.{ABI_MINOR} or a later {ABI_MAJOR}.x",
                fix=f"rebuild it: {BUILD_COMMAND}",
            )

    @property
    def has_cuda(self) -> bool:
        """Whether the library has CUDA kernels; a device may still be missing."""
        return bool(self._library.luvc_has_cuda())

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
        source, target = _borrow("scores", scores, stream), _borrow("indices", indices, stream)
        groups, tokens = _rank(source, 2)
        keep = _rank(target, 2)[1]
        source.expect((groups, tokens), ("float32",), source.device)
        target.expect((groups, keep), _INDICES, source.device)
        sizes = (ctypes.c_int64(groups), ctypes.c_int64(tokens), ctypes.c_int64(keep))
        head = (ctypes.c_void_p(source.address), *sizes, _DTYPES[target.dtype], ctypes.c_void_p(target.address))
        if source.device == "cuda":
            self._call("luvc_select_top_k_cuda", *head, ctypes.c_void_p(stream))
            return
        bytes_needed = ctypes.c_size_t()
        self._call("luvc_select_top_k_host_workspace", sizes[1], ctypes.byref(bytes_needed))
        work = _Workspace(bytes_needed.value, None, "cpu", stream)
        self._call("luvc_select_top_k_host", *head, *work.arguments)

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
        views = {name: _borrow(name, tensor, stream) for name, tensor in (named | {"indices": indices}).items()}
        first = views["values"]
        groups, tokens, channels = _rank(first, 3)
        frequencies, keep = _rank(views["basis"], 2)[1], _rank(views["indices"], 2)[1]
        first.expect(first.shape, _FLOATS, first.device)
        views["norm_weight"].expect((channels,), _FLOATS, first.device)
        views["basis"].expect((tokens, frequencies), ("float32",), first.device)
        views["kept_values"].expect((groups, keep, channels), (first.dtype,), first.device)
        views["indices"].expect((groups, keep), _INDICES, first.device)
        if scores is not None:
            views["scores"] = _borrow("scores", scores, stream)
            views["scores"].expect((groups, tokens), ("float32",), first.device)
        pairs = [_payload(payload, place, first, keep, stream) for place, payload in enumerate(payloads)]
        rows = (_Payload * max(len(pairs), 1))(*(row for row, _ in pairs))
        shape = _PruneShape(
            *(groups, tokens, channels, frequencies, keep),
            *(_DTYPES[views[name].dtype] for name in ("values", "norm_weight", "indices")),
            SCORES.index(score),
            epsilon,
        )
        tensors = _PruneTensors(
            **{name: view.address for name, view in views.items()}, payloads=rows, payload_count=len(pairs)
        )
        self._run("luvc_spectrum_prune", shape, tensors, first.device, workspace, stream)

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
            workspace: For tensors on a GPU, at least the bytes the error for a missing one names.
            stream: CUDA stream as an integer.

        Raises:
            UsageError: A shape, dtype or device does not fit.
            MachineError: The tensors are on a GPU and the library has no CUDA kernels, or the launch failed.
        """
        named = {"values": values, "sizes": sizes, "positions": positions, "merged_values": merged_values}
        named |= {"merged_sizes": merged_sizes, "merged_positions": merged_positions}
        views = {name: _borrow(name, tensor, stream) for name, tensor in named.items()}
        first = views["values"]
        batch, height, width, channels = _rank(first, 4)
        planes = _rank(views["positions"], 4)[3]
        grid, merged = (batch, height, width), (batch, *_rank(views["merged_values"], 4)[1:3])
        first.expect((*grid, channels), _FLOATS, first.device)
        views["sizes"].expect(grid, ("float32",), first.device)
        views["positions"].expect((*grid, planes), ("float32",), first.device)
        views["merged_values"].expect((*merged, channels), (first.dtype,), first.device)
        views["merged_sizes"].expect(merged, ("float32",), first.device)
        views["merged_positions"].expect((*merged, planes), ("float32",), first.device)
        if merged_into is not None:
            views["merged_into"] = _borrow("merged_into", merged_into, stream)
            views["merged_into"].expect((batch, height * width), ("int32",), first.device)
        removed = (width - merged[2], height - merged[1])
        shape = _MergeShape(batch, height, width, channels, planes, *removed, _DTYPES[first.dtype])
        tensors = _MergeTensors(**{name: view.address for name, view in views.items()})
        self._run("luvc_orthogonal_merge", shape, tensors, first.device, workspace, stream)

    def _run(
        self,
        name: str,
        shape: ctypes.Structure,
        tensors: ctypes.Structure,
        device: str,
        workspace: Tensor | None,
        stream: int,
    ) -> None:
        needed = ctypes.c_size_t()
        self._call(f"{name}_workspace", ctypes.byref(shape), _DEVICES[device], ctypes.byref(needed))
        work = _Workspace(needed.value, workspace, device, stream)
        tail = (ctypes.c_void_p(stream),) if device == "cuda" else ()
        suffix = "cuda" if device == "cuda" else "host"
        self._call(f"{name}_{suffix}", ctypes.byref(shape), ctypes.byref(tensors), *work.arguments, *tail)

    def _call(self, name: str, *arguments: object) -> None:
        status: int = self._library[name](*arguments)
        if status == 0:
            return
        text = self._library.luvc_status_string(status).decode()
        if status in (_NO_CUDA, _CUDA_ERROR):
            raise MachineError(text, where=name, fix="build a CUDA preset, see plugins/README.md")
        raise UsageError(text, where=name)


class _Workspace:
    """Scratch memory of one call: the caller's, or on the host one of its own."""

    def __init__(self, needed: int, given: Tensor | None, device: str, stream: int) -> None:
        if given is not None:
            view = _borrow("workspace", given, stream)
            view.expect(view.shape, ("uint8",), device)
            self.owner: object = view
            address, size = view.address, view.shape[0] if len(view.shape) == 1 else 0
        elif device == "cpu":
            buffer = ctypes.create_string_buffer(needed + _ALIGNMENT)
            self.owner = buffer
            address, size = -(-ctypes.addressof(buffer) // _ALIGNMENT) * _ALIGNMENT, needed
        else:
            fix = f"pass workspace=, a uint8 tensor of {needed} bytes on the GPU"
            raise UsageError("a call on the GPU needs a workspace", where="workspace", fix=fix)
        self.arguments = (ctypes.c_void_p(address), ctypes.c_size_t(size))


def _rank(view: _View, rank: int) -> tuple[int, ...]:
    if len(view.shape) != rank:
        expected = f"{rank} dimensions"
        raise UsageError("a tensor has the wrong rank", where=view.name, got=list(view.shape), expected=expected)
    return view.shape


def _payload(payload: Payload, place: int, values: _View, keep: int, stream: int) -> tuple[_Payload, object]:
    """The C record of a payload, and what keeps its memory valid."""
    name, axis = f"payloads[{place}]", payload.token_axis
    source, target = _borrow(name, payload.source, stream), _borrow(f"{name}.target", payload.target, stream)
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
    return _Payload(source.address, target.address, planes, row), (source, target)


def find(name: str, path: Path | str | None = None) -> Path:
    """Where the built file ``name`` is: ``path``, else beside ``$LUVC_NATIVE_LIBRARY``, else newest under ``build/``.

    Raises:
        MachineError: It is nowhere; says how to build it.
    """
    chosen = os.environ.get(LIBRARY_VARIABLE)
    if path is not None:
        candidates = [Path(path)]
    elif chosen:
        candidates = [Path(chosen).with_name(name)] if name != LIBRARY_NAME else [Path(chosen)]
    else:
        built = Path(__file__).resolve().parent.parent.glob(f"build/*/plugins/**/{name}")
        candidates = sorted(built, key=lambda file: file.stat().st_mtime, reverse=True)
    for candidate in candidates:
        if candidate.is_file():
            return candidate.resolve()
    where = ", ".join(map(str, candidates)) or "build/*/plugins"
    fix = BUILD_COMMAND if name == LIBRARY_NAME else "build a CUDA preset, see plugins/README.md"
    raise MachineError(f"{name} is not built", where=where, fix=fix)


def load_plugins(registry: Any, path: Path | str | None = None) -> Path:
    """Register SpectrumPrune and OrthogonalMerge with TensorRT and return the library's path.

    Args:
        registry: ``tensorrt.get_plugin_registry()``, or a builder's or runtime's own.
        path: ``libluvc_plugins.so``; found as the native library is.

    Raises:
        MachineError: The library is not built, or TensorRT refused it (built for another major version, say).
    """
    library = find(PLUGINS_NAME, path)
    if registry.load_library(str(library)) is None:
        fix = "build it with TENSORRT_ROOT at the TensorRT that loads it"
        raise MachineError("TensorRT did not load the plugins", where=str(library), fix=fix)
    return library


def main(arguments: Sequence[str] | None = None) -> int:
    """Say what was found, or run the benchmark; the exit codes are the command line's."""
    parser = argparse.ArgumentParser(prog="python -m luvc_export.engines.native", description=__doc__)
    parser.add_argument("--bench", action="store_true", help="time the kernels on this GPU, JSON lines on stdout")
    parser.add_argument("--library", type=Path, help=f"path of {LIBRARY_NAME}")
    options = parser.parse_args(arguments)
    try:
        if options.bench:
            beside = options.library.with_name(BENCH_NAME) if options.library else None
            return subprocess.run([find(BENCH_NAME, beside)], check=False).returncode
        native = Native(options.library)
        print(f"{native.path}\nCUDA kernels: {'yes' if native.has_cuda else 'no'}")
    except LuvcError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
