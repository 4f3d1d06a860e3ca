"""A bundle's engines, through the very back-end that ``run --backend tensorrt`` uses."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from luvc_export.bundle.folder import Bundle
from luvc_export.bundle.manifest import EngineEntry
from luvc_export.calibration.runners.base import Kept
from luvc_export.calibration.runners.bundle import stood_for
from luvc_export.calibration.runners.graph import Decoded
from luvc_export.core import graph_io
from luvc_export.core.plan import Plan
from luvc_export.errors import CheckFailed
from luvc_export.runtime.batching import Feeds
from luvc_export.runtime.tensorrt.backend import TrtBackend
from luvc_export.runtime.tensorrt.call import prefill_profile


class EngineCalls:
    """See ``graph.Runner``. Engines show no hidden states and cannot be told what to keep.

    Args:
        backend: Runs them.
        entry: What the manifest says of them.
        plan: Their compression.
        bundle: Whose they are: where caches are codes, its decoder has the scales of keys. None: they are no codes.
    """

    can_force = False
    largest_batch: int | None = 1

    def __init__(self, backend: TrtBackend, entry: EngineEntry, plan: Plan, bundle: Bundle | None = None) -> None:
        self.backend, self.plan = backend, plan
        self._stands_for: Callable[[list[NDArray[Any]]], list[NDArray[Any]]] | None = None
        if bundle is not None and bundle.entry(entry.plan).caches is not None:
            self._stands_for = partial(stood_for, bundle, bundle.entry(entry.plan))
        file = entry.decoder
        shapes = {item.name: item.shape for item in file.inputs} | file.profiles[prefill_profile(file)].maximum
        self.logits = shapes[graph_io.LOGITS_INDICES][1]

    def vision(
        self, images: NDArray[np.uint8], beside: NDArray[Any] | None
    ) -> tuple[NDArray[Any], NDArray[np.float32], NDArray[np.int64] | None]:
        """See ``graph.Runner``."""
        out = self.backend.vision(images, beside)
        return np.asarray(out[graph_io.VISUAL_EMBEDS]), out[graph_io.VISUAL_POSITIONS], out.get(graph_io.MERGED_INTO)

    def decode(self, feeds: Feeds, cache: Any, forced: Kept | None) -> Decoded:
        """See ``graph.Runner``. A prompt runs again for every ``logits`` positions: ``build --logits`` says how many.

        Raises:
            UsageError: The prompt does not fit the engines' capacities.
        """
        assert forced is None, "can_force is False"
        wanted, logits = feeds[graph_io.LOGITS_INDICES], []
        for first in range(0, wanted.shape[1], self.logits):
            some = {graph_io.LOGITS_INDICES: wanted[:, first : first + self.logits]}
            out, after = self.backend.decode({**feeds, **some}, cache)
            logits.append(out[graph_io.LOGITS])
            _check_chosen(out, self.backend)
        names = {layer: graph_io.kept_name(layer) for layer, _, _ in self.plan.prunes}
        kept = {layer: out[name] for layer, name in names.items() if name in out}
        return Decoded(np.concatenate(logits, 1), kept, {}, [], after)

    def states(self, cache: Any) -> list[NDArray[Any]]:
        """See ``graph.Runner``."""
        values = self.backend.read_states(cache)
        return values if self._stands_for is None else self._stands_for(values)


def _check_chosen(out: Mapping[str, NDArray[Any]], backend: TrtBackend) -> None:
    """Answers take the token an engine chooses itself; a comparison of logits alone would not see it."""
    chosen, last = out.get(graph_io.NEXT_TOKEN), out[graph_io.LOGITS][:, -1]
    if chosen is None or np.array_equal(np.take_along_axis(last, chosen, 1)[:, 0], last.max(1)):
        return
    if np.isfinite(last).all():
        raise CheckFailed(
            "an engine chooses another token than its logits say",
            where=f"{graph_io.NEXT_TOKEN} of the decoder, {backend.name}",
            got=chosen[:, 0].tolist(),
            expected=last.argmax(1).tolist(),
            fix="build the engines again; if that does not help, report it with the version of TensorRT",
        )
