"""A peft adapter's folder as factors for a bundle's slots: safetensors alone, checked before anything is made of it."""

from __future__ import annotations

import hashlib
import math
import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
from numpy.typing import NDArray

from luvc_export.bundle.adapters.peft_config import CONFIG, MERGE, PeftConfig, read_config
from luvc_export.bundle.manifest import LoraSlots, Manifest
from luvc_export.core.element_types import BY_PRECISION, BY_SAFETENSORS
from luvc_export.core.files import folders
from luvc_export.core.files.json_file import parse_json
from luvc_export.core.files.safe_files import open_regular
from luvc_export.errors import CheckpointError, UsageError, first_few

TENSORS = "adapter_model.safetensors"
_PICKLED = "adapter_model.bin"
#: Bytes of names, types and places, beside the factors themselves.
_HEADER_LIMIT = 2**24
_TENSOR = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<factor>[AB])(\.default)?\.weight")
_FORM = "NAME=FOLDER"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_MODULE = re.compile(r"(?P<prefix>.+)\.(?P<layer>\d{1,5})\.(?P<path>\D.*)")
#: Words of the names that transformers had for the layers of an LLM, by version.
_LLM_WORDS = {"model", "language_model", "text_model", "layers"}
_TYPES = tuple(BY_PRECISION[name].safetensors for name in ("fp32", "fp16", "bf16"))
#: Of a factor, and of what two factors add to a weight: fp16's largest number; elsewhere what, times inputs and widths
#: of models, is squared by norms and stays a float32.
_MOST_HALF, _MOST = float(np.finfo(np.float16).max), 1e9


@dataclass(frozen=True, eq=False)
class Adapter:
    """Two factors for each product that it changes. Two adapters are the same where they are one object.

    Args:
        folder: Where it was read.
        rank: The largest of its products.
        factors: By slot (``3.q_proj``): a float32 [K, r] and b float32 [r, M], scaled, for ``(x @ a) @ b``.
        sha256: Of its files.
    """

    folder: str
    rank: int
    factors: Mapping[str, tuple[NDArray[np.float32], NDArray[np.float32]]]
    sha256: str


def read_adapter(folder: Path, manifest: Manifest) -> Adapter:
    """Read a peft adapter for the slots of a bundle.

    Raises:
        UsageError: The bundle has no slots.
        CheckpointError: The folder holds no plain LoRA adapter, is damaged, or has a module or a rank that no slot
            takes.
    """
    slots = manifest.lora
    if slots is None:
        raise UsageError(
            "this bundle has no slots for adapters",
            where="--lora",
            got=str(folder),
            expected="a bundle exported with --lora-slots RANK",
            fix=f"export it again with --lora-slots, or {MERGE}",
        )
    folders.check_name(folder, "the adapter")
    config = read_config(folder)
    data, digest = _read(folder, slots)
    pairs: dict[str, dict[str, tuple[str, NDArray[np.float32]]]] = {}
    strange: list[str] = []
    for name, tensor in _tensors(data, folder / TENSORS):
        parts = _TENSOR.fullmatch(name)
        slot = _slot(parts["module"], slots) if parts else None
        if parts is None or slot is None:
            strange.append(name)
            continue
        if pairs.setdefault(slot, {}).setdefault(parts["factor"], (parts["module"], tensor))[1] is not tensor:
            raise CheckpointError("an adapter has two tensors for one factor", where=str(folder), got=name[:200])
    if strange or not pairs:
        raise CheckpointError(
            "the adapter changes modules that the bundle has no slots for",
            where=str(folder / TENSORS),
            got=first_few(name[:120] for name in sorted(strange)) if strange else "no tensors",
            expected=f"{', '.join(slots.modules)} of {slots.prefix}.N",
            fix=f"export with --lora-targets naming them too (products of the LLM's layers alone), or {MERGE}",
        )
    factors = {slot: _pair(slot, pair, config, slots) for slot, pair in pairs.items()}
    _check_range(factors, manifest.dtype, folder)
    return Adapter(str(folder), max(a.shape[1] for a, _ in factors.values()), factors, digest)


