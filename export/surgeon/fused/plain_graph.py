"""A bundle's graph for tools of others: no local functions, constants as tensors, weights as products take them.

``python -m luvc_export.export.surgeon.fused.plain_graph BUNDLE/decoder.safe.onnx OUT.onnx`` writes one, its weights in
``OUT.onnx.data``. Graphs of bundles call functions of their own, and turn and widen weights that lie as a checkpoint
has them; some tools drop functions, read float attributes of constants as doubles, turn a weight that has other
readers, or see weights in initializers alone (docs/bundle.md). Numbers stay; memory is that of all weights, twice.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.inliner
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from numpy.typing import NDArray
from onnx import numpy_helper

from luvc_export.errors import LuvcError, UsageError

_CONSTANTS = {"value_float": np.float32, "value_floats": np.float32, "value_int": np.int64, "value_ints": np.int64}
#: Below so many bytes a tensor stays in the graph.
_SMALL = 1024


def plain(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same model without local functions, casts and turns of its weights computed.

    Args:
        model: With its weights in it.
    """
    model = onnx.inliner.inline_local_functions(model)
    graph, nodes = model.graph, list[onnx.NodeProto]()
    weights = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant":
            _say_value(node)
        if node.op_type in ("Cast", "Transpose") and node.input[0] in weights:
            (name,) = node.output
            weights[name] = numpy_helper.from_array(_computed(node, weights[node.input[0]]), name)
            continue
        if node.op_type == "Gemm" and node.input[1] in weights and _attributes(node).get("transB"):
            turned = f"{node.input[1]}.turned"
            weights[turned] = numpy_helper.from_array(numpy_helper.to_array(weights[node.input[1]]).T.copy(), turned)
            node.input[1] = turned
            node.attribute.remove(next(one for one in node.attribute if one.name == "transB"))
        nodes.append(node)
    read = {name for node in nodes for name in node.input} | {value.name for value in graph.output}
    domains = {node.domain for node in nodes} | {""}
    _replace(graph.node, nodes)
    _replace(graph.initializer, [tensor for name, tensor in weights.items() if name in read])
    _replace(model.opset_import, [one for one in model.opset_import if one.domain in domains])
    return model


def _replace(field: Any, items: Sequence[Any]) -> None:
    """Give a repeated field other messages, some of which are in it."""
    copies = [type(item).FromString(item.SerializeToString()) for item in items]
    del field[:]
    field.extend(copies)


def _attributes(node: onnx.NodeProto) -> dict[str, Any]:
    return {one.name: onnx.helper.get_attribute_value(one) for one in node.attribute}


def _computed(node: onnx.NodeProto, weight: onnx.TensorProto) -> NDArray[Any]:
    array, how = numpy_helper.to_array(weight), _attributes(node)
    if node.op_type == "Cast":
        return array.astype(onnx.helper.tensor_dtype_to_np_dtype(how["to"]))
    return np.ascontiguousarray(array.transpose(how.get("perm")))


def _say_value(node: onnx.NodeProto) -> None:
    """Give a Constant a tensor where it has a number or a list of them."""
    for name, value in _attributes(node).items():
        if name in _CONSTANTS:
            del node.attribute[:]
            tensor = numpy_helper.from_array(np.array(value, _CONSTANTS[name]))
            node.attribute.append(onnx.helper.make_attribute("value", tensor))


def write(source: Path, output: Path) -> None:
    """Write the plain form of a bundle's graph, and its weights beside it.

    Raises:
        UsageError: There is no such graph, or something is at ``output``.
    """
    data = output.with_name(f"{output.name}.data")
    for path in (output, data):
        if path.exists():
            raise UsageError("something is there already", where="OUT", got=str(path), fix="name a new file")
    try:
        model = onnx.load(source)
    except (OSError, DecodeError) as error:
        expected = "a graph of a bundle, such as BUNDLE/decoder.safe.onnx"
        raise UsageError("no graph can be read", where="GRAPH", got=f"{source}: {error}", expected=expected) from error
    onnx.save(plain(model), output, save_as_external_data=True, location=data.name, size_threshold=_SMALL)


def main() -> int:
    """The command; its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("graph", type=Path, help="of a bundle")
    parser.add_argument("output", type=Path, help="a new file")
    options = parser.parse_args()
    try:
        write(options.graph, options.output)
    except LuvcError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
