"""GPTQ as AutoGPTQ and GPTQModel store it: four or eight bits, packed along the inputs, zeros less one (v1) or exact.

Layout: https://github.com/ModelCloud/GPTQModel/blob/main/gptqmodel/nn_modules/qlinear/__init__.py,
``PackableQuantLinear.pack_original``: ``qweight`` int32 [K * bits / 32, N], ``qzeros`` int32 [K / g, N * bits / 32],
``scales`` [K / g, N], ``g_idx`` int32 [K], the group of each channel. v1 takes one off every zero before it packs
(``convert_gptq_v2_to_v1_format``).

``checkpoint_format`` is wrong in the wild (vllm-project/vllm#38966): where every zero is the same, that zero decides.

``dynamic`` gives modules other bits or groups, by patterns matched from a name's beginning, the first that does; ``-:``
before one leaves its modules in 16 bits (GPTQModel's ``dynamic_get``). A pattern is a stranger's regular expression,
and Python's take time that grows without bound: those that choose often are refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from luvc_export.errors import CheckpointError
from luvc_export.export.stored import base

_FORMATS = ("gptq", "gptq_v2")
_BITS = (4, 8)
#: Repeats and groups of a pattern, and characters of a name that it is held against: trying n choices in a name of L
#: characters takes up to L^n / n! steps.
_MOST_CHOICES, _LONGEST = 5, 128
#: An escape or a class, which choose nothing.
_ONE_CHARACTER = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]", re.DOTALL)


def read(config: Mapping[str, Any], tensors: Mapping[str, base.StoredTensor], where: str) -> base.Stored:
    """See ``base.Reader``."""
    form = str(config.get("checkpoint_format") or "gptq")
    asked = [(module, _asked(config, module.name, where)) for module in base.modules(tensors, "qweight")]
    unread = [bits for bits in (config.get("bits"), *(bits for _, (bits, _) in asked)) if bits not in _BITS]
    if unread or form not in _FORMATS:
        raise CheckpointError(
            "GPTQ checkpoints of this kind are not read",
            where=where,
            got=f"{unread[0] if unread else config.get('bits')} bits, checkpoint_format {form}",
            expected="4 or 8 bits, checkpoint_format gptq or gptq_v2",
            fix="take such a checkpoint, or the 16-bit one and luvc-export calibrate --precision q4",
        )
    weights = [(module, bits, _parts(module, bits, group)) for module, (bits, group) in asked]
    offsets, notes = {}, []
    for width in sorted({bits for _, bits, _ in weights}):
        zeros = [parts["qzeros"] for _, bits, parts in weights if bits == width]
        offsets[width], note = _offset(zeros, width, form, config.get("sym"), where)
        notes.append(note)
    linears = (_linear(module, parts, bits, offsets[bits]) for module, bits, parts in weights)
    return base.Stored("gptq", tuple(linears), tuple(dict.fromkeys(notes)))


def _asked(config: Mapping[str, Any], name: str, where: str) -> tuple[Any, object]:
    """Bits and group of a module, as ``dynamic`` or else the config says.

    Raises:
        CheckpointError: ``dynamic`` is no table of settings by pattern, or a pattern might take for ever.
    """
    dynamic = config.get("dynamic") or {}
    try:
        for pattern, settings in dynamic.items():
            if not pattern.startswith("-:") and _matches(pattern.removeprefix("+:"), name, where):
                return settings.get("bits", config.get("bits")), settings.get("group_size", config.get("group_size"))
    except (AttributeError, OverflowError, TypeError, re.error) as error:
        raise CheckpointError(
            "the config's settings by module cannot be read",
            where=f"{where}: dynamic",
            got=repr(dynamic)[:80],
            expected='{"+:PATTERN": {"bits": 8}, "-:PATTERN": {}}',
            fix=base.AGAIN,
        ) from error
    return config.get("bits"), config.get("group_size")


def _matches(pattern: str, name: str, where: str) -> bool:
    bare = _ONE_CHARACTER.sub("x", pattern).replace("(?", "(")
    choices = len(re.findall(r"[*+?{(]", bare))
    if re.search(r"\)[*+{]", bare) or choices > _MOST_CHOICES or len(name) > _LONGEST:
        raise CheckpointError(
            "a pattern of the config might take for ever to match",
            where=f"{where}: dynamic",
            got=f"{pattern[:80]!r}, with {choices} repeats and groups, for a name of {len(name)} characters",
            expected=f"no group repeated, at most {_MOST_CHOICES} repeats and groups, names to {_LONGEST} characters",
            fix="write it as several patterns, or " + base.AGAIN,
        )
    return re.match(pattern, name) is not None


def _parts(module: base.Module, bits: int, stated: object) -> dict[str, base.StoredTensor]:
    weight = module.part("qweight", None, ("I32",))
    scales = module.part("scales", None, base.FLOATS)
    if len(weight.shape) != 2 or len(scales.shape) != 2 or weight.shape[1] * bits % 32:
        raise module.misfit("a quantised weight has sizes that cannot be", qweight=weight, scales=scales)
    channels, columns, count = weight.shape[0] * 32 // bits, weight.shape[1], scales.shape[0]
    module.part("scales", (count, columns), base.FLOATS)
    zeros = module.part("qzeros", (count, columns * bits // 32), ("I32",))
    module.groups(channels, count, stated)
    parts = {"qweight": weight, "qzeros": zeros, "scales": scales}
    if module.has("g_idx"):
        parts["g_idx"] = module.part("g_idx", (channels,), ("I32", "I64"))
    return parts


def _offset(zeros: Sequence[base.StoredTensor], bits: int, form: str, symmetric: object, where: str) -> tuple[int, str]:
    """What is added to stored zeros (1 for v1, 0 for v2), and a line that says why.

    Raises:
        CheckpointError: The config calls the zeros symmetric, and they are neither version's.
    """
    low, high = 1 << bits, -1
    for tensor in zeros:
        values = _codes(base.array(tensor), bits).ravel()
        if values.size:
            low, high = min(low, int(values.min())), max(high, int(values.max()))
    half = 1 << (bits - 1)
    if low == high in (half - 1, half):
        offset = half - low
        wrong = " (its checkpoint_format says otherwise)" if (form == "gptq") != bool(offset) else ""
        return offset, f"GPTQ {'v1' if offset else 'v2'}: every stored zero is {low}{wrong}"
    if symmetric is True:
        raise CheckpointError(
            "the config calls the zeros symmetric, and they are those of no version of GPTQ",
            where=where,
            got=f"stored zeros from {low} to {high}",
            expected=f"all {half - 1} (v1) or all {half} (v2)",
            fix=base.AGAIN,
        )
    version = "v1" if form == "gptq" else "v2"
    return int(
        form == "gptq"
    ), f"GPTQ {version}, as checkpoint_format says: zeros from {low} to {high} fit both versions"


def _linear(module: base.Module, parts: dict[str, base.StoredTensor], bits: int, offset: int) -> base.StoredLinear:
    channels, columns = parts["qweight"].shape[0] * 32 // bits, parts["qweight"].shape[1]
    return module.linear((columns, channels), bits, parts, partial(_read, module.name, parts, bits, offset))


def _read(name: str, parts: dict[str, base.StoredTensor], bits: int, offset: int) -> base.StoredWeight:
    codes = np.ascontiguousarray(base.array(parts["qweight"]).T).view(np.uint8)
    scales = np.ascontiguousarray(base.array(parts["scales"]).T)
    group = codes.shape[1] * 8 // bits // scales.shape[1]
    order = None
    if "g_idx" in parts:
        codes, order = base.in_groups(name, codes, bits, group, base.array(parts["g_idx"]))
    zeros = _codes(base.array(parts["qzeros"]), bits).T + np.uint8(offset)  # past the range it wraps, as the library's
    zeros &= (1 << bits) - 1
    return base.StoredWeight(codes, scales, zeros, bits, group, order)


def _codes(words: NDArray[np.int32], bits: int) -> NDArray[np.uint8]:
    """Codes [rows, words * 32 / bits] in the order of their bits."""
    return base.unpacked(np.ascontiguousarray(words).view(np.uint8), bits)
