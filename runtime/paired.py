"""Two back-ends as one: prompts on the first, steps of a few tokens on the second.

A prompt is bound by arithmetic and a step by reading weights, and on one CPU different engines, or one engine in
different arithmetic, are best at either. Keys, values and states go over once, at the first step: they are copied
where the two store different types, else only handed on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from luvc_export.bundle.folder import Bundle
from luvc_export.core import graph_io
from luvc_export.core.shapes import State
from luvc_export.runtime.backend import Array, Backend, Cache, RowDropper, RowPacker, Unloading
from luvc_export.runtime.openvino.heads import STEP

#: Names: prompts on OpenVINO in what the device is best at; steps on ONNX Runtime, or on OpenVINO with fp32
#: activations, which its kernels for 8- and 4-bit weights ask for.
PAIRS = {"openvino+cpu": "cpu", "openvino+openvino": "openvino"}


class Half(Backend, RowPacker, RowDropper, Unloading, Protocol):
    """A back-end whose caches are the host's."""

    graph_seconds: float
    notes: tuple[str, ...]
    profile: str | None

    def host_values(self, cache: Cache) -> list[Array]:
        """States in graph order (``DecoderShape.kept``), floats as float32; not to be written to."""

    def adopt(self, values: Sequence[Array]) -> Cache:
        """The cache of such states, in the types that the graphs take."""

    def ready(self, arrays: Mapping[str, Array]) -> dict[str, Any]:
        """See ``adapters.factors.ReadyInputs``."""

    def end_profiling(self) -> dict[str, str]:
        """Close the profiles of the loaded graphs: the files, by graph."""


@dataclass(frozen=True)
class PairedCache:
    """A cache of one of the two; ``steps`` says that it is the second's."""

    cache: Cache
    steps: bool

    @property
    def lengths(self) -> tuple[int, ...]:
        """See ``Cache``."""
        return self.cache.lengths

    @property
    def nbytes(self) -> int:
        """See ``Cache``."""
        return self.cache.nbytes


@dataclass(frozen=True)
class _ForBoth:
    """An input made ready for each of the two."""

    prompts: Any
    steps: Any


