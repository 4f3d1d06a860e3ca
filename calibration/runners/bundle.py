"""An exported bundle's graphs, through the runtime's ONNX Runtime or OpenVINO; its engines: see ``engine``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from luvc_export.bundle.folder import Bundle
from luvc_export.bundle.graphs import read_graph
from luvc_export.bundle.manifest import PlanEntry
from luvc_export.calibration.runners.base import Kept
from luvc_export.calibration.runners.graph import Decoded
from luvc_export.calibration.runners.probes import hidden_name, probed
from luvc_export.core import graph_io
from luvc_export.core.shapes import VALUE_SCALE
from luvc_export.errors import UsageError
from luvc_export.runtime.backends import open_backend
from luvc_export.runtime.batching import Feeds
from luvc_export.runtime.model import Backend


class Relay(Backend):
    """A back-end that hands every call to another, for those that look at or write down what passes."""

    def __init__(self, inner: Backend) -> None:
        self._inner = inner
        self.name, self.arithmetic, self.capabilities = inner.name, inner.arithmetic, inner.capabilities
        self.states = inner.states

    def load(self, images: bool = True) -> None:
        """See ``Backend.load``."""
        self._inner.load(images)

    def placement(self) -> dict[str, dict[str, int]]:
        """See ``Backend.placement``."""
        return self._inner.placement()

    def vision(self, images: Any, beside: Any = None) -> dict[str, NDArray[Any]]:
        """See ``Backend.vision``."""
        return self._inner.vision(images, beside)

    def decode(self, feeds: Mapping[str, NDArray[Any]], cache: Any) -> tuple[dict[str, NDArray[Any]], Any]:
        """See ``Backend.decode``."""
        return self._inner.decode(feeds, cache)


class BundleCalls:
    """See ``graph.Runner``. Hidden states come from a copy of the graph that has them as outputs as well.

    Args:
        bundle: A checked bundle.
        plan: Name of one of its plans.
        threads: CPU threads.
        backend: ``cpu`` (ONNX Runtime) or ``openvino:DEVICE``.
        arithmetic: See ``runtime.backends.open_backend``.
    """

    largest_batch: int | None = None

    def __init__(
        self,
        bundle: Bundle,
        plan: str | None = None,
        threads: int | None = None,
        backend: str = "cpu",
        arithmetic: str = "auto",
    ) -> None:
        entry = bundle.entry(plan)
        if backend == "cpu" and bundle.manifest.dtype == "bf16":
            raise UsageError(
                "parity reads caches through numpy, which has no bf16",
                where=str(bundle.folder),
                fix="export the same plan in fp32 or fp16 and compare that",
            )
        self.plan, self.manifest = entry.plan, bundle.manifest
        self._bundle, self._entry = bundle, entry
        self.can_force = entry.decoder_debug is not None or not any(keep for _, _, keep in entry.plan.prunes)
        watched = probed(bundle, entry)
        self.free: Backend = open_backend(backend, watched, plan, threads, arithmetic=arithmetic)
        self.debug: Backend = self.free
        if entry.decoder_debug is not None:
            self.debug = open_backend(backend, watched, plan, threads, debug=True, arithmetic=arithmetic)

    def vision(
        self, images: NDArray[np.uint8], beside: NDArray[Any] | None
    ) -> tuple[NDArray[Any], NDArray[np.float32], NDArray[np.int64] | None]:
        """See ``graph.Runner``."""
        out = self.free.vision(images, beside)
        return out[graph_io.VISUAL_EMBEDS], out[graph_io.VISUAL_POSITIONS], out.get(graph_io.MERGED_INTO)

    def decode(self, feeds: Feeds, cache: Any, forced: Kept | None) -> Decoded:
        """See ``graph.Runner``."""
        forced_feeds = {graph_io.forced_name(layer): indices for layer, indices in (forced or {}).items()}
        backend = self.free if forced is None else self.debug
        out, after = backend.decode({**feeds, **forced_feeds}, cache)
        names = {layer: graph_io.kept_name(layer) for layer, _, _ in self.plan.prunes}
        hidden = [hidden_name(layer) for layer in range(self.plan.cached)]
        return Decoded(
            out[graph_io.LOGITS],
            {layer: out[name] for layer, name in names.items() if name in out},
            {},
            [out[name] for name in hidden] if all(name in out for name in hidden) else [],
            after,
        )

    def states(self, cache: Any) -> list[NDArray[Any]]:
        """See ``graph.Runner``."""
        values = cache.floats()
        return stood_for(self._bundle, self._entry, values) if self._entry.caches else values


def stood_for(bundle: Bundle, entry: PlanEntry, values: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
    """States as the model has them (``DecoderShape.kept``), of those of a plan whose caches are codes.

    Raises:
        BundleError: Its decoder lacks the scales of its keys.
    """
    decoder, named = read_graph(bundle, entry.decoder), dict(zip(bundle.manifest.states_of(entry), values, strict=True))
    scales = {state.layer: value for state, value in named.items() if state.name == VALUE_SCALE}
    states = []
    for state, value in named.items():
        if state.name == "key":
            heads, size = value.shape[1], value.shape[3]
            constant = np.frombuffer(decoder.floats(graph_io.key_scales_name(state.layer), heads * size), "<f4")
            states.append(value * constant.reshape(1, heads, 1, size))
        elif state.name != VALUE_SCALE:
            states.append(value * scales[state.layer] if state.name == "value" else value)
    return states
