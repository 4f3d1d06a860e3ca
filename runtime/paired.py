"""Two back-ends as one: prompts on the first, steps of a few tokens on the second.

A prompt is bound by arithmetic and a step by reading weights, and on one CPU different engines, or one engine in
different arithmetic, are best at either. KV caches go over once, at the first step: they are copied where the two
store different types, else only handed on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from luvc_export.bundle.folder import Bundle
from luvc_export.bundle.manifest import PlanEntry
from luvc_export.core import graph_io
from luvc_export.runtime.host.cache import HostCache
from luvc_export.runtime.model import Array, Backend

#: Names: prompts on OpenVINO in what the device is best at; steps on ONNX Runtime, or on OpenVINO with fp32
#: activations, which its kernels for 8- and 4-bit weights ask for, or without codes (``plans``).
PAIRS = {"openvino+cpu": "cpu", "openvino+openvino": "openvino"}


@dataclass(frozen=True)
class _ForBoth:
    """An input made ready for each of the two."""

    prompts: Any
    steps: Any


class PairedBackend(Backend):
    """Two back-ends whose caches are the host's.

    A call that goes on with at most ``graph_io.STEP`` tokens and no picture is the second's.

    Args:
        name: Of ``PAIRS``.
        prompts: Runs everything else.
        steps: Runs those; its vision graph is never loaded.
    """

    def __init__(self, name: str, prompts: Backend, steps: Backend) -> None:
        self.name, self.prompts, self.steps = name, prompts, steps
        self.arithmetic = f"{prompts.arithmetic}+{steps.arithmetic}"
        self.notes = tuple(dict.fromkeys((*prompts.notes, *steps.notes)))
        self.capabilities = replace(prompts.capabilities, packs_weights=True)
        self.states, self.narrow_floats = steps.states, steps.narrow_floats

    @property
    def graph_seconds(self) -> float:  # type: ignore[override]
        """Spent inside both so far."""
        return self.prompts.graph_seconds + self.steps.graph_seconds

    @property
    def profile(self) -> str | None:
        """Prefix of the profile files; a step's is beside it."""
        return self.prompts.profile

    @profile.setter
    def profile(self, prefix: str | None) -> None:
        self.prompts.profile = prefix
        self.steps.profile = None if prefix is None else f"{prefix}.steps"

    @property
    def in_place(self) -> int:
        """See ``Backend.in_place``: of the steps' decoder."""
        return self.steps.in_place

    def end_profiling(self) -> dict[str, str]:
        """See ``Backend.end_profiling``; a step's decoder is not among them."""
        self.steps.end_profiling()
        return self.prompts.end_profiling()

    def load(self, images: bool = True) -> None:
        """See ``Backend.load``."""
        self.prompts.load(images=images)
        self.steps.load(images=False)

    def unload(self) -> None:
        """See ``Backend.unload``."""
        self.prompts.unload()
        self.steps.unload()

    def placement(self) -> dict[str, dict[str, int]]:
        """See ``Backend.placement``; ``steps`` is the second's decoder."""
        return {**self.prompts.placement(), "steps": self.steps.placement().get("decoder", {})}

    def vision(self, images: NDArray[np.uint8], units: Array | None = None) -> dict[str, Array]:
        """See ``Backend.vision``."""
        return self.prompts.vision(images, units)

    def decode(self, feeds: Mapping[str, Array], cache: HostCache | None) -> tuple[dict[str, Array], HostCache]:
        """See ``Backend.decode``."""
        half = self._half(feeds, cache)
        steps = half is self.steps
        both = {name: value for name, value in feeds.items() if isinstance(value, _ForBoth)}
        feeds = {**feeds, **{name: value.steps if steps else value.prompts for name, value in both.items()}}
        if cache is not None and cache.kind.owner is not half:
            cache = half.adopt(cache.floats())
        return half.decode(feeds, cache)

    def for_steps(self, cache: HostCache) -> HostCache:
        """See ``Backend.for_steps``."""
        return cache if cache.kind.owner is self.steps else self.adopt(cache.floats())

    def adopt(self, values: Sequence[Array]) -> HostCache:
        """See ``Backend.adopt``: as the steps store them."""
        cache: HostCache = self.steps.adopt(values)
        return cache

    def engine(self, feeds: Mapping[str, Array], cache: HostCache | None) -> str:
        """See ``Backend.engine``."""
        return self._half(feeds, cache).engine(feeds, cache)

    def _half(self, feeds: Mapping[str, Array], cache: HostCache | None) -> Backend:
        """Which of the two runs a call."""
        few = feeds[graph_io.INPUT_IDS].shape[1] <= graph_io.STEP and not feeds[graph_io.VISUAL_EMBEDS].shape[1]
        return self.steps if cache is not None and few else self.prompts

    def ready(self, arrays: Mapping[str, Array]) -> dict[str, Any]:
        """See ``Backend.ready``; each of the two has its own."""
        prompts, steps = self.prompts.ready(arrays), self.steps.ready(arrays)
        return {name: _ForBoth(prompts.get(name), steps.get(name)) for name in arrays}


def plans(bundle: Bundle, plan: str | None, steps: str) -> tuple[str, str]:
    """The plans that prompts and steps of ``plan`` run: one of them is the one it was quantised from, if that is there.

    Codes are fewer bytes to read, which is what a step waits for, and prompts are computed in floats. Activations in
    ``int8`` are the other way round on OpenVINO: a prompt's products are what they make faster, and one row of them
    takes longer than weights of 16 bits that are read in place.

    Args:
        bundle: A checked bundle.
        plan: Name of a plan; None for the default.
        steps: Which engine runs steps.
    """
    name, entry = bundle.name_of(plan), bundle.entry(plan)
    floats = _quantised_from(bundle, name, entry)
    if entry.quantised is not None and entry.quantised.precision == "int8" and steps == "openvino":
        return name, floats
    return floats, name


def _quantised_from(bundle: Bundle, name: str, entry: PlanEntry) -> str:
    """The plan in floats beside a quantised one, else itself: codes of caches are what one plan's scales say."""
    if entry.quantised is None or entry.caches is not None:
        return name
    alike = (
        other
        for other, one in bundle.manifest.plans.items()
        if (one.quantised, one.caches, one.plan) == (None, None, entry.plan)
        and (one.size, one.kind) == (entry.size, entry.kind)
    )
    return next(alike, name)
