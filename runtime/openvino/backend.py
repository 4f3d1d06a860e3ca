"""OpenVINO as back-end: the graphs of one plan on an Intel device, keys and values in its tensors."""

from __future__ import annotations

import json
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from time import perf_counter
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from luvc_export.bundle.folder import Bundle
from luvc_export.bundle.graphs import check_names
from luvc_export.bundle.manifest import PlanEntry
from luvc_export.core import graph_io
from luvc_export.core.files.safe_files import write_whole
from luvc_export.errors import LuvcError, MachineError
from luvc_export.runtime import memory
from luvc_export.runtime.host.cache import CacheValues, HostCache
from luvc_export.runtime.host_backend import HostBackend, unit_inputs
from luvc_export.runtime.model import Array, Cache, Capabilities
from luvc_export.runtime.openvino import device as devices
from luvc_export.runtime.openvino.compiling import Compiled, compile_graph
from luvc_export.runtime.openvino.model import GraphReader, without_output
from luvc_export.runtime.product_check import check as product_check
from luvc_export.runtime.product_check.check import Way

#: Rows of a call that packed weights serve sooner than weights in place, and how many such calls more than others come
#: before these are packed: an answer alone, whose steps are of one row, never asks for a second copy.
FEW_ROWS, PACKED_AFTER = range(2, 32), 8


