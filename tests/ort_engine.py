"""Engines that ONNX Runtime executes on the stand-in GPU: the very graphs engines are built from, at real addresses.

What this shows is everything around TensorRT: feeds, shapes, profiles, where caches lie, which may be written, graphs.
On a GPU (``LUVC_TEST_CUDA``, see ``stand_in``) what a run reads and writes is copied through page-locked memory.
"""

from __future__ import annotations

import ctypes
import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import stand_in
from checked_cuda.driver import CheckedDriver

from luvc_export.bundle.folder import Bundle
from luvc_export.bundle.manifest import Binding, EngineEntry, EngineFile, FileRecord, Footprint
from luvc_export.core.plan import Plan
from luvc_export.core.target import TargetSpec
from luvc_export.engines.profiles import Capacity, profiles
from luvc_export.export.surgeon import run_passes
from luvc_export.runtime.cuda.device import Gpu, Memory
from luvc_export.runtime.tensorrt.backend import TrtBackend

HOST_FUNCTION = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
SPECS = {
    "concat": TargetSpec("ort-concat", "onnx", next_token=True),
    "inplace": TargetSpec("ort-inplace", "onnx", opset=24, kv="inplace", next_token=True),
    "append": TargetSpec("ort-append", "onnx", opset=24, kv="append", next_token=True),
}
NUMPY = {1: "float32", 2: "uint8", 3: "int8", 6: "int32", 7: "int64", 9: "bool", 10: "float16"}


