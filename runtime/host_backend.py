"""What ONNX Runtime and OpenVINO do alike: a plan's decoders, inputs that a call leaves out, caches that begin."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from luvc_export.bundle.folder import MANIFEST, Bundle
from luvc_export.bundle.manifest import GraphSet, LoraSlots, PlanEntry
from luvc_export.core import graph_io
from luvc_export.core.plan import Plan
from luvc_export.core.precision import find
from luvc_export.core.shapes import State
from luvc_export.errors import MachineError, UsageError
from luvc_export.runtime import memory
from luvc_export.runtime.adapters.factors import Factors
from luvc_export.runtime.host.cache import CacheValues, HostCache
from luvc_export.runtime.media.padding import all_picture
from luvc_export.runtime.model import Array, Backend, Cache


class HostBackend(Backend, ABC):
    """The graphs of ``entry``, loaded when first used and kept.

    Args:
        bundle: A checked bundle.
        entry: The plan to run.
        engine: What people call the engine.
        target: The target of decoders that were finished for this device; empty where it takes the plan's own.
        debug: Run the debug decoder, which takes ``forced_indices``.
        only_steps: The decoder takes steps alone, behind rows that are there (``GraphSet.steps``).

    Raises:
        UsageError: A bundle without weights, or no debug graph in it.
        MachineError: The plan is in a precision of TensorRT alone.
    """

    #: How the engine holds a cache; set by who derives from it.
    cache_values: CacheValues
    #: Attributes that go when a decoder with slots for adapters takes the place of the one without.
    _of_decoder: tuple[str, ...] = ("_decoder",)

    def __init__(
        self, bundle: Bundle, entry: PlanEntry, engine: str, target: str, debug: bool, only_steps: bool
    ) -> None:
        own = entry.decoder_debug if debug else entry.decoder
        if own is None:
            raise UsageError("the bundle has no debug graph", where=str(bundle.folder), fix="export it with debug=True")
        quantised = entry.quantised
        if quantised is not None and "simulated" not in quantised.recipe and find(quantised.precision).tensorrt_only:
            raise MachineError(
                f"{engine} has no operators for this precision",
                where=str(bundle.folder / own),
                got=quantised.precision,
                fix="build an engine for a target that has it (luvc-export targets), or choose another plan",
            )
        if bundle.manifest.weights.mode == "none":
            raise UsageError(
                "this bundle has no weights: it can be timed and inspected, not asked",
                where=str(bundle.folder / MANIFEST),
                fix="export it again without --no-weights",
            )
        self._bundle, self._entry, self._own_decoder, self._only_steps = bundle, entry, own, only_steps
        self._target = "" if debug else target
        self.states = bundle.manifest.states_of(entry)
        #: Whether an adapter was asked for: until then the decoder is opened without slots.
        self._adapted = False

    @property
    @abstractmethod
    def _vision(self) -> Any:
        """The vision graph, loaded."""

    @property
    @abstractmethod
    def _decoder(self) -> Any:
        """The decoder, loaded."""

    @property
    @abstractmethod
    def _decoder_inputs(self) -> Collection[str]:
        """Inputs of the decoder, which is loaded for them."""

    @property
    def _decoders(self) -> GraphSet:
        """The decoders that are opened: with slots for adapters once one was asked for.

        Where none were finished, as in bundles that older versions wrote, the plan's own takes prompts and steps.
        """
        slots = self._bundle.manifest.lora is not None and self._adapted
        plans = self._bundle.manifest.plans.items()
        plan = next((name for name, one in plans if one.decoder == self._entry.decoder), None)
        if plan is None or not self._target:
            return GraphSet("", self._target, self._own_decoder, self._own_decoder, slots=slots)
        return self._bundle.graph_set(plan, self._target, slots)

    @property
    def _decoder_file(self) -> str:
        decoders = self._decoders
        return decoders.steps if self._only_steps else decoders.prompts

    def _older_graphs(self, target: str) -> tuple[str, ...]:
        """A line for users of bundles whose decoders were not finished for ``target``: they answer, slower."""
        if self._bundle.manifest.sets:
            return ()
        build = f"luvc-export build {self._bundle.folder} --target {target}"
        return (f"these graphs are of an older version and slower here: {build} finishes them",)

    def load(self, images: bool = True) -> None:
        """See ``Backend.load``."""
        _ = self._decoder, self._vision if images else None

    def adopt(self, values: Sequence[Array]) -> HostCache:
        """See ``Backend.adopt``."""
        narrow, pairs = self.cache_values.narrow, zip(self.states, values, strict=True)
        return HostCache(self.states, self.cache_values, tuple(narrow(array, state.past) for state, array in pairs))

    def ready(self, arrays: Mapping[str, Array]) -> dict[str, Any]:
        """See ``Backend.ready``."""
        if not any(array.size for array in arrays.values()):
            return dict(arrays)  # of rank 0: they weigh nothing, and the decoder may not know them yet
        self._take_slots()
        known, narrow = self._decoder_inputs, self.cache_values.narrow
        return {name: narrow(array, name) for name, array in arrays.items() if name in known}

    def _begin(self, feeds: Mapping[str, Array], cache: Cache | None) -> tuple[Mapping[str, Any], HostCache]:
        """Inputs of a decoder call, those of its slots among them, and the cache that it goes on from."""
        feeds = with_empty_slots(feeds, self._bundle.manifest.lora)
        if graph_io.LORA_ROWS in feeds and feeds[graph_io.LORA_ROWS].shape[1]:
            self._take_slots()
        return feeds, cache or self.adopt(empty_states(self.states, len(feeds[graph_io.INPUT_IDS])))

    def _take_slots(self) -> None:
        """Have a decoder with slots, opened in the place of the one without, when the first adapter is asked for."""
        if not self._adapted:
            self._adapted = True
            for name in self._of_decoder:
                self.__dict__.pop(name, None)
            memory.give_back()


def empty_states(kinds: Sequence[State], rows: int) -> list[Array]:
    """What a decoder takes for ``rows`` conversations that begin, by ``kinds``; keys and values float32."""
    return [np.zeros(kind.sizes(rows, 0), kind.dtype or np.float32) for kind in kinds]


def with_empty_slots(feeds: Mapping[str, Any], slots: LoraSlots | None) -> Mapping[str, Any]:
    """``feeds`` of a decoder, where they say nothing of its slots with the inputs of empty ones."""
    if slots is None or graph_io.LORA_ROWS in feeds:
        return feeds
    return {**feeds, **Factors(slots, Backend()).feeds([None] * len(feeds[graph_io.INPUT_IDS]))}


def unit_inputs(plan: Plan, images: int, units: Array | None) -> dict[str, Array]:
    """What the plan's vision graph takes beside the image, by name: ``units``, or what says nothing of the images.

    That is no padding, or the first units of a bucket.
    """
    names = graph_io.vision_inputs(plan)[1:]
    if not names:
        return {}
    if units is None:
        first = np.arange(plan.encoder.computed_units, dtype=np.int32)
        units = np.tile(first, (images, 1)) if plan.encoder.takes_units else all_picture(images, plan.grid)
    return {names[0]: units}