class OpenVinoBackend(HostBackend):
    """The graphs of ``entry``, loaded when first used and kept.

    A call gives every output a tensor of its own: OpenVINO's own output tensors are written again by the next call, so
    a state that is continued twice would find its caches changed.

    Args:
        bundle: A checked bundle.
        entry: The plan to run.
        device: ``CPU``, ``GPU``, ``AUTO``, or one of several such as ``GPU.1``. Only CPU is tested.
        threads: CPU threads; None for all cores.
        debug: Run the debug decoder, which takes ``forced_indices``.
        arithmetic: ``auto``, or one of ``device.ARITHMETICS``.
        only_steps: The decoder takes steps alone, behind rows that are there (``GraphSet.steps``).
        narrow_floats: In fp32, products whose weights are floats are computed in bf16 all the same.
        activation_group: Activations of a row that share a scale where weights are in codes; None: 32.
        head: Computes the decoder's logits, so that this decoder holds no head; ``own`` for itself, apart.

    Raises:
        UsageError: An unknown device or arithmetic, a bundle without weights, or no debug graph in it.
        MachineError: OpenVINO or the device is missing, or lacks the arithmetic or the plan's precision.
    """

    _of_decoder = ("_decoder", "_packed")

    def __init__(
        self,
        bundle: Bundle,
        entry: PlanEntry,
        device: str = "CPU",
        threads: int | None = None,
        debug: bool = False,
        arithmetic: str = "auto",
        *,
        only_steps: bool = False,
        narrow_floats: bool = False,
        activation_group: int | None = None,
        head: OpenVinoBackend | Literal["own"] | None = None,
    ) -> None:
        self.device = devices.find(device)
        self.arithmetic = devices.arithmetic(self.device, arithmetic)
        self.name = f"openvino:{self.device.name}"
        target = "intel-cpu" if self.device.name == "CPU" else ""
        super().__init__(bundle, entry, "OpenVINO", target, debug, only_steps)
        self._threads = threads
        if entry.plan.llm.aggregate and bundle.manifest.prompt.position_kind == "sequential":
            raise MachineError(
                "OpenVINO cannot run plans with aggregate rows in models that place tokens one after another",
                where=str(bundle.folder / entry.decoder),
                got="an empty reshape at every decoded token, which its reader refuses",
                fix="choose the cpu back-end (ONNX Runtime), or another plan",
            )
        self.notes = self.device.notes if arithmetic == "auto" else ()
        self.notes += self._older_graphs("intel-cpu") if target else ()
        self._int8: Way | None = None
        if entry.quantised is not None and entry.quantised.precision == "int8":
            checked = product_check.openvino_int8(devices.core(), self.device.name)
            self._int8 = checked.usable(str(bundle.folder / entry.decoder))
            self.notes += checked.notes
        self._lock = threading.Lock()
        self.compile_seconds: float = 0.0
        self.capabilities = Capabilities(host_caches=self.device.name == "CPU", packs_weights=True, times_graphs=True)
        self.narrow_floats, self._activation_group = narrow_floats, activation_group
        self.head = self if head == "own" else head
        self._headless, self._few_rows, self._packs = False, 0, not only_steps
        self._in_place = devices.reads_in_place(self.device, self.arithmetic)
        self.cache_values = _OvTensors(self)

    def unload(self) -> None:
        """See ``Backend.unload``. Caches stay: they are tensors of their own."""
        for name in ("_vision", "_decoder", "_packed", "_head", "_reader"):
            self.__dict__.pop(name, None)
        memory.give_back()

    def vision(self, images: NDArray[np.uint8], units: Array | None = None) -> dict[str, Array]:
        """See ``Backend.vision``."""
        feeds = {graph_io.IMAGE: images, **unit_inputs(self._entry.plan, len(images), units)}
        outputs = self._run(self._vision, feeds, {})
        return {name: _values(tensor) for name, tensor in outputs.items()}

    def decode(self, feeds: Mapping[str, Array], cache: Cache | None) -> tuple[dict[str, Array], HostCache]:
        """See ``Backend.decode``."""
        feeds, past = self._begin(feeds, cache)
        inputs, rows = self._decoder.inputs, len(feeds[graph_io.INPUT_IDS])
        outputs = self._run(self._of_rows(feeds), feeds, past.feeds(inputs, self.cache_values))
        present = {state.present: outputs.pop(state.present) for state in self.states}
        if self._headless and self.head is not None:
            outputs[graph_io.LOGITS] = self.head.logits(outputs.pop(graph_io.HEAD_ROWS))
        values = {name: _values(tensor) for name, tensor in outputs.items()}
        if self._headless:
            values[graph_io.LOGITS] = values[graph_io.LOGITS].reshape(rows, -1, values[graph_io.LOGITS].shape[-1])
        return values, past.after(present, inputs, self.cache_values)

    def _of_rows(self, feeds: Mapping[str, Array]) -> Compiled:
        """The decoder for a call: weights as they lie, or packed where calls of a few rows are more than single ones.

        So it is where answers decode together and where most steps have a draft; short turns of a chat, with single
        steps between them, are not. Where packed weights do not fit, they stay as they lie.
        """
        rows = feeds[graph_io.INPUT_IDS].size + (
            feeds[graph_io.VISUAL_EMBEDS].size if graph_io.VISUAL_EMBEDS in feeds else 0
        )
        few = rows in FEW_ROWS
        if not self._decoder.weights or not self._packs:
            return self._decoder
        self._few_rows = max(0, self._few_rows + (1 if few else -1))
        if not few or (self._few_rows <= PACKED_AFTER and "_packed" not in self.__dict__):
            return self._decoder
        try:
            return self._packed
        except MachineError:
            self._packs = False
            return self._decoder

    def logits(self, rows: Any) -> Any:
        """Of a decoder's last rows before its norm, a tensor [N, D]: a tensor [N, vocab]."""
        assert self._head is not None
        return self._run(self._head, {}, {graph_io.HEAD_ROWS: rows})[graph_io.LOGITS]

    def end_profiling(self) -> dict[str, str]:
        """Write the profiles of the loaded graphs: the files, by graph."""
        files = {}
        for name, compiled in self._loaded().items():
            files[name] = f"{self.profile}.{name}.json"
            write_whole(Path(files[name]), json.dumps({"mean": compiled.events()}))
        return files

    def placement(self) -> dict[str, dict[str, int]]:
        """See ``Backend.placement``; nodes after the plug-in has fused them."""
        placed = {}
        for name, compiled in self._loaded().items():
            placed[name] = {self.device.name: len(compiled.model.get_runtime_model().get_ops())}
        return placed

    def precisions(self) -> dict[str, dict[str, dict[str, int]]]:
        """What each loaded graph computes in: operators by type and precision, as the plug-in says after compiling."""
        return {name: compiled.precisions() for name, compiled in self._loaded().items()}

    def _loaded(self) -> dict[str, Compiled]:
        graphs = {name: self.__dict__.get(f"_{name}") for name in ("vision", "decoder")}
        return {name: compiled for name, compiled in graphs.items() if compiled is not None}

    @cached_property
    def _reader(self) -> GraphReader:
        return GraphReader(self._bundle)

    @cached_property
    def _vision(self) -> Compiled:
        return self._compile(self._entry.vision)

    @property
    def in_place(self) -> int:
        """See ``Backend.in_place``."""
        loaded = self.__dict__.get("_decoder")
        return 0 if loaded is None else len(loaded.weights)

    @cached_property
    def _decoder(self) -> Compiled:
        return self._compile(self._decoder_file)

    @property
    def _decoder_inputs(self) -> Collection[str]:
        return self._decoder.inputs

    @cached_property
    def _packed(self) -> Compiled:
        return self._compile(self._decoders.prompts, in_place=False)

    @cached_property
    def _head(self) -> Compiled | None:
        """Norm and head alone; None where the decoder was not cut before them."""
        return None if self._decoders.head is None else self._compile(self._decoders.head)

    def _settings(self) -> dict[str, Any]:
        settings: dict[str, Any] = {**self._int8.settings} if self._int8 else {}
        if self._activation_group is not None:
            settings["DYNAMIC_QUANTIZATION_GROUP_SIZE"] = self._activation_group
        return settings

    def _compile(self, name: str, in_place: bool = True) -> Compiled:
        graph = self._reader.read(name)
        where = str(self._bundle.path(name))
        check_names(self._bundle, self._entry, name, graph.checked)
        memory.require(
            graph.numbers * (4 if self.arithmetic == "fp32" else 2),
            where,
            f"for weights of {memory.gib(graph.weight_bytes)}, packed for {self.arithmetic}",
            "use a machine with more memory, close other programs, or export a smaller model",
        )
        with self._explained(where):
            if graph_io.HEAD_ROWS in graph.outputs:  # either they are asked for, or the logits of them
                self._headless = self.head is not None and self.head._head is not None
                graph = without_output(graph, graph_io.LOGITS if self._headless else graph_io.HEAD_ROWS)
            floats = [state for state in self.states if not state.dtype]
            caches = [name for state in floats for name in (state.past, state.past + graph_io.NEWEST, state.present)]
            begin, counted = perf_counter(), self.profile is not None
            how = self._threads, caches, counted, self._settings(), self.narrow_floats
            compiled = compile_graph(graph, self.device, self.arithmetic, *how, self._in_place and in_place)
            self.compile_seconds += perf_counter() - begin
        return compiled

    def _run(self, compiled: Compiled, feeds: Mapping[str, Array], kept: Mapping[str, Any]) -> dict[str, Any]:
        """Run once on arrays ``feeds`` and tensors ``kept``: its outputs, tensors that nothing writes to again."""
        library = devices.load_library()
        arrays = {}
        for name, array in feeds.items():
            if name in compiled.inputs:
                kind, numpy_type = compiled.inputs[name]
                is_tensor = isinstance(array, library.Tensor)
                arrays[name] = array if is_tensor else _tensor(library, np.asarray(array), kind, numpy_type)
        fresh = compiled.fresh()
        with self._lock, self._explained(compiled.graph.where):
            for name, tensor in (*arrays.items(), *kept.items()):
                compiled.request.set_input_tensor(compiled.places[name], tensor)
            for index, tensor in enumerate(fresh):
                compiled.request.set_output_tensor(index, tensor)
            compiled.graph.checked.check_files()  # weights are mapped: what changes in the file may change here
            begin = perf_counter()
            compiled.request.infer()
            self.graph_seconds += perf_counter() - begin
            compiled.leave_weights()
            if self.profile is not None:
                compiled.count()
        return dict(zip(compiled.graph.outputs, fresh, strict=True))

    @contextmanager
    def _explained(self, where: str) -> Iterator[None]:
        """Turn OpenVINO's exceptions, which are RuntimeErrors, into ours."""
        try:
            yield
        except LuvcError:
            raise
        except MemoryError as error:
            raise MachineError("there is not enough memory", where=where, got=str(error)) from error
        except RuntimeError as error:
            short = " ".join(str(error).split())[-500:]
            what = "OpenVINO cannot run this graph"
            if "allocate" in short.lower() or "bad_alloc" in short.lower():
                what = "there is not enough memory"
            raise MachineError(
                what,
                where=f"{where}, {self.name}, {self.arithmetic}",
                got=short,
                fix="choose another plan, or, but for bundles in bf16, the cpu back-end (ONNX Runtime)",
            ) from error


