"""The built TensorRT plugins on emulated kernels: layers of graphs, and whole graphs around them in ONNX Runtime."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

from luvc_export.core.operators import DOMAIN

Array = NDArray[Any]
BUILD = Path(__file__).resolve().parents[2] / "build" / "emulate" / "plugins"
#: ``nvinfer1::DataType`` and ``PluginFieldType`` by what arrays and attributes are.
TYPES = {"float32": 0, "float16": 1, "int32": 3, "int64": 8}
NAMES = {number: name for name, number in TYPES.items()}
FLOAT, INT, CHARACTERS = 1, 5, 6
#: Attributes the parser of TensorRT reads itself.
PARSER = ("plugin_namespace", "plugin_version")


class Field(ctypes.Structure):
    """``Field`` of plugins/emulate/tensorrt/host.cpp."""

    _fields_ = (
        ("name", ctypes.c_char_p),
        ("data", ctypes.c_void_p),
        ("type", ctypes.c_int32),
        ("length", ctypes.c_int32),
    )


class Tensor(ctypes.Structure):
    """``Tensor`` of plugins/emulate/tensorrt/host.cpp."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("bytes", ctypes.c_int64),
        ("type", ctypes.c_int32),
        ("rank", ctypes.c_int32),
        ("extents", ctypes.c_int64 * 8),
    )


class Host:
    """``libluvc_tensorrt_host.so`` and the plugins it opened; skips the test where they are not built."""

    def __init__(self) -> None:
        library = BUILD / "tensorrt" / "libluvc_tensorrt_host.so"
        if not library.is_file():
            if "LUVC_EMULATED" in os.environ:
                raise FileNotFoundError(library)
            pytest.skip("the emulation is not built: make native")
        self._library = ctypes.CDLL(str(library))
        self._library.luvc_host_messages.restype = ctypes.c_char_p
        self._library.luvc_host_open.restype = self._library.luvc_host_create.restype = ctypes.c_void_p
        self._plugins = self._library.luvc_host_open(str(BUILD / "tensorrt" / "libluvc_plugins.so").encode())
        assert self._plugins, self.messages()
        #: How often a layer ran, by operator.
        self.runs: dict[str, int] = {}

    def messages(self) -> str:
        text: bytes = self._library.luvc_host_messages()
        return text.decode()

    def layer(self, node: onnx.NodeProto) -> int:
        """The layer TensorRT's parser makes of ``node``, built, saved and loaded."""
        fields, keep = [], []
        for attribute in node.attribute:
            if attribute.name in PARSER:
                continue
            value = onnx.helper.get_attribute_value(attribute)
            if isinstance(value, bytes):
                data, kind, length = np.frombuffer(value, np.uint8), CHARACTERS, len(value)
            else:
                data = np.atleast_1d(np.array(value, np.float32 if isinstance(value, float) else np.int32))
                kind, length = (FLOAT if isinstance(value, float) else INT), data.size
            keep.append(data)
            fields.append(Field(attribute.name.encode(), data.ctypes.data, kind, length))
        attributes = (Field * len(fields))(*fields)
        plugins, name = ctypes.c_void_p(self._plugins), node.op_type.encode()
        layer: int | None = self._library.luvc_host_create(plugins, name, attributes, len(fields))
        assert layer, self.messages()
        return layer

    def run(self, layer: int, node: onnx.NodeProto, inputs: Sequence[Array]) -> list[Array]:
        """Outputs of ``layer``."""
        inputs = [np.ascontiguousarray(array) for array in inputs]
        tensors = (Tensor * len(inputs))(*map(_tensor, inputs))
        results = (Tensor * len(node.output))()
        arguments = (ctypes.c_void_p(layer), tensors, len(tensors), results, len(results))
        assert self._library.luvc_host_infer(*arguments) == 0, self.messages()
        outputs = [np.empty(item.extents[: item.rank], NAMES[item.type]) for item in results]
        for item, array in zip(results, outputs, strict=True):
            item.data, item.bytes = array.ctypes.data, array.nbytes
        status = self._library.luvc_host_run(*arguments)
        messages = self.messages()
        assert status == 0 and not messages, messages
        self.runs[node.op_type] = self.runs.get(node.op_type, 0) + 1
        return outputs

    def session(self, model: bytes, options: ort.SessionOptions, providers: Sequence[str]) -> PluginSession:
        """As ``onnxruntime.InferenceSession``, for a graph that calls plugins."""
        return PluginSession(self, onnx.ModelProto.FromString(model), options, providers)


