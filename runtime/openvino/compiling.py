"""From a graph to what runs it: arithmetic set, islands marked, caches in the arithmetic's type, compiled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from luvc_export.core import graph_io
from luvc_export.runtime import memory
from luvc_export.runtime.openvino import device as devices
from luvc_export.runtime.openvino import rewrites
from luvc_export.runtime.openvino.device import ARITHMETICS, Device
from luvc_export.runtime.openvino.islands import narrow_floats, narrow_products
from luvc_export.runtime.openvino.model import Graph
from luvc_export.runtime.openvino.rewrites import choose_first_of_equals, keep_narrow, rotate_apart

_NO_REGISTERS = "allocate registers for a snippet"
_NUMPY = {
    "f32": np.float32,
    "f16": np.float16,
    "i64": np.int64,
    "i32": np.int32,
    "u8": np.uint8,
    "boolean": np.bool_,
}


@dataclass(frozen=True)
class Compiled:
    """A compiled graph.

    Args:
        model: ``openvino.CompiledModel``.
        graph: What it was made of; holds the weights' memory.
        weights: Tensors of what it reads where the file lies, by input.
    """

    model: Any
    graph: Graph
    weights: Mapping[str, Any] = field(default_factory=dict)
    _first: dict[str, float] = field(default_factory=dict)
    _runs: list[None] = field(default_factory=list)
    _left: list[int] = field(default_factory=list)

    @cached_property
    def request(self) -> Any:
        """The one inference request."""
        request = self.model.create_infer_request()
        for name, tensor in self.weights.items():
            request.set_tensor(name, tensor)
        return request

    @cached_property
    def inputs(self) -> dict[str, tuple[Any, Any]]:
        """Element type and numpy type of each input by name; numpy has none for bf16."""
        types = {name: port.get_element_type() for port in self.model.inputs for name in port.get_names()}
        return {name: (kind, _NUMPY.get(kind.to_string())) for name, kind in types.items()}

    @cached_property
    def places(self) -> dict[str, int]:
        """Index of each input by name: a request finds names by searching all of them, at every call."""
        return {name: index for index, port in enumerate(self.model.inputs) for name in port.get_names()}

    @cached_property
    def _outputs(self) -> list[tuple[Any, Any]]:
        """Element type of each output, and a shape to begin with: 0 for what is not known yet."""
        shape, outputs = devices.load_library().Shape, []
        for port in self.model.outputs[: len(self.graph.outputs)]:  # what was added behind them nobody reads
            sizes = port.get_partial_shape()
            empty = [0 if size.is_dynamic else size.get_length() for size in sizes] if sizes.rank.is_static else [0]
            outputs.append((port.get_element_type(), shape(empty)))
        return outputs

    def fresh(self) -> list[Any]:
        """A tensor for each output, to be grown by the call that writes it."""
        tensor = devices.load_library().Tensor
        return [tensor(kind, empty) for kind, empty in self._outputs]

    def leave_weights(self) -> None:
        """After the first run, which packs weights: the files they were packed from are no longer held."""
        if not self._left:
            read = {tensor.data.ctypes.data for tensor in self.weights.values()}
            packed = [array for array in self.graph.mapped if array.ctypes.data not in read]
            self._left.append(memory.leave_to_files(packed))

    def count(self) -> None:
        """Note a run of a profiled graph. The first one packs weights, and is left out of ``events``."""
        self._runs.append(None)
        if len(self._runs) == 1:
            self._first.update((item.node_name, _microseconds(item)) for item in self.request.profiling_info)

    def events(self) -> list[dict[str, Any]]:
        """Each node's mean time in all runs but the first, in the form of ONNX Runtime's profile.

        OpenVINO's counters are means over all runs.
        """
        runs, events = len(self._runs), []
        for item in self.request.profiling_info if runs > 1 else ():
            first = self._first.get(item.node_name, 0.0)
            spent = max(0.0, (runs * _microseconds(item) - first) / (runs - 1))
            arguments = {"op_name": item.node_type}
            events.append(
                {"cat": "Node", "name": f"{item.node_name}_kernel_time", "dur": spent, "ts": 0, "args": arguments}
            )
        return events

    def precisions(self) -> dict[str, dict[str, int]]:
        """Operators by type and by the precision they run in, as the plug-in says after compiling."""
        by_kind: dict[str, dict[str, int]] = {}
        for node in self.model.get_runtime_model().get_ops():
            facts = node.get_rt_info()
            kind, precision = (str(facts[key].astype(str)) for key in ("layerType", "runtimePrecision"))
            counts = by_kind.setdefault(kind, {})
            counts[precision] = counts.get(precision, 0) + 1
        return by_kind


def _microseconds(item: Any) -> float:
    return 1e6 * float(item.real_time.total_seconds())


def compile_graph(
    graph: Graph,
    device: Device,
    arithmetic: str,
    threads: int | None = None,
    caches: Sequence[str] = (),
    profile: bool = False,
    settings: Mapping[str, Any] | None = None,
    narrowed: bool = False,
    in_place: bool = False,
) -> Compiled:
    """Compile ``graph``, which is changed.

    Args:
        graph: From ``model.GraphReader``.
        device: Where.
        arithmetic: Of ``ARITHMETICS``.
        threads: CPU threads; None for all cores.
        caches: Inputs and outputs that go round: they are kept in ``arithmetic``.
        profile: Count the time of every operator.
        settings: Other properties of the plug-in.
        narrowed: In fp32, products whose weights are floats are computed in bf16 all the same.
        in_place: Weights stored in bf16 are read where the file lies (``rewrites.read_in_place``).
    """
    library, model, weights = devices.load_library(), graph.model, dict[str, Any]()
    choose_first_of_equals(library, model)
    decoder = any(graph_io.INPUT_IDS in port.get_names() for port in model.inputs)
    if device.name == "CPU":
        rewrites.say_sizes_of_nothing(library, model)
        rewrites.widen_beside_codes(library, model)
        keep_narrow(library, model)
    if arithmetic == "fp32" and narrowed:
        narrow_floats(library, model)
    if arithmetic != "fp32":
        if arithmetic == "bf16" and decoder:
            narrow_products(library, model)
        if device.name == "CPU" and not decoder:
            rotate_apart(library, model)
        if device.name == "CPU" and rewrites.is_one(threads):
            rewrites.keep_products_apart(library, model)
    if in_place:
        weights = rewrites.read_in_place(library, model, {array.ctypes.data for array in graph.mapped})
    if arithmetic != "fp32":
        model = _narrow(library, model, set(caches), getattr(library.Type, ARITHMETICS[arithmetic][0]))
    properties: dict[str, Any] = {"INFERENCE_PRECISION_HINT": ARITHMETICS[arithmetic][0], "PERFORMANCE_HINT": "LATENCY"}
    properties |= settings or {}
    if threads is not None and device.name == "CPU":
        # Pinned, the few threads of several processes would share the first cores and leave the others idle.
        properties |= {"INFERENCE_NUM_THREADS": threads, "ENABLE_CPU_PINNING": False}
    if profile:
        properties["PERF_COUNT"] = True
    return Compiled(_compile(model, device, properties), graph, weights)


def _compile(model: Any, device: Device, properties: Mapping[str, Any]) -> Any:
    """Compile. What the plug-in joins to a kernel asking for more registers than there are (2026.4) stays apart."""
    try:
        return devices.core().compile_model(model, device.name, properties)
    except RuntimeError as error:
        if _NO_REGISTERS not in str(error):
            raise
        return devices.core().compile_model(model, device.name, {**properties, "SNIPPETS_MODE": "DISABLE"})


def _narrow(library: Any, model: Any, caches: set[str], kind: Any) -> Any:
    """Give the caches among inputs and outputs another element type; the graph converts at its edge."""
    preprocess = library.preprocess.PrePostProcessor(model)
    stored = library.Type.f32, library.Type.f16
    for index, port in enumerate(model.inputs):
        if port.get_names() & caches and port.get_element_type() in stored:
            preprocess.input(index).tensor().set_element_type(kind)
    for index, port in enumerate(model.outputs):
        if port.get_names() & caches and port.get_element_type() in stored:
            preprocess.output(index).tensor().set_element_type(kind)
    return preprocess.build()