def check_name(name: str) -> None:
    """Refuse names that a client could not say, or that mean something else to it.

    Raises:
        UsageError: It is one.
    """
    if not _NAME.fullmatch(name):
        raise UsageError(
            "this is no name of an adapter",
            where="adapter",
            got=repr(name)[:80],
            expected="up to 64 letters, digits, dots, dashes and underscores, the first a letter or digit",
        )


def named_folders(arguments: Sequence[str]) -> dict[str, Path]:
    """``NAME=FOLDER`` of a command line as folders by name.

    Raises:
        UsageError: One is not of that form, or two have one name.
    """
    by_name: dict[str, Path] = {}
    for one in arguments:
        name, sign, folder = one.partition("=")
        if not sign or not folder:
            raise UsageError("an adapter has a name and a folder", where="--lora", got=one[:200], expected=_FORM)
        check_name(name)
        if name in by_name:
            raise UsageError("two adapters have one name", where="--lora", got=name, fix="call one of them otherwise")
        by_name[name] = Path(folder)
    return by_name


def _read(folder: Path, slots: LoraSlots) -> tuple[bytes, str]:
    """The tensors' file, not larger than full slots in fp32, and a hash of it and the config."""
    path = folder / TENSORS
    most = _HEADER_LIMIT + 4 * slots.rank * sum(map(sum, slots.slots.values()))
    try:
        with open_regular(path, links=True) as file:
            data = file.read(most + 1)
        with open_regular(folder / CONFIG, links=True) as file:
            digest = hashlib.sha256(file.read())
    except OSError as error:
        pickled = (folder / _PICKLED).exists()
        raise CheckpointError(
            "the adapter's tensors cannot be read",
            where=str(path),
            got=f"{_PICKLED} alone, a pickle, which runs code when loaded" if pickled else error.strerror,
            expected=TENSORS,
            fix="save it again with peft's save_pretrained(FOLDER), which writes safetensors",
        ) from error
    if len(data) > most:
        raise CheckpointError(
            "the adapter is larger than the bundle's slots",
            where=str(path),
            expected=f"at most {most:,} bytes: rank {slots.rank} beside {len(slots.slots)} products",
            fix=f"export with a larger --lora-slots, or {MERGE}",
        )
    digest.update(data)
    return data, digest.hexdigest()


def _tensors(data: bytes, path: Path) -> list[tuple[str, NDArray[np.float32]]]:
    """Names and values of a safetensors file: 8 bytes of length, JSON, then the data it describes."""
    length = struct.unpack("<Q", data[:8])[0] if len(data) >= 8 else 0
    if not 2 <= length <= min(_HEADER_LIMIT, len(data) - 8):
        raise _damaged(path, f"{len(data)} bytes")
    header = parse_json(data[8 : 8 + length], str(path), CheckpointError, "the adapter's header")
    if not isinstance(header, dict):
        raise _damaged(path, "a header that is no JSON object")
    body = memoryview(data)[8 + length :]
    return [(name, _values(name, entry, body, path)) for name, entry in header.items() if name != "__metadata__"]


def _values(name: str, entry: Any, body: memoryview, path: Path) -> NDArray[np.float32]:
    fields: dict[str, Any] = entry if isinstance(entry, dict) else {}
    kind, shape, places = fields.get("dtype"), fields.get("shape"), fields.get("data_offsets")
    if not _two_sizes(shape) or not _two_sizes(places) or max(shape) > len(body):
        raise _damaged(path, f"{name[:100]}: {str(entry)[:100]}")
    if kind not in _TYPES:
        raise CheckpointError(
            "factors of an adapter are floats",
            where=f"{path}: {name[:100]}",
            got=repr(kind)[:40],
            expected=", ".join(_TYPES),
        )
    begin, end = places
    element = BY_SAFETENSORS[kind]
    if not begin <= end <= len(body) or end - begin != math.prod(shape) * element.itemsize:
        raise _damaged(path, f"{name[:100]}: {end - begin} bytes for {shape} of {kind}")
    stored = np.frombuffer(body[begin:end], element.storage).reshape(shape)
    wide = (stored.astype(np.uint32) << 16).view(np.float32) if kind == "BF16" else stored.astype(np.float32)
    if not np.isfinite(wide).all():
        raise CheckpointError("a factor of an adapter is no number", where=f"{path}: {name[:100]}")
    return wide