def _tensor(array: Array) -> Tensor:
    extents = (ctypes.c_int64 * 8)(*array.shape)
    return Tensor(array.ctypes.data, array.nbytes, TYPES[str(array.dtype)], array.ndim, extents)


class PluginSession:
    """A graph cut at its plugin nodes; what lies between them runs in ONNX Runtime."""

    def __init__(
        self, host: Host, model: onnx.ModelProto, options: ort.SessionOptions, providers: Sequence[str]
    ) -> None:
        self._host, self._model, self._options, self._providers = host, model, options, list(providers)
        self._initializers = {item.name: item for item in model.graph.initializer}
        self._parts: list[list[onnx.NodeProto]] = [[]]
        for node in model.graph.node:
            if node.domain == DOMAIN:
                self._parts += [[node], []]
            else:
                self._parts[-1].append(node)
        self._layers = {id(part[0]): host.layer(part[0]) for part in self._parts[1::2]}
        self._sessions: dict[Any, ort.InferenceSession] = {}
        #: What a later part or the caller reads, by part.
        self._wanted: list[set[str]] = []
        later = {item.name for item in model.graph.output}
        for part in reversed(self._parts):
            self._wanted.append(set(later))
            later |= set(_read(part))
        self._wanted.reverse()

    def get_inputs(self) -> list[onnx.ValueInfoProto]:
        return list(self._model.graph.input)

    def get_outputs(self) -> list[onnx.ValueInfoProto]:
        return list(self._model.graph.output)

    def run(self, names: None, feeds: Mapping[str, Array]) -> list[Array]:
        values = dict(feeds)
        for index, part in enumerate(self._parts):
            if index % 2:
                node = part[0]
                inputs = [values[name] if name in values else self._constant(name) for name in node.input]
                results = self._host.run(self._layers[id(node)], node, inputs)
                values.update(zip(node.output, results, strict=True))
            elif part:
                self._run_part(index, values)
        return [values[item.name] for item in self._model.graph.output]

    def _constant(self, name: str) -> Array:
        # External weights lie in the bundle's folder, which the options name to ONNX Runtime.
        folder = self._options.get_session_config_entry("session.model_external_initializers_file_folder_path")
        return onnx.numpy_helper.to_array(self._initializers[name], folder)

    def _run_part(self, index: int, values: dict[str, Array]) -> None:
        part = self._parts[index]
        read = set(_read(part))
        feeds = {name: value for name, value in values.items() if name in read}
        key = (index, *((name, str(value.dtype), value.ndim) for name, value in feeds.items()))
        if key not in self._sessions:
            produced = {name for node in part for name in node.output if name}
            outputs = [
                onnx.helper.make_empty_tensor_value_info(name) for name in sorted(produced & self._wanted[index])
            ]
            inputs = [
                onnx.helper.make_tensor_value_info(
                    name, onnx.helper.np_dtype_to_tensor_dtype(value.dtype), [None] * value.ndim
                )
                for name, value in feeds.items()
            ]
            constants = [item for name, item in self._initializers.items() if name in read and name not in feeds]
            graph = onnx.helper.make_graph(part, f"part {index}", inputs, outputs, constants)
            model = onnx.helper.make_model(
                graph, opset_imports=self._model.opset_import, ir_version=self._model.ir_version
            )
            text = model.SerializeToString()
            self._sessions[key] = ort.InferenceSession(text, self._options, providers=self._providers)
        session = self._sessions[key]
        values.update(zip((o.name for o in session.get_outputs()), session.run(None, feeds), strict=True))


def _read(nodes: Sequence[onnx.NodeProto]) -> Iterator[str]:
    """Names that ``nodes`` and the graphs inside them read."""
    for node in nodes:
        yield from node.input
        for attribute in node.attribute:
            yield from _read(attribute.g.node)
            yield from (output.name for output in attribute.g.output)
