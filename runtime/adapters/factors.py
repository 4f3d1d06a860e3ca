"""Adapters of the rows of a call as inputs of the graph: their factors side by side, and each row's mask."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from luvc_export.bundle.manifest import MOST_SETS, LoraSlots
from luvc_export.core import graph_io
from luvc_export.runtime.model import Array, Backend

if TYPE_CHECKING:
    from luvc_export.bundle.adapters.peft_folder import Adapter


class Factors:
    """Inputs of a decoder with slots.

    Args:
        slots: Of the bundle.
        backend: Runs the decoder; its default methods take arrays as they are.
    """

    def __init__(self, slots: LoraSlots, backend: Backend) -> None:
        self._slots, self._backend = slots, backend
        self._lock = threading.Lock()
        self._sets: OrderedDict[tuple[Adapter, ...], dict[str, Any]] = OrderedDict()

    def feeds(self, adapters: Sequence[Adapter | None]) -> dict[str, Any]:
        """Inputs of a call whose rows have these adapters.

        A set that is kept already is taken where it has all of them: a row's mask is zero at the ranks of others. Rows
        without any go with the empty set.
        """
        wanted = tuple(dict.fromkeys(one for one in adapters if one is not None))
        with self._lock:
            held = next((one for one in self._sets if wanted and {*wanted} <= {*one}), wanted)
            if held not in self._sets:
                while len(self._sets) >= MOST_SETS:  # before the next one takes memory
                    self._sets.popitem(last=False)
                self._sets[held] = self._made(held)
            self._sets.move_to_end(held)
            return {graph_io.LORA_ROWS: self._rows(adapters, held), **self._sets[held]}

    def forget(self, adapter: Adapter) -> None:
        """Give back what is kept of an adapter; any thread may call it."""
        with self._lock:
            for held in [held for held in self._sets if adapter in held]:
                del self._sets[held]

    def _rows(self, adapters: Sequence[Adapter | None], held: Sequence[Adapter]) -> Array:
        """Which ranks are each row's, float32 [B, R]."""
        owners = np.repeat(np.arange(len(held)), [one.rank for one in held])
        places = {one: index for index, one in enumerate(held)}
        own = np.array([-1 if one is None else places[one] for one in adapters])
        mask: Array = (own[:, None] == owners).astype(np.float32)
        return mask

    def _made(self, held: Sequence[Adapter]) -> dict[str, Any]:
        """Factors side by side: [K, R] and [R, M] a slot, zero where an adapter leaves a product as it is."""
        total = sum(one.rank for one in held)
        arrays: dict[str, Array] = {}
        for slot, (entering, leaving) in self._slots.slots.items():
            layer, _, module = slot.partition(".")
            a, b = np.zeros((entering, total), np.float32), np.zeros((total, leaving), np.float32)
            begin = 0
            for one in held:
                if pair := one.factors.get(slot):
                    end = begin + pair[0].shape[1]
                    a[:, begin:end], b[begin:end] = pair
                begin += one.rank
            names = graph_io.lora_names(int(layer), module)
            arrays |= zip(names, (a, b), strict=True)
        return self._backend.ready(arrays)
