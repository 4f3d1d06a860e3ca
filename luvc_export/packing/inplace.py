"""ONNX Runtime on graphs whose caches have slots of fixed capacity: it stands in for the engines made from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from luvc_export.bundle.folder import Bundle, load
from luvc_export.core import graph_io
from luvc_export.core.element_types import BY_PRECISION
from luvc_export.engines.profiles import Capacity
from luvc_export.errors import MachineError
from luvc_export.runtime.confined import first_run
from luvc_export.runtime.host.cache import HostCache, host_cache
from luvc_export.runtime.loaded_plan import LoadedPlan
from luvc_export.runtime.model import Array, Backend, Cache, Capabilities
from luvc_export.runtime.ort import OrtBackend


@dataclass(frozen=True)
class InplaceCache:
    """Caches of full capacity, and what they hold: rows in use of each layer, groups and text tokens."""

    values: HostCache
    lengths: tuple[int, ...]
    groups: int
    text: int

    @property
    def nbytes(self) -> int:
        """Bytes of all layers together."""
        return self.values.nbytes


class InplaceOrt(Backend):
    """A back-end that gives graphs of the KV forms ``inplace`` and ``append`` (docs/surgery.md) what they take.

    Raises:
        BundleError: The first run of the graphs, in a helper process, ended that process (``confined.first_run``).
        MachineError: ONNX Runtime is missing, or has no kernels for the graphs' arithmetic.
    """

    name, arithmetic, capabilities = "cpu", "fp32", Capabilities(rows=1)

    def __init__(self, bundle: Bundle, plan: str, capacity: Capacity) -> None:
        dtype = bundle.manifest.dtype
        if dtype == "bf16":
            raise MachineError(
                "ONNX Runtime's CPU back-end computes nothing in bf16",
                where=str(bundle.folder),
                fix="make the pack with --precision fp16 to check it here, or run it on the device",
            )
        by = f"{self.name} in place, {capacity.groups} groups, {capacity.text} text tokens"
        first_run.check_with(__name__, {"capacity": asdict(capacity)}, bundle, plan, by)
        entry = bundle.entry(plan)
        self._inner, self._capacity, self._plan = OrtBackend(bundle, entry), capacity, entry.plan
        self._states, self._appends = bundle.manifest.states_of(entry), entry.caches is not None
        element, rows = BY_PRECISION[dtype].name, entry.plan.cache_rows(capacity.groups, capacity.text)
        self._empties = [(state.sizes(1, rows[state.layer]), state.dtype or element) for state in self._states]

    def load(self, images: bool = True) -> None:
        """See ``Backend.load``."""
        self._inner.load(images)

    def vision(self, images: NDArray[np.uint8], beside: Array | None = None) -> dict[str, Array]:
        """See ``Backend.vision``."""
        return self._inner.vision(images, beside)

    def decode(self, feeds: Mapping[str, Array], cache: Cache | None) -> tuple[dict[str, Array], InplaceCache]:
        """See ``Backend.decode``."""
        held = cache if isinstance(cache, InplaceCache) else self._empty()
        text_mask = feeds[graph_io.TEXT_MASK]
        mask = np.zeros((1, self._capacity.text), np.bool_)
        mask[:, : text_mask.shape[1]] = text_mask
        masked: dict[str, Array] = {graph_io.TEXT_MASK: mask}
        held_counts = {graph_io.PAST_TEXT: held.text, graph_io.PAST_GROUPS: held.groups}
        masked |= {name: np.array([count], np.int64) for name, count in held_counts.items()}
        outputs, values = self._inner.decode({**feeds, **masked}, held.values)
        new = feeds[graph_io.VISUAL_EMBEDS].shape[1]
        groups, text = held.groups + new, text_mask.shape[1]
        if self._appends:
            values = self._put_behind(held, values, new)
        return outputs, InplaceCache(values, self._plan.cache_rows(groups, text), groups, text)

    def placement(self) -> dict[str, dict[str, int]]:
        """See ``Backend.placement``."""
        return self._inner.placement()

    def _put_behind(self, held: InplaceCache, rows: HostCache, groups: int) -> HostCache:
        """What is held, with new rows in the slots behind it (``runtime.tensorrt.new_rows.NewRows``)."""
        placed = []
        for number, state in enumerate(self._states):
            whole, added = held.values.array(number).copy(), rows.array(number)
            if state.axis is None:
                placed.append(added)
                continue
            visual = whole.shape[state.axis] - self._capacity.text
            first = visual - groups * self._plan.keep[state.layer] + held.text
            index = [slice(None)] * whole.ndim
            index[state.axis] = slice(first, first + added.shape[state.axis])
            whole[tuple(index)] = added
            placed.append(whole)
        return rows.like(placed)

    def _empty(self) -> InplaceCache:
        arrays = [np.zeros(shape, kind) for shape, kind in self._empties]
        values = host_cache(self._states, self._inner.cache_values, arrays)
        return InplaceCache(values, self._plan.cache_rows(0, 0), 0, 0)


def task(request: dict[str, Any], _: bytes) -> tuple[dict[str, Any], bytes]:
    """The task of a helper for the first run: a folder, a plan's name and a capacity."""

    def run() -> None:
        bundle, plan = load(request["folder"]), request["plan"]
        LoadedPlan(bundle, InplaceOrt(bundle, plan, Capacity(**request["capacity"])), plan).warm_up()

    return first_run.answer(run)