def _two_sizes(value: Any) -> TypeGuard[list[int]]:
    return isinstance(value, list) and len(value) == 2 and all(type(one) is int and one >= 0 for one in value)


def _slot(module: str, slots: LoraSlots) -> str | None:
    """The slot of a module's full name; layers of an LLM had other names in earlier transformers."""
    parts = _MODULE.fullmatch(module)
    if parts is None:
        return None
    if parts["prefix"] != slots.prefix and not set(parts["prefix"].split(".")) <= _LLM_WORDS:
        return None
    named = (f"{int(parts['layer'])}.{name}" for name, path in slots.modules.items() if path == parts["path"])
    return next((slot for slot in named if slot in slots.slots), None)


def _pair(
    slot: str, pair: Mapping[str, tuple[str, NDArray[np.float32]]], config: PeftConfig, slots: LoraSlots
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Both factors of a slot, turned and scaled."""
    if len(pair) != 2:
        raise CheckpointError("half of a pair of factors is missing", where=config.where, got=f"{slot}: {[*pair]}")
    module, a = pair["A"]
    b, rank, (entering, leaving) = pair["B"][1], config.rank_of(module), slots.slots[slot]
    if a.shape != (rank, entering) or b.shape != (leaving, rank):
        raise CheckpointError(
            "the adapter does not fit the model",
            where=f"{config.where}: {module[:100]}",
            got=f"factors {list(a.shape)} and {list(b.shape)}",
            expected=f"[{rank}, {entering}] and [{leaving}, {rank}], of rank {rank}",
            fix=f"this one was made for {config.base}",
        )
    if rank > slots.rank:
        raise CheckpointError(
            "the adapter's rank is larger than the slots",
            where=f"{config.where}: {module[:100]}",
            got=rank,
            expected=f"at most {slots.rank}",
            fix=f"export with --lora-slots {rank}, or {MERGE}",
        )
    with np.errstate(over="ignore"):  # see ``_check_range``
        return np.ascontiguousarray(a.T), np.ascontiguousarray(b.T) * np.float32(config.scale_of(module))


def _check_range(
    factors: Mapping[str, tuple[NDArray[np.float32], NDArray[np.float32]]], dtype: str, folder: Path
) -> None:
    """Refuse numbers that the bundle's arithmetic has not, or that what enters takes beyond it."""
    largest = {slot: [float(np.abs(factor).max(initial=0)) for factor in pair] for slot, pair in factors.items()}
    if dtype == "fp16" and (most := max(map(max, largest.values()))) > _MOST_HALF:
        raise CheckpointError(
            "a factor of the adapter is beyond fp16", where=str(folder), got=f"{most:g}", fix="export with --dtype bf16"
        )
    limit = _MOST_HALF if dtype == "fp16" else _MOST
    for slot, (a, b) in largest.items():
        change = a * b * factors[slot][0].shape[1]
        if not max(a, b, change) <= limit:  # also what became infinite when it was scaled
            raise CheckpointError(
                "the adapter's factors overflow",
                where=f"{folder}: {slot}",
                got=f"factors to {a:g} and {b:g} (scaled), which change weights by up to {change:g}",
                expected=f"at most {limit:g} each",
                fix="train it again: it has diverged, or its lora_alpha is damaged",
            )


def _damaged(path: Path, got: str) -> CheckpointError:
    return CheckpointError(
        "the adapter's tensors are truncated or damaged",
        where=str(path),
        got=got,
        expected="a safetensors file",
        fix="download or copy this file again",
    )