class _OvTensors(CacheValues):
    """OpenVINO's tensors of the decoder's input types; bf16 is read as numpy's float16 of the same bits."""

    def make(self, array: Array, name: str) -> Any:
        library, held = devices.load_library(), np.ascontiguousarray(array)
        return library.Tensor(held, library.Shape(held.shape), self.owner._decoder.inputs[name][0])

    def narrow(self, array: Array, name: str) -> Any:
        return _tensor(devices.load_library(), array, *self.owner._decoder.inputs[name])

    def read(self, value: Any) -> Array:
        array: Array = value.data
        return array

    def floats(self, value: Any) -> Array:
        return _values(value)

    def shape(self, value: Any) -> Sequence[int]:
        sizes: Sequence[int] = value.shape
        return sizes

    def nbytes(self, value: Any) -> int:
        return int(value.byte_size)


def _values(tensor: Any) -> Array:
    """A tensor's values on the host, floats as float32. The array keeps the tensor alive."""
    if tensor.element_type.is_real():
        return _floats(tensor)
    array: Array = tensor.data
    return array


def _tensor(library: Any, array: Array, kind: Any, numpy_type: Any) -> Any:
    """An array as a tensor of an input's type: floats are narrowed as they must be, bf16 rounded to nearest even."""
    if numpy_type is not None:
        stored = np.ascontiguousarray(array, numpy_type)
    else:
        bits = np.ascontiguousarray(array, np.float32).view(np.uint32)
        stored = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    return library.Tensor(stored, library.Shape(array.shape), kind)  # which holds the array


def _floats(tensor: Any) -> Array:
    array: Array = tensor.data
    if tensor.element_type.to_string() == "bf16":  # whose bits numpy gets as float16
        return (array.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    return array.astype(np.float32, copy=False)
