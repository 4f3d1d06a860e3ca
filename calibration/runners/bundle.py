"""An exported bundle's graphs, through the runtime's ONNX Runtime or OpenVINO, and its engines, through TensorRT."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from luvc_export.bundle.folder import Bundle
from luvc_export.bundle.graphs import read_graph
from luvc_export.bundle.manifest import EngineEntry, PlanEntry
from luvc_export.calibration.runners.base import Kept
from luvc_export.calibration.runners.graph import Decoded, Visual
from luvc_export.calibration.runners.probes import hidden_name, probed
from luvc_export.core import graph_io
from luvc_export.core.plan import Plan
from luvc_export.core.shapes import VALUE_SCALE
from luvc_export.errors import CheckFailed
from luvc_export.runtime.backends import open_backend
from luvc_export.runtime.batching import Feeds
from luvc_export.runtime.model import Backend
from luvc_export.runtime.tensorrt.backend import TrtBackend
from luvc_export.runtime.tensorrt.call import prefill_profile


class BundleCalls:
    """See ``graph.Runner``. Hidden states come from a copy of the graph that has them as outputs as well.

    ``backend`` is ``cpu`` (ONNX Runtime, which computes nothing in bf16: such graphs are widened to fp32) or
    ``openvino:DEVICE``; ``arithmetic``: see ``runtime.backends.open_backend``.
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
        self.plan, self.manifest = entry.plan, bundle.manifest
        self._bundle, self._entry = bundle, entry
        self.can_force = entry.decoder_debug is not None or not any(keep for _, _, keep in entry.plan.prunes)
        watched = probed(bundle, entry, widened=backend == "cpu" and bundle.manifest.dtype == "bf16")
        self.free: Backend = open_backend(backend, watched, plan, threads, arithmetic=arithmetic)
        self.debug: Backend = self.free
        if entry.decoder_debug is not None:
            self.debug = open_backend(backend, watched, plan, threads, debug=True, arithmetic=arithmetic)

    def vision(self, images: NDArray[np.uint8], beside: NDArray[Any] | None) -> Visual:
        """See ``graph.Runner``."""
        return _visual(self.free, images, beside)

    def decode(self, feeds: Feeds, cache: Any, forced: Kept | None) -> Decoded:
        """See ``graph.Runner``."""
        forced_feeds = {graph_io.forced_name(layer): indices for layer, indices in (forced or {}).items()}
        backend = self.free if forced is None else self.debug
        out, after = backend.decode({**feeds, **forced_feeds}, cache)
        names = [hidden_name(layer) for layer in range(self.plan.cached)]
        hidden = [out[name] for name in names] if all(name in out for name in names) else []
        return Decoded(out[self.manifest.does.output], _kept(self.plan, out), {}, hidden, after)

    def states(self, cache: Any) -> list[NDArray[Any]]:
        """See ``graph.Runner``."""
        return stood_for(self._bundle, self._entry, cache.floats())


def _visual(backend: Backend, images: NDArray[np.uint8], beside: NDArray[Any] | None) -> Visual:
    out = backend.vision(images, beside)
    return np.asarray(out[graph_io.VISUAL_EMBEDS]), out[graph_io.VISUAL_POSITIONS], out.get(graph_io.MERGED_INTO)


def _kept(plan: Plan, out: Mapping[str, NDArray[Any]]) -> Kept:
    names = {layer: graph_io.kept_name(layer) for layer, _, _ in plan.prunes}
    return {layer: out[name] for layer, name in names.items() if name in out}


def stood_for(bundle: Bundle, entry: PlanEntry, values: list[NDArray[Any]]) -> list[NDArray[Any]]:
    """States as the model has them (``DecoderShape.kept``), of those of a plan, whose caches may be codes.

    Raises:
        BundleError: Its decoder lacks the scales of its keys.
    """
    if entry.caches is None:
        return values
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


class EngineCalls:
    """See ``graph.Runner``. Engines show no hidden states and cannot be told what to keep.

    Args:
        backend: Runs them.
        engine: What the manifest says of them.
        bundle: Whose they are: where caches are codes, its decoder has the scales of keys.
    """

    can_force = False
    largest_batch: int | None = 1

    def __init__(self, backend: TrtBackend, engine: EngineEntry, bundle: Bundle) -> None:
        self.backend, self._bundle, self._entry, file = backend, bundle, bundle.entry(engine.plan), engine.decoder
        self.plan = self._entry.plan
        shapes = {item.name: item.shape for item in file.inputs} | file.profiles[prefill_profile(file)].maximum
        self.logits = shapes[graph_io.LOGITS_INDICES][1]

    def vision(self, images: NDArray[np.uint8], beside: NDArray[Any] | None) -> Visual:
        """See ``graph.Runner``."""
        return _visual(self.backend, images, beside)

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
        return Decoded(np.concatenate(logits, 1), _kept(self.plan, out), {}, [], after)

    def states(self, cache: Any) -> list[NDArray[Any]]:
        """See ``graph.Runner``."""
        return stood_for(self._bundle, self._entry, self.backend.read_states(cache))


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
