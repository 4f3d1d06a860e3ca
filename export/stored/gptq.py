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

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property, partial
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
#: Steps of all patterns and names together, at 2e8 a second, and characters of a pattern.
_MOST_STEPS, _LONGEST_PATTERN = 10**9, 1024
#: An escape or a class, which choose nothing.
_ONE_CHARACTER = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]", re.DOTALL)


def read(config: Mapping[str, Any], tensors: Mapping[str, base.StoredTensor], where: str) -> base.Stored:
    """See ``base.Reader``."""
    form = str(config.get("checkpoint_format") or "gptq")
    quantised = base.modules(tensors, "qweight")
    settings = _Settings(config, where).of_modules(module.name for module in quantised)
    asked = [(module, settings[module.name]) for module in quantised]
    unread = [
        bits
        for bits in (config.get("bits"), *(bits for _, (bits, _) in asked))
        if type(bits) is not int or bits not in _BITS
    ]
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


class _Settings:
    """Bits and group of modules, as ``dynamic`` or else the config says."""

    def __init__(self, config: Mapping[str, Any], where: str) -> None:
        self._config, self._where, self._steps = config, where, 0

    def of_modules(self, names: Iterable[str]) -> dict[str, tuple[Any, object]]:
        """Both by name.

        Raises:
            CheckpointError: ``dynamic`` is no table of settings by pattern, or its patterns might take for ever.
        """
        dynamic = self._config.get("dynamic") or {}
        try:
            patterns = [_Pattern(text, settings) for text, settings in dynamic.items()]
            return {name: self._of(name, patterns) for name in names}
        except (AttributeError, OverflowError, RecursionError, TypeError, re.error) as error:
            raise CheckpointError(
                "the config's settings by module cannot be read",
                where=f"{self._where}: dynamic",
                got=repr(dynamic)[:80],
                expected='{"+:PATTERN": {"bits": 8}, "-:PATTERN": {}}',
                fix=base.AGAIN,
            ) from error

    def _of(self, name: str, patterns: Sequence[_Pattern]) -> tuple[Any, object]:
        for pattern in patterns:
            if not pattern.leaves and self._matches(pattern, name):
                own = {field: pattern.settings.get(field, self._config.get(field)) for field in ("bits", "group_size")}
                return own["bits"], own["group_size"]
        return self._config.get("bits"), self._config.get("group_size")

    def _matches(self, pattern: _Pattern, name: str) -> bool:
        self._steps += math.comb(len(name) + min(pattern.choices, _MOST_CHOICES), min(pattern.choices, _MOST_CHOICES))
        if pattern.repeated or pattern.choices > _MOST_CHOICES or len(name) > _LONGEST or self._steps > _MOST_STEPS:
            raise CheckpointError(
                "patterns of the config might take for ever to match",
                where=f"{self._where}: dynamic",
                got=f"{pattern.text[:80]!r}, with {pattern.choices} repeats and groups, for a name of {len(name)} "
                f"characters; {self._steps:,} steps for all patterns and names before it",
                expected=f"no group repeated, at most {_MOST_CHOICES} repeats and groups, names to {_LONGEST} "
                f"characters, {_MOST_STEPS:,} steps",
                fix="write it as several patterns, or " + base.AGAIN,
            )
        return pattern.compiled.match(name) is not None


class _Pattern:
    def __init__(self, text: str, settings: Any) -> None:
        self.leaves, self.text, self.settings = text.startswith("-:"), text.removeprefix("+:"), settings
        bare = _ONE_CHARACTER.sub("x", self.text).replace("(?", "(")
        self.choices, self.repeated = len(re.findall(r"[*+?{(]", bare)), bool(re.search(r"\)[*+{]", bare))
        if len(self.text) > _LONGEST_PATTERN:
            raise OverflowError(f"a pattern of {len(self.text)} characters")

    @cached_property
    def compiled(self) -> re.Pattern[str]:
        return re.compile(self.text)


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
