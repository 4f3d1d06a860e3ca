"""What readers of quantised checkpoints give: one record a weight, whatever the format it is stored in."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from luvc_export.bundle.codes import FP8_BLOCK
from luvc_export.core.files.safe_files import open_regular
from luvc_export.errors import CheckpointError

#: numpy types of what safetensors files hold, by safetensors' names.
_TYPES: dict[str, Any] = {
    "F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16, "F8_E4M3": ml_dtypes.float8_e4m3fn,
    "I64": np.int64, "I32": np.int32, "I8": np.int8, "U8": np.uint8,
}  # fmt: skip
#: Types that scales are stored in.
FLOATS = ("F32", "F16", "BF16")
AGAIN = "download the checkpoint again, or take the 16-bit one and quantise the bundle (luvc-export calibrate)"


@dataclass(frozen=True)
class StoredTensor:
    """Where one tensor lies: offset and length in ``file``; ``dtype`` is safetensors' name (F32, F16, BF16).

    Of a tensor that is ``rows`` of what begins at ``offset``, ``shape`` and ``bytes`` are those of the rows.
    """

    file: Path
    offset: int
    bytes: int
    dtype: str
    shape: tuple[int, ...]
    rows: tuple[int, ...] | None = None


@dataclass(frozen=True)
class StoredWeight:
    """A weight [N, K] of a product as it is stored: ``scale * (code - zero)``, a scale and a zero for each group.

    Attributes:
        codes: uint8 [N, K * bits / 8], the first code of a byte low; or the numbers themselves, float8_e4m3fn [N, K].
        scales: float32, float16 or bfloat16 [N, K / group]; of FP8 [1, 1], [N, 1] or [N / 128, K / 128], rounded up.
        zeros: uint8 [N, K / group]; None where every zero is half the range (FP8 has none either).
        bits: Of a code, 4 or 8.
        group: Channels (of K) that share a scale.
        order: int32 [K], the input channel whose codes stand at each place; None where they are in their own order.
    """

    codes: NDArray[Any]
    scales: NDArray[Any]
    zeros: NDArray[np.uint8] | None
    bits: int
    group: int
    order: NDArray[np.int32] | None = None

    @property
    def real(self) -> bool:
        """Codes are numbers (FP8), not whole ones."""
        return self.codes.dtype == ml_dtypes.float8_e4m3fn

    def widened(self) -> NDArray[np.float32]:
        """The weight [N, K] in fp32, channels in their own order: what torch computes with in comparisons."""
        if self.real:
            shapes = self.codes.shape, self.scales.shape
            rows, columns = (1 if n == size else FP8_BLOCK if n > 1 else size for size, n in zip(*shapes, strict=True))
            scale = np.repeat(np.repeat(self.scales.astype(np.float32), rows, 0), columns, 1)
            return self.codes.astype(np.float32) * scale[: len(self.codes), : self.codes.shape[1]]
        codes = unpacked(self.codes, self.bits).astype(np.float32)
        half = np.float32(1 << (self.bits - 1))
        zeros = half if self.zeros is None else np.repeat(self.zeros.astype(np.float32), self.group, 1)
        weight = (codes - zeros) * np.repeat(self.scales.astype(np.float32), self.group, 1)
        if self.order is None:
            return weight
        own = np.empty_like(weight)
        own[:, self.order] = weight
        return own


@dataclass(frozen=True)
class StoredLinear:
    """A module whose weight is quantised, known by its tensors' headers.

    Attributes:
        name: Of the module, as the checkpoint has it.
        shape: [N, K] of its weight.
        bits: Of a code.
        sources: Names of the tensors that it is made of.
        read: Reads them.
    """

    name: str
    shape: tuple[int, int]
    bits: int
    sources: tuple[str, ...]
    read: Callable[[], StoredWeight]


@dataclass(frozen=True)
class Stored:
    """What a reader makes of a checkpoint: its quantised modules, and what a user should know of them, a line each."""

    method: str
    linears: tuple[StoredLinear, ...]
    notes: tuple[str, ...] = ()


class Reader(Protocol):
    """A format: a module of this folder, called as its ``quant_method``."""

    def read(self, config: Mapping[str, Any], tensors: Mapping[str, StoredTensor], where: str) -> Stored:
        """Every quantised module of a checkpoint; values are read later.

        Args:
            config: ``quantization_config``.
            tensors: The checkpoint's.
            where: The config's file, for errors.

        Raises:
            CheckpointError: A setting that cannot be read, or tensors that do not fit each other.
        """


def array(tensor: StoredTensor) -> NDArray[Any]:
    """The values of a tensor.

    Raises:
        CheckpointError: The file ended early.
    """
    with open_regular(tensor.file, links=True) as file:
        file.seek(tensor.offset)
        data = file.read(tensor.bytes)
    if len(data) != tensor.bytes:
        raise CheckpointError("a weight file ended early", where=str(tensor.file))
    return np.frombuffer(data, _TYPES[tensor.dtype]).reshape(tensor.shape)


@dataclass(frozen=True)
class Module:
    """A quantised module, known by its name, among the tensors of its checkpoint."""

    name: str
    tensors: Mapping[str, StoredTensor]

    def has(self, part: str) -> bool:
        """Whether it has a tensor called ``part``."""
        return f"{self.name}.{part}" in self.tensors

    def part(self, name: str, shape: Sequence[int] | None, dtypes: Sequence[str]) -> StoredTensor:
        """Its tensor ``name``, which must have this shape (None for any) and one of these types.

        Raises:
            CheckpointError: It is missing or another.
        """
        whole = f"{self.name}.{name}"
        tensor = self.tensors.get(whole)
        if tensor is None:
            raise CheckpointError("a quantised weight lacks a part", where=self.name, expected=whole, fix=AGAIN)
        if tensor.dtype not in dtypes or (shape is not None and tensor.shape != tuple(shape)):
            raise CheckpointError(
                "a part of a quantised weight does not fit the others",
                where=f"{tensor.file}: {whole}",
                got=f"{tensor.dtype} {list(tensor.shape)}",
                expected=f"{' or '.join(dtypes)} {'' if shape is None else list(shape)}".strip(),
                fix=AGAIN,
            )
        return tensor

    def groups(self, channels: int, count: int, stated: object) -> int:
        """Channels of a group, where ``count`` groups share ``channels``; the config's ``stated`` size must be that.

        Raises:
            CheckpointError: They do not divide, or the config says another size.
        """
        if count < 1 or channels % count or (stated not in (None, -1) and stated != channels // count):
            raise CheckpointError(
                "the groups of a quantised weight do not divide its channels",
                where=self.name,
                got=f"{count} groups of {channels} channels, group_size {stated}",
                expected="groups of one size, the config's",
                fix=AGAIN,
            )
        return channels // count

    def misfit(self, what: str, **parts: StoredTensor) -> CheckpointError:
        """The error ``what`` about the shapes of these parts."""
        got = ", ".join(f"{name} {list(tensor.shape)}" for name, tensor in parts.items())
        return CheckpointError(what, where=self.name, got=got, fix=AGAIN)

    def linear(
        self, shape: tuple[int, int], bits: int, parts: Iterable[str], read: Callable[[], StoredWeight]
    ) -> StoredLinear:
        """The record of it; ``parts`` are the names of the tensors that it is made of."""
        return StoredLinear(self.name, shape, bits, tuple(f"{self.name}.{part}" for part in parts), read)


def modules(tensors: Mapping[str, StoredTensor], suffix: str) -> list[Module]:
    """The modules that have a tensor called ``suffix``, by name."""
    names = (name.removesuffix(f".{suffix}") for name in tensors if name.endswith(f".{suffix}"))
    return [Module(name, tensors) for name in sorted(names)]


def unpacked(codes: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """Codes [N, K] a byte each, of packed ones [N, K * bits / 8]."""
    if bits == 8:
        return codes
    return np.stack([codes & 15, codes >> 4], -1).reshape(len(codes), -1)


def packed(codes: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """Codes [N, K] with 8 / bits in a byte, the first low; K even, or padded with a zero."""
    if bits == 8:
        return np.ascontiguousarray(codes)
    if codes.shape[1] % 2:
        codes = np.pad(codes, ((0, 0), (0, 1)))
    return np.asarray(codes[:, ::2] | codes[:, 1::2] << 4, np.uint8)


def in_groups(
    module: str, codes: NDArray[np.uint8], bits: int, group: int, index: NDArray[Any]
) -> tuple[NDArray[np.uint8], NDArray[np.int32] | None]:
    """Packed codes with the channels of a group side by side, and which channel stands where (None: as before).

    Args:
        module: For errors.
        codes: Packed, [N, K * bits / 8].
        bits: Of a code.
        group: Channels of a group.
        index: Group of each channel [K].

    Raises:
        CheckpointError: Groups have other sizes.
    """
    count = len(index) // group
    plain = np.arange(len(index)) // group
    if np.array_equal(index, plain):
        return codes, None
    if (
        index.min(initial=0) < 0
        or index.max(initial=0) >= count
        or np.any(np.bincount(index, minlength=count) != group)
    ):
        raise CheckpointError(
            "the channels of a quantised weight are in groups of different sizes",
            where=module,
            got=f"groups {index.min(initial=0)} to {index.max(initial=0)}",
            expected=f"{count} groups of {group} channels",
            fix=AGAIN,
        )
    order = np.argsort(index, kind="stable").astype(np.int32)
    return packed(unpacked(codes, bits)[:, order], bits), order
