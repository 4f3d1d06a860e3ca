"""A learned scorer: a safetensors file, opened by path and from then on known in this process by its sha256.

A plan says the hash (setting ``scorer``), so what it was searched and exported with can be told from any other file; a
bundle holds the file beside its graphs. Files are untrusted: size before reading, hash before parsing, no pickle.
"""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from luvc_export.core.files.safe_files import open_regular
from luvc_export.core.plan import Plan
from luvc_export.errors import PlanError

#: Bytes of the largest file: VisionSelector's two matrices for a 7B model are 51 MB in fp32; there may be one pair a
#: layer.
MOST_BYTES = 2**30
_SMALLEST = 10  # eight bytes of a length, and an empty header
_NAME = re.compile(r"(query|key)(?:\.(0|[1-9]\d{0,3}))?")
_FLOATS = (torch.float32, torch.float16, torch.bfloat16)


@dataclass(frozen=True, eq=False)
class Scorer:
    """The two maps of a learned score, by the layer they prune before; None for those of every other layer.

    Attributes:
        sha256: Of the file.
        data: The file.
        maps: fp32 [2, d, D] by layer: ``W_q``, then ``W_k``.
    """

    sha256: str
    data: bytes
    maps: dict[int | None, Tensor]

    @property
    def file(self) -> str:
        """Name of the file in a bundle."""
        return file_name(self.sha256)

    def of(self, layer: int, channels: int) -> Tensor:
        """Maps of the prune before ``layer``, fp32 [2, d, D].

        Raises:
            PlanError: The file has none for this layer, or for another width.
        """
        maps = self.maps.get(layer, self.maps.get(None))
        if maps is None:
            layers = ", ".join(str(each) for each in sorted(each for each in self.maps if each is not None))
            raise PlanError(
                "the scorer has not learned to prune before this layer",
                where=f"plan.keep[{layer}]",
                got=f"scorer {self.sha256[:16]} of layers {layers}",
                expected=f"tensors query.{layer} and key.{layer}, or query and key for every layer",
                fix="prune before a layer that it has learned, or learn it for this one",
            )
        if maps.shape[2] != channels:
            raise PlanError(
                "the scorer is for a model of another width",
                where=f"scorer {self.sha256[:16]}",
                got=f"rows of {maps.shape[2]}",
                expected=f"rows of {channels}, the model's hidden size",
                fix="learn one for this model",
            )
        return maps

    def check(self, plan: Plan, channels: int) -> None:
        """Whether every prune of ``plan`` finds its maps, and the file names no layer that the model has not.

        Raises:
            PlanError: See ``of``; or a layer that is unknown.
        """
        unknown = sorted(layer for layer in self.maps if layer is not None and layer >= plan.layers)
        if unknown:
            raise PlanError(
                "the scorer names a layer that the model has not",
                where=f"scorer {self.sha256[:16]}",
                got=f"query.{unknown[0]}",
                expected=f"layers 0 to {plan.layers - 1}",
            )
        for layer, _, keep in plan.prunes:
            if keep:
                self.of(layer, channels)


_KNOWN: dict[str, Scorer] = {}


def file_name(sha256: str) -> str:
    """Name of a scorer's file in a bundle."""
    return f"scorer.{sha256[:16]}.safetensors"


def scorer_of(plan: Plan) -> str:
    """sha256 of the scorer's file that ``plan`` names; empty where it names none."""
    return str(dict(plan.llm.method.settings).get("scorer", ""))


def open_scorer(path: str | os.PathLike[str]) -> Scorer:
    """Read a scorer's file; plans that name its hash find it from then on.

    Raises:
        PlanError: No file, too large, no safetensors file, or not the tensors of a scorer.
    """
    where = Path(path)
    if not where.is_file():
        raise PlanError("there is no such scorer", where="--scorer", got=str(path), expected="a .safetensors file")
    with open_regular(where, links=True) as file:
        size = os.fstat(file.fileno()).st_size
        if not _SMALLEST <= size <= MOST_BYTES:
            raise PlanError(
                "a scorer's file is not of this size",
                where=str(path),
                got=f"{size:,} bytes",
                expected=f"{_SMALLEST} to {MOST_BYTES:,} bytes",
            )
        data = file.read(MOST_BYTES + 1)
    return remember(data, str(path))


def remember(data: bytes, where: str) -> Scorer:
    """The scorer in ``data``, known from then on. Raises what ``open_scorer`` raises."""
    digest = hashlib.sha256(data).hexdigest()
    if digest not in _KNOWN:
        _KNOWN[digest] = Scorer(digest, data, _maps(data, where))
    return _KNOWN[digest]


def known(sha256: str) -> Scorer:
    """The scorer whose file has this hash.

    Raises:
        PlanError: It was not opened.
    """
    if sha256 not in _KNOWN:
        raise PlanError(
            "the scorer of this plan is not at hand",
            where="plan.llm.method.settings.scorer",
            got=f"sha256 {sha256[:16]}...",
            expected=f"--scorer FILE of that hash; a bundle of the plan holds it as {file_name(sha256)}",
        )
    return _KNOWN[sha256]


def _maps(data: bytes, where: str) -> dict[int | None, Tensor]:
    try:
        tensors = load(data)
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise PlanError(
            "this is no safetensors file", where=where, got=str(error)[:200], fix="save it with safetensors.torch"
        ) from error
    halves: dict[int | None, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        match = _NAME.fullmatch(name)
        if not match or tensor.ndim != 2 or tensor.dtype not in _FLOATS or not tensor.numel():
            raise _wrong(where, f"{name[:60]!r}, {str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}")
        if not torch.isfinite(tensor).all():
            raise PlanError("a scorer's tensor is not finite", where=f"{where}: {name}", got="inf or nan")
        halves.setdefault(None if match[2] is None else int(match[2]), {})[match[1]] = tensor.float()
    for layer, pair in halves.items():
        missing = sorted({"query", "key"} - pair.keys())
        if missing:
            raise _wrong(where, "no " + ", ".join(each + ("" if layer is None else f".{layer}") for each in missing))
        if pair["query"].shape != pair["key"].shape:
            raise _wrong(where, f"query {list(pair['query'].shape)}, key {list(pair['key'].shape)}")
    if not halves:
        raise _wrong(where, "no tensors")
    return {layer: torch.stack([pair["query"], pair["key"]]) for layer, pair in halves.items()}


def _wrong(where: str, got: str) -> PlanError:
    return PlanError(
        "this is no scorer",
        where=where,
        got=got,
        expected="float matrices query and key [d, hidden size] for every prune, or query.L and key.L for that before"
        " layer L",
    )