class PairedBackend:
    """A back-end made of two. A call that goes on with at most ``STEP`` tokens and no picture is the second's.

    Args:
        name: Of ``PAIRS``.
        prompts: Runs everything else.
        steps: Runs those; its vision graph is never loaded.
    """

    largest_batch: int | None = None
    packs_weights, keeps_buckets = True, False

    def __init__(self, name: str, prompts: Half, steps: Half) -> None:
        self.name, self._prompts, self._steps = name, prompts, steps
        self.arithmetic = f"{prompts.arithmetic}+{steps.arithmetic}"
        self.notes = tuple(dict.fromkeys((*prompts.notes, *steps.notes)))

    @property
    def narrow_floats(self) -> bool:
        """Whether steps compute in bf16 what is not in codes."""
        return bool(getattr(self._steps, "narrow_floats", False))

    @property
    def graph_seconds(self) -> float:
        """Time spent inside both so far."""
        return self._prompts.graph_seconds + self._steps.graph_seconds

    @property
    def profile(self) -> str | None:
        """Prefix of the profile files; a step's is beside it."""
        return self._prompts.profile

    @profile.setter
    def profile(self, prefix: str | None) -> None:
        self._prompts.profile = prefix
        self._steps.profile = None if prefix is None else f"{prefix}.steps"

    def end_profiling(self) -> dict[str, str]:
        """Close the profiles; a step's decoder is not among them."""
        self._steps.end_profiling()
        return self._prompts.end_profiling()

    def load(self, images: bool = True) -> None:
        """See ``Backend.load``."""
        self._prompts.load(images=images)
        self._steps.load(images=False)

    def unload(self) -> None:
        """See ``Unloading``."""
        self._prompts.unload()
        self._steps.unload()

    def placement(self) -> dict[str, dict[str, int]]:
        """See ``Backend.placement``; ``steps`` is the second's decoder."""
        return {**self._prompts.placement(), "steps": self._steps.placement().get("decoder", {})}

    def vision(self, images: NDArray[np.uint8], beside: Array | None = None) -> dict[str, Array]:
        """See ``Backend.vision``."""
        return self._prompts.vision(images, beside)

    def decode(self, feeds: Mapping[str, Array], cache: Cache | None) -> tuple[dict[str, Array], PairedCache]:
        """See ``Backend.decode``."""
        steps = self.half(feeds, cache) is self._steps
        both = {name: value for name, value in feeds.items() if isinstance(value, _ForBoth)}
        feeds = {**feeds, **{name: value.steps if steps else value.prompts for name, value in both.items()}}
        out, after = (self._steps if steps else self._prompts).decode(feeds, self._handed(cache, steps))
        return out, PairedCache(after, steps)

    def half(self, feeds: Mapping[str, Array], cache: Cache | None) -> Half:
        """Which of the two runs a call."""
        few = feeds[graph_io.INPUT_IDS].shape[1] <= STEP and not feeds[graph_io.VISUAL_EMBEDS].shape[1]
        return self._steps if cache is not None and few else self._prompts

    def ready(self, arrays: Mapping[str, Array]) -> dict[str, Any]:
        """See ``adapters.factors.ReadyInputs``; each of the two has its own."""
        prompts, steps = self._prompts.ready(arrays), self._steps.ready(arrays)
        return {name: _ForBoth(prompts.get(name), steps.get(name)) for name in arrays}

    def host_values(self, cache: Cache) -> list[Array]:
        """See ``Half.host_values``."""
        return self._owner(cache).host_values(_inner(cache))

    packs = True

    @property
    def states(self) -> tuple[State, ...]:
        """See ``RowPacker.states``."""
        return self._steps.states

    def unpack(self, cache: Cache) -> list[Array]:
        """See ``RowPacker.unpack``; as the steps store them."""
        handed = self._handed(cache, True)
        assert handed is not None
        return self._steps.unpack(handed)

    def pack(self, arrays: Sequence[Array]) -> PairedCache:
        """See ``RowPacker.pack``."""
        return PairedCache(self._steps.pack(arrays), True)

    def read_state(self, cache: Cache, number: int) -> Array:
        """See ``RowDropper.read_state``."""
        return self._owner(cache).read_state(_inner(cache), number)

    def keep_rows(self, cache: Cache, rows: Mapping[int, NDArray[np.int64]]) -> PairedCache:
        """See ``RowDropper.keep_rows``; the cache stays with whom it is."""
        steps = isinstance(cache, PairedCache) and cache.steps
        return PairedCache(self._owner(cache).keep_rows(_inner(cache), rows), steps)

    def _owner(self, cache: Cache) -> Half:
        return self._steps if isinstance(cache, PairedCache) and cache.steps else self._prompts

    def _handed(self, cache: Cache | None, steps: bool) -> Cache | None:
        """A cache as the one that goes on with it takes it."""
        if cache is None or not isinstance(cache, PairedCache) or cache.steps == steps:
            return None if cache is None else _inner(cache)
        taker = self._steps if steps else self._prompts
        return taker.adopt(self._owner(cache).host_values(cache.cache))


def _inner(cache: Cache) -> Cache:
    return cache.cache if isinstance(cache, PairedCache) else cache


def plan_of_prompts(bundle: Bundle, plan: str | None) -> str:
    """The plan that prompts of ``plan`` run: the one it was quantised from, where the bundle has it, else itself.

    Codes of caches are what one plan's scales say, so there it is itself.
    """
    name, plans = plan or bundle.manifest.default_plan, bundle.manifest.plans
    entry = bundle.entry(plan)
    if entry.quantised is None or entry.caches is not None:
        return name
    alike = (
        other
        for other, one in plans.items()
        if (one.quantised, one.caches, one.plan) == (None, None, entry.plan)
        and (one.size, one.kind) == (entry.size, entry.kind)
    )
    return next(alike, name)