class OrtEngine:
    """``Engine`` and ``Context`` in one; scratch memory is written over at every run, as an engine would."""

    layers, captures_itself, scratch_bytes = 1, False, 4096

    def __init__(
        self,
        gpu: Gpu,
        model: onnx.ModelProto,
        folder: Path,
        file: EngineFile,
        scratch: int = 4096,
        session: Callable[..., Any] = ort.InferenceSession,
    ) -> None:
        options = ort.SessionOptions()
        options.log_severity_level, options.intra_op_num_threads = 4, 1
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(folder))
        self._session = session(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        self._gpu, self._file, self.scratch_bytes = gpu, file, scratch
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._made: dict[Any, dict[str, tuple[int, ...]]] = {}
        self._calls: list[Any] = []
        self._staging: dict[str, Memory] = {}
        self._outgrown: list[Memory | None] = []
        self.contexts = self.runs = self.saved = 0
        #: Changes to outputs, by name.
        self.sabotage: dict[str, Callable[[Any], Any]] = {}

    def context(self, profile: int, stream: int) -> OrtEngine:
        self.contexts += 1
        return self

    def save_runtime_cache(self) -> None:
        self.saved += 1

    def set_shapes(self, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
        self._shapes = dict(shapes)
        key = tuple(shapes.items())
        if key in self._made:
            return self._made[key]
        zeros = {item.name: np.zeros(shapes[item.name], self._kind(item.name)) for item in self._file.inputs}
        if "units" in zeros:  # of which none may stand twice
            zeros["units"] += np.arange(shapes["units"][1], dtype=np.int32)
        outputs = self._session.run(None, zeros)
        names = [item.name for item in self._session.get_outputs()]
        self._made[key] = {name: value.shape for name, value in zip(names, outputs, strict=True)}
        if stand_in.on_gpu():  # here, since nothing is allocated while a graph is captured
            for name, shape in {**shapes, **self._made[key]}.items():
                size = self._nbytes(name, shape)
                if name not in self._staging or self._staging[name].nbytes < size:
                    self._outgrown.append(self._staging.get(name))
                    self._staging[name] = self._gpu.pinned(size)
        return self._made[key]

    def enqueue(self, addresses: Mapping[str, int], scratch: int, stream: int) -> None:
        """Put a host function on the stream, as CUDA does; it reads and writes when the stream comes to it.

        A driver that checks (``checked_cuda``) is told which bytes those are.
        """
        shapes, shapes_out = dict(self._shapes), self._made[tuple(self._shapes.items())]
        assert all(address % 256 == 0 and address for address in addresses.values())
        driver, places = self._gpu.driver, dict(addresses)
        if isinstance(driver, CheckedDriver):
            reads = [(addresses[name], self._nbytes(name, shape)) for name, shape in shapes.items()]
            writes = [(addresses[name], self._nbytes(name, shape)) for name, shape in shapes_out.items()]
            work = functools.partial(self._run, shapes, places, scratch)
            driver.launch(stream, work, reads, [*writes, (scratch, self.scratch_bytes)])
            return
        if stand_in.on_gpu():
            places = {name: self._staging[name].address for name in addresses}
            self._gpu.clear(scratch, self.scratch_bytes, stream)
            for name, shape in shapes.items():
                driver.try_call(
                    "cuMemcpyDtoHAsync_v2", places[name], addresses[name], self._nbytes(name, shape), stream
                )
        call = HOST_FUNCTION(lambda _: self._run(shapes, places, None if stand_in.on_gpu() else scratch))
        self._calls.append(call)
        function = driver._library.cuLaunchHostFunc
        function.argtypes = (ctypes.c_void_p, HOST_FUNCTION, ctypes.c_void_p)
        assert function(stream, call, None) == 0
        if stand_in.on_gpu():
            for name, shape in shapes_out.items():
                driver.try_call(
                    "cuMemcpyHtoDAsync_v2", addresses[name], places[name], self._nbytes(name, shape), stream
                )

    def _run(self, shapes: Mapping[str, tuple[int, ...]], addresses: Mapping[str, int], scratch: int | None) -> None:
        self.runs += 1
        if scratch is not None:
            ctypes.memset(scratch, 0x77, self.scratch_bytes)
        names = [item.name for item in self._session.get_inputs()]
        inputs = {name: self._view(addresses[name], shapes[name], name) for name in names}
        outputs = self._session.run(None, {name: value.copy() for name, value in inputs.items()})
        for item, value in zip(self._session.get_outputs(), outputs, strict=True):
            value = self.sabotage.get(item.name, lambda array: array)(value)
            self._view(addresses[item.name], value.shape, item.name)[...] = value

    def _nbytes(self, name: str, shape: tuple[int, ...]) -> int:
        return math.prod(shape) * np.dtype(self._kind(name)).itemsize

    def _view(self, address: int, shape: tuple[int, ...], name: str) -> np.ndarray[Any, Any]:
        kind = np.dtype(self._kind(name))
        raw = (ctypes.c_ubyte * (math.prod(shape) * kind.itemsize)).from_address(address)
        return np.frombuffer(raw, kind).reshape(shape)

    def _kind(self, name: str) -> str:
        return next(item.dtype for item in (*self._file.inputs, *self._file.outputs) if item.name == name)


@dataclasses.dataclass(frozen=True)
class Engines:
    """A bundle whose manifest names engines, and their graphs."""

    bundle: Bundle
    models: dict[str, onnx.ModelProto]
    #: What runs them, called as ``onnxruntime.InferenceSession`` is.
    session: Callable[..., Any] = ort.InferenceSession

    def backend(self, gpu: Gpu, **options: Any) -> tuple[TrtBackend, dict[str, OrtEngine]]:
        """A back-end that runs the graphs, and its engines as they are opened."""
        opened: dict[str, OrtEngine] = {}
        scratch = {"vision": 9000, "decoder": 5000}

        def opener(file: EngineFile) -> OrtEngine:
            name = file.file.split(".")[0]
            model, folder = self.models[name], self.bundle.folder
            opened[name] = OrtEngine(gpu, model, folder, file, scratch[name], self.session)
            return opened[name]

        return TrtBackend(self.bundle, self.plan, gpu=gpu, opener=opener, **options), opened

    @property
    def plan(self) -> str:
        """Whose engines they are."""
        return self.bundle.manifest.engines[0].plan


def describe(
    bundle: Bundle, plan_name: str, kv: str, capacity: Capacity, kind: Any = "pair", next_token: bool = True
) -> Engines:
    """What a build would write for ``plan_name``, from the graphs after surgery alone; ``next_token`` as of today."""
    entry = bundle.entry(plan_name)
    models, files = {}, {}
    for name, file in (("vision", entry.vision), ("decoder", entry.decoder)):
        form = kv if name == "decoder" else "concat"
        models[name] = model = _after_surgery(bundle.path(file), form, capacity, next_token)
        files[name] = _file(name, model, entry.plan, capacity, kind)
    engine = EngineEntry(
        **{"plan": plan_name, "target": "stand-in", "precision": "fp32", "kv": kv, "backend": "tensorrt"},  # type: ignore[arg-type]
        **{"version": "10.3.0", "compute_capabilities": ("8.9",), "version_compatible": False},  # type: ignore[arg-type]
        **{"hardware_compatibility": "none", "refit": False, "stripped": False, "batch": capacity.batch},  # type: ignore[arg-type]
        **{"images": capacity.groups, "text_capacity": capacity.text, **files},  # type: ignore[arg-type]
        footprint=Footprint(1 << 20, 1 << 20, 1 << 20, 0, 1 << 20),
    )
    manifest = dataclasses.replace(bundle.manifest, engines=(engine,))
    return Engines(Bundle(bundle.folder, manifest), models)


@functools.cache
def _after_surgery(path: Path, kv: str, capacity: Capacity, next_token: bool) -> onnx.ModelProto:
    model, spec = onnx.load(path, load_external_data=False), dataclasses.replace(SPECS[kv], next_token=next_token)
    return run_passes(model, spec, text_capacity=capacity.text, groups=capacity.groups)[0]


def _file(name: str, model: onnx.ModelProto, plan: Plan, capacity: Capacity, kind: Any) -> EngineFile:
    sides = []
    for values in (model.graph.input, model.graph.output):
        sides.append(tuple(Binding(v.name, NUMPY[v.type.tensor_type.elem_type], _sizes(v)) for v in values))
    shapes = {item.name: item.shape for item in sides[0]}
    ranges = profiles(shapes, plan, capacity, kind)
    return EngineFile(f"{name}.engine", FileRecord("0" * 64, 0), *sides, ranges, 0, None, "", "")


def _sizes(value: onnx.ValueInfoProto) -> tuple[int, ...]:
    return tuple(d.dim_value if d.HasField("dim_value") else -1 for d in value.type.tensor_type.shape.dim)
