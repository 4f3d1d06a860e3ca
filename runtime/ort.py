"""ONNX Runtime as back-end: CPU, or CUDA when asked for. Never a silent fallback from one to the other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from luvc_export.bundle.folder import Bundle
from luvc_export.bundle.graphs import CheckedGraph, MappedWeights, check_names, read_graph
from luvc_export.bundle.manifest import PlanEntry
from luvc_export.core import graph_io
from luvc_export.core.element_types import BY_NAME, ELEMENT_TYPES
from luvc_export.errors import BundleError, LuvcError, MachineError, UsageError
from luvc_export.runtime import memory
from luvc_export.runtime.host.cache import CacheValues, HostCache
from luvc_export.runtime.host_backend import HostBackend, unit_inputs
from luvc_export.runtime.model import Array, Cache, Capabilities
from luvc_export.runtime.ort_graphs.blocks import Blocks, in_blocks, tiled
from luvc_export.runtime.product_check import check as product_check
from luvc_export.runtime.product_check.check import Way
from luvc_export.runtime.sharing.load_memory import HALF, cpu_bytes, fold_settings, turned_first
from luvc_export.runtime.sharing.shared_weights import SharingSessions, shares

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


def load_library(device: str) -> Any:
    """Import ``onnxruntime`` for ``cpu`` or ``cuda``.

    Raises:
        UsageError: Another device.
        MachineError: It is not installed, or has no provider for the device.
    """
    if device not in PROVIDERS:
        raise UsageError("unknown back-end", where="backend", got=device, expected=", ".join(PROVIDERS))
    try:
        import onnxruntime
    except ImportError as error:
        raise MachineError(
            "onnxruntime is not installed", got=str(error), fix="pip install onnxruntime (or onnxruntime-gpu for cuda)"
        ) from error
    if PROVIDERS[device] not in onnxruntime.get_available_providers():
        raise MachineError(
            "this ONNX Runtime has no CUDA",
            where=f"onnxruntime {onnxruntime.__version__}",
            got=", ".join(onnxruntime.get_available_providers()),
            expected=PROVIDERS[device],
            fix="pip install onnxruntime-gpu in place of onnxruntime, or choose the cpu back-end",
        )
    return onnxruntime


#: numpy type by ONNX Runtime's name of a type; bf16 as its bits.
_NUMPY = {f"tensor({kind.name})": np.dtype(kind.storage) for kind in ELEMENT_TYPES}
_NUMPY["tensor(float)"] = _NUMPY.pop("tensor(float32)")
_BF16 = BY_NAME["bfloat16"].onnx
#: Where a graph given as bytes finds its weights (onnxruntime_session_options_config_keys.h).
_WEIGHTS_FOLDER = "session.model_external_initializers_file_folder_path"


class OrtBackend(HostBackend):
    """The graphs of ``entry``, loaded when first used and kept.

    Args:
        bundle: A checked bundle.
        entry: The plan to run.
        device: ``cpu`` or ``cuda``.
        threads: CPU threads of one operator; None for ONNX Runtime's default (all cores).
        debug: Run the debug decoder, which takes ``forced_indices``.
        only_steps: The decoder takes steps alone, behind rows that are there (``GraphSet.steps``).
        in_blocks: On a CPU, products of 8 bits are computed in blocks (``ort_graphs.blocks``), where those are right;
            else every call has one range for what enters a product, so that a row that sticks out takes it all.

    Raises:
        UsageError: An unknown device, a bundle without weights, or no debug graph in it.
        MachineError: onnxruntime or its CUDA provider is missing, or the plan is in a precision of TensorRT alone.
    """

    _of_decoder = ("_decoder", "_decoder_inputs")

    def __init__(
        self,
        bundle: Bundle,
        entry: PlanEntry,
        device: str = "cpu",
        threads: int | None = None,
        debug: bool = False,
        only_steps: bool = False,
        in_blocks: bool = True,
    ) -> None:
        super().__init__(bundle, entry, "ONNX Runtime", "cpu" if device == "cpu" else "", debug, only_steps)
        self.name, self._threads = device, threads
        self._ort = load_library(device)
        self._checked = False
        self._files: dict[int, str] = {}
        self._mapped = MappedWeights()
        #: What sessions read as long as they live.
        self._values: list[Any] = []
        self._graphs: dict[str, CheckedGraph] = {}
        self._sharing = SharingSessions(self._ort, bundle) if shares(bundle, entry, device) else None
        self._adapted = self._sharing is not None  # a decoder with slots is opened at once where weights are shared
        self.capabilities = Capabilities(
            host_caches=device == "cpu" and bundle.manifest.dtype != "bf16",  # of types that numpy has
            packs_weights=self._sharing is None,
            times_graphs=True,
        )
        self.cache_values = _OrtValues(self)
        self.notes = self._older_graphs("cpu") if only_steps or bundle.manifest.lora is not None else ()
        coded = entry.quantised is not None and entry.quantised.precision == "q8" and device == "cpu"
        self._in_blocks = in_blocks and coded and product_check.onnxruntime_blocks()
        if in_blocks and coded and not self._in_blocks:
            self.notes += (
                "ONNX Runtime computes 8-bit products in blocks wrong here: one range for all rows of a call",
            )
        self._int8: Way | None = None
        if entry.quantised is not None and entry.quantised.precision == "int8" and device == "cpu":
            checked = product_check.onnxruntime_int8("fp16" if bundle.manifest.dtype == "fp16" else "fp32")
            self._int8 = checked.usable(str(bundle.folder / entry.decoder))
            self.notes += checked.notes

    @property
    def arithmetic(self) -> str:  # type: ignore[override]
        """The CPU provider has fp32 kernels alone for what is stored in half precision."""
        return "fp32" if self.name == "cpu" else self._bundle.manifest.dtype

    def unload(self) -> None:
        """See ``Backend.unload``. Caches are values of their own."""
        for name in ("_vision", "_decoder"):
            self.__dict__.pop(name, None)
        self._values.clear()
        self._checked = False  # there may be less when it is loaded again
        memory.give_back()

    def vision(self, images: NDArray[np.uint8], units: Array | None = None) -> dict[str, Array]:
        """See ``Backend.vision``."""
        session = self._vision
        binding = session.io_binding()
        binding.bind_ortvalue_input(graph_io.IMAGE, self.value(images, "tensor(uint8)"))
        for name, array in unit_inputs(self._entry.plan, len(images), units).items():
            kind = "tensor(int32)" if name == graph_io.UNITS else "tensor(bool)"
            binding.bind_ortvalue_input(name, self.value(array, kind))
        shape = (len(images), self._entry.plan.vision_tokens, self._bundle.manifest.visual_width)
        shapes = {graph_io.VISUAL_EMBEDS: shape}
        return self._run(session, binding, [(item.name, item.type) for item in session.get_outputs()], shapes)

    def decode(self, feeds: Mapping[str, Array], cache: Cache | None) -> tuple[dict[str, Array], HostCache]:
        """See ``Backend.decode``."""
        feeds, begin = self._begin(feeds, cache)
        session, kinds = self._decoder, self._decoder_inputs
        binding = session.io_binding()
        for name, array in feeds.items():
            if name in kinds:
                binding.bind_ortvalue_input(name, self.value(array, kinds[name]))
        for name, value in begin.feeds(kinds, self.cache_values).items():
            binding.bind_ortvalue_input(name, value)
        present = [state.present for state in self.states]
        for name in present:
            binding.bind_output(name, self.name)
        others = [(item.name, item.type) for item in session.get_outputs() if item.name not in set(present)]
        outputs = self._run(session, binding, others, {})
        values = dict(zip(present, binding.get_outputs(), strict=False))
        return outputs, begin.after(values, kinds, self.cache_values)

    def end_profiling(self) -> dict[str, str]:
        """Close the profiles of the loaded graphs: the files, by graph."""
        loaded = {name: self.__dict__.get(f"_{name}") for name in ("vision", "decoder")}
        return {name: str(session.end_profiling()) for name, session in loaded.items() if session is not None}

    def placement(self) -> dict[str, dict[str, int]]:
        """See ``Backend.placement``."""
        result: dict[str, dict[str, int]] = {}
        for name in ("vision", "decoder"):
            session = self.__dict__.get(f"_{name}")
            ask = getattr(session, "get_provider_graph_assignment_info", tuple)  # onnxruntime before 1.24 cannot say
            for part in ask():
                device = str(part.ep_name).removesuffix("ExecutionProvider")
                counts = result.setdefault(name, {})
                counts[device] = counts.get(device, 0) + len(part.get_nodes())
        return result

    @cached_property
    def _vision(self) -> Any:
        return self._session(self._entry.vision)

    @cached_property
    def _decoder(self) -> Any:
        return self._session(self._decoder_file)

    @cached_property
    def _decoder_inputs(self) -> dict[str, str]:
        return {item.name: item.type for item in self._decoder.get_inputs()}

    def _session(self, name: str) -> Any:
        if not self._checked:
            self._check_memory()
            self._checked = True
        path = self._bundle.path(name)
        options = self._ort.SessionOptions()
        options.log_severity_level = 4  # what goes wrong is raised, so it is not printed too
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        if self._entry.quantised is not None and self._entry.quantised.precision == "fp8":
            # Its fusion of Q/DQ and MatMul takes FP8 for INT8 and makes an invalid graph (onnxruntime 1.31).
            options.add_session_config_entry("session.disable_quant_qdq", "1")
        for setting, value in (self._int8.settings if self._int8 else {}).items():
            options.add_session_config_entry(setting, value)
        if self.profile is not None:
            options.enable_profiling, options.profile_file_prefix = True, f"{self.profile}.{name}"
        if self._threads is not None:
            options.intra_op_num_threads = self._threads
        graph = self._graph(name)
        for setting, value in fold_settings(graph.outside).items():
            options.add_session_config_entry(setting, value)
        check_names(self._bundle, self._entry, name, graph)
        referenced = self._bundle.manifest.weights.mode == "reference" and self._entry.quantised is None
        if referenced and self._sharing is None:
            make = self._ort.OrtValue.ortvalue_from_numpy_with_onnx_type
            values = [make(self._mapped.array(graph, tensor), tensor.kind) for tensor in graph.outside]
            options.add_external_initializers([tensor.name for tensor in graph.outside], values)
            self._values += values
        elif graph.outside:  # also where weights are shared: a session looks for the files all the same
            options.add_session_config_entry(_WEIGHTS_FOLDER, str(graph.folder.absolute()))
        with self._explained(str(path)):
            graph.check_files()
            if name == self._entry.vision and self.name == "cpu":
                graph = replace(graph, data=tiled(graph.data))
            arguments: dict[str, Any] = {"providers": [PROVIDERS[one] for one in dict.fromkeys((self.name, "cpu"))]}
            blocks: Blocks | None = None
            if self._bundle.manifest.dtype != "fp32":  # it reads FastViT's weights as fp32 (onnxruntime 1.31)
                arguments["disabled_optimizers"] = ["AttentionFusion"]
            if self._sharing is None:
                data = turned_first(graph.data, {one.name for one in graph.outside if one.kind in HALF})
                if self._in_blocks:
                    outside = {tensor.name: tensor for tensor in graph.outside}

                    def read(weight: str) -> Array | None:
                        return self._mapped.array(graph, outside[weight]) if weight in outside else None

                    blocks = in_blocks(data, read)
                    data = blocks.graph
                    blocks.add_weights(self._ort, options)
            else:
                data = self._sharing.prepared(graph, str(path), options, arguments)
            session = self._ort.InferenceSession(data, options, enable_fallback=0, **arguments)
            if blocks is not None:
                blocks.forget()
                self._values.append(blocks)
            graph.check_files()
        if PROVIDERS[self.name] not in session.get_providers():
            raise MachineError(
                "ONNX Runtime could not start on this device",
                where=str(path),
                got=session.get_providers(),
                expected=PROVIDERS[self.name],
                fix="check the driver and the CUDA libraries (luvc-export doctor), or choose the cpu back-end",
            )
        graph.nodes.clear()  # needed no more
        self._check_types(session, name)
        self._files[id(session)] = name
        return session

    def _check_types(self, session: Any, name: str) -> None:
        kinds = {item.type for item in (*session.get_inputs(), *session.get_outputs())}
        if not kinds <= set(_NUMPY):
            raise BundleError(
                "the graph has inputs or outputs of an unknown type",
                where=str(self._bundle.folder / name),
                got=", ".join(sorted(kinds - set(_NUMPY))),
                fix="export the bundle again",
            )

    def value(self, array: Array, kind: str) -> Any:
        """An OrtValue of the graph's type on its device; float32 is narrowed, bf16 rounded to nearest even."""
        if isinstance(array, self._ort.OrtValue):
            return array
        wanted = _NUMPY[kind]
        if kind == "tensor(bfloat16)":
            bits = np.ascontiguousarray(array, np.float32).view(np.uint32)
            array = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
            return self._ort.OrtValue.ortvalue_from_numpy_with_onnx_type(np.ascontiguousarray(array), _BF16)
        return self._ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array, wanted), "cpu")

    def _run(
        self, session: Any, binding: Any, outputs: list[tuple[str, str]], shapes: Mapping[str, tuple[int, ...]]
    ) -> dict[str, Array]:
        """Run with ``outputs`` (name, type) brought to the host. numpy cannot hold bf16: those need their shape."""
        bits: dict[str, NDArray[np.uint16]] = {}
        for name, kind in outputs:
            if kind == "tensor(bfloat16)":
                bits[name] = np.zeros(shapes[name], np.uint16)
                value = self._ort.OrtValue.ortvalue_from_numpy_with_onnx_type(bits[name], _BF16)
                binding.bind_ortvalue_output(name, value)
            else:
                binding.bind_output(name, "cpu")
        file = self._files[id(session)]
        with self._explained(str(self._bundle.folder / file)):
            self._graphs[file].check_files()  # weights are mapped: what changes in the file changes here
            begin = perf_counter()
            session.run_with_iobinding(binding)
            self.graph_seconds += perf_counter() - begin
        values = binding.get_outputs()[-len(outputs) :]
        result: dict[str, Array] = {}
        for (name, _), value in zip(outputs, values, strict=True):
            array = (bits[name].astype(np.uint32) << 16).view(np.float32) if name in bits else value.numpy()
            result[name] = array.astype(np.float32) if array.dtype == np.float16 else array
        return result

    def _graph(self, name: str) -> CheckedGraph:
        if name not in self._graphs:
            self._graphs[name] = read_graph(self._bundle, name)
        return self._graphs[name]

    def _check_memory(self) -> None:
        """Refuse weights that cannot fit before any is read. The CPU computes half precision as fp32."""
        if self.name != "cpu":
            return
        files = self._entry.vision, self._decoder_file
        graphs = {name: self._graph(name) for name in files}
        stored = sum(tensor.bytes or 0 for graph in graphs.values() for tensor in graph.outside)
        if self._sharing is not None:
            needed = self._sharing.new_bytes([*graphs.values()])
        else:
            where = {name: str(self._bundle.path(name)) for name in files}
            needed = sum(cpu_bytes(graph.outside, graph.nodes, where[name]) for name, graph in graphs.items())
        widened = ", computed as fp32 on the CPU" if needed > stored else ""
        memory.require(
            needed,
            str(self._bundle.folder),
            f"while loading weights of {memory.gib(stored)}{widened}",
            "use a machine with more memory or a GPU, close other programs, or export a smaller model",
        )

    @contextmanager
    def _explained(self, where: str) -> Iterator[None]:
        """Turn ONNX Runtime's exceptions (which derive from Exception only) into ours."""
        try:
            yield
        except (LuvcError, KeyboardInterrupt):
            raise
        except MemoryError as error:
            raise MachineError("there is not enough memory", where=where, got=str(error)) from error
        except Exception as error:
            short = str(error)[:500]
            if "allocate" in short.lower() or "out of memory" in short.lower():
                raise MachineError("there is not enough memory", where=where, got=short) from error
            if "NOT_IMPLEMENTED" in short:
                raise MachineError(
                    f"ONNX Runtime has no kernel for this graph on the {self.name} back-end",
                    where=where,
                    got=short,
                    fix="the CPU has none for bf16 arithmetic: export with --dtype fp32, or choose the cuda back-end",
                ) from error
            raise BundleError("ONNX Runtime cannot run this graph", where=where, got=short) from error


class _OrtValues(CacheValues):
    """OrtValues on the device that runs the decoder; of the host's alone, arrays are read."""

    def make(self, array: Array, name: str) -> Any:
        return self.owner._ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array), "cpu")

    def narrow(self, array: Array, name: str) -> Any:
        return self.owner.value(array, self.owner._decoder_inputs[name])

    def read(self, value: Any) -> Array:
        array: Array = value.numpy()
        return array

    def shape(self, value: Any) -> Sequence[int]:
        sizes: Sequence[int] = value.shape()
        return sizes

    def nbytes(self, value: Any) -> int:
        return int(value.tensor_size_in_bytes())
